"""all --methods runs the named methods; --set NAME reaches those that have it, METHOD.NAME one."""

import dataclasses

import pytest

from clear_ref.commands import all_methods
from clear_ref.commands.several_methods import chosen_methods, options_by_method
from clear_ref.common.errors import Notice, UserError
from clear_ref.methods import table
from tests.helpers.commands import call

FINISHED = {"seeds": [0], "runs": [], "models": {}, "semantics": "paper", "impl": "", "out": ""}


def test_methods_are_run_in_the_order_of_the_table():
    assert chosen_methods("all", "--methods") == list(table.METHODS)
    assert chosen_methods("scrub, npo", "--methods") == ["npo", "scrub"]


@pytest.mark.parametrize(
    "text, expected", [("scrub,nop", "names 'nop'; expected all, or some of"), ("npo,npo", "twice")]
)
def test_an_unknown_method_is_refused(text, expected):
    with pytest.raises(UserError, match=f"--methods .*{expected}"):
        chosen_methods(text, "--methods")


def test_an_option_reaches_every_method_that_has_it_and_one_by_name():
    """beta is an option of npo and dpo; alpha of scrub; kl has none of them."""
    with pytest.warns(Notice) as said:
        found = options_by_method(
            ["kl", "dpo", "npo", "scrub"], "paper", {"npo.beta": "0.3", "beta": "0.2", "alpha": "2"}
        )
    assert found == {
        "kl": {},
        "dpo": {"beta": "0.2"},
        "npo": {"beta": "0.3"},
        "scrub": {"alpha": "2"},
    }
    assert [str(each.message) for each in said] == [
        "--set beta=0.2: taken by dpo, npo",
        "--set alpha=2: taken by scrub",
    ]


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "alpha",
            "--set alpha: none of npo, kl has this option under paper; expected one of scrub",
        ),
        ("nothing", "no method has this option under paper"),
        ("scrub.alpha", "scrub is not among --methods npo,kl; add it there"),
        ("scrb.alpha", "'scrb' is no method; expected one of"),
        ("npo.alpha", "npo \\(paper\\) has no option 'alpha'; it has beta"),
        ("kl.alpha", "kl \\(paper\\) has no option 'alpha'; it has "),
    ],
)
def test_an_option_that_no_chosen_method_has_is_refused(name, expected):
    with pytest.raises(UserError, match=expected):
        options_by_method(["npo", "kl"], "paper", {name: "2"})


def test_all_runs_the_chosen_methods_with_their_options(capsys, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(all_methods, "run_all", lambda run, *more: runs.append(run) or {})
    monkeypatch.setattr(all_methods, "check_pictures", lambda *inputs: None)
    line = "all --methods scrub,npo --set scrub.alpha=2 --set beta=0.3 --json --quiet --out"
    status, _, errors = call(capsys, *line.split(), tmp_path / "all")
    assert (status, errors) == (0, "clear_ref: --set beta=0.3: taken by npo\n")
    [run] = runs
    found = {one.settings.method: one.record["options"] for one in run.runs}
    assert list(found) == ["npo", "scrub"]
    assert found["npo"]["beta"] == {"value": 0.3, "source": "command line"}
    assert found["scrub"]["alpha"] == {"value": 2.0, "source": "command line"}
    assert run.record["settings"]["method"]["value"] == "npo, scrub"
    assert run.record["options"] == {
        "scrub.alpha": {"value": "2", "source": "command line"},
        "beta": {"value": "0.3", "source": "command line"},
    }
    line = line.replace("scrub,npo", "kl")
    status, _, errors = call(capsys, *line.split(), tmp_path / "x")
    assert status == 2 and "--set beta: none of kl has this option" in errors


def test_the_first_line_of_all_names_recipe_and_rate(capsys, tmp_path, monkeypatch):
    """retain_ft and kl with one rate; with a rate of its own for a method, the range."""
    monkeypatch.setattr(all_methods, "run_all", lambda run, *more: runs.append(run) or FINISHED)
    monkeypatch.setattr(all_methods, "check_pictures", lambda *inputs: None)
    runs = []
    line = "all --methods retain_ft,kl --lr 2e-3 --epochs 3 --recipe mini --out"
    status, out, _ = call(capsys, *line.split(), tmp_path / "a")
    assert status == 0
    assert out.splitlines()[0] == "all: 2 methods, recipe mini, lr 0.002, epochs 3"
    [run] = runs
    other = dataclasses.replace(run.runs[0].recipe, lr=5e-4)
    several = [dataclasses.replace(run.runs[0], recipe=other), *run.runs[1:]]
    assert all_methods.heading(dataclasses.replace(run, runs=several)) == (
        "all: 2 methods, recipe mini, lr 0.0005 to 0.002, by method, epochs 3"
    )
