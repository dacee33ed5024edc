"""explain visual METHOD says what the method's file says, in the words of explain; every known
mistake of the visual methods is listed; a method's name that is of the other track is answered with
the command that knows it.
"""

import json

import pytest

from clear_ref import run
from clear_ref.oracle.visual.mistakes import MISTAKES, mistakes_of
from clear_ref.visual.methods import table


def described(capsys, *arguments):
    """What `explain visual ... --json` prints."""
    assert run.main(["explain", "visual", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_epoch_of_two_passes_is_read_pass_by_pass(capsys):
    found = described(capsys, "scrub")["meanings"]
    assert found["original"]["reads"] == (
        "max pass: one batch of the forget set, repeated forget_times times; min pass: a batch of "
        "the retain set"
    )
    assert "ends with the shorter of the two passes" in found["paper"]["reads"]


@pytest.mark.parametrize("method", table.METHODS)
def test_every_word_of_the_method_file_is_there(method, capsys):
    """Its docstring without the first line, field names and sources in brackets."""
    assert run.main(["explain", "visual", method]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = described(capsys, method)
    assert list(found["meanings"]) == sorted(
        table.METHODS[method].VARIANTS, key=("paper", "released", "original").index
    )
    for semantics, variant in found["meanings"].items():
        assert variant["source"] and variant["source"] in printed
        assert all(" ".join(line.split()) in printed for line in variant["formula"])
        assert [name for name, _ in variant["mistakes"]] == list(mistakes_of(method, semantics))
    for number, text in (*found["resolved"], *found["deviations"]):
        assert f"{number} {text}" in printed
    docstring = " ".join(table.METHODS[method].__doc__.split())
    for part in (found["needs"], found["positions"], found["at_base"], found["evidence"]):
        assert part and part in docstring and part in printed


def test_what_is_read_compared_and_trained_is_that_of_the_scripts(capsys):
    """SCRUBbio: facts of CLEAR cv/unlearning/scrub.py and App. B.12, written by hand."""
    found = described(capsys, "scrubbio")
    paper, released = found["meanings"]["paper"], found["meanings"]["released"]
    assert paper["formula"] == ["L = mean_f cos(e_f, e_base) + mean_r (1 - cos(e_r, e_base))"]
    assert paper["source"] == "App. B.12"
    assert "mixed" in released["reads"] and "looked up by caption text" in released["compared_with"]
    assert released["trained"] == "network"
    recipe = released["recipe"]
    assert (recipe["lr"], recipe["batch_size"], recipe["epochs"]) == (0.2, 256, 4)
    assert (recipe["bn"], recipe["forget_times"]) == ("train", 5)
    assert "warmup_steps" not in recipe  # a constant rate has none
    assert list(described(capsys, "scrubbio", "--semantics", "paper")["meanings"]) == ["paper"]


def test_all_mistakes_are_in_the_list_of_names(capsys):
    assert run.main(["explain", "--mistakes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["visual"]
    assert {each["name"]: each["what"] for each in found} == {
        name: each.meaning for name, each in MISTAKES.items()
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["explain", "visual"], "explain visual: METHOD is missing; expected one of retain_ft, "),
        (["explain", "visual", "npo"], "visual method is 'npo'; expected one of retain_ft, "),
        (["explain", "visual", "rmu", "--semantics", "original"], "expected one of paper, rel"),
        (["explain", "visual", "rmu", "--batch"], "does not read --batch; expected --semantics"),
        (["explain", "visual", "rmu", "--records", "3"], "does not read --records"),
        (["explain", "visual", "dpo", "--set", "beta=3"], "does not read --set"),
        (["explain", "scrub", "twins"], "explain scrub twins: two methods; expected one"),
        (["explain", "scrubbio"], "of the visual-only track; expected explain visual scrubbio"),
        (["scrubbio"], "'scrubbio' is a method of the visual-only track: visual scrubbio;"),
        (["conform", "--impl", "a:b", "--methods", "dpo,twins"], "visual-oracle conform"),
        (["diff", "x.safetensors", "--method", "sparsity"], "visual-oracle diff"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_wrong_words_are_one_line_that_says_what_to_type(arguments, message, capsys):
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
