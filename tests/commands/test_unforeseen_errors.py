"""An error that nobody has foreseen is one line that names the file; --debug shows where."""

import pytest

from clear_ref.commands import doctor
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import read_json
from tests.helpers.commands import call


@pytest.fixture
def fails_with(monkeypatch, tmp_path):
    """doctor reads a file, and then the error is raised."""
    (tmp_path / "a.json").write_text("{}")

    def prepare(error):
        def run(settings):
            read_json(tmp_path / "a.json")
            raise error

        monkeypatch.setattr(doctor, "examine_model", run)

    return prepare


@pytest.mark.parametrize(
    "error, status, words",
    [
        (KeyError("x\ny"), 1, "the run failed: KeyError ('x\\ny') after "),
        (RecursionError(), 1, "the run failed: RecursionError () after "),
        (UserError("a\nb"), 2, "clear_ref: a\\nb"),
        (RunFailed("c"), 1, "clear_ref: the run failed: c"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("x" * 9000), 1, "the run failed: RuntimeError (xxxx"),
        (OSError(2, "No such file", "d\ne"), 2, "d\\ne: cannot be read or written"),
    ],
)
def test_every_error_is_one_line(error, status, words, fails_with, capsys, tmp_path):
    fails_with(error)
    found, _, shown = call(capsys, "doctor", "--model", "mini")
    assert found == status and words in shown and shown.count("\n") == 1 and len(shown) < 2100
    if " after " in words or "RuntimeError" in words:
        assert f"after {tmp_path / 'a.json'} was read" in shown
        assert "the same command with --debug shows where" in shown


def test_debug_shows_where_before_the_line(fails_with, capsys):
    fails_with(KeyError("x"))
    status, _, shown = call(capsys, "doctor", "--model", "mini", "--debug")
    lines = shown.splitlines()
    assert status == 1 and lines[0] == "Traceback (most recent call last):"
    assert "KeyError: 'x'" in lines[-2] and lines[-1].startswith("clear_ref: the run failed")
