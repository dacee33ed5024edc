"""The settings that a sweep compares are exactly those that the command line or a CSV file names,
and a slip in them is one line.
"""

import pytest

from clear_ref.commands.given import Given
from clear_ref.commands.settings import Sweep
from clear_ref.commands.several_methods import chosen_methods
from clear_ref.commands.sweep import explicit
from clear_ref.commands.sweep_points import (
    from_csv,
    from_grids,
    from_record,
    grid_axes,
    own_file,
)
from clear_ref.common.errors import UserError
from clear_ref.loop.points import Point
from tests.helpers.commands import call


def test_every_combination_and_options_only_where_a_method_has_them():
    recipe = grid_axes(["lr=1e-4,3e-4"], "--grid")
    options = grid_axes(["alpha=1,2"], "--set-grid")
    points = from_grids(["npo", "scrub"], "paper", recipe, options)
    assert points == [
        Point("npo", {"lr": "1e-4"}, {}),
        Point("npo", {"lr": "3e-4"}, {}),
        Point("scrub", {"lr": "1e-4"}, {"alpha": "1"}),
        Point("scrub", {"lr": "1e-4"}, {"alpha": "2"}),
        Point("scrub", {"lr": "3e-4"}, {"alpha": "1"}),
        Point("scrub", {"lr": "3e-4"}, {"alpha": "2"}),
    ]
    assert points[-1].words == "lr 3e-4, alpha 2"
    assert len(chosen_methods("all", "METHOD")) == 11
    assert chosen_methods("scrub,npo", "METHOD") == ["npo", "scrub"]
    assert grid_axes(["batch-size=1,2"], "--grid") == {"batch_size": ["1", "2"]}


@pytest.mark.parametrize(
    "point",
    [
        Point("npo"),
        Point("scrub", {"lr": "1e-4", "epochs": "5"}, {"alpha": "2", "gamma": "0.5"}),
        Point("npo", {"lora_targets": "q_proj,v_proj", "lr": "1e-4"}, {"beta": "1"}),
        Point("npo", {"lora_targets": "q_proj, v_proj", "lr": "1e-4"}),
    ],
)
def test_a_point_is_made_again_of_its_words(point):
    """As settings.json of a sweep has them; layers may have commas of their own."""
    semantics = "paper"
    [found] = from_record([f"{point.method}: {point.words}"], semantics)
    assert found == point and list(found.recipe) == list(point.recipe)


def test_a_file_of_points_and_the_columns_of_results_that_are_not_read(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(
        "number,method,lr,epochs,beta,choosing_forget,chosen,failed,command\n"
        "1,npo,1e-3,5,,0.5,yes,,x\n2,npo,,,0.2,0.4,,,\n3,scrub,1e-3,,,,,,\n"
    )
    assert from_csv(path, ["npo"], "paper") == [
        Point("npo", {"lr": "1e-3", "epochs": "5"}, {}),
        Point("npo", {}, {"beta": "0.2"}),
    ]
    with pytest.raises(UserError, match="has no row of kl"):
        from_csv(path, ["kl"], "paper")


def test_a_file_of_a_spreadsheet_or_of_an_old_mac_is_read(tmp_path):
    path = tmp_path / "points.csv"
    path.write_bytes("\ufeffmethod, lr\rnpo,1e-3\r".encode())
    assert from_csv(path, ["npo"], "paper") == [Point("npo", {"lr": "1e-3"}, {})]


def test_a_point_has_every_value_that_its_method_is_compared_by_or_tuned_to():
    """What a file leaves empty is written out, so that its runs stay the same when the embedded
    world is tuned anew; here npo's beta is 1 by the paper, and scrub is tuned to alpha 5, gamma 2.
    """
    points = [
        Point("npo", {"lr": "1e-3"}, {"beta": "0.5"}),
        Point("npo", {"epochs": "3"}, {}),
        Point("scrub", {"lr": "1e-3"}, {}),
    ]
    found = explicit(Sweep(), points, Given(recipe={"epochs": "2"}))
    assert found == [
        Point("npo", {"lr": "1e-3"}, {"beta": "0.5"}),
        Point("npo", {"epochs": "3", "lr": "0.0005"}, {"beta": "1.0"}),
        Point("scrub", {"lr": "1e-3"}, {"alpha": "5.0", "gamma": "2.0"}),
    ]
    assert explicit(Sweep(), found, Given()) != found  # epochs are given no longer
    again = explicit(Sweep(), found, Given(recipe={"epochs": "2"}))
    assert again == found


@pytest.mark.parametrize("semantics", ["paper", "original", "released"])
def test_the_embedded_worlds_own_list_does_not_depend_on_what_was_chosen_from_it(semantics):
    """No row leaves to the tuned values what the chosen row of its method names."""
    for method in chosen_methods("all", "METHOD"):
        points = from_csv(own_file(semantics), [method], semantics)
        names = {name for point in points for name in point.options}
        assert all(set(point.options) == names for point in points), method


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("method,lr\nscrubb,1\n", "line 2: method is 'scrubb'; expected one of"),
        ("lr\n1\n", "has no column method"),
        ("method;lr\nnpo;1\n", "has no column method"),
        ("method,lr\n,1\n", "line 2: method is ''"),
        ("method,lr\n\n\nnpoo,1\n", "line 4: method is 'npoo'"),
        ("method,lr,lr\nnpo,1,2\n", "column 'lr' is there twice"),
        ("method,lr\nnpo," + "1" * 140_000 + "\n", r"not CSV \(field larger"),
        ("method,semantics,lr\nnpo,released,1\n", "is of --semantics released, and this run is of"),
        ("method,size\nnpo,1\n", "column 'size' is neither a value of the recipe nor an option"),
        ("method,alpha\nnpo,1\n", r"npo \(paper\) has no option 'alpha'; leave it empty"),
        ("method,lr\nnpo,much\n", "points.csv, line 2: setting lr is 'much'; expected float"),
        ("method,lr\nnpo\n", "line 2: has not as many cells"),
        ("method,lr\nnpo,1,2\n", "line 2: has not as many cells"),
        ("method,lr\nnpo,1\nnpo,1\n", "npo with lr 1 is there twice"),
        ("", "has no column method"),
        ("method\n", "has no row of npo"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "points.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        from_csv(path, ["npo"], "paper")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scrubb"], "sweep METHOD names 'scrubb'; expected all, or some of: "),
        (["npo,npo"], "sweep METHOD names 'npo' twice; expected all"),
        (["npo", "--grid", "lr"], "--grid lr: expected NAME=V1,V2"),
        (["npo", "--grid", "lr=1,,2"], "--grid lr=1,,2: expected NAME=V1,V2"),
        (["npo", "--grid", "lr=1,1"], "--grid lr=1,1: a value is given twice"),
        (
            ["npo", "--grid", "batch-size=1,2", "--grid", "batch_size=4"],
            "--grid batch_size is given twice: '1,2' and '4'; expected it once",
        ),
        (["npo", "--set-grid", "beta=1", "--set-grid", "beta=2"], "--set-grid beta is given twice"),
        (["npo", "--grid", "lr=1e-3,0.001"], "lr 1e-3 and with lr 0.001 are the same setting"),
        (["npo", "--grid", "rate=1"], "--grid rate=1: unknown setting 'rate'"),
        (["npo", "--grid", "lr=1e-3,-1"], "lr is -1.0; expected a positive number"),
        (["npo", "--set-grid", "alpha=1"], "none of npo has an option 'alpha'"),
        (["npo", "--grid", "lr=1e-3", "--lr", "2"], "lr is given for all runs and in the grid"),
        (["npo", "--grid", "lr=1e-3", "--points", "x.csv"], "--points is given beside --grid"),
        (["npo", "--points", "absent.csv"], "absent.csv"),
        (["npo", "--recipe", "paper"], "there is nothing to compare"),
        (
            ["npo", "--grid", "lr=1", "--choose", "best"],
            "--choose is 'best'; expected nearest-gold",
        ),
        (["npo", "--grid", "lr=1", "--seeds", "0,x"], "--seeds is '0,x'"),
        (["npo", "--grid", "lr=much"], "--grid lr=much: setting lr is 'much'; expected float"),
        (
            ["npo", "--grid", "lr=1", "--limit", "1"],
            "sweep: eval_log_forget has 1 record to evaluate; expected 2 or more (--limit)",
        ),
        (
            ["npo", "--grid", "lr=1", "--tasks", "eval_log_forget"],
            "sweep compares Forget with Retain; expected --tasks with all tasks of both",
        ),
        (["npo", "--grid", "lr=1", "--resume"], "--resume needs --out"),
        (["npo", "--semantics", "released@2024-10-23"], "no built-in list of settings"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line_and_nothing_is_written(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "sweep", *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
