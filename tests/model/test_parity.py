"""With the same weights and inputs, LLaVA gives the numbers of transformers and PEFT.

These tests need the extra `parity`.
Tolerance: 5e-5 absolute on fp32 logits. transformers' own attention implementations differ by 6e-6;
the rest allows for another order of sums. It is a third of the smallest real mistake known (1.4e-4,
a LayerNorm epsilon).
With adapters the embedded world's logits reach 32, where two correct fp32 computations can differ
by 5.3e-5. There transformers computes in float64 from the same fp32 weights, so that only one of
the two rounds (largest seen 4.5e-5, on one and two threads, AVX2 and AVX-512).
"""

import copy

import pytest
import torch

from clear_ref import Record, load
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows, training_record
from clear_ref.mini.directories import BASE, GOLD, WORLD
from clear_ref.model import lora

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
ATOL = 5e-5


@pytest.fixture(scope="module", params=["base", "gold", "tiny"])
def pair(request, tiny_directory):
    """Our model and transformers', in fp32, from the same directory."""
    path = {"base": BASE, "gold": GOLD, "tiny": tiny_directory}[request.param]
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32
    ).eval()
    return load(path), theirs, transformers.AutoProcessor.from_pretrained(path)


@pytest.fixture(scope="module")
def records():
    own = read_phrases(WORLD)
    rows = read_rows(WORLD, "full+tofu")
    found = [
        training_record(rows[i], own.caption_questions[i % 9]) for i in (0, 57, 190, 205, 400, 595)
    ]
    return found + [training_record(row, "") for row in read_rows(WORLD, "pretrain")[::400]]


def conversation(record, answer):
    content = ([{"type": "image"}] if record.image else []) + [
        {"type": "text", "text": record.question}
    ]
    turns = [{"role": "user", "content": content}]
    return turns + (
        [{"role": "assistant", "content": [{"type": "text", "text": record.answer}]}]
        if answer
        else []
    )


def processed(processor, record, answer):
    """A record encoded by transformers' processor: template, expanded image tokens, pixels."""
    from PIL import Image

    text = processor.apply_chat_template(
        conversation(record, answer), add_generation_prompt=not answer, tokenize=False
    )
    image = Image.open(record.image).convert("RGB") if record.image else None
    return processor(text=text, images=image, return_tensors="pt")


@pytest.mark.slow
def test_ids_and_pixels_are_those_of_the_reference_processor(pair, records):
    ours, _, processor = pair
    for record in records:
        for answer in (True, False):
            batch = ours.encode([record if answer else Record(record.question, None, record.image)])
            theirs = processed(processor, record, answer)
            assert batch.input_ids.tolist() == theirs["input_ids"].tolist()
            if record.image:
                assert torch.allclose(batch.pixel_values, theirs["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "size, mode",
    [
        ((50, 37), "RGB"),
        ((37, 50), "RGB"),
        ((49, 90), "L"),
        ((20, 31), "RGB"),
        ((63, 64), "RGBA"),
        ((40, 60), "P"),
    ],
)
def test_pixels_of_any_picture_are_those_of_the_reference(pair, size, mode):
    """Odd sizes, smaller and larger than the crop, grey, transparent, palette; seeded noise."""
    import numpy as np
    from PIL import Image

    noise = np.random.Generator(np.random.Philox(key=3)).integers(
        0, 256, (size[1], size[0], 4), dtype=np.uint8
    )
    image = Image.fromarray(noise, "RGBA")
    image = image if mode == "RGBA" else image.convert("RGB").convert(mode)
    ours, _, processor = pair
    expected = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    batch = ours.encode([Record("Who?", None, image)])
    assert float((batch.pixel_values[0] - expected).abs().max()) < 1e-6


@pytest.mark.slow
def test_logits_are_those_of_transformers(pair, records):
    ours, theirs, _ = pair
    batch = ours.encode(records)
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits
        found = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    real = batch.attention_mask.bool()
    assert float((found - expected)[real].abs().max()) < ATOL


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_transformers(pair, records):
    """Relative norm of the difference per tensor below 1e-4.

    A key bias has a gradient that is zero in exact arithmetic.
    """
    ours, theirs, _ = pair
    batch = ours.encode(records)
    theirs.zero_grad()
    expected = theirs(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        labels=batch.labels,
    ).loss
    expected.backward()
    ours.model.requires_grad_(True)
    ours.model.zero_grad()
    logits = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
    )
    loss.backward()
    ours.model.requires_grad_(False)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    names = {short(name): p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    compared = 0
    for name, parameter in ours.model.named_parameters():
        if parameter.grad is not None and not name.endswith("k_proj.bias"):
            other = names[short(name)]
            assert float((parameter.grad - other).norm()) < 1e-4 * float(other.norm()) + 1e-9, name
            compared += 1
    assert compared > 40


def short(name):
    """A parameter's name without the prefixes in which the generations of transformers differ."""
    for part in ("vision_model.", "vision_tower.", "language_model.", "model."):
        name = name.replace(part, "")
    return name


@pytest.mark.slow
def test_greedy_text_is_that_of_transformers(pair, records):
    ours, theirs, processor = pair
    prompts = [Record(record.question, None, record.image) for record in records]
    batch = ours.encode(prompts)
    with torch.no_grad():
        generated = theirs.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
            max_new_tokens=24,
            do_sample=False,
        )
    new = generated[:, batch.input_ids.shape[1] :]
    found = ours.generate_ids(batch, 24)
    assert found.tolist() == new.tolist()
    texts = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    assert ours.generate(batch, 24) == texts


@pytest.mark.slow
def test_what_we_save_transformers_loads_unchanged(pair, tmp_path, records):
    """Adapters are merged when the model is written: transformers computes the merged model."""
    path = pair[0].directory
    ours = load(path)
    ours.add_lora(rank=4)
    randomise(ours)
    ours.save(tmp_path / "merged")
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "merged", dtype=torch.float32
    ).eval()
    assert_equal_logits(ours, theirs, records)


@pytest.mark.slow
def test_adapters_go_to_peft_and_come_back(pair, tmp_path, records):
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    path = pair[0].directory
    ours = load(path)
    ours.add_lora(rank=4, alpha=6)
    randomise(ours)
    ours.save_adapter(tmp_path / "ours")
    base = transformers.LlavaForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32
    ).eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    assert_equal_logits(ours, theirs, records)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(path)
    again.load_adapter(tmp_path / "theirs")
    for name, adapter in lora.adapters(ours.model).items():
        other = lora.adapters(again.model)[name]
        assert torch.equal(adapter.lora_A, other.lora_A) and torch.equal(
            adapter.lora_B, other.lora_B
        ), name


def randomise(vlm):
    with torch.no_grad():
        for number, adapter in enumerate(lora.adapters(vlm.model).values()):
            adapter.lora_B.normal_(0, 0.02, generator=torch.Generator().manual_seed(number))


def assert_equal_logits(ours, theirs, records):
    """Ours in fp32, theirs in float64; what the adapters change is more than the bound."""
    batch, wide = ours.encode(records), copy.deepcopy(theirs).double()
    with torch.no_grad():
        expected = wide(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values.double(),
        ).logits
        found = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
        with ours.adapters_off():
            before = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    real = batch.attention_mask.bool()
    assert (
        float((found - expected)[real].abs().max())
        < ATOL
        < float((found - before)[real].abs().max())
    )
