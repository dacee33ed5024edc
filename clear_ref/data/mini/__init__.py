"""The embedded world: its sources, the code that builds its rows from them, and the built rows."""
