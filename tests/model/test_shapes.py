"""Checkpoints of random weights have real sizes and token ids, and transformers reads them too."""

import pytest
import torch
from PIL import Image

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.data.chat_templates import choose_template
from clear_ref.data.tokens import Tokenizer
from clear_ref.model.families import family
from clear_ref.model.shape_table import SHAPES, tokens_of
from clear_ref.model.shapes import config_of, write_checkpoint, write_tokenizer

# Parameters of the real models, as transformers counts them for the hub's configurations.
PARAMETERS = {
    "llava-1.5-7b": 7_063_427_072,
    "qwen2-vl-2b": 2_208_985_600,
    "qwen2-vl-7b": 8_291_375_616,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "mistral-7b": 7_241_732_096,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """llava-78m with one decoder layer, in shards of 50 MB."""
    out = tmp_path_factory.mktemp("shapes") / "model"
    write_checkpoint("llava-78m", out, layers=1, shard_bytes=50_000_000)
    return out


@pytest.mark.parametrize("shape", PARAMETERS)
def test_shapes_have_the_real_models_numbers_of_parameters(shape):
    config = config_of(shape)
    kind = family(config, "config.json")
    with torch.device("meta"):
        model = kind.model(kind.config(config, "config.json"))
    assert sum(tensor.numel() for tensor in model.parameters()) == PARAMETERS[shape]


# {shape: (its template, its end tokens)}
TEXT_SHAPES = {
    "llama-3.1-8b": ("llama-3.1", [128001, 128008, 128009]),
    "llama-3.2-1b": ("llama-3.1", [128001, 128008, 128009]),
    "qwen2.5-0.5b": ("qwen2.5", [151645, 151643]),
    "llama-2-7b": ("inst", 2),
}


@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_a_text_models_tokenizer_has_the_ids_and_the_template_of_the_real_one(tmp_path, shape):
    config = config_of(shape)
    write_tokenizer(tmp_path, config)
    name, ends = TEXT_SHAPES[shape]
    tokenizer = Tokenizer(tmp_path, config)
    template = choose_template(tmp_path, config["model_type"], tokenizer)
    assert template.name == name and tokens_of(config).stop == ends
    tokenizer.check(template)
    assert tokenizer.size <= config["vocab_size"]
    assert all(tokenizer.id_of(token) == n for token, n in tokens_of(config).special.items())


@pytest.mark.slow
def test_a_record_with_a_picture_is_encoded_scored_and_answered(directory):
    vlm = load(directory, "bfloat16")
    batch = vlm.encode(
        [Record("Who is this?", "Hina.", Image.new("RGB", (500, 333), (200, 30, 90)))]
    )
    assert vlm.template.name == "llava" and int((batch.input_ids == 32000).sum()) == 576
    assert batch.pixel_values.shape == (1, 3, 336, 336)
    logits = vlm.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    assert logits.shape == (*batch.input_ids.shape, 32064) and bool(torch.isfinite(logits).all())
    assert vlm.generate_ids(
        vlm.encode([Record("Who?", None, Image.new("L", (64, 64)))]), 3
    ).shape == (1, 3)


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes_in_shards_that_an_index_names(directory, tmp_path):
    write_checkpoint("llava-78m", tmp_path / "again", layers=1, shard_bytes=50_000_000)
    files = sorted(path.name for path in directory.iterdir())
    assert (
        sum(name.endswith("-of-00003.safetensors") for name in files) == 3
        and "model.safetensors.index.json" in files
    )
    assert all(
        (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        for name in files
    )


@pytest.mark.slow
def test_transformers_loads_it_to_the_same_logits(directory):
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    ours = load(directory)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32
    ).eval()
    batch = ours.encode(
        [Record("Who is this?", "Hina.", Image.new("RGB", (500, 333), (200, 30, 90)))]
    )
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits
        found = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    assert float((found - expected).abs().max()) < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "llava-78m"])
def test_every_shapes_files_fit_together(shape, tmp_path, monkeypatch):
    """`load` reads the tokenizer, processor and config of each; weights are not written here."""
    monkeypatch.setattr("clear_ref.model.shapes.write_random", lambda *given: [])
    write_checkpoint(shape, tmp_path / "m", layers=1)
    with pytest.raises(UserError, match="expected the model's weights in safetensors form"):
        monkeypatch.setattr(torch.nn.Module, "to_empty", lambda self, device: self)
        load(tmp_path / "m")
