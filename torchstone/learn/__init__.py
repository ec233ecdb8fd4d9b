"""``torchstone learn``: 24 exercises in the tour's order, graded by the vectors."""
