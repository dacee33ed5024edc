"""The pages in clear_ref/model/keys are those of the tables that the readers use, all of them."""

import importlib

import pytest

from clear_ref.common.file_keys import KeyTable, NoEffect, Only, Used
from clear_ref.common.files import read_text
from clear_ref.model import generation_keys, key_page


@pytest.mark.parametrize("name", key_page.pages())
def test_a_page_is_what_the_tables_say(name):
    assert read_text(key_page.PAGES / name) == key_page.pages()[name], (
        "python -m clear_ref.model.key_page writes it again"
    )


def test_there_is_no_page_of_a_table_that_is_gone():
    assert {path.name for path in key_page.PAGES.iterdir()} == set(key_page.pages())


def test_every_module_of_keys_is_in_the_pages():
    rooms = [key_page.PAGES.parent, key_page.PAGES.parents[1] / "data"]
    modules = [path for room in rooms for path in room.glob("*_keys.py")]
    assert len(modules) >= 5
    shown = {id(table) for table in key_page.TABLES}
    for path in modules:
        name = f"clear_ref.{path.parent.name}.{path.stem}"
        missing = [
            table.part
            for table in getattr(importlib.import_module(name), "TABLES", ())
            if id(table) not in shown and table is not generation_keys.LEGACY
        ]
        assert not missing, (name, missing)


def test_every_refusal_is_listed_with_its_reason():
    main = key_page.pages()[key_page.MAIN]
    n_refusals = 0
    for table in key_page.TABLES:
        for key, fate in table.keys.items():
            words = fate.what if isinstance(fate, Used) else fate.why
            assert words and "\n" not in words, (table.part, key)
            if key_page.is_refusal(fate):
                n_refusals += 1
                assert f"`{key}`" in main and key_page.cell(words) in main, (table.part, key)
    assert n_refusals > 50


def test_keys_with_one_fate_in_the_same_parts_are_one_row():
    stored = NoEffect("stored")
    a = KeyTable("f.json", "a", "lib", {"x": stored, "y": stored, "z": Only((None, 1), "no")})
    b = KeyTable("f.json", "b", "lib", {"x": stored, "y": stored, "w": Used("w", "0")}, "unread")
    page = key_page.file_page("f.json", [a, b])
    assert "| `x`, `y` | all | no effect | stored |" in page
    assert "| `z` | a | refused unless `null` or `1` | no |" in page
    assert "| `w` | b | used; refused: 0 | w |" in page
    assert "- a: a key that is not listed is refused" in page
    assert "- b: a key that is not listed is ignored: unread" in page
