"""The embedded world: its sources, its rows, its two checkpoints, and the code that builds them."""
