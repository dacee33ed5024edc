"""Golden vectors, and the command that checks another implementation against them."""
