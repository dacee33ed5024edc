"""What every loss must give, and what is wrong with a loss that does not. See README.md."""
