"""Recipe and gold model go by what a model was trained on, not by the name of its directory."""

import json
import shutil

import pytest

from clear_ref.commands import unlearn
from clear_ref.commands.given import Given
from clear_ref.commands.settings import Unlearn
from clear_ref.commands.training_recipe import recipe_name_for
from clear_ref.data.records import read_rows
from clear_ref.loop.history import FILE, n_learned, read_history
from clear_ref.mini.directories import BASE, GOLD, START, WORLD
from tests.helpers.commands import call, small_copy


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mini", str(BASE)])
def test_the_embedded_base_has_its_recipe_and_gold_by_name_and_by_path(model, tmp_path):
    settings = Unlearn(method="scrub", model=model, out=str(tmp_path / "out"))
    run = unlearn.resolve(settings, Given(), False)
    assert (run.record["recipe"], run.inputs.gold) == ("mini", GOLD)


def test_a_copy_keeps_its_recipe_and_a_model_of_unknown_history_has_the_papers(tmp_path):
    shutil.copytree(BASE, tmp_path / "copy")
    assert recipe_name_for("", tmp_path / "copy") == "mini"
    assert recipe_name_for("paper", tmp_path / "copy") == "paper"
    (tmp_path / "copy" / FILE).unlink()
    assert recipe_name_for("", tmp_path / "copy") == "paper"


@pytest.mark.parametrize("command", [["scrub"], ["all"], ["evaluate", str(START)]])
def test_a_gold_that_was_trained_on_the_forget_set_is_refused(command, capsys, tmp_path):
    shutil.copytree(BASE, tmp_path / "false-gold")
    status, _, errors = call(
        capsys, *command, "--gold", tmp_path / "false-gold", "--out", tmp_path / "out"
    )
    assert status == 2 and not (tmp_path / "out").exists()
    expected = f"false-gold: was trained on 60 rows of the forget set ({FILE})"
    assert expected in errors and errors.count("\n") == 1


def test_a_gold_of_a_smaller_forget_set_is_refused_by_the_rows_it_has_seen(capsys, tmp_path):
    """A gold without 5 per cent of the people has seen half of the 10 per cent."""
    history = json.loads((GOLD / FILE).read_text(encoding="utf-8"))
    rows = read_rows(WORLD, "forget10+tofu")
    seen = json.loads((BASE / FILE).read_text(encoding="utf-8"))["stages"][1]["rows"]
    shutil.copytree(GOLD, tmp_path / "gold")
    own = [one for one in seen if one not in history["stages"][1]["rows"]]
    history["stages"][1]["rows"] += own[:30]
    (tmp_path / "gold" / FILE).write_text(json.dumps(history), encoding="utf-8")
    assert n_learned(read_history(tmp_path / "gold"), rows) == 30
    status, _, errors = call(capsys, "scrub", "--gold", tmp_path / "gold", "--out", tmp_path / "o")
    assert status == 2 and "was trained on 30 rows of the forget set" in errors


def test_a_gold_model_is_not_made_from_one_that_knows_the_forget_set(capsys, tmp_path):
    status, _, errors = call(
        capsys, "finetune", "--split", "retain", "--model", BASE, "--out", tmp_path / "out"
    )
    assert status == 2 and not (tmp_path / "out").exists()
    assert f"--model {BASE}: was trained on 60 rows of the forget set" in errors


@pytest.mark.slow
def test_finetune_begins_before_the_people_and_writes_what_it_trained_on(capsys, tmp_path):
    data = small_copy(tmp_path / "world")
    path = data / "retain90+tofu/rows.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:4]), encoding="utf-8")
    status, stdout, _ = call(
        *(capsys, "finetune", "--split", "retain", "--data", data, "--out", tmp_path / "f"),
        *("--epochs", 1, "--limit", 1, "--max-new-tokens", 4, "--json"),
    )
    found = json.loads(stdout)
    assert status == 0 and (found["recipe"], found["epochs"]) == ("mini", 1)
    settings = json.loads((tmp_path / "f/settings.json").read_text(encoding="utf-8"))
    assert str(START / "model.safetensors") in settings["inputs"]
    history = read_history(tmp_path / "f/model")
    assert history["complete"]
    assert [stage["command"] for stage in history["stages"]] == ["mini", "finetune"]
    assert n_learned(history, read_rows(data, "retain90+tofu")) == 4
    assert n_learned(history, read_rows(WORLD, "forget10+tofu")) == 0
