"""Calls a command inside a test; a small copy of the embedded world to run it on."""

import shutil

from clear_ref import run
from clear_ref.mini.directories import WORLD


def call(capsys, *arguments):
    """(exit status, stdout, stderr) of a command."""
    status = run.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def small_copy(target):
    """A copy of the embedded world with 6 forget records: three pictures and three questions."""
    shutil.copytree(WORLD, target)
    path = target / "forget10+tofu" / "rows.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(rows[:3] + rows[20:23]), encoding="utf-8")
    return target


def replaced(words, **values):
    """The words of a command with other values of some options that they have."""
    words = list(words)
    for name, value in values.items():
        words[words.index(f"--{name.replace('_', '-')}") + 1] = value
    return words
