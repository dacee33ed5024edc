"""Starts several processes with torchrun."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")


def torchrun(n, *arguments):
    """The finished torchrun of n processes: `-m MODULE ...`."""
    words = [*COMMAND, str(n), *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=550)
