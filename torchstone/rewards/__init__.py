"""Stage 4: what a completion earns, by a function of the task's or of the user's."""
