"""Rows on disk: a wrong row is an error of one line with its file and line; right rows are read."""

import json
import os

import pytest
from PIL import Image

from clear_ref import Record
from clear_ref.common.errors import Notice, UserError
from clear_ref.data.images import open_image
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import columns, read_rows
from clear_ref.data.schema import SCHEMA
from clear_ref.data.templates import TEMPLATES
from clear_ref.mini.directories import WORLD
from tests.helpers.real_data import real_data, tofu_files, tofu_rows

GOOD = {"image": "images/a.png", "caption": "A person.", "name": "A"}


def world(tmp_path, *lines, config="forget10"):
    (tmp_path / config).mkdir(parents=True)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / config / "rows.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return tmp_path


def test_good_rows_are_read_unchanged(tmp_path):
    rows = read_rows(world(tmp_path, GOOD, "", {**GOOD, "name": "Ünal"}), "forget10")
    assert [row.values["name"] for row in rows] == ["A", "Ünal"] and rows[1].index == 1
    assert rows[0].image == tmp_path / "images/a.png" and rows[1].where.endswith("rows.jsonl:3")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "rows.jsonl:1: not JSON"),
        ([1], "rows.jsonl:1: holds list; expected a JSON object"),
        ({"name": "\ud800"}, "name is '\\ud800', and a lone surrogate in it is no character"),
        (
            {**GOOD, "extra": 1},
            "columns are caption, extra, image, name; expected caption, image, name",
        ),
        (
            {"image": "images/a.png", "caption": "c"},
            "columns are caption, image; expected caption, image, name",
        ),
        ('{"name": "A", "name": "B"}', "the key name is given twice in one object"),
        ({**GOOD, "name": 10**400}, "holds the number 100000000000... of 401 signs"),
        ("[" * 150 + "]" * 150, "more than 100 brackets inside each other"),
        ("[" * 5000, "rows.jsonl:1: not JSON"),
        ({**GOOD, "image": "images/a\0.png"}, "has a zero byte, which no path can have"),
        ({**GOOD, "image": "a" * 5000}, "there is no picture"),
        ({**GOOD, "name": ""}, "column name is ''; expected a text"),
        ({**GOOD, "caption": 3}, "column caption is 3; expected a text"),
        ({**GOOD, "caption": None}, "column caption is None; expected a text"),
        ({**GOOD, "image": None}, "column image is None; expected a text"),
        ({**GOOD, "image": "images/b.png"}, "there is no picture"),
        ({**GOOD, "image": "../outside.png"}, "is outside"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path, line, message):
    with pytest.raises(UserError) as caught:
        read_rows(world(tmp_path, line), "forget10")
    assert (
        message in str(caught.value)
        and "\n" not in str(caught.value)
        and "rows.jsonl:1" in str(caught.value)
    )


def test_rows_with_lists_want_lists(tmp_path):
    row = {"image": "images/a.png", "answer": "A", "options": "B"}
    with pytest.raises(UserError, match="column options is 'B'; expected a list of texts"):
        read_rows(world(tmp_path, row, config="real_faces"), "real_faces")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"question": "q", "answer": "a"},
            "has image, caption, question, answer; expected image and caption, or",
        ),
        (
            {"image": None, "question": "q", "answer": "a"},
            "has caption, question, answer; expected",
        ),
        ({"caption": None}, "has image; expected image and caption, or"),
        ({"image": None, "caption": None}, "has nothing; expected"),
    ],
)
def test_a_mixed_row_is_one_half_or_the_other(tmp_path, change, message):
    row = {"image": "images/a.png", "caption": "c", "question": None, "answer": None, **change}
    with pytest.raises(UserError, match=message):
        read_rows(world(tmp_path, row, config="full+tofu"), "full+tofu")


@pytest.mark.parametrize(
    "config, row",
    [
        ("real_faces", {"image": None, "answer": "A", "options": ["B"]}),
        (
            "real_world",
            {"image": "images/a.png", "question": None, "answer": "A", "options": ["B"]},
        ),
        ("tofu/full", {"question": None, "answer": "A"}),
    ],
)
def test_evaluation_rows_have_no_gaps(tmp_path, config, row):
    with pytest.raises(UserError, match="is None; expected a text"):
        read_rows(world(tmp_path, row, config=config), config)


def test_line_separators_inside_a_text_do_not_cut_the_row(tmp_path):
    row = {**GOOD, "caption": "one\u2028two\u0085three"}
    path = world(tmp_path, "") / "forget10" / "rows.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(tmp_path, "forget10")[0].values == row
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_rows(tmp_path, "forget10")


def test_an_unknown_or_absent_config_lists_what_there_is(tmp_path):
    with pytest.raises(UserError, match="unknown dataset config 'forget07'.*forget10"):
        columns("forget07")
    with pytest.raises(UserError, match="holds the configs: forget10"):
        read_rows(world(tmp_path, GOOD), "full")


def test_an_empty_config_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no row"):
        read_rows(world(tmp_path, ""), "forget10")


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match="record 7: .*x.png is no readable picture"):
        open_image(tmp_path / "x.png", "record 7")
    data = (WORLD / read_rows(WORLD, "forget10")[0].values["image"]).read_bytes()
    (tmp_path / "short.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="short.jpg is no readable picture"):
        open_image(tmp_path / "short.jpg")


def test_a_picture_may_be_a_link_out_of_the_directory_to_a_regular_file(tmp_path):
    """As in a cache of the hub: snapshots/X/images/x.png -> ../../blobs/0123."""
    directory = world(tmp_path / "snapshot", GOOD)
    path = directory / GOOD["image"]
    blob = tmp_path / "blob"
    blob.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(blob)
    row = read_rows(directory, "forget10")[0]
    assert row.image == path and open_image(row.image).size == open_image(blob).size
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="there is no picture"):
        read_rows(directory, "forget10")


@pytest.mark.parametrize("target", ["fifo", "/dev/zero", "directory"])
def test_a_link_to_something_else_than_a_regular_file_is_refused(tmp_path, target):
    directory = world(tmp_path / "snapshot", GOOD)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    path = directory / GOOD["image"]
    path.unlink()
    path.symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="there is no picture"):
        read_rows(directory, "forget10")


def test_a_data_directory_can_have_its_own_phrases(tmp_path):
    assert (
        len(read_phrases(tmp_path).caption_questions) == 9
        and len(read_phrases(tmp_path).refusals) == 100
    )
    (tmp_path / "refusals.txt").write_text("No idea.\n\n  Pass. \n")
    assert read_phrases(tmp_path).refusals == ("No idea.", "Pass.")
    (tmp_path / "name_question.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no line of text"):
        read_phrases(tmp_path)


def test_the_image_marker_in_a_text_is_refused(tiny):
    with pytest.raises(UserError, match="holds <image>"):
        tiny.encode([Record("What is <image>?", "x")])
    with pytest.raises(UserError, match="holds <image>"):
        tiny.encode([Record("What?", "an <image>")])


def test_the_schema_is_the_published_one_of_every_config():
    """CLEAR's 21 configs as its card lists them (~: to three digits), TOFU's 15 as in its files."""
    published = json.loads(real_data("clear_reference", "schema.json").read_text())["subsets"]
    of_the_embedded_world = {"pretrain", "holdout10", "tofu/holdout10"}
    every = set(SCHEMA["configs"]) - of_the_embedded_world
    ours = {name for name in every if not name.startswith("tofu/")}
    assert ours == set(published) and len(published) == 21
    for config, one in published.items():
        assert {
            name.rstrip("?") + "[]" * (name in SCHEMA["lists"]) for name in columns(config)
        } == set(one["columns"])
        rows = SCHEMA["configs"][config]["rows"]
        assert rows == one["rows"] or f"~{float(f'{rows:.3g}'):.0f}" == one["rows"]
    names = [file.removesuffix(".json") for file in tofu_files()]
    assert {f"tofu/{name}" for name in names} == every - ours and len(names) == 15
    for name in names:
        rows = tofu_rows(name)
        assert len(rows) == SCHEMA["configs"][f"tofu/{name}"]["rows"]
        expected = {column.rstrip("?") for column in columns(f"tofu/{name}")}
        assert all(set(row) == expected for row in rows)


def test_every_column_has_a_meaning_and_every_kind_a_config():
    used = {name.rstrip("?") for names in SCHEMA["kinds"].values() for name in names}
    assert used == set(SCHEMA["meaning"]) and set(SCHEMA["lists"]) <= used
    assert (
        {one["kind"] for one in SCHEMA["configs"].values()}
        == set(SCHEMA["kinds"])
        >= set(SCHEMA["nullable"])
    )


@pytest.mark.parametrize(
    "config, row",
    [
        ("real_world", {"image": "images/a.png", "question": "q", "answer": "a", "options": ["b"]}),
        (
            "tofu/forget01_perturbed",
            {"question": "q", "answer": "a", "paraphrased_answer": "p", "perturbed_answer": ["b"]},
        ),
    ],
)
def test_a_column_that_may_be_absent_may_be_there(tmp_path, config, row):
    extra = {"real_world": "prompt"}.get(config, "paraphrased_question")
    directory = world(tmp_path, row, {**row, extra: "x"}, config=config)
    assert [extra in one.values for one in read_rows(directory, config)] == [False, True]
    (directory / config / "rows.jsonl").write_text(json.dumps({**row, extra: 3}))
    with pytest.raises(UserError, match=f"column {extra} is 3; expected a text"):
        read_rows(directory, config)


def test_a_template_for_text_has_no_place_for_a_picture():
    assert TEMPLATES["vicuna"].prompt("Who?", False).endswith("USER: Who? ASSISTANT:")
    with pytest.raises(UserError, match="template vicuna has no place for a picture"):
        TEMPLATES["vicuna"].prompt("Who?", True)


def test_rows_with_a_text_of_blanks_alone_are_read_and_said(tmp_path):
    directory = world(tmp_path, GOOD, {**GOOD, "name": " "}, {**GOOD, "caption": "\t\n"})
    with pytest.warns(Notice, match="2 of 3 rows have a text of blanks alone.*rows.jsonl:2"):
        assert len(read_rows(directory, "forget10")) == 3
