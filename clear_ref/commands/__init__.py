"""The commands: options, what they resolve to, and one file for each command."""
