"""One update by hand: every number from the tokens to the changed probabilities, as the library's functions give it."""
