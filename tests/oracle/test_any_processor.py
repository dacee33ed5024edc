"""Golden vectors have the same bytes when numpy and its BLAS compute as on an older processor.

Numpy's exp, log and products of matrices are chosen by what the processor can do, and differ in
the last bit.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

VECTORS = Path(__file__).parents[1] / "vectors"


def older_processor():
    """The environment in which numpy uses none of the features that it has code of its own for."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    return {
        **os.environ,
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),
        "OPENBLAS_CORETYPE": "Nehalem",
    }


@pytest.mark.parametrize(
    "command, stored",
    [
        (["vectors", "--compact"], VECTORS / "golden"),
        (["visual-oracle", "vectors"], VECTORS / "visual_golden"),
    ],
)
def test_the_stored_vectors_are_written_on_an_older_processor_too(tmp_path, command, stored):
    subprocess.run(
        [sys.executable, "-m", "clear_ref.run", *command, "--out", str(tmp_path)],
        env=older_processor(),
        check=True,
    )
    names = sorted(path.name for path in stored.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (stored / name).read_bytes(), name
