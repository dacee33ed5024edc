"""Public code: the script behind WHO_PASSES.md keeps projects apart, its rows name known cases,
and the causes written out by hand are what conform's names compute.

None of the projects is needed. Run: python -m pytest tests/oracle/test_public_code.py
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.mistakes.peers import PEERS
from clear_ref.oracle.reference.inputs import control_vectors, inputs
from clear_ref.oracle.vectors import case_inputs, vector_files
from clear_ref.oracle.vectors.hypotheses import default_options
from tests.helpers import public_causes, public_code, who_passes

GOLDEN = Path(__file__).parents[1] / "vectors" / "golden"


def project(folder, name, value):
    """A checkout with a module `losses` that imports a package nobody has."""
    (folder / name / "parts").mkdir(parents=True)
    (folder / name / "parts" / "number.py").write_text(f"VALUE = {value}\n")
    (folder / name / "losses.py").write_text(
        "import nobody_has_this as n\nfrom nobody_has_this.deep import Base\n"
        "from parts.number import VALUE\n\n\n@n.main(config='x')\ndef value():\n    return VALUE\n"
        "\n\nclass Trainer(Base):\n    def compute_loss(self):\n        return VALUE\n"
    )
    return public_code.Project(name, f"owner/{name}", "abc", absent=("nobody_has_this",))


def test_modules_of_the_same_name_in_two_projects_are_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(public_code, "FOLDER", str(tmp_path))
    path, names = list(sys.path), set(sys.modules)
    one, two = project(tmp_path, "one", 1), project(tmp_path, "two", 2)
    assert public_code.module(one, "losses").value() == 1
    assert public_code.module(two, "losses").value() == 2
    assert public_code.module(one, "losses").Trainer().compute_loss() == 1
    assert sys.path == path
    assert not {"losses", "parts", "parts.number", "nobody_has_this"} & (set(sys.modules) - names)
    row = public_code.Row(one, "losses", "Trainer.compute_loss", "kl")
    assert row.place == "losses.py:12"


def test_every_row_names_a_method_and_cases_that_exist():
    entries = vector_files.read(str(GOLDEN)).entries
    rows = who_passes.rows()
    assert len(rows) > 50
    for row in rows.values():
        chosen = case_inputs.chosen(entries, [row.method], [row.semantics], "", row.only)
        assert len(chosen) >= 3


def test_the_commands_that_fetch_the_projects_name_each_once():
    lines = who_passes.how_to_get().splitlines()
    assert len(lines) == len(set(lines))
    assert sum("git clone" in line for line in lines) == sum("checkout" in line for line in lines)


@pytest.mark.parametrize("name", public_causes.BY_HAND)
@pytest.mark.parametrize("shape", ["plain", "left", "near"])
def test_a_cause_by_hand_is_what_conform_calls_by_its_name(name, shape):
    """Two routes: the reference's rows and columns, and whole arrays in NumPy."""
    known = {one.name: one for one in (*PEERS, *MISTAKES)}
    cause = known[name]
    method = "grad_ascent" if name == "shift_off_by_one" else cause.methods[0]
    options = default_options(method, "original")
    batches = {key: dict(batch) for key, batch in inputs(shape).items()}
    if method == "rmu":
        width = batches["forget"]["hidden"].shape[2]
        batches["forget"]["control"] = control_vectors("original", options, 3, width)
        arrays = {"hidden", "teacher_hidden", "labels", "attention_mask", "control"}
        of_reference = {
            key: {n: a for n, a in batches[key].items() if n in arrays}
            for key in ("forget", "retain")
        }
    else:
        of_reference = {
            key: {n: a for n, a in batch.items() if "hidden" not in n}
            for key, batch in batches.items()
        }
    expected = cause.compute(method, "original", options, of_reference).loss
    assert public_causes.BY_HAND[name](batches, options) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(expected)
