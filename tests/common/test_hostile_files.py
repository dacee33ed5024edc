"""A wrong file is one short line: a short fuzz of every reader, and what the fuzz itself sees.

The long fuzz is run by hand: python -m tests.helpers.fuzz --count 3000 --seed 1
"""

import os
import signal

import pytest

from clear_ref.common.errors import UserError, message_line
from tests.helpers import fuzz, fuzz_mutations
from tests.helpers.fuzz_entries import Entry
from tests.helpers.fuzz_resumed import ENTRIES

GROUPS = ("weights", "config", "model", "template", "adapter", "rows", "check-data", "people")
GROUPS += ("picture", "log", "report", "dump", "vectors", "state", "stopped run", "points", "kept")
GROUPS += ("finished run", "scored run", "audit")


def test_every_entry_is_in_one_group():
    for name in ENTRIES:
        assert sum(name.startswith(group) for group in GROUPS) == 1, name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "dump"])
def test_the_files_before_they_are_changed_are_right(name, tmp_path, monkeypatch):
    """Otherwise a reader could refuse all of them before it comes to the change.

    `diff` of a dump ends with the difference that it finds.
    """
    monkeypatch.chdir(tmp_path)
    ENTRIES[name].write(tmp_path)
    ENTRIES[name].read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_no_changed_file_is_more_than_one_short_line(group):
    found = fuzz.run([name for name in ENTRIES if name.startswith(group)], seed=0, count=None)
    assert not found, "\n".join(map(str, found))


def spin(folder):
    while True:
        pass


def raise_key_error(folder):
    raise KeyError("x")


def long_line(folder):
    raise UserError("x" * 1500)


def write_outside(folder):
    (folder.parent / "outside.txt").write_text("x")


def take_memory(folder):
    return b"1" * (100 << 20)


def stop_itself(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    "read, what",
    [
        (raise_key_error, "KeyError"),
        (long_line, "line"),
        (write_outside, "outside"),
        (take_memory, "memory"),
        (stop_itself, "crash"),
        (spin, "hang"),
    ],
)
def test_the_fuzz_sees(read, what, monkeypatch):
    if read is spin:
        monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.2)
    entry = Entry(lambda folder: (folder / "a").write_bytes(b"abc"), (("a", "bytes"),), read, 2)
    monkeypatch.setitem(ENTRIES, "made", entry)
    found = fuzz.run(["made"], seed=0, count=2)
    assert [failure.what for failure in found] == [what, what]
    assert [failure.number for failure in found] == [0, 1]


def test_a_reader_that_refuses_or_accepts_is_no_failure(monkeypatch):
    def refuse(folder):
        if (folder / "a").read_bytes() != b"abc":
            raise UserError("a is wrong; expected abc")

    entry = Entry(lambda folder: (folder / "a").write_bytes(b"abc"), (("a", "bytes"),), refuse, 2)
    monkeypatch.setitem(ENTRIES, "made", entry)
    assert fuzz.run(["made"], seed=0, count=20) == []


@pytest.mark.parametrize("kind", ["json", "lines", "text", "bytes"])
def test_a_seed_gives_the_same_change_and_another_seed_another(kind):
    data = b'{"a": [1, 2.5, "x"], "b": {"c": null}}\n'
    made = [
        [fuzz_mutations.KINDS[kind](data, fuzz.Random(f"{seed}/{n}")) for n in range(50)]
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]
    assert sum(each != data for each in made[0]) >= 40


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a\nb\x1b[2J\0", "a\\nb\\x1b[2J\\x00"),
        ("é \N{SNOWMAN} 中", "é \N{SNOWMAN} 中"),
        ("a\u202eb\u2028", "a\\u202eb\\u2028"),
    ],
)
def test_a_message_is_one_line_of_printable_signs(text, expected):
    assert message_line(text) == str(UserError(text)) == expected


def test_a_long_message_keeps_its_beginning_and_its_end():
    message = str(UserError("file.json: x is " + "9" * 10_000 + "; expected a number: write it"))
    assert len(message) <= 2000
    assert message.startswith("file.json: x is 99") and message.endswith(
        "expected a number: write it"
    )
