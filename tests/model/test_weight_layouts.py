"""Weight files in any layout give transformers' tensors bit for bit, or are refused by name:
shards, a whole file beside them, other names and dtypes, doubled, missing and further tensors.
"""

import pytest

from tests.helpers import differential_weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_vl tied", "llama tied", "mistral"])
def test_changed_files_load_as_transformers_loads_them_or_are_refused_by_name(name):
    pytest.importorskip("transformers", reason="the parity extra is not installed")
    counts = differential_weights.run(differential_weights.cases(30, 14, (name,)))
    print(counts.row(name))
    assert not counts.different
    assert counts.equal > 10 and counts.refused > 3
