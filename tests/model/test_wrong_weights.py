"""A directory with wrong weights gets one line and fills nothing; loading takes little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.model.random_weights import write_random
from clear_ref.model.weights import load_weights
from tests.helpers.weight_files import SHAPES, target
from tests.helpers.wrong_weight_files import HOSTILE


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_wrong_directory_gets_one_line_and_fills_nothing(tmp_path, kind):
    build, expected = HOSTILE[kind]
    build(tmp_path / "model")
    found = target()
    family = "qwen2_vl" if "generations" in kind else "llama"
    with pytest.raises(UserError, match=expected) as caught:
        load_weights(found, tmp_path / "model", family)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 800 and str(tmp_path / "model") in line
    assert not any(tensor.any() for tensor in found.values())


CHILD = """
import contextlib, re, resource, sys, torch
from pathlib import Path
from clear_ref.common.errors import UserError
from clear_ref.model.weights import load_weights
def status(key):
    text = Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+)", text)[1]) * 1024
"""


def child(code, *args, timeout=120):
    """The JSON that a new Python process prints; it runs CHILD and then the code."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD + code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="address space is read from /proc"
)
def test_a_wrong_directory_costs_no_more_memory_than_its_size_justifies(tmp_path):
    """Every wrong directory again, in a process that can map 96 MB more than it has.

    The largest file here has 6 MB and a parsed JSON text takes a few times its bytes; the header
    that claims 99 MB would not fit. The time limit of a minute shows that no directory blocks.
    """
    kinds = list(HOSTILE)
    for number, kind in enumerate(kinds):
        (tmp_path / f"{number:03d}").mkdir()
        HOSTILE[kind][0](tmp_path / f"{number:03d}" / "model")
    outcome = child(
        """
import json
shapes = json.loads(sys.argv[2])
def load(d):
    load_weights({n: torch.zeros(s) for n, s in shapes.items()}, d, "llama")
def attempt(directory):
    try:
        load(directory)
        return "loaded"
    except UserError as error:
        return "refused"
    except BaseException as error:
        return type(error).__name__
attempt(Path(sys.argv[1]) / "000" / "model")
most = status("VmSize") + 96 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(json.dumps([attempt(d / "model") for d in sorted(Path(sys.argv[1]).iterdir())]))
""",
        tmp_path,
        json.dumps(SHAPES),
        timeout=60,
    )
    assert dict(zip(kinds, outcome, strict=True)) == dict.fromkeys(kinds, "refused")


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="resident memory is read from /proc"
)
@pytest.mark.parametrize("megabytes, dtype", [(300, "bfloat16"), (200, "float32")])
def test_loading_takes_at_most_1_15_of_the_weights(tmp_path, megabytes, dtype):
    """Peak resident memory minus what the process had before.

    VmHWM counts our own pages and mapped file pages. bfloat16 in files, 20 MB a tensor, three
    shards or more. The parameters are made on the meta device; memory for them is allocated
    within the measured time.
    """
    shapes = {f"model.{n:03d}.weight": (1024, 10240) for n in range(megabytes // 20)}
    files = write_random(tmp_path, shapes, torch.bfloat16, 0, megabytes * 2**20 // 3)
    assert len(files) >= 3
    peak, weights, ok = child(
        """
import json
directory, dtype = sys.argv[1], getattr(torch, sys.argv[3])
shapes = json.loads(sys.argv[2])
def model(shapes):
    with torch.device("meta"):
        target = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    return {name: torch.empty_like(tensor, device="cpu") for name, tensor in target.items()}
# The first use of some functions imports modules; this is not part of loading.
first = model(dict(list(shapes.items())[:1]))
try:
    load_weights(first, directory, "llama")
except UserError:
    first[min(shapes)].fill_(1)
del first
before = status("VmRSS")
with contextlib.suppress(OSError):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, if allowed
target = model(shapes)
load_weights(target, directory, "llama")
peak = status("VmHWM")
spread = [float(t.float().std()) * 10240 ** 0.5 for t in target.values()]
n_bytes = sum(t.nbytes for t in target.values())
print(json.dumps([peak - before, n_bytes, all(0.99 < s < 1.01 for s in spread)]))
""",
        tmp_path,
        json.dumps(shapes),
        dtype,
    )
    print(f"peak {peak / 1e6:.0f} MB over {weights / 1e6:.0f} MB of weights: {peak / weights:.3f}")
    assert ok and weights > megabytes * 1e6 and peak < 1.15 * weights
