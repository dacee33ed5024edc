"""Golden vectors, certificates and conform of the visual-only methods."""
