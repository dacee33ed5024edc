"""Kept outputs of a frozen vision tower, and the teacher's kept logits, have the bits of live ones.

Run: python -m pytest tests/loop/test_kept_tower.py
"""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from clear_ref import load
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Record
from clear_ref.data.torch_draws import torch_generator
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.kept import HIDDEN, LOGITS, TOWER, Kept
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import trainable
from clear_ref.loop.teacher import Teacher
from clear_ref.loop.tower import TowerOutputs, kept_towers, tower_outputs
from clear_ref.loop.unlearn import Unlearning
from clear_ref.methods import make_options
from clear_ref.mini.directories import WORLD
from clear_ref.model import lora
from tests.helpers.small_qwen2_vl import noise_patches, random_qwen2_vl


@pytest.fixture(scope="module")
def captions():
    """Two captions to forget, three to retain."""
    forget, retain = split_rows(WORLD, "visual", 10)
    return forget[:2], retain[:3]


def trained(directory, rows, method, kept, **recipe):
    """The trained tensors after three epochs of single records."""
    vlm = load(directory)
    values = {"epochs": 3, "lora_rank": 2, "lr": 1e-3, "batch_size": 2, "accumulate": 1}
    recipe = Recipe(**(values | recipe))
    prepare(vlm, recipe, 0)
    options = make_options(method, {"reference": "base"} if method == "dpo" else {}, "paper")
    run = Unlearning(method, "paper", options, recipe, rows, read_phrases(WORLD), 0, kept=kept)
    unlearning.unlearn(vlm, run)
    return {name: tensor.detach().clone() for name, tensor in trainable(vlm).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, recipe, found",
    [
        # Two pictures, six visits. The student computes, its tower has adapters; the teacher asks
        # for each picture again with each new question.
        ("npo", {}, None),
        # Student and teacher ask for the same: each picture is computed once.
        ("npo", {"lora_targets": "language"}, 2),
        ("grad_ascent", {"lora_targets": "language"}, 2),
        # The student trains its tower; the teacher is a copy.
        ("npo", {"lora_rank": 0, "lr": 1e-4}, None),
        ("dpo", {}, None),
    ],
)
def test_a_training_ends_with_the_same_bytes(method, recipe, found, tiny_directory, captions):
    kept = Kept()
    live = trained(tiny_directory, captions, method, None, **recipe)
    other = trained(tiny_directory, captions, method, kept, **recipe)
    assert other.keys() == live.keys()
    for name, tensor in live.items():
        assert torch.equal(other[name], tensor), name
    # In each training the towers give the outputs of two pictures, whoever asks.
    assert kept.computed[TOWER] == (found or 2)
    if found:
        assert kept.found[TOWER] >= 4
    elif method == "npo":
        assert kept.found[TOWER] == kept.computed[HIDDEN] - 2


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (10, 200, 30)).save(path)
    return path


def test_changed_pictures_weights_and_adapters_are_computed(tiny_directory, picture):
    """Found: the same picture with another question. Computed: a changed pixel, a changed weight.

    With adapters on nothing is asked.
    """
    vlm = load(tiny_directory)
    prepare(vlm, Recipe(lora_rank=2), 0)
    with torch.no_grad():
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.1, generator=torch_generator(3, name))
    lora.freeze_reference(vlm.model)
    kept = Kept()
    outputs = tower_outputs(vlm, None, kept)
    assert len(outputs) == 1

    def asked(question, mode):
        batch = vlm.encode([Record(question, "She.", picture)])
        with torch.no_grad(), lora.mode(vlm.model, mode):
            live = vlm.hidden(batch)
            with kept_towers(outputs):
                assert torch.equal(vlm.hidden(batch), live)
        assert vlm.model.kept_tower is None
        return kept.computed[TOWER], kept.found[TOWER]

    assert asked("Who?", "on") == (0, 0)
    assert asked("Who?", "off") == (1, 0)
    assert asked("Who is it?", "off") == (1, 1)
    assert asked("Who is it?", "reference") == (2, 1)
    assert asked("Who?", "reference") == (2, 2)
    image = Image.open(picture)
    image.putpixel((3, 3), (255, 0, 255))
    image.save(picture)
    assert asked("Who?", "off") == (3, 2)
    with torch.no_grad():
        next(vlm.model.vision.parameters()).mul_(1.5)
    assert asked("Who?", "off") == (4, 2)


def test_a_qwen_tower_is_asked_for_by_patches_and_sizes():
    """Two pictures of equal patches and other sizes are different pictures."""
    model = random_qwen2_vl().requires_grad_(False)
    vlm = SimpleNamespace(model=model, config_json={})
    kept = Kept()
    outputs = [TowerOutputs(vlm, model.vision, kept)]
    pixels, grid = noise_patches((4, 8))
    for each, counts in (
        (grid, (1, 0)),
        (grid, (1, 1)),
        (grid[:, [0, 2, 1]], (2, 1)),
    ):
        n_tokens = int(each[0].prod()) // model.merge**2
        ids = torch.full((1, n_tokens), model.image_token_id)
        with torch.no_grad():
            live = model.embed(ids, pixels, each)
            with kept_towers(outputs):
                assert torch.equal(model.embed(ids, pixels, each), live)
        assert (kept.computed[TOWER], kept.found[TOWER]) == counts


def test_the_teachers_logits_are_computed_once_for_equal_rows(tiny_directory):
    """Other rows, fewer rows and a changed output layer are computed."""
    vlm = load(tiny_directory)
    prepare(vlm, Recipe(lora_rank=2), 0)
    kept = Kept()
    teacher = Teacher(vlm, kept=kept)
    rows = torch.randn(5, vlm.text_config.hidden_size, generator=torch_generator(0, "rows"))
    for each, counts in (
        (rows, (1, 0)),
        (rows.clone(), (1, 1)),
        (rows[:3], (2, 1)),
        (-rows, (3, 1)),
        (rows[:0], (3, 1)),
    ):
        with torch.no_grad():
            assert torch.equal(teacher.head(each), vlm.head(each))
        assert (kept.computed[LOGITS], kept.found[LOGITS]) == counts
    with torch.no_grad():
        vlm.model.output_layer().weight.mul_(2)
        assert torch.equal(teacher.head(rows), vlm.head(rows))
    assert (kept.computed[LOGITS], kept.found[LOGITS]) == (4, 1)
