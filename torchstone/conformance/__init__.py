"""Test vectors of every objective, and a checker that says which known variant or bug a function equals."""
