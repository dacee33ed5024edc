"""diff names what is wrong with pictures, their features and their places, and says where it is:
picture, row, column, channel.

LLaVA; Qwen2-VL's and Qwen2.5-VL's stages are in test_diff_qwen.py.
Run: python -m pytest tests/oracle/test_diff_pictures.py
"""

import copy
import json
import shutil

import pytest
import torch
from PIL import Image

from clear_ref.data.records import Record
from clear_ref.model.vlm import load
from tests.helpers.diff_dumps import llava_step, said, upright

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def step(tiny_directory):
    """Two records with a picture."""
    return llava_step(tiny_directory, 0, 3)


@pytest.fixture(scope="module")
def vlm(tiny_directory):
    """Our model of the same directory."""
    return load(tiny_directory, "float64")


def bgr(record):
    red, green, blue = upright(record).split()
    return Image.merge("RGB", (blue, green, red))


def turned(how):
    return lambda record: upright(record).transpose(how)


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
ENCODED = [
    ({"channels_reversed"}, "", {"picture": bgr}),
    ({"picture_flipped"}, "left", {"picture": turned(Image.Transpose.FLIP_LEFT_RIGHT)}),
    ({"picture_transposed"}, "", {"picture": turned(Image.Transpose.TRANSPOSE)}),
    ({"other_resampling"}, "it is nearest", {"resample": 0}),
    ({"other_resampling"}, "it is bilinear", {"resample": 2}),
    ({"other_mean_std"}, "ImageNet's", IMAGENET),
    ({"other_mean_std"}, "0.5", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    ({"other_mean_std"}, "mean 0.1, 0.2, 0.3", {"image_mean": [0.1, 0.2, 0.3]}),
    ({"other_mean_std"}, "none, values from 0 to 1", {"do_normalize": False}),
    ({"other_mean_std"}, "values from 0 to 255", {"do_normalize": False, "do_rescale": False}),
    ({"other_mean_std"}, "CLIP's, of values from 0 to 255", {"do_rescale": False}),
    ({"other_mean_std", "other_resampling"}, "nearest", {"resample": 0, **IMAGENET}),
]


@pytest.mark.parametrize("names, words, options", ENCODED)
def test_another_way_to_the_pixels_is_named(step, vlm, tmp_path, names, words, options):
    other = copy.copy(step)
    other.encode(**options)
    stage, causes, _ = said(other.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("pixel_values", names)
    assert words in " ".join(causes.values())


@pytest.mark.parametrize(
    "names, words, change",
    [
        ({"other_picture_order"}, "the order is 1, 0", lambda x: x.flip(0)),
        # Channels that change places after the normalisation keep the other channel's constants.
        ({"channels_reversed", "other_mean_std"}, "channels reversed", lambda x: x.flip(1)),
        ({"rounded_to_bfloat16"}, "", lambda x: x.bfloat16().double()),
    ],
)
def test_changed_pixels_are_named(step, vlm, tmp_path, names, words, change):
    fed = {"pixel_values": change(step.inputs["pixel_values"])}
    stage, causes, _ = said(step.write(tmp_path / "d", fed), vlm)
    assert (stage, set(causes)) == ("pixel_values", names)
    assert words in " ".join(causes.values())


@pytest.fixture
def wide(tiny_directory, tmp_path):
    """(change of the picture's file) -> a Step with one record whose picture is 90 x 60 pixels."""
    step = llava_step(tiny_directory, 0)
    colours = torch.randint(0, 256, (60, 90, 3), generator=torch.Generator().manual_seed(2))

    def of(save):
        path = tmp_path / "picture.png"
        save(Image.fromarray(colours.to(torch.uint8).numpy()), path)
        step.records = [Record("Who is it?", "Ann", path)]
        return step

    return of


def square(record):
    """A picture in the middle of a black square of its longer side."""
    image = upright(record)
    frame = Image.new("RGB", (max(image.size),) * 2)
    frame.paste(image, tuple((max(image.size) - side) // 2 for side in image.size))
    return frame


@pytest.mark.parametrize(
    "name, picture",
    [("picture_padded", square), ("picture_squashed", lambda r: upright(r).resize((48, 48), 3))],
)
def test_another_way_to_a_square_is_named(wide, vlm, tmp_path, name, picture):
    step = wide(lambda image, path: image.save(path))
    step.encode(picture)
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("pixel_values", {name})


def test_a_picture_that_is_not_turned_or_is_laid_on_white_is_named(wide, vlm, tmp_path):
    def with_tag(image, path):
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.save(path, exif=exif)

    step = wide(with_tag)
    step.encode(lambda record: Image.open(record.image).convert("RGB"))
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("pixel_values", {"exif_ignored"})

    def half_seen(image, path):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)

    def on_white(record):
        image = Image.open(record.image)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")

    step = wide(half_seen)
    step.encode(on_white)
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("pixel_values", {"transparent_on_white"})


def test_one_pixel_is_located_by_picture_row_column_and_channel(step, vlm, tmp_path):
    pixels = step.inputs["pixel_values"].clone()
    pixels[1, 2, 7, 11] += 0.1
    stage, causes, text = said(step.write(tmp_path / "d", {"pixel_values": pixels}), vlm)
    assert stage == "pixel_values" and not causes
    assert "at picture 1, row 7, column 11, channel 2 (blue): " in text


def features(change):
    """A change of LLaVA's features [N, 9, D]."""
    return {"features": change}


@pytest.mark.parametrize(
    "name, words, shown",
    [
        ("other_feature_order", "moved by 1", features(lambda x: x.flip(0))),
        (
            "features_transposed",
            "",
            features(lambda x: x.view(2, 3, 3, -1).transpose(1, 2).reshape(x.shape)),
        ),
    ],
)
def test_features_in_another_order_are_named(step, vlm, tmp_path, name, words, shown):
    stage, causes, _ = said(step.write(tmp_path / "d", shown=shown), vlm)
    assert (stage, set(causes)) == ("features", {name}) and words in causes[name]


def test_another_layer_of_the_tower_is_named(step, vlm, tmp_path):
    other = copy.copy(step)
    other.model = copy.deepcopy(step.model)
    other.model.config.vision_feature_layer = -1
    stage, causes, _ = said(other.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("features", {"other_feature_layer"})
    assert "layer 3 of 3, ours 2" in causes["other_feature_layer"]


def test_the_class_token_for_the_last_patch_is_named(step, vlm, tmp_path):
    other = copy.copy(step)
    other.model = copy.deepcopy(step.model)
    project = other.model.model.multi_modal_projector
    tower = other.model.model.vision_tower
    pixels = other.inputs["pixel_values"]
    with torch.no_grad():
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-2]
        wrong = project(hidden[:, :-1])
    stage, causes, _ = said(other.write(tmp_path / "d", shown={"features": wrong}), vlm)
    assert (stage, set(causes)) == ("features", {"class_token_for_last_patch"})


def test_features_with_the_class_token_are_one_clear_line(step, vlm, tmp_path):
    from clear_ref.common.errors import ShapeError

    more = {"features": lambda x: torch.cat((x[:, :1], x), 1)}
    with pytest.raises(ShapeError, match="one more for each picture: drop the class token"):
        said(step.write(tmp_path / "d", shown=more), vlm)


@pytest.mark.parametrize(
    "name, words", [("features_not_placed", ""), ("features_added", ""), ("features_shifted", "+1"),
                    ("features_of_other_pictures", "moved by 1")],
)  # fmt: skip
def test_features_that_are_placed_wrongly_are_named(step, vlm, tmp_path, name, words):
    ids = step.inputs["input_ids"]
    is_image = ids == step.model.config.image_token_id
    with torch.no_grad():
        plain = step.model.get_input_embeddings()(ids)
        found = step.model.model.get_image_features(step.inputs["pixel_values"]).pooler_output
    found = torch.cat(list(found)).view(-1, plain.shape[-1])
    wrong = plain.clone()
    if name == "features_added":
        wrong[is_image] += found
    elif name == "features_shifted":
        wrong[is_image.roll(1, 1)] = found
    elif name == "features_of_other_pictures":
        wrong[is_image] = found.roll(9, 0)
    stage, causes, text = said(step.write(tmp_path / "d", shown={"embeddings": wrong}), vlm)
    assert (stage, set(causes)) == ("embeddings", {name}) and words in causes[name]
    assert "picture 0, token row 0, token column 0" in text


def test_a_picture_of_another_size_is_one_clear_line(step, vlm, tmp_path):
    from clear_ref.common.errors import ShapeError

    large = {"pixel_values": lambda x: torch.nn.functional.interpolate(x, size=(64, 64))}
    with pytest.raises(ShapeError, match=r"pixel_values has shape \[2, 3, 64, 64\]; expected"):
        said(step.write(tmp_path / "d", shown=large), vlm)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("picture_not_padded", {"do_pad": True, "image_processor_type": "LlavaImageProcessor"}),
        ("picture_cropped", {"size": {"height": 48, "width": 48}}),
    ],
)
def test_a_picture_setting_that_is_not_read_is_named(
    wide, tiny_directory, tmp_path, name, settings
):
    """The model's directory asks for another way to a square than the processor has."""
    directory = shutil.copytree(tiny_directory, tmp_path / "other")
    path = directory / "preprocessor_config.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stored | settings))
    step = wide(lambda image, path: image.save(path))
    step.encode()
    stage, causes, _ = said(step.write(tmp_path / "d"), load(directory, "float64"))
    assert (stage, set(causes)) == ("pixel_values", {name})
