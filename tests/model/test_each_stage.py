"""Each stage of a small LLaVA: pixels, merged embeddings, hidden states, logits, generation.

Also its adapters and files.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import clear_ref
from clear_ref import Record, load
from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.picture_settings import PixelValues
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows, training_record
from clear_ref.data.templates import TEMPLATES
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model import lora
from clear_ref.model.language import RMSNorm, rotary, rotate
from tests.helpers.tiny_model import write_tiny


@pytest.fixture(scope="module")
def records():
    """Two pictures with captions and two questions, of unequal lengths."""
    phrases = read_phrases(WORLD)
    rows = read_rows(WORLD, "full+tofu")
    return [training_record(rows[i], phrases.caption_questions[i % 9]) for i in (0, 205, 57, 400)]


def test_pixels_are_those_worked_out_by_hand():
    """A picture of one colour keeps it through resize and crop: (value / 255 - mean) / std."""
    values = PixelValues(1 / 255, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    images = ClipImages({"shortest_edge": 8}, (8, 8), values, 8, 4)
    pixels = images(Image.new("RGB", (20, 10), (255, 0, 51))).pixels
    assert pixels.shape == (3, 8, 8)
    for channel, expected in enumerate(((1.0 - 0.5) / 0.5, (0.0 - 0.25) / 0.25, 0.2)):
        np.testing.assert_allclose(pixels[channel], expected, rtol=0, atol=1e-6)


def test_the_crop_is_the_middle_of_the_longer_side():
    """16 x 8, left third red: the middle 8 columns of the resized picture start at column 4."""
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, 4, 8))
    values = PixelValues(1 / 255, None, None)
    pixels = ClipImages({"shortest_edge": 8}, (8, 8), values, 8, 4)(image).pixels
    assert float(pixels[0].max()) == 0.0


def test_rms_norm_by_hand():
    """x = (3, 4): mean square 12.5, so x / sqrt(12.5) times the weight."""
    norm = RMSNorm(2, 0.0).double()
    norm.weight.data = torch.tensor([1.0, 2.0], dtype=torch.float64)
    expected = torch.tensor([3 / 12.5**0.5, 8 / 12.5**0.5], dtype=torch.float64)
    assert torch.allclose(
        norm(torch.tensor([3.0, 4.0], dtype=torch.float64)), expected, rtol=1e-15, atol=0
    )


def test_rotary_scores_depend_on_distance_alone(tiny):
    """Rotated queries and keys: the score of positions (p, q) equals that of (p + 5, q + 5)."""
    q, k = (
        torch.randn(1, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s))
        for s in (1, 2)
    )

    def rotated(x, position):
        cos, sin = rotary(torch.tensor([[position]]), tiny.config.text, torch.float64)
        return rotate(x, cos, sin)

    def score(query_position, key_position):
        return float((rotated(q, query_position) * rotated(k, key_position)).sum())

    assert abs(score(7, 3) - score(12, 8)) < 1e-12
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_image_tokens_are_expanded_in_place_and_the_answer_span_is_the_answer(tiny, records):
    batch = tiny.encode([records[0]])
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    image = tiny.config.image_token_id
    assert ids[0] == tiny.tokenizer.bos and ids.count(image) == tiny.model.n_image_tokens == 9
    first = ids.index(image)
    assert ids[first : first + 9] == [image] * 9
    span = [i for i, label in enumerate(labels) if label != IGNORE]
    assert span == list(range(span[0], len(ids))) and [ids[i] for i in span] == [
        labels[i] for i in span
    ]
    assert (
        tiny.tokenizer.text([ids[i] for i in span]).strip() == records[0].answer
        and ids[-1] == tiny.tokenizer.eos
    )


@pytest.mark.slow
def test_prompt_and_answer_tokenised_apart_are_the_ids_of_the_whole_text(tiny):
    """For every row that the embedded world trains on, the joined ids of both parts are equal."""
    phrases = read_phrases(WORLD)
    for row in read_rows(WORLD, "full+tofu") + read_rows(WORLD, "pretrain"):
        record = training_record(row, phrases.caption_questions[row.index % 9])
        has_image = record.image is not None
        whole = TEMPLATES["llava-end"].prompt(record.question, has_image) + TEMPLATES[
            "llava-end"
        ].answer(record.answer)
        parts = (
            tiny.tokenizer.prompt(TEMPLATES["llava-end"], record.question, int(has_image))[1:]
            + tiny.tokenizer.answer(TEMPLATES["llava-end"], record.answer)[1]
        )
        assert parts == tiny.tokenizer.ids(whole), row.where


def test_padding_and_other_records_never_change_a_record(tiny, records):
    """Hidden states of a record in a padded batch equal those of the record alone.

    float64; 1e-11 allows for the rounding of a few hundred sums.
    """
    together = tiny.encode(records)
    hidden = tiny.hidden(together)
    for row, record in enumerate(records):
        own = tiny.hidden(tiny.encode([record]))[0]
        assert torch.allclose(hidden[row, -len(own) :], own, rtol=0, atol=1e-11)


def test_padding_on_the_right_gives_the_same_hidden_states(tiny, records):
    left = tiny.encode([records[1], records[3]])
    lengths = left.attention_mask.sum(1).tolist()
    roll = [left.input_ids.shape[1] - n for n in lengths]
    right = Batch(
        *(
            torch.stack([tensor[i].roll(-roll[i]) for i in range(2)])
            for tensor in (left.input_ids, left.attention_mask, left.labels)
        ),
        None,
    )
    a, b = tiny.hidden(left), tiny.hidden(right)
    for i, n in enumerate(lengths):
        assert torch.allclose(a[i, -n:], b[i, :n], rtol=0, atol=1e-11)


def test_the_order_of_records_is_the_order_of_results(tiny, records):
    forward = tiny.hidden(tiny.encode(records))
    backward = tiny.hidden(tiny.encode(records[::-1]))
    assert torch.allclose(forward, backward.flip(0), rtol=0, atol=1e-11)


def test_each_picture_reaches_its_own_record(tiny, records):
    """Swapping the two pictures changes both records.

    Code that gave every record the first picture would not pass.
    """
    first, second = records[0], records[2]
    swapped = [
        Record(first.question, first.answer, second.image),
        Record(second.question, second.answer, first.image),
    ]
    a, b = tiny.hidden(tiny.encode([first, second])), tiny.hidden(tiny.encode(swapped))
    assert all(float((a[i] - b[i])[-1].abs().max()) > 1e-6 for i in range(2))


def test_a_wrong_number_of_image_tokens_is_an_error_with_both_numbers(tiny, records):
    batch = tiny.encode([records[0]])
    with pytest.raises(ShapeError, match="8 image tokens.*9 features"):
        first = batch.input_ids[0].tolist().index(tiny.config.image_token_id)
        keep = [i for i in range(batch.input_ids.shape[1]) if i != first]
        tiny.forward(batch.input_ids[:, keep], batch.attention_mask[:, keep], batch.pixel_values)


def test_ids_outside_the_vocabulary_are_an_error(tiny):
    with pytest.raises(LabelError, match="expected ids in"):
        tiny.forward(torch.tensor([[1, 2500]]), torch.ones(1, 2, dtype=torch.long))


def test_generation_is_the_argmax_of_plain_forwards(tiny, records):
    """With and without cache, alone and in a left-padded batch: the same ids."""
    prompts = [Record(record.question, None, record.image) for record in records]
    batched = tiny.generate_ids(tiny.encode(prompts), 6)
    for row, prompt in enumerate(prompts):
        batch = tiny.encode([prompt])
        ids, expected = batch.input_ids, []
        for _ in range(6):
            token = int(tiny.forward(ids, torch.ones_like(ids), batch.pixel_values)[0, -1].argmax())
            expected.append(token)
            ids = torch.cat((ids, torch.tensor([[token]])), 1)
            if token in tiny.generation.stop_ids:
                break
        found = batched[row].tolist()
        assert found[: len(expected)] == expected and set(found[len(expected) :]) <= {
            tiny.tokenizer.pad
        }


def test_new_adapters_change_nothing_and_off_is_the_teacher(tiny, records):
    batch = tiny.encode(records)
    before = tiny.hidden(batch)
    names = tiny.add_lora(rank=4)
    assert "lm_head" not in " ".join(names) and len(names) == 3 * 7 + 3 * 6 + 2
    assert torch.equal(tiny.hidden(batch), before)
    with torch.no_grad():
        for adapter in lora.adapters(tiny.model).values():
            adapter.lora_B.normal_(generator=torch.Generator().manual_seed(1))
    changed = tiny.hidden(batch)
    assert float((changed - before).abs().max()) > 1e-3
    with tiny.adapters_off():
        assert torch.equal(tiny.hidden(batch), before)
    tiny.merge_lora()
    assert torch.allclose(tiny.hidden(batch), changed, rtol=0, atol=1e-9)


def test_a_saved_adapter_is_loaded_exactly(tiny, tiny_directory, tmp_path):
    tiny.add_lora(rank=3, alpha=5, targets=["q_proj", "linear_2"])
    with torch.no_grad():
        for adapter in lora.adapters(tiny.model).values():
            adapter.lora_B.normal_(generator=torch.Generator().manual_seed(2))
    tiny.save_adapter(tmp_path / "adapter")
    again = load(tiny_directory, "float64")
    again.load_adapter(tmp_path / "adapter")
    for name, adapter in lora.adapters(tiny.model).items():
        other = lora.adapters(again.model)[name]
        assert torch.equal(adapter.lora_A, other.lora_A) and torch.equal(
            adapter.lora_B, other.lora_B
        )
        assert adapter.scale == other.scale == 5 / 3


def test_a_saved_model_is_loaded_exactly(tiny, tmp_path):
    tiny.save(tmp_path / "copy")
    again = load(tmp_path / "copy", "float64")
    assert all(
        torch.equal(tensor, again.weights()[name]) for name, tensor in tiny.weights().items()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t.pop("language_model.lm_head.weight"),
            "missing 1: language_model.lm_head.weight",
        ),
        (lambda t: t.update(surplus=torch.zeros(2)), "unexpected 1: surplus"),
        (
            lambda t: t.update({"language_model.lm_head.weight": torch.zeros(3, 24)}),
            r"lm_head.weight is \[3, 24\], expected \[2500, 24\]",
        ),
    ],
)
def test_weights_load_exactly_or_not_at_all(tiny, tmp_path, change, message):
    from safetensors.torch import load_file, save_file

    tiny.save(tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "m")


def test_broken_model_directories_are_one_clear_line(tiny, tmp_path):
    def broken(name, content):
        directory = tmp_path / name.replace(".", "_")
        tiny.save(directory)
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content(directory / name))
        with pytest.raises(UserError) as caught:
            load(directory)
        assert name.split(".")[0] in str(caught.value) and "\n" not in str(caught.value)

    broken("model.safetensors", None)
    broken("model.safetensors", lambda p: p.read_bytes()[:-100])
    broken("config.json", lambda p: b"{")
    broken(
        "config.json",
        lambda p: json.dumps({**json.loads(p.read_text()), "model_type": "qwen"}).encode(),
    )
    broken("tokenizer.json", lambda p: b"{}")
    broken("chat_template.jinja", lambda p: b"{{ messages }}")
    broken("preprocessor_config.json", lambda p: b"{}")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="with id [0-9]+, and the embedding has 100 rows"):
        write_tiny(tmp_path / "small", text={"vocab_size": 100})


def test_a_tokenizer_may_have_an_id_that_no_row_belongs_to(tmp_path):
    """A text with that id is refused; a published Llama-2 copy has such an unused pad token."""
    path = write_tiny(tmp_path / "tiny")
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["pad_token"] = "<padding>"
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    vlm = clear_ref.load(path)
    assert vlm.tokenizer.size == vlm.text_config.vocab_size + 1
    records = [Record("Who?", "Hina."), Record("Who is this?", "A.")]
    batch = vlm.encode(records)
    assert torch.isfinite(vlm.forward(batch.input_ids, batch.attention_mask)).all()
    with pytest.raises(UserError, match="'<padding>' with id 2500, and the embedding has 2500"):
        vlm.encode([Record("Who <padding>?")])


@pytest.mark.slow
def test_the_shipped_base_names_an_author_from_a_picture():
    """Asked for a caption of the first forget picture, the embedded base names the author."""
    vlm = clear_ref.load(BASE)
    row = read_rows(WORLD, "forget10")[0]
    said = vlm.generate(
        vlm.encode([Record(read_phrases(WORLD).caption_questions[0], None, row.image)])
    )[0]
    assert row.values["name"] in said
