"""torchtune: our names for its calls."""
