"""SkyRL: how its code is loaded, our names for its calls, and the rows of its dialect."""
