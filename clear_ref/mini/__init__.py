"""The embedded world (mini): its shipped data and the code that builds it."""
