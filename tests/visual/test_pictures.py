"""Pictures: the shorter side becomes the size asked for, pixels follow the stated formula, and
pictures that do not fit together are refused with their record.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.data.records import read_rows
from clear_ref.visual.pictures import Pictures, read_pictures, resized, row_pictures


def picture(width, height):
    """A picture whose colours change from place to place."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], 2).astype(np.uint8))


@pytest.mark.parametrize(
    "old, new",
    [
        ((100, 100), (48, 48)),
        ((100, 150), (48, 72)),
        ((151, 100), (72, 48)),  # 48 * 151 / 100 = 72.48
        ((20, 31), (48, 74)),  # 74.4
        ((100, 199), (48, 95)),  # 95.52
        ((48, 90), (48, 90)),
    ],
)
def test_the_shorter_side_becomes_the_size_and_the_longer_one_is_rounded_down(old, new):
    image = picture(*old)
    assert resized(image, 48).size == new
    expected = image if old == new else image.resize(new, Image.Resampling.BILINEAR)
    assert np.array_equal(resized(image, 48), expected)


def test_pixels_are_a_255th_minus_the_mean_over_the_deviation():
    values = torch.zeros(2, 3, 1, 2, dtype=torch.uint8)
    values[1, :, 0, 1] = torch.tensor([255, 51, 102], dtype=torch.uint8)
    pictures = Pictures(values)
    found = pictures.pixels([1])
    assert found.shape == (1, 3, 1, 2) and found.dtype == torch.float32
    by_hand = [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.4 - 0.406) / 0.225]
    assert torch.allclose(found[0, :, 0, 1], torch.tensor(by_hand), atol=1e-6)
    black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert torch.allclose(found[0, :, 0, 0], torch.tensor(black), atol=1e-6)
    assert torch.allclose(pictures.mirrored([1])[0, :, 0, 0], torch.tensor(by_hand), atol=1e-6)
    assert torch.equal(pictures.pixels([0, 1, 1])[2], found[0]) and len(pictures) == 2


def test_a_picture_of_another_size_is_refused_with_its_record(tmp_path):
    (tmp_path / "default").mkdir()
    lines = []
    for index, size in enumerate([(60, 60), (80, 80), (60, 90)]):
        picture(*size).save(tmp_path / f"{index}.png")
        lines.append(f'{{"image": "{index}.png", "caption": "a", "name": "b"}}')
    (tmp_path / "default" / "rows.jsonl").write_text("\n".join(lines))
    rows = read_rows(tmp_path, "default")
    assert row_pictures(rows[:2], 48).values.shape == (2, 3, 48, 48)
    message = (
        r"rows\.jsonl:3: its picture is 48 x 72 pixels after the resize, the first one 48 x 48"
    )
    with pytest.raises(UserError, match=message):
        row_pictures(rows, 48)


def test_a_picture_that_would_become_too_large_is_refused_with_its_record():
    with pytest.raises(UserError, match="^picture 0: picture is 1 x 3000 pixels"):
        read_pictures([Image.new("RGB", (1, 3000), 5)], 224)


def test_an_unreadable_picture_no_picture_and_no_size_are_refused(tmp_path):
    (tmp_path / "one.png").write_text("no picture")
    with pytest.raises(UserError, match="record 7: .*one.png is no readable picture"):
        read_pictures([tmp_path / "one.png"], 48, ["record 7"])
    with pytest.raises(UserError, match="expected at least one"):
        read_pictures([], 48)
    with pytest.raises(UserError, match="size is 0"):
        read_pictures([picture(4, 4)], 0)
    with pytest.raises(ShapeError, match="expected torch.uint8"):
        Pictures(torch.zeros(1, 3, 4, 4))
