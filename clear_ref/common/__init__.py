"""Errors, files, progress, processes, run directories, settings, devices: used by every room."""
