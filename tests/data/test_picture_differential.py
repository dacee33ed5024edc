"""900 changes of picture settings give transformers' pixels, grid and image tokens, or a refusal.

The changes are drawn by differential_pictures.py: one to three keys of preprocessor_config.json and
processor_config.json, pictures of all modes and many sizes, as paths and as objects. These tests
need the extra `parity`.
"""

import pytest

pytest.importorskip("transformers", reason="the parity extra is not installed")
from tests.helpers.differential_pictures import BASES, run  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("family", BASES)
def test_no_change_gives_another_result_in_silence(family):
    counts = run(300, 14, family)
    assert counts.different == []
    assert counts.total == 300 and counts.equal > 150, counts
    assert counts.refused > 4 and counts.invalid < 120, counts
