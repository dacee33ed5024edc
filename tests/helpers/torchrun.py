"""Starts several processes with torchrun."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(n, *arguments):
    """The finished torchrun of n processes: `-m MODULE ...`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n)]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=550
    )
