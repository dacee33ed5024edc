"""What only Qwen2.5-VL has equals transformers: every block of its windowed tower, the released
label mask, adapters on its gated network; and a scrub run whose result transformers and PEFT open.

These tests need the extra `parity`.
"""

import copy
import dataclasses
import json
import shutil

import pytest
import torch

from clear_ref import Record, load
from clear_ref.model.qwen2_5_vision import window_order
from clear_ref.model.shapes import config_of
from clear_ref.run import main
from tests.helpers.qwen_parity import (
    ATOL,
    CHAT,
    byte_processor,
    conversation,
    encoded_rows,
    forward,
    noise,
    processed,
    random_reference,
    reference,
    short,
    still_processor,
    transformers,
    with_random_weights,
    write_model,
)
from tests.helpers.real_data import tokenizer_data

FAMILY = "qwen2_5_vl"
# Smaller sizes for a config.json of the hub.
HUB_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
}
HUB_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 20,
    "num_heads": 2,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}


@pytest.fixture(scope="module")
def processor():
    """The processor with a tokenizer of single bytes."""
    return byte_processor(FAMILY)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, processor):
    """A model directory that transformers wrote."""
    path = tmp_path_factory.mktemp("models") / "qwen"
    path.mkdir()
    write_model(path, FAMILY, processor)
    return path


def states_of_blocks(tower, *arguments):
    """The output of each block of a tower, ours or transformers', and the tower's own."""
    states = []
    handles = [
        block.register_forward_hook(lambda block, given, output: states.append(output))
        for block in tower.blocks
    ]
    with torch.no_grad():
        result = tower(*arguments)
    for handle in handles:
        handle.remove()
    return [*states, getattr(result, "pooler_output", result)]


@pytest.mark.parametrize(
    "sizes",
    [
        [(16, 20)],
        [(10, 10), (4, 2), (18, 6)],
        [(8, 8), (8, 8), (2, 26)],
        [(2, 2)],
    ],
)
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"fullatt_block_indexes": []},
        {"fullatt_block_indexes": [0, 9], "window_size": 60},
        {"rope_parameters": {"rope_type": "axial", "rope_theta": 50.0}, "spatial_merge_size": 1},
    ],
    ids=[
        "blocks 1 and 3 full",
        "none full",
        "windows of two tokens",
        "theta 50, patches as tokens",
    ],
)
def test_every_block_of_the_tower_is_that_of_transformers(directory, sizes, vision, tmp_path):
    """Whole windows, windows at both borders and in the corner, pictures of several sizes.

    Tolerance: as for hidden states. Both keep the tokens in an order of windows, transformers' is
    row by row: the states are compared in the pictures' order.
    """
    theirs = random_reference(FAMILY, vision_config=vision)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ours = load(directory)
    kind = ours.family
    model = kind.model(kind.config(config, "config.json")).eval()
    model.load_state_dict({short(name): value for name, value in theirs.state_dict().items()})
    grid = torch.tensor([(1, h, w) for h, w in sizes])
    pixels = torch.randn(
        sum(h * w for h, w in sizes), 1176, generator=torch.Generator().manual_seed(1)
    )
    found = states_of_blocks(model.visual, pixels, sizes)
    expected = states_of_blocks(theirs.model.visual, pixels, grid)
    assert len(found) == len(expected) == 5
    from transformers.vision_utils import get_vision_window_index

    merge = model.visual.config.spatial_merge_size
    window = theirs.config.vision_config.window_size
    orders = (
        window_order(sizes, model.visual.window, merge)[0],
        get_vision_window_index(grid, merge, window, 14)[0],
    )
    for states, order in zip((found, expected), orders, strict=True):
        for number in range(4):
            tokens = states[number].unflatten(0, (-1, merge**2))
            states[number] = tokens[order.argsort()]
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) < ATOL < float(other.abs().max())


def test_float64_is_nearer_to_exact_than_float32(directory, processor):
    """transformers computes norms and rotary angles in fp32 in any model; ours in float64.

    So ours in float64 is as far from transformers' float64 as fp32 rounding.
    """
    inputs = encoded_rows(processor)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected = reference(directory, torch.float64)(**inputs).logits[real]
        wide = load(directory, "float64")
        found = wide.head(forward(wide, inputs))[real]
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) < ATOL


def test_the_released_label_mask_is_that_of_the_authors_collator(directory, processor):
    """Their collator masks as many tokens as the unexpanded prompt has (mm/dataset.py:39-51)."""
    vlm = load(directory)
    for size in ((300, 340), (61, 150)):
        record = Record("Who is this?", "Hina Ameen.", noise(size))
        ids = processed(processor, record)["input_ids"]
        question = processor.apply_chat_template(
            conversation(dataclasses.replace(record, answer=None)),
            add_generation_prompt=True,
            tokenize=False,
        )
        n_masked = len(processor.tokenizer(question)["input_ids"])
        expected = ids.clone()
        expected[:, :n_masked] = -100
        batch = vlm.encode([record], "released")
        assert batch.input_ids.tolist() == ids.tolist()
        assert batch.labels.tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("targets", [["gate_proj", "down_proj"], ["q_proj", "v_proj"], ["qkv"]])
def test_adapters_with_last_parts_of_names_are_those_of_peft(
    directory, processor, targets, tmp_path
):
    """gate_proj and down_proj are in the tower too, q_proj and v_proj in the decoder alone."""
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    inputs = encoded_rows(processor)
    real = inputs["attention_mask"].bool()
    wrapped = peft.get_peft_model(
        reference(directory), peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets)
    ).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
        expected = wrapped(**inputs).logits
        wrapped.save_pretrained(tmp_path / "theirs")
        vlm = load(directory)
        adapted = vlm.load_adapter(tmp_path / "theirs")
        found = vlm.head(forward(vlm, inputs))
    assert float((found - expected)[real].abs().max()) < ATOL
    names = {name for name, module in wrapped.named_modules() if hasattr(module, "lora_A")}
    assert set(adapted) == {short(name.removeprefix("base_model.model.")) for name in names}
    assert sorted(load(directory).add_lora(4, 6, targets)) == sorted(adapted)


@pytest.mark.slow
def test_a_scrub_run_ends_in_a_model_and_adapters_that_the_references_open(
    directory, processor, tmp_path, capsys
):
    """Two records of each split, pictures and text, under the released semantics."""
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    gold = tmp_path / "gold"
    gold.mkdir()
    write_model(gold, FAMILY, processor, tie_word_embeddings=True)
    status = main(
        [
            "scrub",
            *("--model", str(directory), "--data", "mini", "--recipe", "mini", "--epochs", "1"),
            *("--limit", "2", "--max-new-tokens", "4", "--gold", str(gold)),
            *(
                "--semantics",
                "released",
                "--checkpointing",
                "on",
                "--out",
                str(tmp_path / "out"),
                "--json",
                "--quiet",
            ),
        ]
    )
    shown = capsys.readouterr()
    assert status == 0, shown.err
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["label_mask"] == "released"
    inputs = encoded_rows(processor)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        vlm = load(directory)
        before = vlm.head(forward(vlm, inputs))[real]
        vlm.load_adapter(tmp_path / "out" / "adapter")
        found = vlm.head(forward(vlm, inputs))[real]
        wrapped = peft.PeftModel.from_pretrained(reference(directory), tmp_path / "out" / "adapter")
        expected = wrapped.eval()(**inputs).logits[real]
        vlm.save(tmp_path / "saved")
        merged = reference(tmp_path / "saved")(**inputs).logits[real]
    assert float((found - expected).abs().max()) < ATOL < float((found - before).abs().max())
    assert float((found - merged).abs().max()) < ATOL


@pytest.mark.slow
def test_a_directory_as_the_hub_has_it_gives_the_same_ids_pixels_and_text(tmp_path):
    """The real tokenizer; the 3B's config.json, bounds of pixels and generation settings, with
    smaller layers. A repetition penalty and two stop ids count, the sampler's settings do not.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_data("qwen", name), tmp_path / name)
    config = config_of("qwen2.5-vl-3b", 2) | HUB_TEXT
    config["vision_config"] |= HUB_TOWER
    files = {
        "config.json": config,
        "preprocessor_config.json": {"min_pixels": 3136, "max_pixels": 12845056},
        "generation_config.json": {
            "do_sample": True,
            "eos_token_id": [151645, 151643],
            "pad_token_id": 151643,
            "repetition_penalty": 1.05,
            "temperature": 1e-6,
        },
        "chat_template.json": {"chat_template": CHAT},
    }
    read = transformers.Qwen2_5_VLConfig.from_dict(copy.deepcopy(config))
    with_random_weights(transformers.Qwen2_5_VLForConditionalGeneration(read)).save_pretrained(
        tmp_path
    )
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    vlm = load(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    processor = still_processor(tokenizer, FAMILY)
    model = reference(tmp_path)
    for record in (
        Record("Who is this?", None, noise((300, 340))),
        Record(" Where? ", None, None),
        Record("Name\n it", None, noise((29, 500))),
    ):
        inputs = processed(processor, record)
        batch = vlm.encode([record])
        assert batch.input_ids.tolist() == inputs["input_ids"].tolist()
        assert record.image is None or torch.equal(batch.pixel_values, inputs["pixel_values"])
        model.model.rope_deltas = None
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        expected = ids[:, inputs["input_ids"].shape[1] :]
        assert vlm.generate_ids(batch, 12).tolist() == expected.tolist()
        text = tokenizer.decode(expected[0], skip_special_tokens=True).strip()
        assert vlm.generate(batch, 12) == [text]
