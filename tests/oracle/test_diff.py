"""diff: a dump that the helper writes from transformers agrees with ours at every stage.

A mistake put into the dump is found at its stage and place.
Run: python -m pytest tests/oracle/test_diff.py
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_ref.commands import diff
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows, training_record
from clear_ref.mini.directories import WORLD
from clear_ref.oracle.diff import comparison, dump_file, dump_helper
from clear_ref.run import main

IGNORE = -100


@pytest.fixture(scope="module")
def written(tiny_directory, tmp_path_factory):
    """A dump of kl (paper) from the tiny LLaVA in transformers and a loss summed by hand.

    The teacher is another instance of the model.
    """
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    from PIL import Image

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
        parts = [text_of(processor, one) for one in own]
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


def text_of(processor, record):
    """(prompt, answer) as the embedded world's template has them."""
    content = ([{"type": "image"}] if record.image else []) + [
        {"type": "text", "text": record.question}
    ]
    turn = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return turn, f" {record.answer}</s>"


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


def changed(path, target, **tensors):
    """The dump with some tensors changed: name with __ for / = function of the old one."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = file.metadata()
    found = load_file(path)
    for name, change in tensors.items():
        name = name.replace("__", "/")
        found[name] = change(found[name]).contiguous()
    save_file(found, target, about)
    return target


def run(capsys, *arguments):
    status = main(["diff", *map(str, arguments)])
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
                "labels",
                "pixel_values",
                "features",
                "embeddings",
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
        and "not compared: forget: features, embeddings, hidden" in shown
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
        and "explained by shift_off_by_one" in shown
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


def test_a_sum_for_a_mean_is_explained_from_loss_and_gradient(tmp_path, capsys):
    """-sum of nll instead of their mean; written by the helper from a loss of our own making."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 7, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[IGNORE, IGNORE, 3, 4, 1, 2], [IGNORE, IGNORE, IGNORE, IGNORE, 5, 6]])
    loss = -torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    dump_helper.write_dump(
        tmp_path / "d.safetensors",
        {"forget": {"logits": logits, "labels": labels}},
        loss,
        method="grad_ascent",
    )
    status, shown, _ = run(capsys, tmp_path / "d.safetensors")
    assert (
        status == 1 and "first difference: loss" in shown and "explained by sum_for_mean" in shown
    )


def test_half_precision_is_compared_as_coarsely_as_it_is(tmp_path, capsys):
    logits = (
        torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    )
    labels = torch.tensor([[IGNORE, 1, 2, 3, 4]])
    loss = -torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    )
    dump_helper.write_dump(
        tmp_path / "d.safetensors",
        {"forget": {"logits": logits, "labels": labels}},
        loss,
        method="grad_ascent",
    )
    status, shown, _ = run(capsys, tmp_path / "d.safetensors")
    assert status == 0 and "roundings" not in shown.splitlines()[-1]


GOOD = {"forget/logits": torch.zeros(1, 3, 5), "forget/labels": torch.tensor([[-100, 1, 2]])}
ABOUT = {"format": "clear_ref.dump/1", "method": "grad_ascent"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "tensors, about, words",
    [
        (GOOD, {}, "metadata format is None; expected 'clear_ref.dump/1'"),
        (GOOD, ABOUT | {"method": "npoo"}, "method is 'npoo'; expected one of"),
        (GOOD, ABOUT | {"semantics": "papers"}, "semantics is 'papers'; expected one of"),
        (GOOD, ABOUT | {"options": "[1]"}, "metadata options is [1]; expected a JSON object"),
        (GOOD, ABOUT | {"options": '{"beta": 1}'}, "has no option 'beta'"),
        (
            GOOD | {"forget/logit": torch.zeros(1)},
            ABOUT,
            "there is no tensor 'forget/logit' in a dump",
        ),
        (
            GOOD | {"forgot/logits": torch.zeros(1)},
            ABOUT,
            "there is no tensor 'forgot/logits' in a dump",
        ),
        (
            {"retain/logits": torch.zeros(1, 3, 5)},
            ABOUT,
            "holds batch 'retain'; grad_ascent (paper) has forget",
        ),
        (
            GOOD | {"forget/labels": torch.zeros(1, 3)},
            ABOUT,
            "forget/labels is torch.float32; expected int64",
        ),
        (
            GOOD | {"forget/labels": torch.zeros(1, 4, dtype=torch.int64)},
            ABOUT,
            "forget/logits has shape [1, 3, 5]; expected [1, 4] first",
        ),
        (
            GOOD | {"forget/logits": torch.zeros(3, 5)},
            ABOUT,
            "forget/logits has shape [3, 5]; expected [B, T, .]",
        ),
        (
            GOOD | {"forget/nll": torch.zeros(1, 5)},
            ABOUT,
            "forget/nll has shape [1, 5]; expected [1, 3] or [1, 2]",
        ),
        (
            GOOD | {"forget/gradient": torch.zeros(1, 3, 4)},
            ABOUT,
            "forget/gradient has shape [1, 3, 4]; expected [1, 3, 5]",
        ),
        (
            GOOD | {"forget/logits": torch.full((1, 3, 5), torch.nan)},
            ABOUT,
            "forget/logits is NaN at [0, 0, 0], and 15 times in all",
        ),
        (GOOD | {"loss": torch.zeros(2)}, ABOUT, "loss has shape [2]; expected one number"),
        (GOOD | {"loss": torch.tensor(torch.nan)}, ABOUT, "loss is NaN"),
        (GOOD | {"forget/labels": torch.tensor([[-100, 1, 9]])}, ABOUT | {"x": ""}, "label"),
        (
            GOOD | {"forget/logits": torch.full((1, 3, 5), -torch.inf)},
            ABOUT,
            "forget/logits is -inf at [0, 0, 0], and 15 times",
        ),
        (GOOD | {"loss": torch.tensor(torch.inf)}, ABOUT, "loss is inf at []"),
        (GOOD | {"loss": torch.tensor(1)}, ABOUT, "loss is torch.int64; expected floats"),
        (
            GOOD | {"forget/logits": torch.zeros(1, 3, 0)},
            ABOUT,
            "forget/logits has shape [1, 3, 0]; expected at least 1",
        ),
        (
            {"forget/labels": torch.zeros(0, 3, dtype=torch.int64)},
            ABOUT,
            "forget/labels has shape [0, 3]; expected at least 1",
        ),
        (
            {"forget/logits": torch.zeros(1, 0, 5)},
            ABOUT,
            "forget/logits has shape [1, 0, 5]; expected at least 1",
        ),
        (
            GOOD | {"forget/features": torch.zeros(4)},
            ABOUT,
            "forget/features has shape [4]; expected [n, D] or [N, P, D]",
        ),
        (
            GOOD | {"forget/pixel_values": torch.zeros(1, 3, 8)},
            ABOUT,
            "forget/pixel_values has shape [1, 3, 8]; expected [N, 3",
        ),
        (
            {
                "retain/layer_hidden": torch.zeros(1, 2, 4),
                "retain/teacher_layer_hidden": torch.zeros(1, 2, 3),
            },
            ABOUT | {"method": "rmu"},
            "retain/teacher_layer_hidden has shape [1, 2, 3]; expected [1, 2, 4] as layer_hidden",
        ),
        ({"loss": torch.zeros(())}, ABOUT, "holds no batch"),
        (
            GOOD | {"forget/attention_mask": torch.tensor([[0, 1, 2]])},
            ABOUT,
            "holds other numbers than 0 and 1",
        ),
        ({"forget/logits": torch.zeros(1, 3, 5)}, ABOUT, "nothing in it can be compared"),
    ],
)
def test_a_bad_dump_is_one_clear_line_and_exit_2(tensors, about, words, tmp_path, capsys):
    save_file(tensors, tmp_path / "d.safetensors", about)
    status, _, error = run(capsys, tmp_path / "d.safetensors")
    assert status == 2 and words in error and len(error.splitlines()) == 1, error


@pytest.mark.slow
@pytest.mark.parametrize(
    "tensors, words",
    [
        (
            {"forget/pixel_values": torch.zeros(1, 3, 9, 9)},
            "forget/pixel_values has shape [1, 3, 9, 9]; expected [., 3, ",
        ),
        (
            {"forget/pixel_values": torch.zeros(2, 9)},
            "forget/pixel_values has shape [2, 9]; expected [., 3, ",
        ),
        ({"forget/features": torch.zeros(1, 7)}, "forget/features has shape [1, 7]; expected [., "),
        (
            {"forget/image_grid_thw": torch.ones(1, 3, dtype=torch.int64)},
            "forget/image_grid_thw is given",
        ),
    ],
)
def test_pictures_of_another_size_than_the_models_are_one_clear_line(
    tensors, words, tmp_path, capsys
):
    ids = {"forget/input_ids": torch.tensor([[1, 2, 3]])}
    save_file(ids | tensors, tmp_path / "d.safetensors", ABOUT)
    status, _, error = run(capsys, tmp_path / "d.safetensors", "--model", "mini")
    assert status == 2 and words in error and len(error.splitlines()) == 1, error


@pytest.mark.parametrize(
    "theirs, ours", [(torch.inf, torch.inf), (1.0, torch.inf), (1.0, torch.nan)]
)
def test_what_is_not_finite_differs(theirs, ours):
    dump = dump_file.Dump("d", "", "paper", None, {}, {}, {}, None)
    compared = comparison.Comparison(dump, None)
    compared.compare(
        "logits",
        "forget",
        *(torch.full((1, 2, 3), x) for x in (theirs, ours)),
        torch.tensor([[True, False]]),
    )
    [finding] = compared.findings
    assert not finding.same and finding.where == (0, 0, 0) and finding.n_off == 1


def test_a_loss_of_logits_too_large_to_add_is_no_agreement(tmp_path, capsys):
    logits = torch.zeros(1, 3, 5, dtype=torch.float64)
    logits[0, :, 0] = 1.7e308
    save_file(
        GOOD | {"forget/logits": logits, "loss": torch.tensor(1.0, dtype=torch.float64)},
        tmp_path / "d.safetensors",
        ABOUT,
    )
    status, shown, error = run(capsys, tmp_path / "d.safetensors")
    assert status == 1 and "first difference: loss" in shown and len(error.splitlines()) == 1


def test_no_file_no_dump_and_no_safetensors_are_one_clear_line(tmp_path, capsys):
    (tmp_path / "text").write_text("no tensors")
    for arguments, words in (
        ([tmp_path / "none"], "no such file"),
        ([tmp_path / "text"], "not a whole safetensors file"),
        ([], "no DUMP is named"),
    ):
        status, _, error = run(capsys, *arguments)
        assert status == 2 and words in error and len(error.splitlines()) == 1


def test_the_helper_is_short_stands_alone_and_is_what_is_printed(capsys):
    status, shown, _ = run(capsys, "--helper")
    assert status == 0 and shown.rstrip("\n") == Path(dump_helper.__file__).read_text().rstrip("\n")
    lines = shown.rstrip("\n").splitlines()
    assert len(lines) < 75 and not [
        line for line in lines if line.startswith(("from .", "import clear_ref", "from clear_ref"))
    ]
    assert json.loads(run(capsys, "--helper", "--json")[1]) == {"helper": shown.rstrip("\n")}
    assert diff.helper() == shown.rstrip("\n")
