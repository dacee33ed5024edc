"""Known mistakes as executable data."""
