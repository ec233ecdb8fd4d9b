"""TorchRL: our names for its calls."""
