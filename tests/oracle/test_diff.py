"""diff: a dump that the helper writes from transformers agrees with ours at every stage.

A mistake put into the dump is found at its stage and place.
Run: python -m pytest tests/oracle/test_diff.py
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clear_ref.commands import diff
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows, training_record
from clear_ref.mini.directories import WORLD
from clear_ref.oracle.diff import dump_helper
from clear_ref.run import main
from tests.helpers.diff_dumps import IGNORE, changed, llava_text, transformers


@pytest.fixture(scope="module")
def written(tiny_directory, tmp_path_factory):
    """A dump of kl (paper) from the tiny LLaVA in transformers and a loss summed by hand.

    The teacher is another instance of the model.
    """
    model, teacher = (
        transformers.LlavaForConditionalGeneration.from_pretrained(
            tiny_directory, dtype=torch.float64
        ).eval()
        for _ in range(2)
    )
    processor = transformers.AutoProcessor.from_pretrained(tiny_directory)
    rows, batches, records = read_rows(WORLD, "full+tofu"), {}, {}
    for name, chosen in (("forget", (0, 205)), ("retain", (1, 210))):
        own = [training_record(rows[i], read_phrases(WORLD).caption_questions[0]) for i in chosen]
        parts = [llava_text(processor, one) for one in own]
        images = [Image.open(one.image).convert("RGB") for one in own if one.image]
        inputs = processor(
            text=[prompt + answer for prompt, answer in parts],
            images=images,
            return_tensors="pt",
            padding=True,
        )
        labels = torch.full_like(inputs["input_ids"], IGNORE)
        for b, (_, answer) in enumerate(parts):
            n = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
            labels[b, -n:] = inputs["input_ids"][b, -n:]
        inputs["pixel_values"] = inputs["pixel_values"].double()
        batches[name] = dump_helper.batch_tensors(model, inputs, labels, teacher)
        records[name] = [
            {"question": one.question, "answer": one.answer, "image": one.image and str(one.image)}
            for one in own
        ]
    loss, terms = kl_by_hand(batches)
    path = tmp_path_factory.mktemp("dump") / "kl.safetensors"
    dump_helper.write_dump(path, batches, loss, terms, method="kl", records=records)
    return path


def kl_by_hand(batches):
    """The loss of kl (paper) and its two terms.

    forget  minus the mean nll of the answer tokens
    retain  the mean over sequences of the mean KL(student || teacher) of the answer tokens
    """
    for seen in batches.values():
        logp, logq = seen["logits"].log_softmax(-1), seen["teacher_logits"].log_softmax(-1)
        following = torch.nn.functional.pad(seen["labels"][:, 1:], (0, 1), value=IGNORE)
        seen["nll"] = torch.nn.functional.cross_entropy(
            seen["logits"].transpose(1, 2), following, reduction="none"
        )
        seen["kl_student_teacher"] = (logp.exp() * (logp - logq)).sum(-1) * (following != IGNORE)
    answers = [batches[name]["labels"][:, 1:] != IGNORE for name in ("forget", "retain")]
    forget = -batches["forget"]["nll"].sum() / answers[0].sum()
    retain = (batches["retain"]["kl_student_teacher"].sum(1) / answers[1].sum(1)).mean()
    return forget + retain, {"forget_nll": forget, "retain_kl": retain}


def run(capsys, *arguments):
    pictures = ["--pictures", str(WORLD)] if "--model" in arguments else []
    status = main(["diff", *map(str, arguments), *pictures])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.mark.slow
def test_a_step_of_transformers_agrees_at_every_stage(written, tiny_directory, capsys):
    status, shown, _ = run(capsys, written, "--model", tiny_directory, "--json")
    found = json.loads(shown)
    stages = {(one["batch"], one["stage"]) for one in found["stages"]}
    for name in ("forget", "retain"):
        assert {
            (name, stage)
            for stage in (
                "input_ids",
                "attention_mask",
                "labels",
                "pixel_values",
                "features",
                "embeddings",
                "position_ids",
                "hidden",
                "logits",
                "teacher_logits",
                "nll",
                "kl_student_teacher",
                "gradient",
            )
        } <= stages
    assert {("forget_nll", "terms"), ("retain_kl", "terms"), ("", "loss")} <= stages
    assert status == 0 and found["first"] is None and not found["not_compared"]


@pytest.mark.slow
def test_without_a_model_the_loss_is_compared_and_the_rest_is_said_not_to_be(written, capsys):
    status, shown, _ = run(capsys, written)
    assert (
        status == 0
        and "nothing differs" in shown
        and "not compared: forget: features, embeddings, position_ids, hidden" in shown
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, change, stage, place",
    [
        ("retain__features", lambda x: x.flip(-1), "features", None),
        (
            "forget__embeddings",
            lambda x: x * torch.ones(len(x), dtype=x.dtype)[:, None, None] * 1.01,
            "embeddings",
            None,
        ),
        ("retain__hidden", lambda x: bumped(x, (1, 60, 5)), "hidden", (1, 60, 5)),
        ("forget__logits", lambda x: bumped(x, (0, 70, 11)), "logits", (0, 70, 11)),
        ("retain__teacher_logits", lambda x: bumped(x, (1, 61, 0)), "teacher_logits", (1, 61, 0)),
        ("retain__kl_student_teacher", lambda x: bumped(x, (0, -3)), "kl_student_teacher", None),
        ("term__retain_kl", lambda x: x + 1e-3, "terms", None),
        ("loss", lambda x: x + 1e-3, "loss", None),
        ("forget__gradient", lambda x: bumped(x, (0, 3, 4)), "gradient", (0, 3, 4)),
    ],
)
def test_the_first_stage_that_differs_is_named_with_its_place(
    written, tiny_directory, tmp_path, capsys, name, change, stage, place
):
    path = changed(written, tmp_path / "d.safetensors", **{name: change})
    status, shown, error = run(capsys, path, "--model", tiny_directory, "--json")
    first = json.loads(shown)["first"]
    assert (
        status == 1
        and first["stage"] == stage
        and (place is None or tuple(first["where"]) == place)
    )
    assert "differs first at" in error and len(error.splitlines()) == 1


def bumped(x, where):
    x = x.clone()
    x[where] += 0.01
    return x


@pytest.mark.slow
def test_labels_over_prompt_and_image_are_the_known_mistakes(
    written, tiny_directory, tmp_path, capsys
):
    ids, mask = (load_file(written)[f"forget/{name}"] for name in ("input_ids", "attention_mask"))
    path = changed(
        written,
        tmp_path / "d.safetensors",
        forget__labels=lambda x: torch.where((mask == 1) & (torch.arange(x.shape[1]) > 3), ids, x),
    )
    status, shown, _ = run(capsys, path, "--model", tiny_directory)
    assert (
        status == 1
        and "explained by prompt_counted" in shown
        and "explained by image_tokens_counted" in shown
    )


def test_labels_shifted_already_are_a_known_mistake(written, tmp_path, capsys):
    path = changed(
        written,
        tmp_path / "d.safetensors",
        forget__labels=lambda x: torch.nn.functional.pad(x[:, 1:], (0, 1), value=IGNORE),
    )
    status, shown, _ = run(capsys, path)
    assert (
        status == 1
        and "first difference: forget/labels" in shown
        and "explained by labels_shifted_before" in shown
    )


@pytest.mark.slow
def test_a_swapped_kl_is_explained_where_it_begins(written, tmp_path, capsys):
    found = load_file(written)
    p, q = found["retain/logits"].log_softmax(-1), found["retain/teacher_logits"].log_softmax(-1)
    p = p + 0.1 * torch.arange(p.shape[-1], dtype=p.dtype).sin()  # another student than the teacher
    logits = p.clone()
    p = p.log_softmax(-1)
    other = (q.exp() * (q - p)).sum(-1)
    following = found["retain/labels"][:, 1:]
    nll = -p[:, :-1].gather(2, following.clamp(min=0)[..., None])[..., 0] * (following != IGNORE)
    path = changed(
        written,
        tmp_path / "d.safetensors",
        retain__logits=lambda x: logits,
        retain__nll=lambda x: nll,
        retain__kl_student_teacher=lambda x: other,
    )
    _, shown, _ = run(capsys, path)
    assert (
        "first difference: retain/kl_student_teacher" in shown
        and "explained by kl_swapped" in shown
    )


def test_the_helper_is_short_stands_alone_and_is_what_is_printed(capsys):
    status, shown, _ = run(capsys, "--helper")
    assert status == 0 and shown.rstrip("\n") == Path(dump_helper.__file__).read_text().rstrip("\n")
    lines = shown.rstrip("\n").splitlines()
    assert len(lines) < 80 and not [
        line for line in lines if line.startswith(("from .", "import clear_ref", "from clear_ref"))
    ]
    assert json.loads(run(capsys, "--helper", "--json")[1]) == {"helper": shown.rstrip("\n")}
    assert diff.helper() == shown.rstrip("\n")
