"""diff names what is wrong with ids, attention mask and labels of dumps made with transformers.

The wrong mask is named both where the dump shows it and where only the model was given it.
Run: python -m pytest tests/oracle/test_diff_inputs.py
"""

import pytest
import torch
from torch.nn.functional import cross_entropy, pad

from clear_ref.model.vlm import load
from tests.helpers.diff_dumps import IGNORE, answer_nll, llava_step, llava_text, said

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def step(tiny_directory):
    """Two records of unequal length, one with a picture, padded on the left."""
    return llava_step(tiny_directory, 0, 205)


@pytest.fixture(scope="module")
def vlm(tiny_directory):
    """Our model of the same directory."""
    return load(tiny_directory, "float64")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_right_dump_agrees_with_padding_on_either_side(tiny_directory, vlm, tmp_path, side):
    step = llava_step(tiny_directory, 0, 205, side=side)
    for records in (True, False):
        stage, causes, shown = said(step.write(tmp_path / "d", records=records), vlm)
        assert not stage and not causes and "DIFFERS" not in shown


def masks(step):
    """{cause: a wrong mask that only it describes}, of ids padded on the left."""
    ids, right, labels = step.inputs["input_ids"], step.inputs["attention_mask"], step.labels
    number = right.cumsum(1)
    return {
        "mask_all_ones": torch.ones_like(right),
        "mask_for_other_side": right.flip(1),
        "mask_prefix_missing": right * (number > 3),
        "mask_suffix_missing": right * (number < right.sum(1, keepdim=True)),
        "mask_shifted": pad(right[:, 1:], (0, 1)),
        "mask_hides_pictures": right * (ids != step.model.config.image_token_id),
        "mask_hides_prompt": right * (labels != IGNORE),
        "mask_hides_answer": right * (labels == IGNORE),
        "mask_of_other_records": right.flip(0),
        "mask_inverted": 1 - right,
    }


NAMES = list(
    "mask_all_ones mask_for_other_side mask_prefix_missing mask_suffix_missing mask_shifted "
    "mask_hides_pictures mask_hides_prompt mask_hides_answer mask_of_other_records "
    "mask_inverted".split()
)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_mask_in_the_dump_is_named(step, vlm, tmp_path, name):
    path = step.write(tmp_path / "d", fed={"attention_mask": masks(step)[name]})
    stage, causes, _ = said(path, vlm)
    # Zeros shifted in on the left of padded rows are the same as a prefix that is missing.
    same = {"mask_prefix_missing", "mask_shifted"} if name == "mask_prefix_missing" else {name}
    assert stage == "attention_mask" and set(causes) == same


@pytest.mark.parametrize("name", NAMES[:8])
def test_a_wrong_mask_that_only_the_model_was_given_is_named(step, vlm, tmp_path, name):
    right = step.inputs["attention_mask"]
    fed, shown = {"attention_mask": masks(step)[name]}, {"attention_mask": right}
    stage, causes, text = said(step.write(tmp_path / "d", fed, shown), vlm)
    assert stage == "hidden" and set(causes) == {name}
    assert f"explained by {name}: " in text


def test_the_number_of_tokens_that_a_mask_lacks_is_said(step, vlm, tmp_path):
    wrong = masks(step)
    for name, words in (
        ("mask_prefix_missing", "the first 3 tokens"),
        ("mask_suffix_missing", "the last 1 token"),
        ("mask_shifted", "by -1 position"),
    ):
        _, causes, _ = said(step.write(tmp_path / "d", {"attention_mask": wrong[name]}), vlm)
        assert causes[name] == words


def test_no_mask_where_there_is_padding_is_named_with_and_without_records(step, vlm, tmp_path):
    for records in (True, False):
        path = step.write(tmp_path / "d", fed={"attention_mask": None}, records=records)
        stage, causes, _ = said(path, vlm)
        assert (stage, set(causes)) == ("attention_mask", {"mask_missing"})


def test_a_mask_over_no_padding_is_named_without_records(step, vlm, tmp_path):
    wrong = masks(step)
    for name in ("mask_all_ones", "mask_for_other_side", "mask_hides_pictures"):
        path = step.write(tmp_path / "d", {"attention_mask": wrong[name]}, records=False)
        stage, causes, _ = said(path, vlm)
        assert (stage, set(causes)) == ("attention_mask", {name})


def test_attention_without_order_is_named(step, vlm, tmp_path):
    """transformers takes a mask [B, 1, T, T] that is added to the scores as it is."""
    mask = step.inputs["attention_mask"]
    added = torch.where(mask[:, None, None, :] == 1, 0.0, -1e9).double()
    added = added.expand(-1, 1, mask.shape[1], -1)
    path = step.write(tmp_path / "d", {"attention_mask": added}, {"attention_mask": mask})
    stage, causes, _ = said(path, vlm)
    assert (stage, set(causes)) == ("hidden", {"mask_not_causal"})


def shifted(labels, by):
    """Labels moved left by `by` positions."""
    return pad(labels, (0, by), value=IGNORE)[:, by:]


def wrong_labels(step):
    """{what was done: (labels, names with records, names without)}."""
    ids, mask, labels = step.inputs["input_ids"], step.inputs["attention_mask"], step.labels
    back = pad(labels[:, :-1], (1, 0), value=IGNORE)
    whole = torch.where(mask == 1, ids, IGNORE)
    number = (labels != IGNORE).cumsum(1)
    before, prompt = "labels_shifted_before", "prompt_counted"
    image, padding = "image_tokens_counted", "padding_counted"
    ignored = "ignored_with_other_number"
    return {
        "shifted": (shifted(labels, 1), {before}, {before}),
        "rolled": (labels.roll(-1, 1), {before}, {before}),
        "twice": (shifted(labels, 2), {"labels_shifted_twice"}, {"labels_shifted_twice"}),
        "back": (back, {"labels_shifted_back"}, {"labels_shifted_back"}),
        "whole": (whole, {prompt, image}, {image}),
        "whole, shifted": (shifted(whole, 1), {prompt, image, before}, {image, before}),
        "every position": (ids, {prompt, image, padding}, {image, padding}),
        "first lost": (torch.where(number == 1, IGNORE, labels), {"bos_off_by_one"}, None),
        "last lost": (torch.where(labels == 2, IGNORE, labels), {"last_label_lost"}, None),
        "half lost": (torch.where(number > 2, IGNORE, labels), {"answer_not_labelled"}, None),
        "0 for -100": (torch.where(labels == IGNORE, 0, labels), {ignored}, {ignored}),
    }


@pytest.mark.parametrize(
    "what",
    [
        "shifted", "rolled", "twice", "back", "whole", "whole, shifted", "every position",
        "first lost", "last lost", "half lost", "0 for -100",
    ],
)  # fmt: skip
def test_wrong_labels_are_named_with_and_without_records(step, vlm, tmp_path, what):
    labels, with_records, without = wrong_labels(step)[what]
    stage, causes, _ = said(step.write(tmp_path / "d", shown={"labels": labels}), vlm)
    assert (stage, set(causes)) == ("labels", with_records)
    path = step.write(tmp_path / "d", shown={"labels": labels}, records=False)
    stage, causes, _ = said(path, vlm)
    assert (stage, set(causes)) == (("labels", without) if without else ("", set()))


@pytest.fixture
def small(tmp_path):
    """(path, labels, shift of the loss) -> a dump of random logits and a loss, without a model."""
    from clear_ref.oracle.diff import dump_helper

    ids = torch.tensor([[1, 5, 6, 3, 4, 2, 7, 8], [0, 0, 1, 6, 5, 2, 4, 3]])
    mask = torch.tensor([[1] * 8, [0, 0] + [1] * 6])
    aligned = torch.where(torch.arange(8) > 3, ids, IGNORE)
    logits = torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def write(labels_shift, loss_shift, with_loss=True, with_nll=False):
        labels = shifted(aligned, labels_shift) if labels_shift else aligned
        own = logits.clone().requires_grad_()
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits": own}
        loss = -(
            answer_nll(tensors, loss_shift)
            if loss_shift
            else cross_entropy(own.flatten(0, 1), labels.flatten())
        )
        if with_nll:
            target = shifted(labels, loss_shift) if loss_shift else labels
            tensors["nll"] = cross_entropy(own.transpose(1, 2), target, reduction="none")
        path = tmp_path / "small"
        given = loss if with_loss else None
        dump_helper.write_dump(path, {"forget": tensors}, given, method="grad_ascent")
        return path

    return write


@pytest.mark.parametrize(
    "labels_shift, loss_shift, stage, name, words",
    [
        (0, 1, "", None, ""),
        (0, 0, "loss", "shift_off_by_one", ""),
        (0, 2, "loss", "shifted_twice", ""),
        (1, 1, "labels", "labels_shifted_before", "the row at t is scored against token t + 2"),
        (1, 0, "labels", "labels_shifted_before", "does not shift them again"),
        (2, 1, "labels", "labels_shifted_twice", ""),
    ],
)
def test_labels_and_loss_that_shift_are_told_apart(
    small, labels_shift, loss_shift, stage, name, words
):
    found, causes, _ = said(small(labels_shift, loss_shift))
    assert found == stage and set(causes) == ({name} if name else set())
    assert words in "".join(causes.values())


@pytest.mark.parametrize("loss_shift, name", [(0, "shift_off_by_one"), (2, "shifted_twice")])
def test_a_column_of_another_shift_is_named(small, loss_shift, name):
    stage, causes, _ = said(small(0, loss_shift, with_loss=False, with_nll=True))
    assert (stage, set(causes)) == ("nll", {name})


def test_what_the_loss_does_with_shifted_labels_is_open_without_a_loss(small):
    _, causes, _ = said(small(1, 1, with_loss=False))
    assert "no nll, loss or gradient" in causes["labels_shifted_before"]


def texts(change):
    """A template whose prompt and answer are changed."""
    return lambda processor, record: change(*llava_text(processor, record))


@pytest.mark.parametrize(
    "name, words, change",
    [
        ("extra_bos", "", lambda prompt, answer: ("<s>" + prompt, answer)),
        ("end_missing", "", lambda prompt, answer: (prompt, answer.replace("</s>", ""))),
        ("end_added", "", lambda prompt, answer: (prompt, answer + "</s>")),
        ("other_template", "llava, ours llava-end", lambda p, a: (p, a.replace("</s>", " "))),
    ],
)
def test_other_texts_are_named(tiny_directory, vlm, tmp_path, name, words, change):
    step = llava_step(tiny_directory, 0, 205)
    step.template = texts(change)
    step.encode()
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("input_ids", {name}) and words in causes[name]


def test_missing_bos_cuts_and_other_records_are_named(tiny_directory, vlm, tmp_path):
    step = llava_step(tiny_directory, 0, 205)
    mask, ids = step.inputs["attention_mask"], step.inputs["input_ids"]
    without = mask * (mask.cumsum(1) > 1)
    fill = vlm.tokenizer.pad
    fed = {"input_ids": torch.where(without == 1, ids, fill), "attention_mask": without}
    stage, causes, _ = said(step.write(tmp_path / "d", fed), vlm)
    assert (stage, set(causes)) == ("input_ids", {"bos_missing"})
    cut = {"input_ids": ids[:, :-10], "attention_mask": mask[:, :-10]}
    path = step.write(tmp_path / "d", cut, {"labels": step.labels[:, :-10]})
    stage, causes, text = said(path, vlm)
    assert (stage, set(causes)) == ("input_ids", {"sequence_cut"})
    step.records.reverse()
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("input_ids", {"other_record_order"})
    assert "records 1, 0" in causes["other_record_order"]


def test_another_text_is_located_by_its_token(tiny_directory, vlm, tmp_path):
    step = llava_step(tiny_directory, 205)
    step.template = texts(lambda prompt, answer: (prompt.replace("ASSISTANT", "BOT"), answer))
    step.encode()
    stage, causes, text = said(step.write(tmp_path / "d"), vlm)
    assert stage == "input_ids" and not causes and "token" in text and "position" in text


def test_batches_that_are_swapped_are_named(tiny_directory, vlm, tmp_path):
    from clear_ref.oracle.diff import dump_helper
    from tests.helpers.diff_dumps import as_json

    steps = [llava_step(tiny_directory, 205), llava_step(tiny_directory, 210)]
    tensors = {
        name: dict(step.inputs, labels=step.labels)
        for name, step in zip(("forget", "retain"), steps, strict=True)
    }
    records = {"forget": as_json(steps[1].records), "retain": as_json(steps[0].records)}
    dump_helper.write_dump(tmp_path / "d", tensors, method="grad_diff", records=records)
    stage, causes, _ = said(tmp_path / "d", vlm)
    assert (stage, set(causes)) == ("input_ids", {"other_batch"})
    assert causes["other_batch"] == "they are the records of retain"
