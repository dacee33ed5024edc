"""A module that does not import."""

WRONG = 1 / 0
