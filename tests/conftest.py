"""Idle threads do not spin: with pytest -n auto there is a process for each core."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
pytest_plugins = ["tests.helpers.fixtures"]
