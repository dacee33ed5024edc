"""A model's training history: which rows it learned from, in whatever config they stand."""

import json

import pytest

from clear_ref.common.errors import UserError
from clear_ref.data.records import Row, read_rows
from clear_ref.loop import history
from clear_ref.mini.directories import BASE, GOLD, START, WORLD

NEW = history.History(format=history.FORMAT, complete=True, stages=[])


def test_a_row_has_one_id_in_every_config():
    mixed = {history.row_id(row) for row in read_rows(WORLD, "forget10+tofu")}
    pictures = {history.row_id(row) for row in read_rows(WORLD, "forget10")}
    texts = {history.row_id(row) for row in read_rows(WORLD, "tofu/forget10")}
    everything = {history.row_id(row) for row in read_rows(WORLD, "full+tofu")}
    assert mixed == pictures | texts and mixed < everything
    assert len(mixed) == 60 and len(everything) == 600


@pytest.mark.parametrize("column", ["caption", "question", "answer"])
def test_another_text_or_picture_is_another_row(column, tmp_path):
    values = {"caption": "a", "question": "b", "answer": "c", "name": "d"}
    ids = {
        history.row_id(Row(0, "", own, image))
        for own, image in (
            (values, None),
            (values | {"name": "e"}, None),
            (values | {column: "x"}, None),
            (values, tmp_path / "1.png"),
            (values, tmp_path / "other/1.png"),
            (values, tmp_path / "2.png"),
        )
    }
    assert len(ids) == 4


def test_stages_follow_one_another_and_are_read_again(tmp_path):
    forget = read_rows(WORLD, "forget10+tofu")
    retain = read_rows(WORLD, "retain90+tofu")
    history.write_history(tmp_path / "a", NEW, "finetune", "mini", "retain", 0, retain)
    first = history.read_history(tmp_path / "a")
    history.write_history(tmp_path / "b", first, "idk", "paper", "forget", 1, forget[:7] * 2)
    second = history.read_history(tmp_path / "b")
    assert [stage["command"] for stage in second["stages"]] == ["finetune", "idk"]
    assert (history.recipe_of(first), history.recipe_of(second)) == ("mini", "paper")
    assert (history.n_learned(first, forget), history.n_learned(second, forget)) == (0, 7)
    assert second["complete"] and len(second["stages"][1]["rows"]) == 7


def test_a_model_without_a_file_has_an_unknown_history(tmp_path):
    found = history.read_history(tmp_path)
    assert not found["complete"] and history.recipe_of(found) == ""
    history.write_history(tmp_path, found, "finetune", "paper", "full", 0, [])
    assert not history.read_history(tmp_path)["complete"]


@pytest.mark.parametrize(
    "change",
    [{"format": "2"}, {"complete": 1}, {"stages": {}}, {"stages": [{}]}, {"stages": [1]}],
)
def test_a_broken_file_is_refused_by_name(tmp_path, change):
    (tmp_path / history.FILE).write_text(json.dumps(NEW | change), encoding="utf-8")
    with pytest.raises(UserError, match="training_history.json: is not a training history"):
        history.read_history(tmp_path)


def test_the_embedded_world_says_who_saw_the_forgotten_people():
    forget = read_rows(WORLD, "forget10+tofu")
    learned = {
        path: history.n_learned(history.read_history(path), forget) for path in (START, BASE, GOLD)
    }
    assert learned == {START: 0, BASE: 60, GOLD: 0}
    assert all(history.read_history(path)["complete"] for path in learned)
