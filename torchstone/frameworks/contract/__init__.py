"""Is a loss right where it is plugged in? ``torchstone check TARGET --as FRAMEWORK``."""
