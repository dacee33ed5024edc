"""Claims about every method, measured in float64."""
