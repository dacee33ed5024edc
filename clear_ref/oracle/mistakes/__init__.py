"""Known mistakes as functions that compute the wrong loss."""
