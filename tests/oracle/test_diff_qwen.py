"""diff on Qwen2-VL and Qwen2.5-VL: a dump that the helper writes from transformers agrees at every
stage, and each mistake is found at the first stage where it shows, by name.

Run: python -m pytest tests/oracle/test_diff_qwen.py
"""

import copy
import dataclasses

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clear_ref.data.records import Record
from clear_ref.model.vlm import load
from tests.helpers.diff_dumps import changed, qwen_step, said, upright
from tests.helpers.qwen_parity import FAMILIES, noise

pytestmark = pytest.mark.slow
STAGES = (
    "input_ids attention_mask labels image_grid_thw pixel_values features embeddings position_ids "
    "hidden logits"
).split()
# Of a picture of 4 x 14 patches (2 x 7 tokens), windows of 4 x 4 tokens: columns 0 to 3 of both
# rows, then columns 4 to 6.
WINDOWS = [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 11, 12, 13]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A model_type."""
    return request.param


@pytest.fixture(scope="module")
def step(family, tmp_path_factory):
    """Records with pictures of 4 x 14 and 10 x 4 patches, and one without, padded on the left."""
    directory = tmp_path_factory.mktemp(family)
    records = []
    for i, size in enumerate(((196, 56), (56, 140))):
        noise(size, key=i).save(directory / f"{i}.png")
        records.append(Record("Who is it?", "Ann" + " Lee" * i, directory / f"{i}.png"))
    records.insert(1, Record("No picture: who is it, and why?", "Bo", None))
    return qwen_step(family, directory, records)


@pytest.fixture(scope="module")
def vlm(step):
    """Our model of the same directory."""
    return load(step.records[0].image.parent, "float64")


@pytest.fixture(scope="module")
def right(step, tmp_path_factory):
    """A right dump."""
    return step.write(tmp_path_factory.mktemp("right") / "d")


def test_a_right_dump_agrees_at_every_stage(right, vlm):
    stage, causes, text = said(right, vlm)
    assert not stage and not causes and "not compared" not in text
    lines = [line for line in text.splitlines() if "forget/" in line]
    assert [line.split()[1].removeprefix("forget/") for line in lines] == STAGES
    assert load_file(right)["forget/position_ids"].shape[0] == 3


def positions(right, step, name):
    """[3, B, T] wrong positions, worked out from the right ones."""
    found = load_file(right)["forget/position_ids"]
    mask = step.inputs["attention_mask"]
    plain = (mask.cumsum(1) - 1).clamp(min=0)
    is_image = step.inputs["input_ids"] == step.model.config.image_token_id
    after = (is_image.cumsum(1) > 0) & ~is_image & (mask == 1)
    if name == "position_axes_permuted":
        return found[[0, 2, 1]]
    if name == "plain_positions":
        return plain.expand(3, -1, -1)
    if name == "position_after_picture":  # one token for each picture token: 14 - 7 and 10 - 5 more
        n_tokens = is_image.sum(1, keepdim=True)
        longest = torch.tensor([[7], [0], [5]])
        return found + after * (n_tokens - longest)
    if name == "position_picture_from_zero":
        start = torch.where(is_image, found[0], 0).amax(1, keepdim=True)
        return found - is_image * start
    assert name == "picture_has_one_position"
    first = torch.where(is_image, found[:1], found)
    longest = torch.tensor([[7], [0], [5]])
    return first - after * (longest - 1 * (longest > 0))


NAMES = [
    "plain_positions", "position_axes_permuted", "position_after_picture",
    "position_picture_from_zero", "picture_has_one_position",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_wrong_positions_are_named_at_their_stage(step, vlm, right, tmp_path, name):
    fed = {"position_ids": positions(right, step, name)}
    stage, causes, text = said(step.write(tmp_path / "d", fed), vlm)
    assert (stage, set(causes)) == ("position_ids", {name})
    assert "axis " in text.split("first difference")[1]


@pytest.mark.parametrize("name", NAMES[:2])
def test_wrong_positions_that_the_dump_lacks_are_named_at_the_hidden_states(
    step, vlm, right, tmp_path, name
):
    fed = {"position_ids": positions(right, step, name)}
    path = step.write(tmp_path / "d", fed, {"position_ids": None})
    stage, causes, _ = said(path, vlm)
    assert (stage, set(causes)) == ("hidden", {name})


def test_swapped_rows_and_columns_in_the_positions_are_named(step, vlm, right, tmp_path):
    """The picture of 2 x 7 tokens has rows 0 to 6 of two columns each, the other 5 x 2 likewise."""
    found = load_file(right)["forget/position_ids"].clone()
    is_image = step.inputs["input_ids"] == step.model.config.image_token_id
    for b, (rows, columns) in ((0, (7, 2)), (2, (2, 5))):
        places = is_image[b].nonzero().flatten()
        start = found[0, b, places[0]]
        for i, t in enumerate(places.tolist()):
            found[1, b, t] = start + i // columns
            found[2, b, t] = start + i % columns
        assert rows * columns == len(places)
    stage, causes, _ = said(step.write(tmp_path / "d", {"position_ids": found}), vlm)
    assert (stage, set(causes)) == ("position_ids", {"position_grid_swapped"})


def test_positions_of_an_earlier_call_are_plain_ones_with_their_start(step, vlm, right, tmp_path):
    """rope_deltas of an earlier call are added to text positions."""
    plain = positions(right, step, "plain_positions") + 5
    _, causes, _ = said(step.write(tmp_path / "d", {"position_ids": plain}), vlm)
    assert causes == {"plain_positions": "rows start at 5, 5, 5"}


def test_positions_that_differ_by_a_constant_agree(step, vlm, right, tmp_path):
    """Rotary attention depends on differences of positions alone."""
    path = changed(right, tmp_path / "d", forget__position_ids=lambda x: x + 3)
    assert said(path, vlm)[0] == ""


def bgr(record):
    red, green, blue = upright(record).split()
    return Image.merge("RGB", (blue, green, red))


@pytest.mark.parametrize(
    "stage, names, words, options",
    [
        ("pixel_values", {"channels_reversed"}, "", {"picture": bgr}),
        ("pixel_values", {"other_resampling"}, "bilinear", {"resample": 2}),
        (
            "pixel_values",
            {"other_mean_std"},
            "ImageNet's",
            {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        ),
        (
            "input_ids",
            {"other_number_of_image_tokens", "other_pixel_limits"},
            "min_pixels 65536, max_pixels 16777216",
            {"size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        ),
    ],
)
def test_another_way_to_the_pixels_is_named(step, vlm, tmp_path, stage, names, words, options):
    other = copy.copy(step)
    # At 28 pixels a side to a token every picture has the sides that it has: resize from others.
    other.records = resized(step, tmp_path)
    other.encode(**options)
    found, causes, _ = said(other.write(tmp_path / "d"), vlm)
    assert (found, set(causes)) == (stage, names) and words in " ".join(causes.values())


def resized(step, directory):
    """The step's records with pictures whose sides are no multiples of 28."""
    records = []
    for i, record in enumerate(step.records):
        if record.image:
            image = Image.open(record.image)
            path = directory / f"{i}.png"
            image.resize((image.width - 3, image.height + 5)).save(path)
            record = dataclasses.replace(record, image=path)
        records.append(record)
    return records


@pytest.mark.parametrize(
    "name, words, change",
    [
        (
            "patch_values_in_other_order",
            "row, column, time, channel",
            lambda x: x.view(-1, 3, 2, 14, 14).permute(0, 3, 4, 2, 1).flatten(1),
        ),
        ("patches_row_by_row", "", lambda x: torch.cat((by_rows(x[:56], 4), by_rows(x[56:], 10)))),
    ],
)
def test_other_orders_of_patches_are_named(step, vlm, tmp_path, name, words, change):
    fed = {"pixel_values": change(step.inputs["pixel_values"])}
    stage, causes, _ = said(step.write(tmp_path / "d", fed), vlm)
    assert (stage, set(causes)) == ("pixel_values", {name}) and words in causes[name]


def by_rows(x, high):
    """Patches [h * w, ...] in blocks of 2 x 2 as patches row by row."""
    columns = len(x) // high
    grid = [[None] * columns for _ in range(high)]
    for i, patch in enumerate(x):
        block, inside = divmod(i, 4)
        row, column = divmod(block, columns // 2)
        grid[2 * row + inside // 2][2 * column + inside % 2] = patch
    return torch.stack([patch for row in grid for patch in row])


def test_swapped_sides_of_the_grid_are_named(step, vlm, tmp_path):
    fed = {"image_grid_thw": step.inputs["image_grid_thw"][:, [0, 2, 1]]}
    stage, causes, text = said(step.write(tmp_path / "d", fed), vlm)
    assert (stage, set(causes)) == ("image_grid_thw", {"grid_rows_columns_swapped"})
    assert "picture 0, rows" in text and "not compared: forget: pixel_values" in text


def test_one_number_of_a_patch_is_located_in_its_picture(step, vlm, tmp_path):
    """Patch 56 + 18 of 10 x 4 patches: block 4 is the first of block row 2, the patch in it is the
    lower left: patch row 5, column 0. Value 2 * 392 + 196 + 3 * 14 + 5: channel 2, frame 1.
    """
    pixels = step.inputs["pixel_values"].clone()
    pixels[56 + 18, 2 * 392 + 196 + 3 * 14 + 5] += 0.1
    stage, causes, text = said(step.write(tmp_path / "d", {"pixel_values": pixels}), vlm)
    assert stage == "pixel_values" and not causes
    assert "at picture 1, row 73, column 5, channel 2 (blue), frame 1: " in text


def visual(monkeypatch, family, **functions):
    """Change the results of functions of the tower's module in transformers."""
    from importlib import import_module

    module = import_module(f"transformers.models.{family}.modeling_{family}")
    for name, change in functions.items():
        own = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, own=own, change=change, **more: change(own(*given, **more))
        )


@pytest.mark.parametrize(
    "name, change",
    [
        ("patch_axes_swapped", lambda places: places.flip(-1)),
        ("patches_without_positions", torch.zeros_like),
        ("patch_positions_row_by_row", lambda places: row_by_row(places)),
    ],
)
def test_wrong_positions_of_patches_are_named(
    step, family, vlm, tmp_path, monkeypatch, name, change
):
    visual(monkeypatch, family, get_vision_position_ids=change)
    stage, causes, text = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("features", {name})
    assert "picture 0, token row 0, token column 0, entry" in text


def row_by_row(places):
    """[P, 2] rows and columns of pictures of 4 x 14 and 10 x 4 patches, row by row."""
    sizes = ((4, 14), (10, 4))
    listed = [(row, column) for h, w in sizes for row in range(h) for column in range(w)]
    return torch.tensor(listed, dtype=places.dtype)


@pytest.mark.parametrize("family", ["qwen2_vl"], indirect=True)
def test_pictures_that_see_each_other_are_named(step, family, vlm, tmp_path, monkeypatch):
    """Qwen2.5-VL's blocks with windows see no other picture."""
    whole = lambda found: (torch.tensor([0, 96], dtype=torch.int32), 96)  # noqa: E731
    visual(monkeypatch, family, get_vision_attention_seqlens=whole)
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("features", {"pictures_see_each_other"})


def test_features_in_another_order_are_named(step, vlm, tmp_path):
    moved = {"features": lambda x: torch.cat((x[14:], x[:14]))}
    stage, causes, _ = said(step.write(tmp_path / "d", shown=moved), vlm)
    assert (stage, set(causes)) == ("features", {"other_feature_order"})


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_windows_are_named(step, family, vlm, tmp_path):
    """Qwen2-VL's tower has no windows."""
    order = {"features": lambda x: torch.cat((x[:14][WINDOWS], x[14:]))}
    stage, causes, _ = said(step.write(tmp_path / "d", shown=order), vlm)
    assert (stage, set(causes)) == ("features", {"features_in_window_order"})
    for name, blocks in (("windows_ignored", [0, 1, 2, 3]), ("full_blocks_ignored", [])):
        other = copy.copy(step)
        other.model = copy.deepcopy(step.model)
        other.model.model.visual.fullatt_block_indexes = blocks
        stage, causes, _ = said(other.write(tmp_path / "d"), vlm)
        assert (stage, set(causes)) == ("features", {name})


def test_a_wrong_mask_is_named(step, vlm, right, tmp_path):
    mask, ids = step.inputs["attention_mask"], step.inputs["input_ids"]
    is_image = ids == step.model.config.image_token_id
    given = {"position_ids": load_file(right)["forget/position_ids"]}
    for name, wrong in (
        ("mask_all_ones", torch.ones_like(mask)),
        ("mask_hides_pictures", mask * ~is_image),
    ):
        path = step.write(tmp_path / "d", {"attention_mask": wrong, **given})
        stage, causes, _ = said(path, vlm)
        assert (stage, set(causes)) == ("attention_mask", {name})
        inside = step.write(
            tmp_path / "e", {"attention_mask": wrong, **given}, {"attention_mask": mask}
        )
        stage, causes, _ = said(inside, vlm)
        assert (stage, set(causes)) == ("hidden", {name})


def test_features_before_the_merger_are_one_clear_line(step, vlm, tmp_path):
    from clear_ref.common.errors import ShapeError

    width = load_file(step.write(tmp_path / "d"))["forget/features"].shape[1]
    patches = {"features": torch.zeros(96, width, dtype=torch.float64)}
    with pytest.raises(ShapeError, match="those of the patches: write them after the merger"):
        said(step.write(tmp_path / "d", shown=patches), vlm)
