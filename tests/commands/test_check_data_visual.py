"""check-data says of `visual` what `visual` does with the data: it trains, it stops with the same
line, or it trains with the options that check-data names. Nothing is trained here.
"""

import numpy as np
import pytest
from PIL import Image

from clear_ref.commands import visual
from clear_ref.commands.data_needs import NO, WITH_BOTH, WITH_LISTS, WITH_TRAIN, YES
from clear_ref.commands.data_needs_further import further_needs
from clear_ref.common.errors import RunFailed
from clear_ref.data.check import examine
from clear_ref.visual.clear_people import LISTS
from clear_ref.visual.method_names import STAGES
from tests.helpers.commands import call
from tests.helpers.small_faces import NAMES, rows_of, write_faces, write_start

LISTED = (*LISTS[10][0], *LISTS[10][1])
OTHERS = ("Other A", "Other B", "Other C", "Other D")
SMALL = [f"--train={stage}.batch_size=1" for stage in STAGES]


@pytest.fixture
def attempt(tmp_path, capsys, monkeypatch):
    """A function: the line with which `visual` stops, "" if it would train."""

    def would_train(_):
        raise RunFailed("would train")

    monkeypatch.setattr(visual, "run_visual", would_train)
    start = write_start(tmp_path)

    def run(data, *options, method="all"):
        words = ("visual", method, "--data", data, start, "--out", tmp_path / "out")
        status, _, stderr = call(capsys, *words, "--quiet", *options)
        line = stderr.splitlines()[-1].removeprefix("clear_ref: ")
        assert (status == 1) == (line == "the run failed: would train") and status in (1, 2)
        return "" if status == 1 else line

    return run


def lists_of(directory, names, n_listed):
    """The options of two lists with the first names."""
    options = []
    for place, option in enumerate(("forget", "holdout")):
        path = directory / f"{option}.txt"
        path.write_text("\n".join(names[place * n_listed : (place + 1) * n_listed]))
        options.append(f"--{option}-names={path}")
    return options


def said(data, forget=10):
    """What check-data says of `visual`."""
    uses = further_needs(data, examine(data))
    [use] = [each for each in uses if (each["command"], each["forget"]) == ("visual", forget)]
    return use


def picture(path, width, height):
    values = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)


def people(directory, names=NAMES, n_pictures=6):
    return write_faces(directory / "data", rows_of(names, n_pictures))


def without_rows(directory):
    return write_faces(directory / "data", rows_of(), "retain90")


def a_wrong_row(directory):
    data = people(directory)
    with (data / "default/rows.jsonl").open("a") as file:
        file.write('{"image": "images/Ann0.png", "caption": "Ann"}\n')
    return data


def a_missing_picture(directory):
    data = people(directory)
    (data / "images/Dua3.png").unlink()
    return data


def a_broken_picture(directory):
    data = people(directory)
    (data / "images/Dua3.png").write_bytes(b"?")
    return data


def a_wide_picture(directory):
    data = people(directory)
    picture(data / "images/Fay2.png", 64, 32)
    return data


def a_line(directory):
    """Its longer side would have 448,000 pixels."""
    data = people(directory)
    picture(data / "images/Fay2.png", 1, 2000)
    return data


def few_references(directory):
    return write_faces(directory / "data", [*rows_of(), *rows_of(("Gus",), 5)])


@pytest.mark.parametrize(
    "make, words",
    [
        (without_rows, "holds neither default/rows.jsonl nor full/rows.jsonl"),
        (a_wrong_row, "name"),
        (a_missing_picture, "Dua3.png"),
        (a_broken_picture, "Dua3.png"),
        (a_wide_picture, "is 448 x 224 pixels after the resize, the first one 224 x 224"),
        (a_line, "pixels"),
        (few_references, "'Gus' has 5 pictures"),
        (lambda directory: people(directory, ("Ann",)), "all pictures show 'Ann'"),
        (lambda directory: people(directory, NAMES[:2]), "0 people are in neither list"),
        (lambda directory: people(directory, NAMES[:5]), "pictures of the train set are of class"),
    ],
)
def test_data_that_no_option_helps_is_refused_by_both_with_the_same_line(
    make, words, attempt, tmp_path
):
    """With lists and with batches of one picture too; the line is that of these."""
    data = make(tmp_path)
    use = said(data)
    assert use["runs"] == NO and words in use["reason"]
    assert attempt(data)
    assert attempt(data, *lists_of(tmp_path, NAMES, 1), *SMALL) == use["reason"]


def test_faces_alone_need_lists_and_smaller_batches(attempt, tmp_path, capsys):
    """Six people with six pictures: twelve are kept, which fill no batch of 256."""
    data = people(tmp_path)
    use = said(data)
    assert use["runs"] == WITH_BOTH
    lists = lists_of(tmp_path, NAMES, 1)
    line, then = attempt(data), attempt(data, *lists)
    assert (
        "CLEAR's list of forgotten people" in line and "a pass over the retain set has 12" in then
    )
    assert use["reason"].startswith(f"{line}; then, with 1 in each list: {then}; smaller batches")
    assert attempt(data, *SMALL) == line
    assert attempt(data, *lists, *SMALL) == ""
    status, stdout, _ = call(capsys, "check-data", data)
    assert status == 0
    [row] = [each for each in stdout.splitlines() if each.startswith("visual  ")]
    assert row.split() == ["visual", *("lists", "--train") * 3]
    assert use["reason"] in stdout


@pytest.mark.parametrize("n_people, n_pictures, n_listed", [(6, 130, 1), (12, 70, 1), (22, 30, 2)])
def test_enough_pictures_need_lists_alone(n_people, n_pictures, n_listed, attempt, tmp_path):
    """Half of those in no list are retained, with 260 pictures or more. A pass of scrubbio has the
    30 pictures of one person five times, 150, and of two people 300.
    """
    names = [f"Person {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUV"[:n_people]]
    data = people(tmp_path, names, n_pictures)
    use = said(data)
    line = attempt(data)
    assert use["runs"] == WITH_LISTS
    assert use["reason"] == f"{line}; it runs with {n_listed} in each list"
    for number in range(1, n_listed + 1):
        stops = attempt(data, *lists_of(tmp_path, names, number))
        assert (stops == "") == (number == n_listed)


def test_clears_people_with_few_pictures_need_smaller_batches(attempt, tmp_path):
    """Two people with 12 pictures are retained. The paper's dpo reads forget pictures alone: twenty
    people with six each, ten times.
    """
    data = people(tmp_path, (*LISTED, *OTHERS))
    use = said(data)
    line = attempt(data)
    assert use["runs"] == WITH_TRAIN and "a pass over the retain set has 12 pictures" in line
    stop = ", ".join(method for method in STAGES[2:] if method != "dpo")
    more = "smaller batches: --train METHOD.batch_size=NUMBER"
    assert use["reason"] == f"of the methods {stop} cannot run: {line}; {more}"
    assert attempt(data, method="dpo") == ""
    assert attempt(data, *SMALL) == ""


def test_clears_people_with_many_pictures_run_and_with_few_to_forget_some_methods(
    attempt, tmp_path
):
    """--forget 1: two people with six pictures, which ten times are 120: no batch of 256."""
    data = write_faces(tmp_path / "data", [*rows_of(LISTED, 6), *rows_of(OTHERS, 130)])
    assert said(data)["runs"] == YES and said(data)["reason"] == ""
    assert attempt(data) == ""
    use = said(data, forget=1)
    line = attempt(data, "--forget=1")
    stop = ("scrub", "llmu", "dpo", "rmu", "scrubbio", "twins")
    assert use["runs"] == WITH_TRAIN
    assert use["reason"].startswith(f"of the methods {', '.join(stop)} cannot run: {line}; smaller")
    for method in ("retain_ft", "scrubbio", "sparsity"):
        assert (attempt(data, "--forget=1", method=method) != "") == (method in stop)


def test_the_exit_status_is_1_where_only_visual_could_run_and_cannot(tmp_path, capsys):
    status, _, stderr = call(capsys, "check-data", people(tmp_path, NAMES[:2], 2))
    assert status == 1 and "no command can run with it" in stderr
