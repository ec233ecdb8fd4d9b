"""tinker: its unit, what it cannot run, and a row of the table as a loss for ``forward_backward_custom``."""
