"""The visual-only track: a face-recognition network that must forget people (Table 5)."""
