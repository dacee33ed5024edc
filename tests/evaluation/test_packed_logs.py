"""A gzip'd log is unpacked up to a hundred times its size, and no more memory is taken."""

import gzip
import tracemalloc

import pytest

from clear_ref.common.errors import UserError
from clear_ref.evaluation.logs import unpacked


def write(path, data):
    path.write_bytes(gzip.compress(data))
    return path


def test_a_log_is_unpacked_whole(tmp_path):
    data = b'{"a": 1}' + bytes(range(256)) * 1000
    assert unpacked(write(tmp_path / "a.json.gz", data)) == data


def test_a_small_log_may_unpack_to_a_megabyte_and_no_further(tmp_path):
    """2^20 blanks are about 1 kB: a thousand times less, and allowed; one byte more is not."""
    at_most = b" " * (1 << 20)
    assert unpacked(write(tmp_path / "a.json.gz", at_most)) == at_most
    with pytest.raises(UserError, match="unpack to more than 1048576; expected at most 100 times"):
        unpacked(write(tmp_path / "b.json.gz", at_most + b" "))


def test_a_bomb_takes_no_memory(tmp_path):
    path = write(tmp_path / "bomb.json.gz", b" " * 60_000_000)
    most = 100 * path.stat().st_size
    assert most < 8_000_000
    tracemalloc.start()
    with pytest.raises(UserError, match="unpack to more than"):
        unpacked(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * most  # the bytes, in parts and joined; unpacked they are ten times as many


@pytest.mark.parametrize("at, what", [(-5, "length"), (-8, "checksum"), (12, "data"), (30, "end")])
def test_damaged_data_are_one_line(at, what, tmp_path):
    data = bytearray(gzip.compress(bytes(range(256)) * 100))
    data[at] ^= 0xFF
    if what == "end":
        del data[at:]
    (tmp_path / "a.json.gz").write_bytes(data)
    with pytest.raises(UserError, match="a.json.gz: gzip'd data that cannot be unpacked"):
        unpacked(tmp_path / "a.json.gz")
