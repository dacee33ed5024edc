"""--teacher keep and live write the same bytes; the runs of `all` share a folder until their end.

Run: python -m pytest tests/commands/test_teacher_files.py
"""

import pytest
import torch

from clear_ref.commands import many_runs, teacher_files
from clear_ref.commands.resolve import resolve_inputs
from clear_ref.commands.settings import Unlearn
from clear_ref.common.files import read_json, write_json
from clear_ref.loop.kept import HIDDEN, Kept, Name, digest
from tests.helpers.commands import call, small_copy

QUICK = ("--tasks", "eval_text_forget", "--limit", 1, "--max-new-tokens", 4, "--quiet")


@pytest.mark.slow
def test_the_runs_of_all_share_the_teachers_results(capsys, tiny_directory, tmp_path, monkeypatch):
    """kl and scrub in a process each, and both modes end with the same adapters."""
    stores, folders = [], []
    whole = teacher_files.kept_results

    def kept_results(settings, inputs, out, shared=False):
        stores.append(whole(settings, inputs, out, shared))
        return stores[-1]

    removed = many_runs.remove_results

    def remove_results(out):
        folders.append(len(list((out / teacher_files.FOLDER).glob("*.safetensors"))))
        removed(out)

    monkeypatch.setattr(many_runs, "kept_results", kept_results)
    monkeypatch.setattr(many_runs, "process_count", lambda device: 2)
    monkeypatch.setattr(many_runs, "remove_results", remove_results)
    world = small_copy(tmp_path / "world")
    for mode in ("keep", "live"):
        line = "all --methods kl,scrub --epochs 1 --batch-size 4 --accumulate 1 --records-at-once 4"
        places = ("--data", world, "--model", tiny_directory, "--out", tmp_path / mode)
        found = call(capsys, *line.split(), *places, "--teacher", mode, *QUICK)
        assert found[0] == 0, found[2]
    # Hidden states: kl: 2 steps of retain; scrub: the same, and 2 of forget. Tower: three of these
    # batches have pictures.
    assert [store and store.shared for store in stores] == [True, None] and folders == [7, 0]
    for method in ("kl", "scrub"):
        path = f"{method}-paper-both-seed0/adapter/adapter_model.safetensors"
        assert (tmp_path / "keep" / path).read_bytes() == (tmp_path / "live" / path).read_bytes()
    assert not (tmp_path / "keep" / teacher_files.FOLDER).exists()


def test_live_keeps_nothing_and_the_identity_is_of_the_code(tmp_path, monkeypatch):
    inputs = resolve_inputs(Unlearn(), "")
    assert teacher_files.kept_results(Unlearn(teacher="live"), inputs, tmp_path) is None
    first = teacher_files.kept_results(Unlearn(), inputs, tmp_path)
    assert first.folder == tmp_path / "teacher" and not first.shared
    changed = []
    for part in ("ROOMS", "hardware"):
        with monkeypatch.context() as patch:
            other = (
                ("common",)
                if part == "ROOMS"
                else lambda device: {"cpu": "x", "torch_instruction_set": "y"}
            )
            patch.setattr(teacher_files, part, other)
            changed.append(teacher_files.kept_results(Unlearn(), inputs, tmp_path).identity)
    assert len({first.identity, *changed}) == 3


@pytest.mark.slow
def test_a_run_of_before_the_setting_is_resumed(capsys, tiny_directory, tmp_path):
    """Its settings.json has no `teacher`. Resumed with `live`, it removes what it had kept."""
    out = tmp_path / "run"
    places = ("--data", small_copy(tmp_path / "world"), "--model", tiny_directory, "--out", out)
    line = (*"npo --epochs 1 --batch-size 4 --accumulate 1 --checkpointing on".split(), *places)
    assert call(capsys, *line, *QUICK)[0] == 0
    trace = (out / "trace.jsonl").read_bytes()
    path = out / "settings.json"
    record = read_json(path)
    assert record["settings"].pop("teacher")["value"] == "keep"
    write_json(path, record)
    (out / "metrics.json").unlink()
    Kept(folder=out / teacher_files.FOLDER, memory_bytes=0).put(
        Name(HIDDEN, "0", lambda: digest(0)), torch.ones(2)
    )
    status, _, stderr = call(capsys, *line, *QUICK, "--resume", "--teacher", "live")
    assert status == 0, stderr
    assert read_json(path)["settings"]["teacher"]["value"] == "live"
    assert (out / "trace.jsonl").read_bytes() == trace
    assert not (out / teacher_files.FOLDER).exists()
