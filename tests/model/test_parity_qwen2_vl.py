"""With the same small random weights and inputs, Qwen2-VL and Qwen2.5-VL give the numbers of
transformers.

These tests need the extra `parity`.
Tolerance: 5e-5 absolute on fp32 logits and hidden states. transformers' own attention
implementations differ by 6e-6; the rest allows for another order of sums. It is a third of the
smallest real mistake known (1.4e-4, a LayerNorm epsilon).
Activations are compared where attention_mask is 1: at padding they depend on the attention kernel.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.data.images import open_image
from clear_ref.data.qwen_images import Qwen2VLImages, smart_resize
from clear_ref.data.templates import TEMPLATES
from clear_ref.data.tokens import Tokenizer
from clear_ref.evaluation.likelihood import candidate_nll
from tests.helpers.qwen_parity import (
    ATOL,
    FAMILIES,
    PICTURE,
    SHARED_CONFIG,
    batch_of,
    byte_processor,
    encoded_rows,
    forward,
    noise,
    processed,
    reference_images,
    short,
    still_processor,
    transformers,
    write_model,
)
from tests.helpers.qwen_parity import reference as theirs
from tests.helpers.real_data import tokenizer_data


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A model_type."""
    return request.param


@pytest.fixture(scope="module")
def processor(family):
    """The processor with a tokenizer of single bytes."""
    return byte_processor(family)


@pytest.fixture(scope="module")
def images(tmp_path_factory, processor):
    """Our image processor, from the file that transformers' processor writes."""
    directory = tmp_path_factory.mktemp("images")
    processor.image_processor.save_pretrained(directory)
    return Qwen2VLImages.from_directory(directory)


@pytest.fixture(scope="module")
def inputs(processor):
    """ROWS encoded by transformers' processor, padded on the left."""
    return encoded_rows(processor)


@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["untied", "tied"],
)
def directory(request, tmp_path_factory, family, processor):
    """A model directory that transformers wrote."""
    path = tmp_path_factory.mktemp("models") / "qwen"
    path.mkdir()
    write_model(path, family, processor, tie_word_embeddings=request.param)
    return path


@pytest.mark.parametrize(
    "size, mode",
    [
        ((300, 200), "RGB"),
        ((61, 150), "RGB"),
        ((20, 31), "L"),
        ((13, 700), "RGB"),
        ((1500, 1100), "RGB"),
        ((98, 70), "RGBA"),
        ((42, 70), "P"),
        ((56, 84), "RGB"),
    ],
)
def test_pixels_of_any_picture_are_those_of_the_reference(images, processor, size, mode):
    """Exactly equal: odd sizes, below min_pixels, above max_pixels, halves of a block, grey,
    transparent and palette pictures.
    """
    expected = processor.image_processor(noise(size, mode), return_tensors="pt")
    found = images(open_image(noise(size, mode)))
    assert [list(found.grid)] == expected["image_grid_thw"].tolist()
    assert torch.equal(found.pixels, expected["pixel_values"])


def test_a_lower_bound_of_pixels_is_that_of_the_reference(images, processor):
    bound = {"shortest_edge": 56 * 56, "longest_edge": 40000}
    expected = processor.image_processor(noise((500, 400)), size=bound, return_tensors="pt")
    found = dataclasses.replace(images, max_pixels=40000)(noise((500, 400)))
    assert torch.equal(found.pixels, expected["pixel_values"])


def test_sizes_are_those_of_the_reference():
    """3000 seeded sizes with several bounds; beyond the ratio of 200 both refuse."""
    draw = np.random.Generator(np.random.Philox(key=1))
    ranges = ((1, 900), (1, 900), (1, 5), (1, 9), (20, 900))
    for high, wide, factor, low, top in zip(
        *(draw.integers(first, last, 3000) for first, last in ranges), strict=True
    ):
        arguments = (int(high), int(wide), 14 * int(factor), 784 * int(low), 784 * int(top))
        try:
            expected = reference_images.smart_resize(*arguments)
        except ValueError:
            with pytest.raises(UserError):
                smart_resize(*arguments)
        else:
            assert smart_resize(*arguments) == expected, arguments


RECORDS = [
    Record("Who is this?", "Ann Example.", noise((100, 61))),
    Record("Where was she born?", "In A\u0103b\u0113.", None),
    Record(" Two\n lines? ", None, noise((70, 200), key=4)),
    Record("Who?", None, None),
]


def test_ids_and_pixels_are_those_of_the_reference_processor(directory, processor):
    vlm = load(directory)
    for record in RECORDS:
        batch, expected = vlm.encode([record]), processed(processor, record)
        assert batch.input_ids.tolist() == expected["input_ids"].tolist()
        if record.image:
            assert torch.equal(batch.pixel_values, expected["pixel_values"])
            assert torch.equal(batch.image_grid_thw, expected["image_grid_thw"])


def test_ids_of_the_real_tokenizer_are_those_of_the_reference_processor(images, family):
    found = tokenizer_data("qwen")
    processor, tokenizer = (
        still_processor(transformers.AutoTokenizer.from_pretrained(found), family),
        Tokenizer(found),
    )
    template = TEMPLATES["qwen2-vl"]
    for record in RECORDS:
        ids = tokenizer.prompt(
            template, record.question, images(record.image).n_tokens if record.image else 0
        )
        replaced, answer = tokenizer.answer(template, record.answer) if record.answer else (0, [])
        assert (
            ids[: len(ids) - replaced] + answer
            == processed(processor, record)["input_ids"][0].tolist()
        )


def test_a_picture_takes_as_many_tokens_as_the_reference_gives_it(images, processor):
    for size in ((300, 200), (61, 150), (20, 31)):
        expanded = processor(text=PICTURE, images=noise(size), return_tensors="pt")["input_ids"]
        assert (
            int((expanded == SHARED_CONFIG["image_token_id"]).sum()) == images(noise(size)).n_tokens
        )


def test_positions_are_those_of_the_reference(directory, inputs):
    expected = theirs(directory).model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )[0]
    found = load(directory).model.positions(
        inputs["input_ids"], inputs["attention_mask"], inputs["image_grid_thw"]
    )
    assert torch.equal(found, expected)


def test_picture_features_are_those_of_transformers(directory, inputs):
    sizes = [tuple(size) for size in inputs["image_grid_thw"][:, 1:].tolist()]
    with torch.no_grad():
        expected = (
            theirs(directory)
            .model.visual(inputs["pixel_values"], inputs["image_grid_thw"])
            .pooler_output
        )
        found = load(directory).model.visual(inputs["pixel_values"], sizes)
    assert float((found - expected).abs().max()) < ATOL


def test_logits_and_every_layer_are_those_of_transformers(directory, inputs):
    real = inputs["attention_mask"].bool()
    model = load(directory)
    with torch.no_grad():
        expected = theirs(directory)(**inputs, output_hidden_states=True)
        assert (
            3 < float(expected.logits[real].abs().max()) < 12
        )  # of the size that ATOL is meant for
        for layer in range(2):
            found = forward(model, inputs, layer)
            assert float((found - expected.hidden_states[layer + 1])[real].abs().max()) < ATOL
        found = forward(model, inputs)
        assert float((found - expected.hidden_states[-1])[real].abs().max()) < ATOL
        assert float((model.head(found) - expected.logits)[real].abs().max()) < ATOL


def test_logits_of_text_alone_are_those_of_transformers(directory, processor):
    text = processor.tokenizer(
        ["Short.", "A longer row of text."], padding=True, return_tensors="pt"
    )
    real = text["attention_mask"].bool()
    model = load(directory)
    with torch.no_grad():
        expected = theirs(directory)(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"]
        ).logits
        found = model.forward(text["input_ids"], text["attention_mask"])
    assert float((found - expected)[real].abs().max()) < ATOL


def test_loss_and_gradients_are_those_of_transformers(directory, inputs):
    """Relative norm of the difference of every tensor below 1e-4.

    Versions of transformers differ by 2.4e-6.
    """
    before = torch.nn.functional.pad(
        inputs["attention_mask"], (1, -1)
    )  # a row's first token is predicted from padding: ignored
    labels = inputs["input_ids"].masked_fill((inputs["input_ids"] == 261) | (before == 0), -100)
    reference, model = theirs(directory), load(directory)
    expected = reference(**inputs, labels=labels).loss
    expected.backward()
    model.model.requires_grad_(True)
    logits = model.head(forward(model, inputs))
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = {short(name): parameter.grad for name, parameter in reference.named_parameters()}
    found = {name: parameter.grad for name, parameter in model.weights().items()}
    assert set(found) == set(gradients)
    for name, gradient in found.items():
        other = gradients[name]
        assert float((gradient - other).norm()) < 1e-4 * float(other.norm()) + 1e-9, name


@pytest.mark.slow
def test_bf16_is_as_close_to_fp32_math_as_transformers_own(directory, inputs):
    """Truth: fp32 math on the weights and pixels rounded to bf16.

    Bounds: bf16 keeps 8 bits, and transformers' own attention implementations differ by up to 0.18
    on logits of 8; 0.35 allows for another order of sums.
    """
    real = inputs["attention_mask"].bool()
    rounded = {**inputs, "pixel_values": inputs["pixel_values"].bfloat16().float()}
    model = load(directory, "bfloat16")
    with torch.no_grad():
        truth = theirs(directory, torch.bfloat16).float()(**rounded).logits[real]
        expected = theirs(directory, torch.bfloat16)(**inputs).logits[real].float()
        found = model.head(forward(model, inputs))[real].float()
    difference = (found - expected).abs()
    assert float(difference.max()) < 0.35 and float(difference.mean()) < 0.03
    assert float((found - truth).abs().max()) < 1.5 * float((expected - truth).abs().max())
    assert float((found - truth).abs().mean()) < 1.5 * float((expected - truth).abs().mean())


def test_greedy_ids_are_those_of_transformers(directory, inputs):
    """Several pictures in a row, prompts that end in one, uneven rows.

    No text contains the stop id, so that all 12 tokens are generated.
    """
    vlm = load(directory)
    batch = batch_of(inputs, vlm.dtype)
    vlm.generation = dataclasses.replace(vlm.generation, stop_ids=frozenset())
    expected = theirs(directory).generate(
        **inputs, max_new_tokens=12, do_sample=False, eos_token_id=-1
    )
    assert (
        vlm.generate_ids(batch, 12).tolist() == expected[:, inputs["input_ids"].shape[1] :].tolist()
    )


def test_likelihoods_of_answers_are_those_of_transformers(directory, processor):
    """Ours: the answers share the prompt's keys and values. Theirs: one forward of each whole text.

    An nll is a sum over its tokens, each within 1e-5 of the reference's.
    """
    vlm, reference, answers = load(directory), theirs(directory), ("Ann.", "Someone else")
    for record in (RECORDS[2], RECORDS[3]):
        for answer, (found, n_tokens) in zip(
            answers, candidate_nll(vlm, vlm.encode([record]), [answers])[0], strict=True
        ):
            whole = processed(processor, dataclasses.replace(record, answer=answer))
            with torch.no_grad():
                logits = reference(**whole).logits[0, -n_tokens - 1 : -1]
            expected = torch.nn.functional.cross_entropy(
                logits, whole["input_ids"][0, -n_tokens:], reduction="sum"
            )
            assert found == pytest.approx(float(expected), abs=1e-5 * n_tokens)


def test_a_directory_of_the_hubs_layout_is_the_same_model(family, directory, inputs, tmp_path):
    """Decoder keys at the top level, in_chans, rope_scaling of type mrope, named bounds of pixels.

    The hidden states are equal to the last bit, and transformers' are those of this layout.
    """
    shutil.copytree(directory, tmp_path / "hub")
    new = json.loads((directory / "config.json").read_text())
    rope = new["text_config"].pop("rope_parameters")
    vision = new["vision_config"] | {
        "model_type": family,
        "in_chans": new["vision_config"].pop("in_channels"),
    }
    old = {
        key: value
        for key, value in new["text_config"].items()
        if key not in ("layer_types", "model_type")
    } | {
        "model_type": family,
        "tie_word_embeddings": new["tie_word_embeddings"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": vision,
        **{key: new[key] for key in new if key.endswith("_token_id")},
    }
    (tmp_path / "hub" / "config.json").write_text(json.dumps(old))
    (tmp_path / "hub" / "preprocessor_config.json").write_text(
        json.dumps({"min_pixels": 3136, "max_pixels": 1003520})
    )
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        found = forward(load(tmp_path / "hub"), inputs)
        assert torch.equal(found, forward(load(directory), inputs))
        expected = theirs(tmp_path / "hub").model(**inputs).last_hidden_state
    assert float((found - expected)[real].abs().max()) < ATOL
    assert load(tmp_path / "hub").images == load(directory).images


def test_what_is_saved_loads_in_transformers(directory, inputs, tmp_path):
    load(directory).save(tmp_path / "saved")
    saved, expected = theirs(tmp_path / "saved").state_dict(), theirs(directory).state_dict()
    assert saved.keys() == expected.keys() and all(
        torch.equal(saved[name], expected[name]) for name in expected
    )


@pytest.mark.slow
def test_adapters_are_exchanged_with_peft(directory, inputs, tmp_path):
    """On every linear layer but the head, as PEFT's all-linear chooses.

    The patch embedding has none: it is a convolution in transformers.
    """
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    vlm, real = load(directory), inputs["attention_mask"].bool()
    adapted = vlm.add_lora(rank=4, alpha=6, targets="all")
    chosen = peft.get_peft_model(theirs(directory), peft.LoraConfig(target_modules="all-linear"))
    names = [
        name.removeprefix("base_model.model.")
        for name, module in chosen.named_modules()
        if hasattr(module, "lora_A")
    ]
    assert set(adapted) == {short(name) for name in names}
    with torch.no_grad():
        before = vlm.head(forward(vlm, inputs))
        for number, (name, parameter) in enumerate(vlm.model.named_parameters()):
            if name.endswith("lora_B"):
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(number))
        found = vlm.head(forward(vlm, inputs))
        vlm.save_adapter(tmp_path / "ours")
        wrapped = peft.PeftModel.from_pretrained(theirs(directory), tmp_path / "ours").eval()
        expected = wrapped(**inputs).logits
        assert (
            float((found - expected)[real].abs().max())
            < ATOL
            < float((found - before)[real].abs().max())
        )
        wrapped.save_pretrained(tmp_path / "theirs")
        again = load(directory)
        again.load_adapter(tmp_path / "theirs")
        assert torch.equal(again.head(forward(again, inputs))[real], found[real])
