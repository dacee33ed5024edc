"""LLaVA-1.5 at its real picture size (336 pixels, 576 tokens) equals transformers.

The directory has the form of the hub's. These tests need the extra `parity`.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref import Record, load
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import open_image
from clear_ref.model.shapes import write_checkpoint

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
ATOL = 5e-5
# The chat of the hub's template, written for this project: pictures first, a blank after every
# text, no end token.
HUB_TURN = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def picture(width, height, mode="RGB", seed=3):
    noise = np.random.Generator(np.random.Philox(key=seed)).integers(
        0, 256, (height // 8 + 1, width // 8 + 1, 4), dtype=np.uint8
    )
    image = Image.fromarray(noise, "RGBA").resize((width, height), Image.Resampling.BILINEAR)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random LLaVA: two decoder layers, four tower layers.

    The weights are scaled up so that logits have a size of 8.
    """
    out = tmp_path_factory.mktemp("llava") / "model"
    write_checkpoint("llava-78m", out, dtype="float32", layers=2)
    (out / "chat_template.json").write_text(json.dumps({"chat_template": HUB_TURN}))
    return out


@pytest.fixture(scope="module")
def pair(directory):
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return load(directory), theirs, transformers.AutoProcessor.from_pretrained(directory)


RECORDS = [
    Record("Who is this?", "Hina Ameen.", picture(500, 333)),
    Record("Which of the two is older, and why?", "The first."),
    Record(
        "What does the picture show of the author's house?",
        "A garden with a wall.",
        picture(200, 410, seed=5),
    ),
]


@pytest.mark.slow
def test_a_hub_directory_gives_the_reference_processors_ids_and_pixels(pair):
    ours, _, processor = pair
    assert ours.template.name == "llava"
    for record in RECORDS:
        content = ([{"type": "image"}] if record.image else []) + [
            {"type": "text", "text": record.question}
        ]
        turns = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": record.answer}]},
        ]
        for upto, answer in ((1, None), (2, record.answer)):
            text = processor.apply_chat_template(
                turns[:upto], add_generation_prompt=upto == 1, tokenize=False
            )
            expected = processor(text=text, images=record.image, return_tensors="pt")
            batch = ours.encode([Record(record.question, answer, record.image)])
            assert batch.input_ids[0].tolist() == expected["input_ids"][0].tolist()
            if record.image:
                assert float((batch.pixel_values - expected["pixel_values"]).abs().max()) < 1e-6


def test_the_answers_span_is_what_follows_the_576_image_tokens_and_the_prompt(pair):
    batch = pair[0].encode([RECORDS[0]])
    labels = batch.labels[0]
    answer = pair[0].tokenizer.ids(" Hina Ameen. ")
    assert labels[labels != -100].tolist() == answer and labels[-len(answer) :].tolist() == answer


@pytest.mark.parametrize(
    "size, mode",
    [
        ((336, 336), "RGB"),
        ((1024, 1024), "RGB"),
        ((640, 427), "L"),
        ((333, 500), "P"),
        ((400, 337), "RGBA"),
        ((90, 1200), "RGB"),
        ((100, 60), "LA"),
    ],
)
def test_pixels_of_any_picture_are_those_of_the_reference(pair, size, mode):
    ours, _, processor = pair
    image = picture(*size, mode)
    expected = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    assert float((ours.images(open_image(image)).pixels - expected).abs().max()) < 1e-6


def test_a_picture_that_its_camera_turned_is_seen_upright(pair, tmp_path):
    """EXIF orientation 6: stored on its side, shown rotated by 90 degrees.

    Checked against transformers' own loader.
    """
    image, exif = picture(300, 200), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    ours = pair[0].images(open_image(tmp_path / "turned.png")).pixels
    assert torch.equal(ours, pair[0].images(image.transpose(Image.Transpose.ROTATE_270)).pixels)
    upright = transformers.image_utils.load_image(str(tmp_path / "turned.png"))
    expected = pair[2].image_processor(upright, return_tensors="pt")["pixel_values"][0]
    assert float((ours - expected).abs().max()) < 1e-6


@pytest.mark.slow
def test_a_directory_from_before_processor_configs_gives_the_same_batch(pair, directory, tmp_path):
    """Before 2024: no processor_config.json with the patch size, and sizes are plain numbers."""
    shutil.copytree(directory, tmp_path / "old")
    (tmp_path / "old" / "processor_config.json").unlink()
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    (tmp_path / "old" / "preprocessor_config.json").write_text(
        json.dumps(settings | {"size": 336, "crop_size": 336})
    )
    old, new = (vlm.encode(RECORDS) for vlm in (load(tmp_path / "old"), pair[0]))
    assert torch.equal(old.input_ids, new.input_ids) and torch.equal(
        old.pixel_values, new.pixel_values
    )


@pytest.mark.slow
def test_hidden_states_of_every_layer_and_logits_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    batch = ours.encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
            output_hidden_states=True,
        )
        features = theirs.get_image_features(pixel_values=batch.pixel_values)
        features = torch.cat(list(getattr(features, "pooler_output", features)))
        assert (
            float(
                (
                    ours.model.image_features(batch.pixel_values).flatten(0, 1)
                    - features.flatten(0, -2)
                )
                .abs()
                .max()
            )
            < ATOL
        )
        assert float((ours.hidden(batch, 0) - expected.hidden_states[1])[real].abs().max()) < ATOL
        found = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    assert float((found - expected.logits)[real].abs().max()) < ATOL


@pytest.mark.slow
def test_in_bf16_logits_stay_within_the_references_own_spread(directory, pair):
    """Largest 0.35 and mean 0.03 from transformers' bf16.

    The distance from fp32 math is at most 1.5 times transformers' own.
    """
    ours, theirs = (
        load(directory, "bfloat16"),
        transformers.LlavaForConditionalGeneration.from_pretrained(
            directory, dtype=torch.bfloat16
        ).eval(),
    )
    batch, wide = ours.encode(RECORDS), pair[0].encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        exact = pair[0].forward(wide.input_ids, wide.attention_mask, wide.pixel_values)[real]
        found = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)[real]
        other = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits[real]
    apart = (found - other.float()).abs()
    assert float(apart.max()) < 0.35 and float(apart.mean()) < 0.03
    assert float((found - exact).abs().mean()) < 1.5 * float((other.float() - exact).abs().mean())


@pytest.mark.slow
def test_checkpointing_changes_neither_loss_nor_gradient(directory):
    """Adapters on tower, projector and decoder; bit for bit."""
    gradients = []
    for on in (False, True):
        vlm = load(directory)
        vlm.add_lora(rank=2)
        vlm.checkpoint_layers(on)
        with torch.no_grad():
            for number, (name, tensor) in enumerate(vlm.model.named_parameters()):
                if name.endswith("lora_B"):
                    tensor.normal_(0, 0.02, generator=torch.Generator().manual_seed(number))
        batch = vlm.encode(RECORDS[:2])
        logits = vlm.head(vlm.hidden(batch)[:, :-1][batch.labels[:, 1:] != -100])
        loss = torch.nn.functional.cross_entropy(logits, batch.labels[batch.labels != -100])
        loss.backward()
        gradients.append(
            [loss.detach()]
            + [tensor.grad for tensor in vlm.model.parameters() if tensor.requires_grad]
        )
    # The features are the input of the tower's last layer (feature layer -2), so the adapters of
    # that layer have no gradient, with and without checkpointing.
    assert all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(*gradients, strict=True)
    )
    assert sum(gradient is not None for gradient in gradients[0]) > 100


def test_wrong_picture_settings_are_refused(tmp_path, directory):
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    for change, message in (
        ({"resample": True}, "resample is True; expected the number of a Pillow filter"),
        ({"do_center_crop": 0}, "do_center_crop is 0; expected true or false"),
        ({"size": {"longest_edge": 5}}, "or size.shortest_edge"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"crop_size": 224}, "crop_size is 224 x 224 pixels; expected 336 x 336"),
        ({"crop_size": 0}, "crop_size"),
        ({"image_std": [0, 0, 0]}, "image_std"),
        ({"rescale_factor": float("nan")}, "rescale_factor is nan"),
        ({"size": True}, "size"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=message):
            ClipImages.from_directory(tmp_path, 336, 576)
