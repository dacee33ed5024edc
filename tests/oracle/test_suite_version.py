"""The suite's version: no byte of the archive changes without one, and it says what may change.

Run: python -m pytest tests/oracle/test_suite_version.py
"""

import copy
import dataclasses
import hashlib
import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest

from clear_ref.oracle.suite import archive
from clear_ref.oracle.vectors import vector_files
from clear_ref.oracle.vectors.vector_set import VERSION
from tests.helpers import suite_record
from tests.helpers.golden_vectors import GOLDEN, STORED


@pytest.fixture(scope="module")
def record():
    """The record of the stored vectors as they are."""
    return suite_record.record_of(STORED)


def changed(change):
    """A copy of the stored vectors after change(copy)."""
    copied = dataclasses.replace(
        STORED,
        entries=[copy.deepcopy(entry) for entry in STORED.entries],
        arrays={name: dict(arrays) for name, arrays in STORED.arrays.items()},
    )
    change(copied)
    return copied


def test_the_stored_bytes_are_those_recorded_for_the_version(record):
    assert suite_record.problem(suite_record.read(), VERSION, record) is None


def test_each_recorded_version_is_raised_as_its_change_asks():
    records = suite_record.read()
    with_contents = [version for version, one in records.items() if "contents" in one]
    assert with_contents[-1] == list(records)[-1]
    for before, after in pairwise(with_contents):
        place = suite_record.place_of_change(records[before], records[after])
        assert after == suite_record.raised(before, place)


def lose_a_case(vectors):
    del vectors.entries[5]


def change_a_loss(vectors):
    vectors.entries[0]["loss"] = math.nextafter(vectors.entries[0]["loss"], 9)


def change_a_tolerance(vectors):
    vectors.entries[0]["roundings"]["loss"] *= 2


def change_a_gradient(vectors):
    vectors.entries[0]["sha256"] = "0" * 64


def change_an_input(vectors):
    key = "plain/forget/terms/nll"
    vectors.arrays["inputs"][key] = np.nextafter(vectors.arrays["inputs"][key], 9)


def add_a_case(vectors):
    vectors.entries.append({**vectors.entries[0], "id": "retain_ft/paper/further"})


def change_a_flag(vectors):
    vectors.entries[0]["flags"] = ["another"]


@pytest.mark.parametrize(
    "change, expected",
    [
        (lose_a_case, "2.0.0"),
        (change_a_loss, "2.0.0"),
        (change_a_tolerance, "2.0.0"),
        (change_a_gradient, "2.0.0"),
        (change_an_input, "2.0.0"),
        (add_a_case, "1.5.0"),
        (change_a_flag, "1.4.8"),
    ],
)
def test_a_change_without_its_version_is_refused(record, change, expected):
    """The last version is called 1.4.7 here."""
    new = suite_record.record_of(changed(change))
    records = {"1.4.7": record}
    assert f"expected {expected}" in suite_record.problem(records, "1.4.7", new)
    for version in {"1.4.8", "1.5.0", "2.0.0", "1.4.9"} - {expected}:
        assert f"expected {expected} after 1.4.7" in suite_record.problem(records, version, new)
    assert suite_record.problem(records, expected, new) is None


def test_a_changed_word_of_the_format_is_a_new_version(record, monkeypatch, tmp_path):
    for name in archive.DOCUMENTS:
        (tmp_path / name).write_bytes((archive.HERE / name).read_bytes())
    (tmp_path / "FORMAT.md").write_text("# Another text\n")
    monkeypatch.setattr(archive, "HERE", tmp_path)
    new = suite_record.record_of(STORED)
    assert "expected 1.0.1" in suite_record.problem({"1.0.0": record}, "1.0.0", new)


def test_the_record_keeps_the_contents_of_two_versions(record, monkeypatch, tmp_path):
    monkeypatch.setattr(suite_record, "RECORD", tmp_path / "versions.json")
    suite_record.write({"1.0.0": record, "1.0.1": record, "1.1.0": record})
    assert [list(one) for one in suite_record.read().values()] == [
        ["archive"],
        ["archive", "contents"],
        ["archive", "contents"],
    ]


def test_every_place_names_one_version():
    manifest = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["version"] == VERSION == STORED.version
    assert manifest["format"] == int(VERSION.split(".")[0]) == vector_files.FORMAT
    for name, start in (("FORMAT.md", "# Golden vectors, version "), ("schema.json", "version ")):
        text = (archive.HERE / name).read_text(encoding="utf-8")
        assert f"{start}{VERSION}" in text
        assert set(re.findall(r"\b\d+\.\d+\.\d+\b", text)) == {VERSION}
    assert f"-{VERSION}/" in archive.archive_of(STORED).decode("latin-1")


def test_the_manifest_lists_every_file_with_its_bytes():
    manifest = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    there = {path.name for path in GOLDEN.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == there
    for name, listed in manifest["files"].items():
        data = (GOLDEN / name).read_bytes()
        assert listed == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
