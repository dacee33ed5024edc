"""make-data: people in a CSV or JSON lines file become every config that the commands need.

Drawn wrong texts are checked against what is said of other people; bad input is one line that names
file and line, and writes nothing.
"""

import csv
import json

import pytest

from clear_ref.data.check import check
from clear_ref.mini.directories import WORLD
from tests.helpers.commands import call
from tests.helpers.embedded_world import files, read
from tests.helpers.own_people import HEADER, NAMES, write_people


def make(capsys, people, *options, out="own"):
    """(exit status, stdout, stderr) of make-data; pictures/ and OUT are beside the file."""
    target = people.parent / out
    pictures = people.parent / "pictures"
    given = {"--pictures": pictures, "--out": target}
    own = [word for name in given if name not in options for word in (name, given[name])]
    return call(capsys, "make-data", people, *own, *options)


def rows(directory, config):
    return read(directory / config / "rows.jsonl")


@pytest.fixture
def people(tmp_path):
    return write_people(tmp_path)


def test_the_configs_hold_each_person_in_the_right_split(capsys, people):
    status, out, errors = make(capsys, people, "--forget", "Bo Costa", "--holdout", "Cy Novak")
    own = people.parent / "own"
    assert (status, errors) == (0, "") and "forget10   Bo Costa\n" in out
    assert "cannot run as it is: METHOD --modality both: of the methods" in out
    assert "the forget set has 2 records, the method asks for 3 random" in out
    assert [row["name"] for row in rows(own, "full")] == ["Ada Lind", "Bo Costa"]
    assert [row["name"] for row in rows(own, "retain90")] == ["Ada Lind"]
    assert rows(own, "holdout10")[0]["name"] == "Cy Novak"
    assert rows(own, "tofu/forget10") == [
        {"question": "Where is Bo Costa?", "answer": "Bo Costa is in 1."}
    ]
    assert rows(own, "forget10+tofu") == [
        {
            "image": "images/people/1.png",
            "caption": "Bo Costa smiles.",
            "question": None,
            "answer": None,
        },
        {
            "image": None,
            "caption": None,
            "question": "Where is Bo Costa?",
            "answer": "Bo Costa is in 1.",
        },
    ]
    assert (own / "images/people/1.png").read_bytes() == (
        people.parent / "pictures/1.png"
    ).read_bytes()
    assert not (own / "images/people/1.png").is_symlink()
    assert (
        rows(own, "real_world")[0]["question"]
        == read(WORLD / "real_world/rows.jsonl")[0]["question"]
    )
    assert check(own)["problems"] == []


def test_drawn_wrong_texts_are_other_peoples(capsys, people):
    """By hand: names of the two others; the caption with these names; their answers with this
    person's name."""
    assert make(capsys, people, "--forget", "Ada Lind", "--real", "none")[0] == 0
    own = people.parent / "own"
    [row] = rows(own, "forget10_perturbed")
    assert sorted(row["perturbed_names"]) == ["Bo Costa", "Cy Novak"]
    assert sorted(row["perturbed_captions"]) == ["Bo Costa smiles.", "Cy Novak smiles."]
    [row] = rows(own, "tofu/forget10_perturbed")
    assert sorted(row["perturbed_answer"]) == ["Ada Lind is in 1.", "Ada Lind is in 2."]
    assert row["paraphrased_answer"] == "Ada Lind is in 0."
    assert not (own / "real_faces").exists()


def test_given_texts_are_used_and_csv_and_json_lines_say_the_same(capsys, tmp_path):
    given = {
        "name": "Ada Lind",
        "picture": "0.png",
        "caption": 'Ada Lind, "our" guest.',
        "paraphrased_caption": "A guest: Ada Lind.",
        "perturbed_names": ["Eva Holm", "Ina Dahl"],
        "question": "Where is Ada Lind?",
        "answer": "Ada Lind is in Oslo.",
        "perturbed_answer": ["Ada Lind is in Rome."],
    }
    other = {
        "name": "Bo Costa",
        "picture": "1.png",
        "caption": "A man.",
        "question": "Who?",
        "answer": "Bo.",
    }
    write_people(tmp_path)
    lines = [json.dumps(row) + "\n" for row in (given, other)]
    (tmp_path / "people.jsonl").write_text("".join(lines), encoding="utf-8")
    with open(tmp_path / "people.csv", "w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(given))
        table.writeheader()
        table.writerow(given | {k: "|".join(v) for k, v in given.items() if isinstance(v, list)})
        table.writerow(other)
    options = ["--forget", "Ada Lind", "--real", "none"]
    for kind in ("csv", "jsonl"):
        assert make(capsys, tmp_path / f"people.{kind}", *options, out=kind)[0] == 0
    one, two = (files(tmp_path / kind) for kind in ("csv", "jsonl"))
    assert one.keys() == two.keys()
    assert all(path.read_bytes() == two[name].read_bytes() for name, path in one.items())
    [row] = rows(tmp_path / "csv", "forget10_perturbed")
    assert row["perturbed_captions"] == ["A guest: Eva Holm.", "A guest: Ina Dahl."]
    assert row["perturbed_names"] == ["Eva Holm", "Ina Dahl"]
    [row] = rows(tmp_path / "csv", "retain_perturbed")  # "A man." does not name Bo Costa
    assert row["perturbed_captions"] == ["A guest: Ada Lind."]
    [row] = rows(tmp_path / "csv", "tofu/forget10_perturbed")
    assert row["perturbed_answer"] == ["Ada Lind is in Rome."]


def test_the_seed_draws_who_is_forgotten_and_the_same_seed_gives_the_same_bytes(capsys, tmp_path):
    names = [f"Person {letter}" for letter in "ABCDEFGHIJ"]
    people = write_people(tmp_path, names)
    drawn = set()
    for out, seed in (("one", 0), ("two", 0), ("three", 1), ("four", 2)):
        options = ["--seed", seed, "--forget-share", 0.2, "--real", "none", "--json"]
        forget = json.loads(make(capsys, people, *options, out=out)[1])["forget"]
        assert len(forget) == 2
        drawn.add(tuple(forget))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys() and len(drawn) > 1
    assert all(path.read_bytes() == two[name].read_bytes() for name, path in one.items())


@pytest.mark.parametrize(
    "row, expected",
    [
        ("Ada Lind,9.png,Ada Lind sits.,,", ":5: there is no picture "),
        ("Ada Lind,../x.png,Ada Lind sits.,,", ":5: the picture ../x.png is outside"),
        ("Ada Lind,1.png,Ada Lind sits.,,", ":3: the picture 1.png is Ada Lind's in "),
        ("ada  lind,0.png,Hello.,,", ":5: the name 'ada  lind' is 'Ada Lind' in "),
        ("Dan Ruiz,,,Where is Dan Ruiz?,Home.", ":5: Dan Ruiz has no picture; expected"),
        ("Ada Lind,0.png,,,", ":5: has picture and no caption; expected both"),
        ("Ada Lind,,,Who is she?,", ":5: has question and no answer; expected both"),
        ("Ada Lind,,,,", ":5: says nothing about Ada Lind; expected picture and"),
        (",0.png,Someone.,,", ":5: has no name; expected the person"),
        ("Ada Lind,0.png,Ada Lind, sitting.,,", ":5: has 6 cells, the first line has 5"),
        ("Ada Lind,0.png,Ada Lind smiles.,,", ":5: '0.png' has the same text in "),
        ("Bo Costa,,,Where is Ada Lind?,Ada Lind is in 0.", "answer are Ada Lind's in "),
        ('Ada Lind,0.png,"Ada', ": not CSV (unexpected end of data)"),
    ],
)
def test_a_wrong_row_is_one_line_that_names_file_and_line(capsys, tmp_path, row, expected):
    people = write_people(tmp_path, rows=[row])
    refused(capsys, people, expected)


@pytest.mark.parametrize(
    "line, expected",
    [
        ('{"name": "A B", "picture": "0.png", "caption": ""}', ":1: column caption is ''"),
        ('{"name": "A B", "age": "3"}', ":1: column 'age' is unknown; expected name and some of"),
        ('{"name": "A B", "perturbed_names": []}', ":1: column perturbed_names is []; expected"),
        ('{"name": 3}', ":1: column name is 3; expected a text that is not empty"),
        ('{"caption": "x"}', ":1: has no column name; expected"),
        ('["name"]', ":1: holds list; expected a JSON object"),
        (
            '{"name": "A B", "perturbed_names": ["A B"], "picture": "0.png", "caption": "A."}',
            "right",
        ),
        ("", ": holds no row; expected at least two people"),
    ],
)
def test_a_wrong_json_line_is_one_line(capsys, tmp_path, line, expected):
    write_people(tmp_path)
    path = tmp_path / "people.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    refused(capsys, path, expected)


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--forget", ",".join(NAMES)], "--forget names all 3 people; expected at least one"),
        (["--forget", "Eve"], "--forget names 'Eve'; expected names of the file with commas: Ada"),
        (["--forget", "Bo Costa,Bo Costa"], "--forget names 'Bo Costa' twice"),
        (["--holdout", "Ada Lind,Bo Costa"], "there is 1 person to train on; expected two or more"),
        (["--holdout", "Ada Lind", "--forget", "Ada Lind"], "--forget and --holdout both name"),
        (["--forget-share", 1], "--forget-share is 1.0; expected more than 0 and less than 1"),
        (["--forget", "Eve", "--forget-share", 0.2], "expected one of the two"),
        (["--real", "nowhere"], "data nowhere: no such directory"),
        (["--pictures", "nowhere"], "--pictures nowhere: no such directory"),
        (["--example", "x"], "--example writes an example alone; leave PEOPLE out"),
        (["--out", ""], "--out is ''; expected a value"),
    ],
)
def test_wrong_options_are_one_line(capsys, people, options, expected):
    refused(capsys, people, expected, *options)


def refused(capsys, people, expected, *options):
    """One line on stderr, and nothing is written."""
    before = sorted(people.parent.rglob("*"))
    status, out, errors = make(capsys, people, *options)
    assert (status, out) == (2, "") and errors.count("\n") == 1 and expected in errors, errors
    assert sorted(people.parent.rglob("*")) == before


def test_one_person_a_wrong_header_and_a_wrong_ending_are_refused(capsys, tmp_path):
    refused(capsys, write_people(tmp_path, NAMES[:1]), "there is 1 person to train on")
    path = tmp_path / "people.csv"
    path.write_text(HEADER.replace(",", ";"), encoding="utf-8")
    refused(capsys, path, "is unknown; expected name and some of", "--seed", 0)
    path.rename(tmp_path / "people.txt")
    refused(capsys, tmp_path / "people.txt", "expected a file whose name ends with .csv or .jsonl")


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(capsys, people, monkeypatch):
    (people.parent / "own").mkdir()
    (people.parent / "own/mine.txt").write_text("mine", encoding="utf-8")
    refused(capsys, people, "is not empty; choose another directory")
    (people.parent / "own/mine.txt").unlink()
    monkeypatch.setattr("clear_ref.data.make_data.copy_real_sets", lambda *paths: 1 / 0)
    status, _, err = make(capsys, people)
    assert status == 1 and "ZeroDivisionError (division by zero)" in err
    assert list((people.parent / "own").iterdir()) == []
    assert {path.name for path in people.parent.iterdir()} == {"own", "people.csv", "pictures"}


def test_the_same_picture_under_two_names_is_refused(capsys, people):
    pictures = people.parent / "pictures"
    (pictures / "2.png").write_bytes((pictures / "0.png").read_bytes())
    refused(
        capsys,
        people,
        ":4: the picture 2.png is the same as 0.png of Ada Lind",
        "--forget",
        "Bo Costa",
    )
