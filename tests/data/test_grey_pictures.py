"""A picture that becomes white or of one colour on its way in is refused, in every command.

Grey values of 16 and 32 bits become white above 255; a drawing that is only in the alpha channel
disappears. A picture that is of one colour from the start is a note of check-data.
"""

import shutil

import numpy as np
import pytest
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data.check import check
from clear_ref.data.images import open_image
from clear_ref.data.records import Record, read_rows
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model.vlm import load
from clear_ref.run import main

SHADES = np.arange(400).reshape(20, 20) * 160


def deep(kind):
    """A grey picture with values from 0 to 63,840."""
    return Image.fromarray(SHADES.astype({"16": "uint16", "32": "int32", "float": "float32"}[kind]))


FILES = [
    ("16", "png", "I;16"),
    ("16", "tiff", "I;16"),
    ("16", "pgm", "I"),
    ("16", "jp2", "I;16"),
    ("32", "tiff", "I"),
    ("float", "tiff", "F"),
    ("float", "pfm", "F"),
]


@pytest.mark.parametrize("kind, suffix, mode", FILES)
def test_deep_grey_values_are_refused_with_a_way_out(kind, suffix, mode, tmp_path):
    path = tmp_path / f"portrait.{suffix}"
    deep(kind).save(path)
    with Image.open(path) as image, pytest.raises(UserError, match="16 or 32 bits") as caught:
        open_image(image)
    assert "the Pillow image" in str(caught.value)
    with pytest.raises(UserError) as caught:
        open_image(path, "full/rows.jsonl:3")
    message = str(caught.value)
    assert message.startswith(f"full/rows.jsonl:3: {path} has grey values of 16 or 32 bits")
    assert f"mode {mode}" in message and "\n" not in message
    # The message's way out gives the picture that is meant.
    if kind == "16":
        with Image.open(path) as image:
            right = Image.fromarray((np.asarray(image) // 256).astype("uint8"))
        right.save(tmp_path / "right.png")
        assert open_image(tmp_path / "right.png").getextrema()[0] == (0, 249)


def test_big_endian_values_are_refused_too(tmp_path):
    Image.fromarray(SHADES.astype(">u2")).save(tmp_path / "big.tiff")
    with pytest.raises(UserError, match="grey values of 16 or 32 bits"):
        open_image(tmp_path / "big.tiff")


def silhouette(mode="RGBA"):
    """A black drawing whose shape is only in the alpha channel."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (2, 2, 6, 6))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_drawing_in_the_alpha_channel_alone_is_refused_by_path(mode, tmp_path):
    """The alpha channel is dropped for a path: all black. An object is laid on white: fine."""
    silhouette(mode).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=rf"mode {mode} with several values, is one colour as RGB"):
        open_image(tmp_path / "x.png")
    seen = dict(map(reversed, open_image(silhouette(mode)).getcolors()))
    assert seen == {(0, 0, 0): 16, (255, 255, 255): 48}


def test_colours_under_full_transparency_are_refused_as_an_object(tmp_path):
    """Laid on white it is white; by path the colours are seen."""
    image = Image.fromarray(np.dstack([SHADES % 251] * 3 + [SHADES * 0]).astype("uint8"), "RGBA")
    image.save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"is one colour as RGB \(255, 255, 255\)"):
        open_image(image)
    assert open_image(tmp_path / "x.png").getpixel((1, 0)) == (160, 160, 160)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_one_colour_from_the_start_is_read(mode):
    assert len(open_image(Image.new("RGB", (5, 4), "white").convert(mode)).getcolors()) == 1


def test_a_palette_picture_whose_numbers_mean_one_colour_is_of_one_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9] * 256)
    image.putpixel((1, 0), 200)
    assert open_image(image).getcolors() == [(2, (9, 9, 9))]


class TestCheckData:
    def test_a_deep_grey_picture_is_a_problem(self, small):
        deep("16").save(small / "images/9.png")
        problems = check(small)["problems"]
        assert len(problems) == 1 and "images/9.png has grey values of 16 or 32 bits" in problems[0]

    def test_a_picture_that_becomes_one_colour_is_a_problem(self, small):
        silhouette().save(small / "images/9.png")
        problems = check(small)["problems"]
        assert len(problems) == 1 and "images/9.png, a picture of mode RGBA" in problems[0]

    def test_a_picture_of_one_colour_is_a_note(self, small):
        Image.new("RGB", (8, 8), "white").save(small / "images/9.png")
        found = check(small)
        assert found["problems"] == []
        assert found["notes"] == [
            "images: 1 picture (9.png) of one colour; expected something to be seen"
        ]

    def test_transparent_pixels_are_a_note(self, small):
        image = Image.new("RGBA", (8, 8), (250, 10, 10, 255))
        image.putpixel((0, 0), (0, 0, 0, 40))
        image.save(small / "images/9.png")
        found = check(small)
        assert found["problems"] == [] and len(found["notes"]) == 1
        assert found["notes"][0].startswith("images: 1 picture (9.png) with transparent pixels;")


@pytest.fixture(scope="module")
def deep_world(tmp_path_factory):
    """The embedded world with the pictures of forget10 as 16-bit grey files of the same names."""
    directory = tmp_path_factory.mktemp("deep") / "world"
    shutil.copytree(WORLD, directory)
    for row in read_rows(directory, "forget10"):
        with Image.open(row.image) as image:
            grey = np.asarray(image.convert("L")).astype("uint16") * 257
        Image.fromarray(grey).save(row.image, "PNG")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "mini"], ["kl", "--model", "mini"], ["finetune", "--model", "mini"]],
)
def test_every_command_refuses_a_world_of_deep_grey_pictures(
    arguments, deep_world, tmp_path, capsys
):
    out = tmp_path / "out"
    status = main([*arguments, "--data", str(deep_world), "--out", str(out), "--quiet"])
    error = capsys.readouterr().err
    assert status == 2 and "rows.jsonl:1: " in error and "grey values of 16 or 32 bits" in error
    assert error.count("\n") == 1 and not out.exists()


@pytest.mark.slow
def test_a_record_of_a_deep_grey_picture_is_refused(deep_world):
    row = read_rows(deep_world, "forget10")[0]
    with pytest.raises(
        UserError, match="record 'Who is this.': .* has grey values of 16 or 32 bits"
    ):
        load(BASE).encode([Record("Who is this?", None, row.image)])
