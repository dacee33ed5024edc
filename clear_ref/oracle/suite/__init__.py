"""The golden vectors as an archive that others can run and cite."""
