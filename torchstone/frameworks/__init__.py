"""What other frameworks compute: one room each."""
