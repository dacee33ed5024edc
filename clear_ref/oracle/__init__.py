"""What every loss must give, and what is wrong with one that does not: an independent reference, vectors, known mistakes."""
