"""Errors, files, progress, processes, run directories, settings, devices: what every room may use."""
