"""A picture given as a path and one given as a Pillow image have the colours of the reference.

The two routes differ in EXIF tags and alpha channels; the module's docstring says how. The parity
extra is needed for the tests against transformers.
"""

import os

import numpy as np
import pytest
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data.images import open_image

# {name: (mode, file type, options of save)}: each mode that a picture file can have.
FILES = {
    "RGB": ("RGB", "png", {}),
    "RGB with one transparent colour": ("RGB", "png", {"transparency": (0, 0, 0)}),
    "RGBA": ("RGBA", "png", {}),
    "RGBA in WebP": ("RGBA", "webp", {"lossless": True}),
    "RGBA in TIFF": ("RGBA", "tiff", {}),
    "L": ("L", "png", {}),
    "L with one transparent colour": ("L", "png", {"transparency": 0}),
    "LA": ("LA", "png", {}),
    "P": ("P", "png", {}),
    "P with one transparent colour": ("P", "png", {"transparency": 3}),
    "P with an opacity for each colour": ("P", "png", {"transparency": bytes(range(0, 250))}),
    "P in GIF": ("P", "gif", {}),
    "1": ("1", "png", {}),
    "CMYK in JPEG": ("CMYK", "jpg", {}),
    "CMYK in TIFF": ("CMYK", "tiff", {}),
    "YCbCr in TIFF": ("YCbCr", "tiff", {}),
    "LAB in TIFF": ("LAB", "tiff", {}),
    "a JPEG turned by its camera": ("RGB", "jpg", {"exif": 6}),
    "a PNG mirrored by its tag": ("RGB", "png", {"exif": 5}),
    "a JPEG upright by its tag": ("RGB", "jpg", {"exif": 1}),
}


def drawn(mode, size=(23, 14)):
    """A seeded picture with a black corner; its alpha channel, if any, has all values."""
    noise = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    noise[:3, :3, :3] = 0
    image = Image.fromarray(noise, "RGBA")
    return image.convert(mode) if mode in ("RGBA", "LA") else image.convert("RGB").convert(mode)


def written(name, directory):
    """The picture's path."""
    mode, kind, options = FILES[name]
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    path = directory / f"picture.{kind}"
    drawn(mode).save(path, **options)
    return path


@pytest.fixture(scope="module")
def reference():
    """transformers' image processor without any step after the conversion to RGB."""
    module = pytest.importorskip(
        "transformers.models.clip.image_processing_pil_clip",
        reason="the parity extra is not installed",
    )
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    processor = module.CLIPImageProcessorPil(**dict.fromkeys(steps, False))
    return lambda source: processor(source)["pixel_values"][0].transpose(1, 2, 0)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", FILES)
def test_both_routes_give_the_references_colours(name, tmp_path, reference):
    path = written(name, tmp_path)
    assert np.array_equal(np.asarray(open_image(path)), reference(str(path)))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(open_image(image)), reference(image))


@pytest.mark.parametrize("mode", ["HSV", "PA", "RGBX", "RGBa", "LAB", "YCbCr", "CMYK"])
def test_objects_of_modes_that_no_file_has_give_the_references_colours(mode, reference):
    image = drawn("RGB")
    if mode == "RGBa":
        image = drawn("RGBA")
    if mode == "PA":
        image = image.convert("P")
    image = image.convert(mode)
    assert np.array_equal(np.asarray(open_image(image)), reference(image))


def test_an_alpha_channel_is_dropped_for_a_path_and_laid_on_white_for_an_object(tmp_path):
    """Red of opacity 128 and 0: red for a path; 255, 127, 127 and white for an object."""
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    image.putpixel((1, 0), (250, 0, 0, 0))
    image.save(tmp_path / "red.png")
    by_path = open_image(tmp_path / "red.png")
    assert [by_path.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (250, 0, 0)]
    half, none = (open_image(image).getpixel((x, 0)) for x in (0, 1))
    assert half[0] == 255 and abs(half[1] - 127) <= 1 and none == (255, 255, 255)


def test_an_exif_tag_turns_a_path_and_not_an_object(tmp_path):
    """Orientation 6: stored turned by 90 degrees, so a 10 x 4 file is a 4 x 10 picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 10)
    assert open_image(str(tmp_path / "turned.jpg")).size == (4, 10)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert open_image(image).size == (10, 4)


def test_an_object_of_a_truncated_file_is_one_error(tmp_path):
    drawn("RGB", (64, 64)).save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:900])
    with Image.open(tmp_path / "short.png") as image, pytest.raises(UserError) as caught:
        open_image(image, "record 7")
    assert str(caught.value).startswith("record 7: the Pillow image cannot be read")


def test_what_is_no_file_and_no_pillow_image_is_one_error(tmp_path):
    with pytest.raises(
        UserError, match="record 7: the picture is of type ndarray; expected a path"
    ):
        open_image(np.zeros((4, 4, 3), np.uint8), "record 7")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero", tmp_path / "none", "http://x/a.png"):
        with pytest.raises(UserError, match="record 7: there is no picture"):
            open_image(path, "record 7")
