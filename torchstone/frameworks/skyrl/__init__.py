"""SkyRL: our names for its calls."""
