"""What other frameworks compute, one room each: how its code is loaded, our names for its calls, its dialect rows."""
