"""Golden values: numbers worked out independently of this code, and the checker that compares against them."""
