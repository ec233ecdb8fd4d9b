"""SkyRL: how its code is loaded, our names for its calls."""
