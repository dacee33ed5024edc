"""Weights in files: every layout and name that checkpoints have loads exactly."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.model import names
from clear_ref.model.weights import load_weights
from clear_ref.model.write_weights import write_weights
from tests.helpers.transformers_models import hub_name, transformers_model
from tests.helpers.weight_files import INDEX, ONE, SHAPES, SINGLE, TWO, VALUES, sharded, target


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_file_and_shards_hold_the_same_model(tmp_path, stored, wanted):
    """Small whole numbers are exact in every dtype."""
    values = {name: tensor.to(stored) for name, tensor in VALUES.items()}
    (tmp_path / "one").mkdir()
    save_file(values, tmp_path / "one" / SINGLE)
    sharded(tmp_path / "many", values=values)
    for directory in ("one", "many"):
        found = target(wanted)
        load_weights(found, tmp_path / directory, "llama")
        assert all(torch.equal(found[name], VALUES[name].to(wanted)) for name in SHAPES)


def test_a_snapshot_of_the_hub_cache_loads_although_its_files_are_links(tmp_path):
    blobs, snapshot = sharded(tmp_path / "blobs"), tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for number, file in enumerate((ONE, TWO, INDEX)):
        (blobs / file).rename(blobs / f"{number:064x}")
        (snapshot / file).symlink_to(Path("..") / ".." / "blobs" / f"{number:064x}")
    found = target()
    load_weights(found, snapshot, "llama")
    assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)


def test_a_whole_file_is_taken_before_an_index_and_a_tensor_may_be_in_two_shards(tmp_path):
    """transformers takes model.safetensors if there is one, and of two copies the last."""
    sharded(tmp_path / "index", values={name: tensor + 1 for name, tensor in VALUES.items()})
    save_file(VALUES, tmp_path / "index" / SINGLE)
    sharded(tmp_path / "twice")
    save_file(
        {name: VALUES[name] for name in ("lm_head.weight", "model.norm.weight")},
        tmp_path / "twice" / TWO,
    )
    for directory in ("index", "twice"):
        found = target()
        load_weights(found, tmp_path / directory, "llama")
        assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)


def test_files_that_transformers_does_not_ask_for_are_left_alone(tmp_path):
    save_file(VALUES, tmp_path / SINGLE)
    other = {name: tensor + 1 for name, tensor in VALUES.items()}
    for name in ("model.fp16.safetensors", "consolidated.safetensors", "model-00001-of-00001"):
        save_file(other, tmp_path / name)
    (tmp_path / "original").mkdir()
    save_file(other, tmp_path / "original" / SINGLE)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    found = target()
    load_weights(found, tmp_path, "llama")
    assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)


@pytest.mark.slow
def test_a_post_layernorm_that_nothing_reads_may_be_missing(tiny_directory, tmp_path):
    """transformers computes the same without it, and finds it again in what we save."""
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    shutil.copytree(tiny_directory, tmp_path / "less")
    values = load_file(tmp_path / "less" / SINGLE)
    kept = {name: tensor for name, tensor in values.items() if "post_layernorm" not in name}
    assert len(values) - len(kept) == 2
    save_file(kept, tmp_path / "less" / SINGLE, metadata={"format": "pt"})
    ours = load(tmp_path / "less")
    batch = ours.encode([Record("Who is it?", "a name", Image.radial_gradient("L"))])
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "less", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits
    found = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    assert float((found - expected).abs().max()) < 5e-5
    ours.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / SINGLE)
    assert set(saved) == set(values)
    norm = {name: float(tensor.unique()) for name, tensor in saved.items() if "post_lay" in name}
    assert {name.rsplit(".", 1)[1]: value for name, value in norm.items()} == {
        "weight": 1.0,
        "bias": 0.0,
    }


TIED = {"lm_head.weight": "model.embed_tokens.weight"}


def test_a_tied_head_may_be_absent_or_an_equal_copy_but_not_different(tmp_path):
    embedding = VALUES["model.embed_tokens.weight"]
    for kind, head in {
        "absent": {},
        "equal": {"lm_head.weight": embedding.clone()},
        "wider": {"lm_head.weight": embedding.double()},
        "different": {"lm_head.weight": embedding + 1},
    }.items():
        (tmp_path / kind).mkdir()
        save_file(
            {name: VALUES[name] for name in SHAPES if name != "lm_head.weight"} | head,
            tmp_path / kind / SINGLE,
        )
    for kind in ("absent", "equal", "wider"):
        found = target(without=TIED)
        load_weights(found, tmp_path / kind, "llama", TIED)
        assert torch.equal(found["model.embed_tokens.weight"], embedding)
    found = target(without=TIED)
    with pytest.raises(
        UserError,
        match="lm_head.weight differs from model.embed_tokens.weight.*tie_word_embeddings",
    ):
        load_weights(found, tmp_path / "different", "llama", TIED)
    assert not any(tensor.any() for tensor in found.values())
    with pytest.raises(UserError, match="missing 1: lm_head.weight"):
        load_weights(target(), tmp_path / "absent", "llama")


def test_buffers_that_old_files_hold_are_ignored_and_nothing_else_is(tmp_path):
    """Llama before 4.32 stored inv_freq in every layer, CLIP before 4.31 its position ids."""
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(3)[None],
    }
    save_file(VALUES | extra, tmp_path / SINGLE)
    found = target()
    load_weights(found, tmp_path, "llama")
    assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)
    save_file(
        VALUES | {"model.layers.0.self_attn.rotary_emb.freq": torch.ones(2)}, tmp_path / SINGLE
    )
    with pytest.raises(UserError, match="unexpected 1: model.layers.0.self_attn.rotary_emb.freq"):
        load_weights(target(), tmp_path, "llama")


# family, ours, then the name in transformers 4.45, 4.52, 5 (modules), 5 (files)
KNOWN = [
    (
        "llava",
        "language_model.model.layers.3.mlp.up_proj",
        "language_model.model.layers.3.mlp.up_proj",
        "model.language_model.layers.3.mlp.up_proj",
        "model.language_model.layers.3.mlp.up_proj",
        "language_model.model.layers.3.mlp.up_proj",
    ),
    (
        "llava",
        "language_model.lm_head",
        "language_model.lm_head",
        "lm_head",
        "lm_head",
        "language_model.lm_head",
    ),
    (
        "llava",
        "vision_tower.vision_model.pre_layrnorm.bias",
        "vision_tower.vision_model.pre_layrnorm.bias",
        "model.vision_tower.vision_model.pre_layrnorm.bias",
        "model.vision_tower.pre_layrnorm.bias",
        "vision_tower.pre_layrnorm.bias",
    ),
    (
        "llava",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_1.weight",
    ),
    (
        "qwen2_vl",
        "visual.merger.mlp.2.bias",
        "visual.merger.mlp.2.bias",
        "model.visual.merger.mlp.2.bias",
        "model.visual.merger.mlp.2.bias",
        "visual.merger.mlp.2.bias",
    ),
    (
        "qwen2_vl",
        "model.norm.weight",
        "model.norm.weight",
        "model.language_model.norm.weight",
        "model.language_model.norm.weight",
        "model.norm.weight",
    ),
    ("qwen2_vl", "lm_head.weight", *["lm_head.weight"] * 4),
    (
        "qwen2_5_vl",
        "visual.blocks.0.mlp.gate_proj",
        "visual.blocks.0.mlp.gate_proj",
        "model.visual.blocks.0.mlp.gate_proj",
        "model.visual.blocks.0.mlp.gate_proj",
        "visual.blocks.0.mlp.gate_proj",
    ),
    *(
        (family, name, *[name] * 4)
        for family in ("llama", "mistral", "qwen2")
        for name in ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight")
    ),
]


@pytest.mark.parametrize("family, ours, stored", [(row[0], row[1], row[2:]) for row in KNOWN])
def test_every_generation_of_names_is_read_and_written(family, ours, stored):
    assert [names.our_name(name, family) for name in stored] == [ours] * 4
    assert [
        names.name_in_generation(ours, family, generation) for generation in names.GENERATIONS
    ] == list(stored)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, tied",
    [
        ("llava", False),
        ("qwen2_vl", False),
        ("qwen2_vl", True),
        ("qwen2_5_vl", False),
        ("qwen2_5_vl", True),
        ("llama", False),
        ("llama", True),
        ("mistral", False),
        ("qwen2", False),
        ("qwen2", True),
    ],
)
@pytest.mark.parametrize("layout", ["one file", "shards", "modules' own names"])
def test_what_transformers_writes_loads_exactly_and_is_written_for_transformers(
    tmp_path, family, tied, layout
):
    model = transformers_model(family, tied)
    model.save_pretrained(
        tmp_path / "theirs", max_shard_size="8KB" if layout == "shards" else "5GB"
    )
    assert (tmp_path / "theirs" / INDEX).exists() == (layout == "shards")
    if layout == "modules' own names":
        save_file(
            {name: tensor.contiguous() for name, tensor in model.named_parameters()},
            tmp_path / "theirs" / SINGLE,
        )
    expected = {
        hub_name(family, name): tensor.detach() for name, tensor in model.named_parameters()
    }
    found = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    assert ("lm_head.weight" in found) == (not tied and family != "llava")
    load_weights(found, tmp_path / "theirs", family, TIED if tied else None)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    files = write_weights(
        tmp_path / "theirs",
        {name: tensor.shape for name, tensor in found.items()},
        torch.float32,
        found.__getitem__,
        8_000 if layout == "shards" else 5_000_000_000,
    )
    assert (len(files) > 2) == (layout == "shards")
    again, info = type(model).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(
        torch.equal(tensor, expected[hub_name(family, name)])
        for name, tensor in again.named_parameters()
    )
