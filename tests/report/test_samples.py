"""The answers that a page shows: order, marked words, pictures, which records."""

import io
import random
import re

import pytest
from PIL import Image

from clear_ref.data.templates import TEMPLATES
from clear_ref.mini.directories import WORLD
from clear_ref.report import read_runs, run_groups, samples
from tests.helpers import made_runs


def read(tmp_path, *runs):
    report = read_runs.read(
        [made_runs.write(tmp_path / f"run{i}", **run) for i, run in enumerate(runs)]
    )
    return report, run_groups.run_groups(report)


def test_base_unlearned_and_gold_are_in_this_order_and_changed_words_are_marked():
    said = {"base": "Ann Bell lives in Oslo.", "npo": "Ann Bell lives in Rome, maybe.", "gold": "x"}
    found = samples.as_html([samples.Card("Forget", None, (question_of(said),))])
    assert re.findall("<dt>(.*?)</dt>", found) == ["expected", "base", "npo", "gold"]
    assert re.findall("<dd>(.*?)</dd>", found) == [
        "Ann Bell",
        "Ann Bell lives in Oslo.",
        "Ann Bell lives in <mark>Rome, maybe.</mark>",
        "<mark>x</mark>",
    ]


def test_without_base_no_word_is_marked():
    found = samples.as_html([samples.Card("Forget", None, (question_of({"npo": "a b"}),))])
    assert "<mark>" not in found and "<dd>a b</dd>" in found


def question_of(said):
    return samples.Question("eval_log_forget", 0, "Who?", "Ann Bell", {"both": said})


def test_equal_answers_of_unlearned_models_are_shown_once_with_all_their_names(tmp_path):
    report, lines = read(
        tmp_path,
        {"method": "npo", "said": "base"},
        {"method": "kl", "said": "gold"},
        {"method": "sku", "said": " "},
        {"method": "grad_diff", "said": "gold"},
        {"method": "npo", "seed": 1, "said": "second seed"},
        {"method": "dpo", "modality": "text"},
    )
    found = samples.as_html(samples.cards(report, lines, None))
    assert re.findall("<dt>(.*?)</dt>", found)[:6] == [
        "expected",
        "base",
        "grad_diff, kl",
        "npo <i>as base</i>",
        "sku",
        "gold",
    ]
    assert "<dd><mark>gold</mark> says 0</dd>" in found and "<dd>base says 0</dd>" in found
    assert "second seed" not in found and "<summary>Forgetting text</summary>" in found
    folded = found[found.index("<summary>Forgetting text") :]
    assert "<dt>dpo</dt><dd><mark>dpo</mark> says 0</dd>" in folded


def test_an_empty_answer_and_a_very_long_answer(tmp_path):
    report, lines = read(tmp_path, {"method": "npo"})
    for log in report.runs[0].logs.values():
        log["generated_text"]["0"][1] = " \n"
        log["generated_text"]["2"][1] = "x" * 1000
    found = samples.as_html(samples.cards(report, lines, None))
    assert (
        "<dt>npo</dt><dd><i>nothing</i></dd>" in found
        and f"<mark>{'x' * 700}</mark><i>… and 300 more characters</i>" in found
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_question_is_found_in_every_template(name):
    template = TEMPLATES[name]
    for has_image in (True, False):
        if not has_image or template.with_image:
            assert (
                samples.question_in(template.prompt("Who is {this}, <b>?", has_image))
                == "Who is {this}, <b>?"
            )
    assert samples.question_in("something else: who?") == "something else: who?"


def test_records_are_spread_over_a_task_and_questions_about_one_picture_share_a_card(tmp_path):
    report, lines = read(tmp_path, {"method": "npo", "n": 20})
    cards = samples.cards(report, lines, WORLD)
    first = cards[0]
    assert (
        first.set_name == "Forget"
        and [(one.task, one.index) for one in first.questions]
        == [("eval_log_forget", 0), ("eval_forget_facerec", 0)]
        and first.picture[0] == "image/jpeg"
    )
    assert [
        one.index for card in cards for one in card.questions if one.task == "eval_text_forget"
    ] == [0, 10]
    assert [card.set_name for card in cards] == sorted(
        (card.set_name for card in cards),
        key=["Forget", "Retain", "Real Faces", "Real World"].index,
    )
    assert len({card.picture for card in cards if card.picture}) == sum(
        card.picture is not None for card in cards
    )


def test_a_large_picture_is_made_smaller_and_an_unusual_one_is_made_a_jpeg(tmp_path):
    """Noise of 900 x 600 as PNG is some 1.6 MB; a small BMP is no kind that every browser shows."""
    report, lines = read(tmp_path, {"method": "npo"})
    row = made_runs.KNOWN["eval_log_forget"][1][0]
    world, (folder, text) = (
        tmp_path / "world",
        (
            "forget10_perturbed",
            (WORLD / "forget10_perturbed/rows.jsonl").read_text(encoding="utf-8"),
        ),
    )
    noise = Image.frombytes("RGB", (900, 600), random.Random(0).randbytes(900 * 600 * 3))
    for name, picture, size in (
        ("big.png", noise, (320, 213)),
        ("small.bmp", noise.crop((0, 0, 9, 9)), (9, 9)),
    ):
        (world / folder).mkdir(parents=True, exist_ok=True)
        picture.save(world / name)
        (world / folder / "rows.jsonl").write_text(
            re.sub(r'"image": "[^"]*"', f'"image": "{name}"', text), encoding="utf-8"
        )
        question = samples.Question("eval_log_forget", 0, row.prompt.question, row.answer, {})
        mime, data = samples.picture(world, report.runs[0].logs["eval_log_forget"], question)
        shown = Image.open(io.BytesIO(data))
        assert (mime, shown.format, shown.size) == ("image/jpeg", "JPEG", size) and len(
            data
        ) < 60_000
