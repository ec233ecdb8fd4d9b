"""OpenRLHF: our names for its calls, and the rows of its dialect."""
