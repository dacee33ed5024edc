"""Files that are written completely or not at all, and JSON that is refused."""

import json
import os

import pytest

from clear_ref.common import files
from clear_ref.common.errors import RunFailed, UserError


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {"x": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="a.json: cannot be written .No space left on device"):
        files.write_json(tmp_path / "a.json", {"x": 2})
    with pytest.raises(RunFailed, match="b.txt: cannot be written"):
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
        (
            rb'{"a": {"b": ["c", "x\uD800"]}}',
            r"json: a\.b\[1\] is 'x\\ud800', and a lone surrogate",
        ),
        (
            rb'{"a": {"\udc00\ud800": 1}}',
            r"json: a key of a is '\\udc00\\ud800', and a lone surrog",
        ),
    ],
)
def test_json_that_is_no_object_is_named(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_json(tmp_path / "x.json")


def test_what_stands_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("folder")
    for name, message in (
        ("nowhere", "no such file"),
        ("folder", "is a directory; expected a file"),
        ("link", "is a directory; expected a file"),
        ("pipe", "is no regular file; expected a file"),
        ("n" * 300, "no such file"),
        ("zero\0byte", "no such file"),
    ):
        for read in (files.read_bytes, files.read_text, files.read_json):
            with pytest.raises(UserError, match=f": {message}$"):
                read(tmp_path / name)


def test_a_pair_of_surrogates_in_json_is_one_character(tmp_path):
    (tmp_path / "x.json").write_bytes(rb'{"\ud83d\ude00": "\\ud800"}')
    assert files.read_json(tmp_path / "x.json") == {"\N{GRINNING FACE}": "\\ud800"}
