"""The archive of the golden vectors: the same bytes each time; plain JavaScript reads them.

Run: python -m pytest tests/oracle/test_suite_archive.py
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from clear_ref.oracle.suite import archive
from clear_ref.oracle.vectors.vector_set import VERSION
from clear_ref.run import main
from tests.helpers import suite_record
from tests.helpers.golden_vectors import GOLDEN, ROOT, STORED

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture
def unpacked(tmp_path):
    """The folder of the archive, unpacked."""
    zipfile.ZipFile(io.BytesIO(archive.archive_of(STORED))).extractall(tmp_path)
    return tmp_path / archive.folder(VERSION)


def test_two_writings_are_the_same_bytes_and_those_that_are_recorded(tmp_path):
    for name in ("a", "b/c/d"):
        archive.write(STORED, tmp_path / name / "suite.zip")
    one = (tmp_path / "a" / "suite.zip").read_bytes()
    assert one == (tmp_path / "b" / "c" / "d" / "suite.zip").read_bytes()
    assert hashlib.sha256(one).hexdigest() == suite_record.read()[VERSION]["archive"]


@pytest.mark.slow
def test_the_command_writes_these_bytes_in_another_process_time_zone_and_directory(tmp_path):
    """PYTHONHASHSEED changes the order of sets, TZ the local time."""
    done = subprocess.run(
        [sys.executable, "-m", "clear_ref.run", "vectors", "--archive", "far/suite.zip", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TZ": "Pacific/Kiritimati",
            "PYTHONHASHSEED": "77",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["version"] == VERSION
    assert printed["sha256"] == suite_record.read()[VERSION]["archive"]
    assert (tmp_path / "far" / "suite.zip").read_bytes() == archive.archive_of(STORED)


def test_members_are_stored_sorted_and_alike_in_time_and_permissions():
    """Deflated members would depend on the version of zlib."""
    members = zipfile.ZipFile(io.BytesIO(archive.archive_of(STORED))).infolist()
    names = [member.filename for member in members]
    assert names == sorted(names)
    for member in members:
        assert member.compress_type == zipfile.ZIP_STORED
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        assert (member.create_system, member.external_attr >> 16) == (3, 0o100644)


def test_it_holds_the_stored_vectors_the_documents_and_the_projects_licence(unpacked):
    held = {path.name: path.read_bytes() for path in unpacked.iterdir()}
    expected = {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
    expected |= {name: (archive.HERE / name).read_bytes() for name in archive.DOCUMENTS}
    assert held == expected
    assert held["LICENSE"] == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--archive", ""], "--archive is ''; expected a value"),
        (["--archive", "a.zip", "--out", "b"], "--out and --archive are both given"),
        (["--archive", "."], "--archive .: is a directory; expected a file to write"),
        (["--out", ""], "--out is ''; expected a value"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(options, expected, capsys):
    assert main(["vectors", *options]) == 2
    assert expected in capsys.readouterr().err


def run_node(folder):
    """The finished process of the reader in a folder."""
    return subprocess.run(
        ["node", str(folder / "read_suite.mjs")], capture_output=True, text=True, timeout=60
    )


def write_again(folder, name, data):
    """Write a file, and its hash into the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@needs_node
def test_plain_javascript_computes_the_losses_of_three_methods_from_the_files(unpacked):
    """No package of node is there, and the reader imports only what node itself has."""
    done = run_node(unpacked)
    assert (done.returncode, done.stderr) == (0, "")
    paper = {}
    for entry in STORED.entries:
        if entry.get("semantics") == "paper":
            paper[entry["method"]] = paper.get(entry["method"], 0) + 1
    for method in ("retain_ft", "grad_ascent", "npo"):
        n = paper[method]
        assert f"{method}: {n} of {n} losses are right" in done.stdout
    assert f"golden vectors {VERSION}: all right" in done.stdout
    lines = (unpacked / "read_suite.mjs").read_text().splitlines()
    sources = [line.split(" from ")[1] for line in lines if line.startswith("import ")]
    assert sources and all(source.startswith('"node:') for source in sources)


@needs_node
def test_the_reader_refuses_a_changed_file_and_another_format(unpacked):
    data = (unpacked / "inputs.safetensors").read_bytes()
    (unpacked / "inputs.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = run_node(unpacked)
    assert done.returncode == 2 and "inputs.safetensors is not the file" in done.stderr
    (unpacked / "manifest.json").write_text('{"format": 2}')
    done = run_node(unpacked)
    assert done.returncode == 2 and "format is 2; expected 1" in done.stderr


@needs_node
def test_the_reader_sees_a_wrong_loss_and_its_own_loss_matters(unpacked):
    """A stored loss that is off by 1e-9, then a reader that forgets the shift of the labels."""
    stored = json.loads((unpacked / "npo.json").read_bytes())
    stored["cases"][0]["loss"] += 1e-9
    write_again(unpacked, "npo.json", json.dumps(stored).encode())
    done = run_node(unpacked)
    assert done.returncode == 1 and "wrong npo/paper/plain: loss" in done.stdout
    write_again(unpacked, "npo.json", (GOLDEN / "npo.json").read_bytes())
    assert run_node(unpacked).returncode == 0
    script = (unpacked / "read_suite.mjs").read_text()
    assert "b * T + t + 1]" in script
    (unpacked / "read_suite.mjs").write_text(script.replace("b * T + t + 1]", "b * T + t]"))
    done = run_node(unpacked)
    assert done.returncode == 1 and "retain_ft: 0 of " in done.stdout
