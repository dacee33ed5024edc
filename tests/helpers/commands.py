"""The command line called within a test, and an embedded world small enough to run it on."""

import shutil

from clear_ref import run
from clear_ref.mini.directories import WORLD


def call(capsys, *arguments):
    """(exit status, stdout, stderr) of a command."""
    status = run.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def small_copy(target):
    """The embedded world in `target`, with 6 forget records: rows 0-2 of picture and of text."""
    shutil.copytree(WORLD, target)
    path = target / "forget10+tofu" / "rows.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(rows[:3] + rows[20:23]), encoding="utf-8")
    return target
