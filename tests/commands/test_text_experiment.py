"""The text-only experiment of SmolLM2-135M, with a tiny model: a stage that is finished is not run
again, a stopped one is resumed, and the weights and logs are those of a straight run byte for byte.

The rank correlation of its page is checked by hand.
"""

import os

import pytest

from clear_ref import run
from clear_ref.data.records import read_rows
from tests.helpers import smollm2_experiment, smollm2_page
from tests.helpers.rank_correlation import p_value, ranks, spearman
from tests.helpers.smollm2_experiment import Plan, experiment, write_data
from tests.helpers.smollm2_page import page
from tests.helpers.tiny_language_model import write_language_model

TINY = Plan(
    authors=(20,),
    real=1,
    finetune=(
        *("--epochs", "1", "--batch-size", "800", "--records-at-once", "40"),
        *("--lr", "1e-2", "--lora-rank", "2"),
    ),
    unlearn=("--recipe", "paper", "--epochs", "1", "--batch-size", "40", "--records-at-once", "40"),
    rates="1e-3",
    first=("grad_diff",),
    others=(),
    multimodal=(),
    small=("--max-new-tokens", "4", "--quiet"),
)


class Stopped(Exception):
    """A call that a test stops."""


class Calls:
    """Runs commands in this process; names: those that were called, with --resume or without.

    stop  the command before which it stops
    """

    def __init__(self, stop=""):
        self.stop = stop
        self.names = []

    def __call__(self, commands, directory):
        for name, arguments in commands:
            if name == self.stop:
                raise Stopped
            self.names.append(name + (" resumed" if "--resume" in arguments else ""))
            more = [] if name.startswith("mini-") else ["--template", "inst"]
            if name.startswith("mini-released"):  # one run with mini is enough
                more = ["--model", "base/model", "--gold", "gold/model", "--data", "data"]
                more += ["--forget", "5", "--template", "inst"]
            if "--limit" not in arguments:
                more += ["--limit", "2"]
            assert run.main([*arguments, *more]) == 0


def start(made):
    write_language_model(made, "llama", 0)


def results(directory):
    """{path: bytes} of every weight and log of SmolLM2's runs."""
    files = [*directory.glob("**/*.safetensors"), *directory.glob("**/logs/*.json")]
    own = [path.relative_to(directory) for path in files if "mini-" not in str(path)]
    return {path: (directory / path).read_bytes() for path in own if "runs" not in path.parts}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(directory, calls) of the experiment in one go."""
    directory, calls = tmp_path_factory.mktemp("straight"), Calls()
    before = os.getcwd()
    os.chdir(directory)
    try:
        experiment(directory, TINY, calls, start)
    finally:
        os.chdir(before)
    return directory, calls


@pytest.mark.slow
def test_a_stopped_experiment_goes_on_where_it_was_and_ends_with_the_same_bytes(
    straight, tmp_path, monkeypatch
):
    directory, calls = straight
    every = ["base", "gold", "rate", "paper-first", "released-first"]
    small = ["mini-paper-first", "mini-released-first"]
    assert calls.names == [*every, *small]
    monkeypatch.chdir(tmp_path)
    for stop, expected in (
        ("rate", ["base", "gold"]),
        ("released-first", ["rate", "paper-first"]),
        (small[0], ["paper-first resumed", "released-first"]),
    ):
        again = Calls(stop)
        with pytest.raises(Stopped):
            experiment(tmp_path, TINY, again, start)
        assert again.names == expected
        if stop == "released-first":
            (tmp_path / "paper-first" / "report.html").unlink()  # a kill before the last file
    before, after = results(directory), results(tmp_path)
    assert len(before) > 10 and before.keys() == after.keys()
    assert [path for path in before if before[path] != after[path]] == []


@pytest.mark.slow
def test_the_page_shows_what_is_finished(straight, tmp_path):
    directory, _ = straight
    text = page(directory, TINY)
    assert set(text) == {"smollm2.md", "smollm2_paper.svg", "smollm2_released.svg"}
    shown = text["smollm2.md"]
    assert "4 of 4 stages are finished" in shown and "| base | eval_text_forget |" in shown
    assert shown.count("| SmolLM2 | grad_diff ") == 2
    assert text["smollm2_paper.svg"].startswith("<svg xmlns=")


def test_the_data_are_the_embedded_worlds_authors_and_further_ones(tmp_path):
    write_data(tmp_path, Plan())
    names = ("full", "retain95", "forget05", "forget05_perturbed", "real_authors_perturbed")
    rows = {name: read_rows(tmp_path, f"tofu/{name}") for name in names}
    assert [len(rows[name]) for name in names] == [800, 760, 40, 40, 40]
    questions = {name: [row.values["question"] for row in rows[name]] for name in names}
    assert questions["full"] == [*questions["retain95"], *questions["forget05"]]
    assert questions["forget05"] == questions["forget05_perturbed"]
    assert not set(questions["forget05"]) & set(questions["retain95"])
    assert sum("Hina Ameen" in question for question in questions["forget05"]) > 10


def test_methods_are_ordered_by_what_they_measured_not_by_what_is_shown_of_it(monkeypatch):
    found = {"dpo (paper)": 0.712, "npo (paper)": 0.706, "kl (paper)": 0.5, "rmu (paper)": 0.709}
    monkeypatch.setattr(smollm2_page, "values_of", lambda runs, name: found)
    expected = [["a world", "kl 0.50, npo 0.71, rmu 0.71, dpo 0.71"]]
    assert smollm2_page.orders({"a world": [object()], "another": []}) == expected


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_processes_below_one_is_refused(number, tmp_path, monkeypatch, capsys):
    words = ["smollm2_experiment", str(tmp_path / "new"), "--processes", number]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        smollm2_experiment.main()
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    assert f"it is '{number}'; expected a whole number, 1 or more" in capsys.readouterr().err


def test_the_rank_correlation_by_hand():
    """Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5). Of the 6 orders of three numbers 2
    are as far from 0 as the order itself.
    """
    assert ranks([10, 20, 20, 40]) == [1, 2.5, 2.5, 4]
    assert spearman([10, 20, 20, 40], [0.1, 0.3, 0.2, 0.4]) == pytest.approx(4.5 / 22.5**0.5)
    assert spearman([1, 2, 3], [9, 8, 7]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert p_value([1, 2, 3], [9, 8, 7]) == pytest.approx(2 / 6)
    assert p_value([1, 2, 3], [2, 1, 3]) == 1  # 0.5; the others are 0.5, 1, -0.5 and -1
    assert p_value(range(11), range(11)) < 0.001
