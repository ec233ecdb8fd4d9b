"""Memory and work of an update, on paper."""
