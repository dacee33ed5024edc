"""A small file cannot ask for gigabytes: a resize, padding or crop is refused before it is done."""

import io

import pytest
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data import images
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import check_size
from clear_ref.data.qwen_images import Qwen2VLImages
from tests.helpers.fuzz_folders import CLIP, CLIP_SIZES, QWEN2_VL, write_json

THIN = (1, 300_000)


def clip(directory, **changed):
    write_json(directory / "preprocessor_config.json", CLIP | CLIP_SIZES | changed)
    return ClipImages.from_directory(directory, 28, 4)


def qwen(directory, **changed):
    write_json(directory / "preprocessor_config.json", QWEN2_VL | changed)
    return Qwen2VLImages.from_directory(directory)


@pytest.fixture
def nothing_is_made(monkeypatch):
    def made(*_, **__):
        raise AssertionError("a picture is made")

    monkeypatch.setattr(Image.Image, "resize", made)
    monkeypatch.setattr(Image, "new", made)


@pytest.mark.parametrize(
    "made, changed, size",
    [
        (clip, {}, THIN),  # 28 x 8,400,000
        (clip, {"size": {"height": 28, "width": 60_000}}, (2000, 2000)),  # first 60,000 x 2,000
        (clip, {"image_processor_type": "LlavaImageProcessor", "do_pad": True}, THIN),
        (clip, {"do_resize": False}, (300_000, 1)),  # a frame of 300,000 x 28 is 25 MB: allowed
        (qwen, {"min_pixels": 3136, "max_pixels": 10**9}, (7000, 7000)),
        (qwen, {"min_pixels": 10**9, "max_pixels": 10**9}, (40, 40)),
    ],
)
def test_what_would_take_gigabytes_is_refused_before_it_is_done(
    made, changed, size, tmp_path, request
):
    picture = Image.new("RGB", size)
    processor = made(tmp_path, **changed)
    if changed == {"do_resize": False}:
        assert processor(picture).pixels.shape == (3, 28, 28)
        return
    request.getfixturevalue("nothing_is_made")
    with pytest.raises(UserError, match=r"picture is \d+ x \d+ pixels.*expected at most \d+"):
        processor(picture)


@pytest.mark.parametrize("size", [{"shortest_edge": 30_000}, {"height": 30_000, "width": 30_000}])
def test_settings_that_make_every_picture_that_large_are_refused_when_read(size, tmp_path):
    with pytest.raises(UserError, match=r"size is .*30000.*expected pictures of at most 89478485"):
        clip(tmp_path, size=size)


def test_the_bound_is_pillows_own_for_a_file_and_lies_above_what_models_read():
    """9,459 x 9,459 is the largest square that Pillow opens; Qwen2-VL's is 12,845,056 pixels."""
    assert images.MOST_PIXELS == Image.MAX_IMAGE_PIXELS
    check_size((9459, 9459), (9459, 9459))
    check_size((9459, 9459), (336, 336))
    with pytest.raises(UserError):
        check_size((9460, 9460), (9460, 9460))


def test_the_thin_picture_is_a_small_file(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", THIN).save(file, "PNG", optimize=True)
    assert len(file.getvalue()) < 2000


def test_a_file_of_few_bytes_that_says_it_has_many_pixels_is_not_read(tmp_path, monkeypatch):
    """81 million pixels, which Pillow opens, in 10 kB."""
    Image.new("1", (9000, 9000)).save(tmp_path / "few.png")
    n_bytes = (tmp_path / "few.png").stat().st_size
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("its pixels are read"))
    message = rf"few\.png has {n_bytes} bytes and says that it is 9000 x 9000 pixels; expected at"
    with pytest.raises(UserError, match=message):
        images.open_image(tmp_path / "few.png")


@pytest.mark.parametrize(
    "size, n_bytes",
    [
        ((4096, 2048), 1),  # 8 megapixels in any file
        ((4000, 3000), 47_000),  # 12 megapixels of one colour as JPEG: 190 kB
        ((8000, 6000), 4_000_000),  # a photograph
    ],
)
def test_a_picture_has_enough_bytes(size, n_bytes):
    images.check_pixels(size, n_bytes, "picture")
    with pytest.raises(UserError):
        images.check_pixels((size[0], size[1] + 1), min(n_bytes, size[0] * size[1] // 512), "x")
