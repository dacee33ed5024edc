"""A process that leaves the others ends their group's threads, which else abort it now and then
while its interpreter ends.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# An optimiser imports torch._dynamo, after the process has joined.
SCRIPT = """
import os
from clear_ref.common import distributed
distributed.start()
import torch._dynamo
assert distributed.gather(int(os.environ["RANK"])) == [0, 1]
joined = len(os.listdir("/proc/self/task"))
distributed.end()
assert distributed.size() == 1
print(joined - len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux has them")
def test_the_threads_of_the_group_end_although_torch_has_been_imported_further():
    """gloo has three: one reads sockets, two run operations."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared = os.environ | address | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=shared | {"RANK": rank},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ended = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert all(int(text) >= 3 for text in ended), ended
