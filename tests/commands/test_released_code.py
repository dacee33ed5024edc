"""--released-code: which of the authors' two training codes a run of --semantics released is of.

Run: python -m pytest tests/commands/test_released_code.py
"""

import json
import re

import pytest

from clear_ref.commands.released_code import CODES, released_code, with_released_code
from clear_ref.commands.settings import Unlearn
from clear_ref.commands.several_methods import methods_for
from clear_ref.common.errors import Notice, UserError
from clear_ref.methods import METHODS, SEMANTICS
from tests.helpers.commands import call


@pytest.mark.parametrize(
    "semantics, modality, code, found",
    [
        ("paper", "text", "auto", "auto"),
        ("original", "both", "auto", "auto"),
        ("released", "both", "auto", "mm"),
        ("released", "visual", "auto", "mm"),
        ("released", "text", "auto", "nlp"),
        ("released", "text", "mm", "mm"),
        ("released", "text", "nlp", "nlp"),
        ("released@2024-10-23", "text", "auto", "nlp"),
        ("released@2024-10-23", "text", "mm", "mm"),
        ("released@nlp", "text", "auto", "nlp"),
    ],
)
def test_the_code_by_semantics_and_modality(semantics, modality, code, found):
    """nlp/ has computed the same at every date."""
    assert released_code(semantics, modality, code) == found


@pytest.mark.parametrize(
    "semantics, modality, code, words",
    [
        ("paper", "text", "nlp", "--semantics is paper, which is no released code"),
        ("released", "both", "nlp", "reads no pictures; expected --modality text"),
        ("released@nlp", "visual", "auto", "reads no pictures; expected --modality text"),
        ("released@nlp", "text", "mm", "--semantics is released@nlp; expected"),
    ],
)
def test_values_that_contradict_each_other_are_one_line(semantics, modality, code, words):
    with pytest.raises(UserError, match=re.escape(words)):
        released_code(semantics, modality, code)


def test_every_combination_is_a_code_or_one_line_and_a_second_time_changes_nothing():
    for semantics in SEMANTICS:
        for modality in ("both", "visual", "text"):
            for code in CODES:
                asked = Unlearn(semantics=semantics, modality=modality, released_code=code)
                try:
                    found = with_released_code(asked)
                except UserError:
                    continue
                assert with_released_code(found) == found
                text_only = found.semantics == "released@nlp"
                assert text_only == (found.released_code == "nlp")
                assert found.retain_modality == ("text" if text_only else "both")


def test_a_retain_modality_that_the_text_only_code_lacks_is_refused_only_if_it_was_given():
    asked = Unlearn(semantics="released", modality="text")
    assert with_released_code(asked).retain_modality == "text"
    with pytest.raises(UserError, match="--retain-modality is both, and the authors' text-only"):
        with_released_code(asked, {"retain_modality"})


def test_all_leaves_sku_out_with_a_notice_and_refuses_it_alone():
    with pytest.warns(Notice, match="sku: not run under released@nlp"):
        found = methods_for(list(METHODS), "released@nlp")
    assert found == [method for method in METHODS if method != "sku"]
    with pytest.raises(UserError, match="text-only code has no sku"):
        methods_for(["sku"], "released@nlp")
    assert methods_for(list(METHODS), "released") == list(METHODS)


@pytest.mark.slow
def test_a_run_says_which_code_it_used_and_its_settings_repeat_it(tmp_path, capsys):
    """settings.json, metrics.json and the first line; a record of an older version is of mm."""
    few = "--epochs 1 --limit 2 --tasks eval_text_forget --batch-size 12".split()
    out = tmp_path / "run"
    text = ["--semantics", "released", "--modality", "text"]
    status, shown, _ = call(capsys, "dpo", *text, *few, "--out", out)
    assert status == 0 and "semantics released@nlp" in shown
    record = json.loads((out / "settings.json").read_text())
    values = {name: record["settings"][name]["value"] for name in ("semantics", "released_code")}
    assert values == {"semantics": "released@nlp", "released_code": "nlp"}
    assert record["settings"]["retain_modality"] == {
        "value": "text",
        "source": "the authors' text-only code reads no pictures",
    }
    assert json.loads((out / "metrics.json").read_text())["semantics"] == "released@nlp"

    del record["settings"]["released_code"]
    record["settings"]["semantics"] = {"value": "released", "source": "command line"}
    older = tmp_path / "older.json"
    older.write_text(json.dumps(record))
    again = tmp_path / "again"
    status, shown, _ = call(capsys, "dpo", "--settings", older, "--out", again)
    assert status == 0 and "semantics released," in shown
    repeated = json.loads((again / "settings.json").read_text())["settings"]
    assert repeated["released_code"]["value"] == "mm"
    assert repeated["semantics"]["value"] == "released"
