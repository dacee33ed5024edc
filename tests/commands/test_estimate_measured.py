"""estimate's memory of a process is what resident memory grows by, in 1, 2 and 4 processes.

One step of kl in float32 on a model of 33 million numbers, in the three ways of training: adapters
with all weights in each process (DDP), adapters on shared out weights, every weight (both FSDP2).
At most 10 % and 20 MB more, and at least three quarters: temporary tensors of an operator and what
the libraries take for a model's first step (threads, buffers of gloo) are not counted; measurements
of one way differ by up to 10 MB. A layer that is received is counted twice, and is not held twice
at the peak of four processes (107 to 110 MB of 137).

Run: python -m pytest tests/commands/test_estimate_measured.py
"""

import json

import pytest
import torch

from clear_ref.bench.process import RETURNED_AT_ONCE
from clear_ref.commands.estimate_memory import totals, training_parts
from clear_ref.model.costs import model_costs
from tests.helpers.process_memory import RANK
from tests.helpers.tiny_model import write_tiny
from tests.helpers.warm_processes import Forks

TEXT = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 96,
}
TOKENS = 60  # of a record, about
WAYS = {1: ("off", "full"), 2: ("off", "on", "full"), 4: ("on",)}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("mid") / "model", TEXT)


def estimated(directory, way, n):
    """Bytes of one process, with two records (forget, retain)."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    rank = 0 if way == "full" else RANK
    costs = model_costs(config, torch.float32, rank, TOKENS, 64)
    kept = 2 * costs.text.kept
    parts = training_parts(costs, 4, rank, n, way == "on", (kept, kept), way == "full")
    return totals(parts)[0]


@pytest.fixture(scope="module")
def forks():
    """A process whose forks return freed memory to the system at once."""
    one = Forks(RETURNED_AT_ONCE | {"OMP_NUM_THREADS": "1"})
    yield one
    one.end()


@pytest.mark.parametrize("n", WAYS)
def test_memory_of_a_process_is_as_estimated(n, model, tiny_directory, tmp_path, forks):
    out = tmp_path / "memory.json"
    given = (model, out, ",".join(WAYS[n]), tiny_directory)
    done = forks.start("tests.helpers.process_memory", *given, n=n).wait()
    assert done.returncode == 0, done.stderr
    for way, measured in json.loads(out.read_text(encoding="utf-8")).items():
        expected = estimated(model, way, n)
        for process in measured:
            assert 0.75 * expected <= process <= 1.1 * expected + 20e6, (way, expected)
