"""Files appear whole or not at all on a full disk, in a directory that vanishes, and after Ctrl-C.

An error is one line with the path; a file size limit stands for the full disk.
"""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from clear_ref.common import atomic
from clear_ref.common.atomic import UNFINISHED, atomic_file, hold, new_directory, remove_unfinished
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import write_text
from clear_ref.model import write_weights
from clear_ref.model.write_weights import write_tensors

LIMITED = """
import resource, sys, torch
from clear_ref.common.errors import RunFailed
from clear_ref.common.files import write_text
from clear_ref.model.write_weights import write_tensors, write_weights
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
tensors = {"a": torch.zeros(50_000)}
shapes = {"a": (50_000,)}
write = {
    "text": lambda path: write_text(path, "x" * 200_000),
    "tensors": lambda path: write_tensors(path, tensors),
    "weights": lambda path: write_weights(path.parent, shapes, torch.float32, tensors.get),
}[sys.argv[1]]
from pathlib import Path
try:
    write(Path(sys.argv[2]))
except RunFailed as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["text", "tensors", "weights"])
def test_a_file_that_the_disk_does_not_take_is_one_line_and_the_old_file_stays(tmp_path, writer):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, writer, str(path)], capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"{path}: cannot be written (File too large)")
    assert "--resume" in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_what_cannot_fit_is_not_begun(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 95, 5))
    write_text(tmp_path / "small", "12345")
    with pytest.raises(RunFailed, match="large: .*6 bytes are needed and 5 are free"):
        write_text(tmp_path / "large", "123456")
    assert [each.name for each in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_errors_of_storage_are_a_failed_run(tmp_path, number):
    with pytest.raises(RunFailed, match=os.strerror(number)), atomic_file(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_a_place_that_may_not_be_written_is_an_error_of_the_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/below: cannot be written"):
        write_text(tmp_path / "file" / "below", "text")


def test_an_error_of_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_file(tmp_path / "a" / "b"):
        (tmp_path / "elsewhere").read_bytes()


def test_the_mode_is_what_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
        write_tensors(tmp_path / "tensors", {"a": torch.ones(2)})
        with new_directory(tmp_path / "directory"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "tensors").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o750


@pytest.mark.parametrize("interrupted", ["_sync", "os.replace"])
def test_an_interrupt_while_a_file_appears_is_an_interrupt(tmp_path, monkeypatch, interrupted):
    """The signal arrives after the name was changed, or before."""
    replace = os.replace

    def late(*arguments):
        if interrupted == "os.replace":
            replace(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(*((os, "replace") if "." in interrupted else (atomic, "_sync")), late)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "text")
    left = [each.name for each in tmp_path.iterdir()]
    assert left == (["file"] if interrupted == "os.replace" else [])


def test_all_that_a_kill_leaves_of_tensors_is_removed(tmp_path, monkeypatch):
    """save_file makes a file with a name of its own (.tmp...) beside its target."""

    def killed(tensors, path, metadata):
        (Path(path).parent / ".tmp5gH2Wu").write_bytes(b"half")
        shutil.rmtree = lambda *_, **__: None  # a killed process removes nothing
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", shutil.rmtree)
    monkeypatch.setattr(write_weights, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "run" / "adapter" / "tensors", {"a": torch.ones(2)})
    monkeypatch.undo()
    assert list(tmp_path.rglob(".tmp5gH2Wu"))
    remove_unfinished(tmp_path / "run")
    assert not list((tmp_path / "run" / "adapter").iterdir())


def test_the_directory_of_a_run_is_not_made_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with hold(run):
        write_text(run / "logs" / "one.json", "{}")
        shutil.rmtree(run)
        with pytest.raises(RunFailed, match="was removed or replaced while it ran"):
            write_text(run / "logs" / "two.json", "{}")
        assert not run.exists()
        run.mkdir()  # another directory of this name is not that of the run
        with pytest.raises(RunFailed, match="was removed or replaced while it ran"):
            write_text(run / "logs" / "two.json", "{}")
        assert not list(run.iterdir())
    write_text(run / "logs" / "two.json", "{}")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = ["settings.json", ".hidden", "a.unfinished", "logs/one.json"]
    for name in [*kept, f".settings.json.0123abcd{UNFINISHED}", f"logs/.one.json.ab{UNFINISHED}"]:
        write_text(tmp_path / name, "text")
    (tmp_path / f".data.01{UNFINISHED}" / "images").mkdir(parents=True)
    remove_unfinished(tmp_path)
    found = [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()]
    assert sorted(found) == sorted(kept)
    assert not list(tmp_path.glob(f".data*{UNFINISHED}"))
