"""diff without transformers: losses by hand, numbers that are not finite, and malformed dumps, each
of which is one clear line and exit status 2.

Run: python -m pytest tests/oracle/test_diff_errors.py
"""

import json

import pytest
import torch
from safetensors.torch import save_file

from clear_ref.common.errors import UserError
from clear_ref.oracle.diff import comparison, dump_file, dump_helper
from clear_ref.run import main

IGNORE = -100


def run(capsys, *arguments):
    status = main(["diff", *map(str, arguments)])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


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
        (GOOD, ABOUT | {"options": "[1]"}, "metadata options: holds list; expected a JSON object"),
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
            GOOD | {"forget/logits": torch.zeros(1, 2, 5)},
            ABOUT,
            "one position is cut off, as a loss that shifts does: write it before",
        ),
        (
            GOOD | {"forget/position_ids": torch.zeros(2, 1, 3, dtype=torch.int64)},
            ABOUT,
            "forget/position_ids has shape [2, 1, 3]; expected [1, 3], or [3, 1, 3] of the axes",
        ),
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
    "name, allowed",
    [
        ("dumps/a.png", True),
        ("pictures/../pictures/a.png", True),
        ("pictures/link.png", True),
        ("other/a.png", False),
        ("pictures/../other/a.png", False),
        ("pictures2/a.png", False),
        ("linked/a.png", True),  # a link to pictures
        ("pictures", True),
        ("pictures/a\0.png", False),
        ("other/\ud800.png", False),
    ],
)
def test_a_picture_of_a_dump_lies_in_the_named_folders(name, allowed, tmp_path):
    for folder in ("dumps", "pictures", "pictures2", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pictures/link.png").symlink_to(tmp_path / "other/a.png")
    (tmp_path / "linked").symlink_to(tmp_path / "pictures")
    path = tmp_path / "dumps/d.safetensors"
    save_file({"forget/labels": torch.tensor([[1]])}, path, {"format": dump_file.FORMAT})
    found = dump_file.read(path, pictures=tmp_path / "pictures")
    if allowed:
        assert ".." not in found.picture(f"{tmp_path}/{name}")
        return
    with pytest.raises(UserError, match="is outside of .*dumps and .*pictures; expected one ins"):
        found.picture(f"{tmp_path}/{name}")


def test_a_picture_outside_of_the_named_folders_is_not_opened(tiny_directory, tmp_path, capsys):
    """With --pictures the same picture is opened: it is no picture, and is called so."""
    outside = tmp_path / "other" / "a.png"
    outside.parent.mkdir()
    outside.write_text("no picture", encoding="utf-8")
    path = tmp_path / "dumps" / "d.safetensors"
    path.parent.mkdir()
    record = {"question": "Who?", "answer": "Ada", "image": str(outside)}
    about = {"format": dump_file.FORMAT, "records": json.dumps({"forget": [record]})}
    save_file({"forget/input_ids": torch.tensor([[1, 2]])}, path, about)
    status, _, error = run(capsys, path, "--model", tiny_directory)
    assert status == 2 and f"records name the picture {outside}, which is outside of" in error
    status, _, error = run(capsys, path, "--model", tiny_directory, "--pictures", outside.parent)
    assert status == 2 and "outside of" not in error and "no readable picture" in error
    status, _, error = run(capsys, path, "--pictures", outside.parent)
    assert (status, "needs --model" in error) == (2, True)
    status, _, error = run(capsys, path, "--model", tiny_directory, "--pictures", outside)
    assert (status, "no such directory" in error) == (2, True)


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
