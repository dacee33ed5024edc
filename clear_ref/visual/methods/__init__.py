"""The eight methods of the visual-only track, one file each."""
