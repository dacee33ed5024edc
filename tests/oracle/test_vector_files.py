"""The stored vectors: cases and flags are complete, bytes are reproducible, damage is refused.

Run: python -m pytest tests/oracle/test_vector_files.py
"""

import copy
import json
import os
import re
import subprocess
import sys
from math import log

import numpy as np
import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.methods import LOSSES, SEMANTICS
from clear_ref.oracle.reference import shapes
from clear_ref.oracle.reference.inputs import inputs as make_inputs
from clear_ref.oracle.reference.rows import IGNORE
from clear_ref.oracle.vectors import golden, vector_files
from clear_ref.oracle.vectors.vector_set import digest
from tests.helpers.golden_vectors import GOLDEN, RIGHT, ROOT, STORED, VARIANTS
from tests.helpers.json_schema import problems

SCHEMA = ROOT / "clear_ref" / "oracle" / "suite" / "schema.json"


def test_every_variant_option_and_flag_has_a_case():
    asked = {(entry["method"], entry["semantics"]) for entry in RIGHT}
    assert asked == set(VARIANTS)
    for method, semantics in VARIANTS:
        entries = [
            entry for entry in RIGHT if (entry["method"], entry["semantics"]) == (method, semantics)
        ]
        for option in entries[0]["options"]:
            assert len({json.dumps(entry["options"][option]) for entry in entries}) > 1, (
                method,
                semantics,
                option,
            )
    used = {flag for entry in RIGHT for flag in entry["flags"]}
    assert used | {flag for shape in shapes.FULL for flag in shapes.ALL_SHAPES[shape].flags} == set(
        shapes.FLAGS
    )


def test_flags_describe_the_inputs():
    for shape in shapes.COMPACT:
        inputs, flags = make_inputs(shape), shapes.ALL_SHAPES[shape].flags
        nll = np.concatenate(
            [
                golden.token_terms(name, batch)["nll"][:, :-1][batch["labels"][:, 1:] != IGNORE]
                for name, batch in inputs.items()
            ]
        )
        masks = [batch["attention_mask"] for batch in inputs.values()]
        assert ("nll_above_20" not in flags) or nll.max() > 20
        assert ("near_one_probability" not in flags) or nll.min() < 1e-6
        assert ("near_zero_probability" not in flags) or nll.max() > -log(1e-6)
        assert ("left_padding" in flags) == any((mask[:, 0] == 0).any() for mask in masks)
        assert ("right_padding" not in flags) or any((mask[:, -1] == 0).any() for mask in masks)
        assert ("image_rows" not in flags) or any(
            (batch["kinds"] == 1).any() for batch in inputs.values()
        )
        ignored = any((batch["labels"] == IGNORE).all(1).any() for batch in inputs.values())
        assert ("ignored_sequence" in flags) == ignored
        assert ("odd_vocabulary" not in flags) or inputs["forget"]["logits"].shape[2] % 2
        same = all((batch["logits"] == batch["teacher_logits"]).all() for batch in inputs.values())
        assert ("teacher_equals_student" in flags) == same
        assert ("large_logits" in flags) == (np.abs(inputs["forget"]["logits"]).max() > 5000)


def test_inputs_are_bfloat16_numbers_and_padding_on_the_left_changes_nothing_else():
    for key, array in STORED.arrays["inputs"].items():
        if array.dtype == np.float64 and "/terms/" not in key:
            tensor = torch.from_numpy(array)
            assert torch.equal(tensor.to(torch.bfloat16).double(), tensor), key
    for method in LOSSES:
        losses = {
            entry["shape"]: entry["loss"]
            for entry in RIGHT
            if entry["method"] == method
            and entry["semantics"] == "paper"
            and "option" not in entry["flags"]
        }
        assert losses["left"] == pytest.approx(losses["plain"], rel=1e-14)


@pytest.mark.slow
def test_the_shipped_vectors_are_what_the_command_writes_byte_for_byte(tmp_path):
    """In another process, with another number of threads, and without vector instructions."""
    command = [
        sys.executable,
        "-m",
        "clear_ref.run",
        "vectors",
        "--compact",
        "--out",
        str(tmp_path),
        "--json",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "2",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 FMA3 AVX512F AVX512_SKX AVX512_ICL",
        },
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cases"] == len(STORED.entries)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
    assert sum(map(len, written.values())) < 2e6
    vector_files.write(golden.build(), tmp_path)
    assert written == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_each_case_carries_the_hash_of_its_arrays():
    right = {entry["id"]: entry for entry in RIGHT}
    for entry in STORED.entries:
        batches = STORED.batches(right[entry.get("of", entry["id"])])
        assert digest(batches, STORED.gradients(entry)) == entry["sha256"], entry["id"]


def test_vectors_that_were_changed_cut_or_lost_are_refused(tmp_path):
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "kl.safetensors").read_bytes()
    (tmp_path / "kl.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        UserError, match="kl.safetensors: its bytes are not those that kl.json names"
    ):
        vector_files.read(tmp_path)
    (tmp_path / "kl.safetensors").unlink()
    with pytest.raises(UserError, match="kl.safetensors: no such file"):
        vector_files.read(tmp_path)
    (tmp_path / "kl.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="kl.json: format is 2; expected 1"):
        vector_files.read(tmp_path)
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "kl.json").read_text()
    for old, new, lacking in (
        ('"scale"', '"size"', "scale"),
        ('"roundings"', '"rounding"', "roundings"),
        ('"shape": "plain"', '"shape": "round"', "array 'round/forget/input_ids'"),
        ('"forget": "kl/paper/plain/forget"', '"forget": "lost"', "array 'lost'"),
    ):
        (tmp_path / "kl.json").write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=f"case 'kl/paper/plain' lacks {lacking}"):
            vector_files.read(tmp_path)
    (tmp_path / "kl.json").write_text(text.replace('"scale": ', '"scale": 1', 1))
    with pytest.raises(UserError, match="kl.json: its bytes are not those that manifest.json"):
        vector_files.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": "2.0.0"}')
    with pytest.raises(UserError, match="manifest.json: version is '2.0.0'; expected 1.x.y"):
        vector_files.read(tmp_path)
    with pytest.raises(UserError, match="manifest.json: no such file"):
        vector_files.read(tmp_path / "nowhere")


def test_only_the_commands_import_the_oracle():
    oracle = ROOT / "clear_ref" / "oracle"
    importing = [
        path.relative_to(ROOT / "clear_ref").parts[0]
        for path in (ROOT / "clear_ref").glob("**/*.py")
        if oracle not in path.parents
        and re.search(r"^\s*(from|import) .*\boracle\b", path.read_text(encoding="utf-8"), re.M)
    ]
    assert set(importing) <= {"commands", "run.py"}


def golden_files():
    """{name: the JSON object of a stored file}."""
    return {path.name: json.loads(path.read_text("utf-8")) for path in GOLDEN.glob("*.json")}


def schema():
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_every_stored_file_is_valid_under_the_schema():
    files = golden_files()
    assert set(files) == {f"{name}.json" for name in ("inputs", "manifest", *LOSSES)}
    for name, value in files.items():
        assert problems(value, schema()) == [], name
        if name != "manifest.json":
            assert value.get("count", 0) == len(value.get("cases", [])), name


@pytest.mark.parametrize(
    "case, key, value",
    [
        (0, "loss", "0.5"),
        (0, "scale", -1.0),
        (0, "weight", True),
        (0, "roundings", {"loss": 1.0}),
        (0, "roundings", {"loss": 1.0, "gradients": {"forget": -1.0}, "added": {}}),
        (0, "result", "right"),
        (0, "semantics", "papers"),
        (0, "gradients", ["forget"]),
        (0, "batches", {"forget": 1}),
        (0, "options", {"beta": None}),
        (0, "sha256", "no hash"),
        (0, "further", 1),
        (1, "mistake", 3),
        (1, "loss", None),
    ],
)
def test_the_schema_refuses_a_damaged_case(case, key, value):
    """Case 0 of kl.json is a right result, case 1 a wrong one."""
    file = copy.deepcopy(golden_files()["kl.json"])
    file["cases"][case][key] = value
    assert problems(file, schema())


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1])
def test_the_schema_requires_every_key_of_a_case(case):
    whole = golden_files()["kl.json"]
    for key in whole["cases"][case]:
        file = copy.deepcopy(whole)
        del file["cases"][case][key]
        assert problems(file, schema()), key


def test_the_schema_refuses_another_format_and_a_file_without_its_hash():
    whole = golden_files()["kl.json"]
    assert problems({**whole, "format": 2}, schema())
    assert problems({**whole, "arrays": {"file": "kl.safetensors"}}, schema())
    assert problems({**golden_files()["inputs.json"], "kinds": ["image"]}, schema())
    manifest = golden_files()["manifest.json"]
    assert problems({**manifest, "version": "1.0"}, schema())
    assert problems({**manifest, "files": {"kl.json": {"bytes": 1}}}, schema())


def test_the_schema_knows_every_method_and_semantics():
    definitions = schema()["$defs"]
    assert definitions["method"]["enum"] == list(LOSSES)
    used = definitions["right_case"]["properties"]["semantics"]["enum"]
    assert set(used) == set(SEMANTICS)
