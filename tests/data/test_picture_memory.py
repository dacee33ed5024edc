"""A picture that stays in memory is the one in its file, and memory is bounded.

Run: python -m pytest tests/data/test_picture_memory.py
"""

import os

import pytest
import torch
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data.images import Picture
from clear_ref.data.picture_memory import PictureMemory


class Reader:
    """Gives the red value of a picture of one colour, and counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return Picture(torch.full((10,), float(image.getpixel((0, 0))[0])), None, 1)


def drawn(path, red):
    image = Image.new("RGB", (2, 2), (red, 0, 0))
    image.putpixel((1, 1), (0, 0, 9))
    image.save(path)
    return path


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path):
    memory = PictureMemory(Reader())
    path = drawn(tmp_path / "a.png", 10)
    first, second = memory(path, "a"), memory(str(path), "a")
    assert first is second and memory.read.calls == 1 and first.pixels[0] == 10
    before = os.stat(path)
    drawn(path, 20)  # of the same size, perhaps within one tick of the clock
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert memory(path, "a").pixels[0] == 20 and memory.read.calls == 2
    path.unlink()
    with pytest.raises(UserError, match="there is no picture"):
        memory(path, "a")


def test_the_picture_that_was_read_longest_ago_leaves_first(tmp_path):
    """Pictures of 40 bytes each, and room for 100: two of them."""
    memory = PictureMemory(Reader(), most_bytes=100)
    paths = [drawn(tmp_path / f"{red}.png", red) for red in (1, 2, 3)]
    for path in (paths[0], paths[1], paths[0], paths[2]):
        memory(path, "x")
    assert memory.read.calls == 3
    assert memory(paths[0], "x").pixels[0] == 1 and memory.read.calls == 3
    assert memory(paths[1], "x").pixels[0] == 2 and memory.read.calls == 4
    none = PictureMemory(Reader(), most_bytes=39)
    assert none(paths[0], "x").pixels[0] == none(paths[0], "x").pixels[0] == 1
    assert none.read.calls == 2 and none.bytes_left == 39


def test_a_picture_that_is_no_file_is_read_every_time():
    memory = PictureMemory(Reader())
    image = Image.new("RGB", (2, 2), (7, 0, 0))
    image.putpixel((1, 1), (0, 0, 9))
    assert memory(image, "x").pixels[0] == memory(image, "x").pixels[0] == 7
    assert memory.read.calls == 2
