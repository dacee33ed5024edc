"""The ground that the rooms stand on: progress, shared work, whole files."""

import io
import json
import os
import sys

import pytest
import torch

from clear_ref.common import files
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.processes import share
from clear_ref.common.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_rate_and_time_left_on_a_terminal_alone(monkeypatch):
    """10 steps, 4 done before: the bar counts them, the rate does not."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = Progress("train", 10, done=4)
    bar.start -= 2.0
    bar.step(note="loss 1")
    shown = sys.stderr.getvalue()
    assert "train  [==========          ] 5/10 steps  0.5/s  10 s left  loss 1" in shown
    bar.close()
    assert sys.stderr.getvalue().endswith("\r\x1b[K")
    for quiet, stream in ((True, Terminal()), (False, io.StringIO())):
        monkeypatch.setattr(Progress, "quiet", quiet)
        monkeypatch.setattr(sys, "stderr", stream)
        bar = Progress("train", 2)
        bar.step()
        bar.close()
        assert stream.getvalue() == ""


def test_shared_work_is_the_same_for_any_number_of_processes():
    found = [
        share(lambda part: [part, part / 7, f"ü{part}"], list(range(7)), n) for n in (1, 2, 3, 20)
    ]
    assert all(other == found[0] for other in found) and found[0][3] == [3, 3 / 7, "ü3"]
    assert share(lambda part: part, [], 4) == []


def test_shared_work_really_runs_in_other_processes_with_one_thread_each():
    torch.set_num_threads(2)
    found = share(lambda part: [os.getpid(), torch.get_num_threads()], [0, 1], 2)
    assert found[0][0] == os.getpid() != found[1][0] and found[0][1] == found[1][1] == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("n", [1, 2])
def test_a_lone_part_has_one_thread_too(n):
    """Last bits of matrix products can depend on the number of threads: what a resumed evaluation still lacks has no other bits."""
    torch.set_num_threads(2)
    assert (
        share(lambda part: torch.get_num_threads(), ["part"], n) == [1]
        and torch.get_num_threads() == 2
    )


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_in_shared_work_arrives_wherever_it_happens(bad):
    def compute(part):
        if part == bad:
            raise UserError(f"part {part} is wrong")
        return part

    with pytest.raises(UserError, match=f"part {bad} is wrong"):
        share(compute, [0, 1], 2)


def test_a_process_that_dies_fails_the_run():
    here = os.getpid()
    with pytest.raises(RunFailed, match="ended with status"):
        share(lambda part: part if os.getpid() == here else os._exit(3), [0, 1], 2)


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {"x": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        files.write_json(tmp_path / "a.json", {"x": 2})
    with pytest.raises(OSError):
        files.write_text(tmp_path / "b.txt", "half")
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "content, message",
    [(b"{", "not JSON"), (b"[1]", "holds list; expected a JSON object"), (b"\xff", "not JSON")],
)
def test_json_that_is_no_object_is_named(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_json(tmp_path / "x.json")
