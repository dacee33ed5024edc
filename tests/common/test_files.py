"""Files that are written completely or not at all, and JSON that is refused."""

import json
import os

import pytest

from clear_ref.common import files
from clear_ref.common.errors import UserError


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
    [
        (b"{", "not JSON"),
        (b"[1]", "holds list; expected a JSON object"),
        (b"\xff", "not JSON"),
        (b'{"a": 1, "a": 2}', "the key a is given twice"),
    ],
)
def test_json_that_is_no_object_is_named(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_json(tmp_path / "x.json")
