"""The tables of `visual` runs by hand: which run each is of, what failed, which method is best."""

import csv
import io
import json

import pytest

from clear_ref import run
from clear_ref.common.settings import COMMAND_LINE
from clear_ref.report import visual_page
from clear_ref.report.visual_runs import read
from clear_ref.visual.columns import COLUMNS
from clear_ref.visual.recipes import METHOD_RECIPES

FAILED = "split 0, twins (paper), step 2 of 8: term pull is nan; expected a finite number"


def recipe(**changed):
    """The text of a recipe in settings.json."""
    values = vars(METHOD_RECIPES["twins"]) | changed
    return ", ".join(f"{name} {value}" for name, value in values.items())


def numbers(retain, u_lira):
    """{definition: {number: Number}} of one stage."""
    values = {"retain": retain, "u_lira": u_lira}
    own = {
        name: {"value": values.get(name, 0.5), "spread": 0.0, "n": 4 if name in values else 0}
        for name in COLUMNS
    }
    return {"paper": own, "released": own}


def write(directory, models, given=(), options=(), failed=(), train=""):
    """A finished run: given {setting: value}, options {option: value}, train: twins' recipe."""
    settings = {
        name: {"value": value, "source": "this project"}
        for name, value in {"semantics": "paper", "data": "mini", "splits": 4, "seed": 0}.items()
    }
    named = {"out": str(directory), "method": "twins", **dict(given)}
    settings |= {name: {"value": of, "source": COMMAND_LINE} for name, of in named.items()}
    source = COMMAND_LINE if train else "CLEAR"
    settings["train twins"] = {"value": train or recipe(), "source": source}
    record = {
        "format": "clear_ref.run/1",
        "command": "visual",
        "impl": "torch",
        "recipe": "paper",
        "inputs": {"mini: rows": "0"},
        "settings": settings,
        "versions": {"python": "3"},
        "options": {
            name: {"value": of, "source": COMMAND_LINE} for name, of in dict(options).items()
        },
    }
    found = {
        "command": "visual",
        "semantics": "paper",
        "splits": 4,
        "names": 6,
        "pictures": 36,
        "metrics": ["paper"],
        "models": {stage: numbers(*values) for stage, values in models.items()},
        "failed": list(failed),
        "out": "elsewhere",
    }
    directory.mkdir()
    (directory / "settings.json").write_text(json.dumps(record))
    (directory / "metrics.json").write_text(json.dumps(found))
    return directory


BASE = {"base": (90.0, 0.9), "gold": (80.0, 0.5)}


class TestWhichRun:
    @pytest.fixture
    def texts(self, tmp_path):
        """{file: text} of the report of two runs: one with defaults, one with other values."""
        models = {**BASE, "twins": (85.0, 0.6)}
        write(tmp_path / "plain", models)
        given = {"network": "/some/where/net_2.safetensors", "seed": 1}
        options = {"twins.distance": "kl"}
        write(tmp_path / "other", models, given, options, train=recipe(epochs=1))
        words = ["report", str(tmp_path / "plain"), str(tmp_path / "other")]
        assert run.main([*words, "--out", str(tmp_path / "report")]) == 0
        return {path.name: path.read_text() for path in (tmp_path / "report").iterdir()}

    def test_titles_have_what_was_given(self, texts):
        plain = "Visual only, paper semantics, paper definitions: 6 people, 36 pictures, 4 splits"
        given = "seed 1, network where/net_2.safetensors, twins.epochs 1, twins.distance kl"
        escaped = given.replace("_", "\\_")
        assert f"**{plain}**\n" in texts["leaderboard.md"]
        assert f"**{plain}; {escaped}**\n" in texts["leaderboard.md"]
        assert f"% {plain}\n" in texts["leaderboard.tex"]
        assert f"% {plain}; {given}\n" in texts["leaderboard.tex"]
        assert f"<h2>{plain}</h2>" in texts["report.html"]
        assert f"<h2>{plain}; {given}</h2>" in texts["report.html"]

    def test_every_file_has_the_directories(self, texts, tmp_path):
        for file in ("leaderboard.md", "leaderboard.tex", "report.html"):
            for name in ("plain", "other"):
                assert f"Run: {tmp_path / name}" in texts[file].replace("\\_", "_")

    def test_the_page_says_how_each_was_made(self, texts):
        assert texts["report.html"].count("<h2>How it was made</h2>") == 2
        assert "<td>/some/where/net_2.safetensors</td>" in texts["report.html"]

    def test_the_csv_has_the_run_and_every_setting(self, texts, tmp_path):
        lines = list(csv.DictReader(io.StringIO(texts["visual.csv"])))
        assert len(lines) == 6
        assert {line["out"] for line in lines} == {str(tmp_path / "plain"), str(tmp_path / "other")}
        assert [line["seed"] for line in lines] == ["0"] * 3 + ["1"] * 3
        assert lines[5]["twins.distance"] == "kl" and lines[0]["twins.distance"] == ""
        assert lines[5]["given"].endswith("twins.epochs 1, twins.distance kl")
        assert lines[0]["forget"] == "0.5"  # the accuracy, not the setting

    def test_the_terminal_names_them_too(self, tmp_path, capsys):
        write(tmp_path / "other", BASE, {"seed": 1})
        assert run.main(["report", str(tmp_path / "other"), "--out", str(tmp_path / "r")]) == 0
        assert "4 splits; seed 1\n" in capsys.readouterr().out


class TestAMethodThatFailed:
    def test_every_file_says_so(self, tmp_path):
        found = read(write(tmp_path / "run", BASE, failed=[FAILED, FAILED.replace("0", "1")]))
        texts = visual_page.texts_of([found])
        reason = f"failed: {FAILED}; failures in all: 2."
        for file in ("leaderboard.md", "leaderboard.tex", "report.html"):
            assert "twins (failed)" in texts[file] and reason in texts[file], file
        *_, line = csv.DictReader(io.StringIO(texts["visual.csv"]))
        assert line["model"] == "twins" and line["forget"] == line["u_lira_spread"] == ""
        assert line["failed"] == f"{FAILED}; failures in all: 2"

    def test_beside_other_runs_too(self, tmp_path):
        run_of = read(write(tmp_path / "run", BASE, failed=[FAILED]))
        assert any(FAILED in line for line in visual_page.section(run_of))

    def test_the_verdict_says_that_nothing_was_measured(self, tmp_path):
        found = read(write(tmp_path / "run", BASE, failed=[FAILED])).found
        assert visual_page.verdict(found) == "no method was measured: twins failed"


class TestVerdict:
    @pytest.mark.parametrize(
        "methods, expected",
        [
            (
                {"rmu": (90.0, 0.25), "twins": (85.0, 0.6), "dpo": (10.0, 0.5)},
                "of the methods that keep Retain, twins has the U-LIRA nearest to 0.5, 0.60",
            ),
            ({"rmu": (90.0, 0.41), "twins": (90.0, 0.6)}, "rmu has the U-LIRA nearest to 0.5"),
            ({"dpo": (10.0, 0.5)}, "no method keeps nine tenths of base's Retain accuracy"),
            ({"rmu": (90.0, None)}, "rmu keep Retain; their U-LIRA was not measured"),
            ({"rmu": (None, 0.5)}, "no method was measured"),
            ({}, "no method was measured"),
        ],
    )
    def test_the_best_is_nearest_to_a_half(self, tmp_path, methods, expected):
        found = read(write(tmp_path / "run", {**BASE, **methods})).found
        assert expected in visual_page.verdict(found)

    def test_headings_and_legend_agree(self, tmp_path):
        table = visual_page.as_markdown(read(write(tmp_path / "run", BASE)).found)
        assert "| U-LIRA → 0.5 | U-MIA → 0.5 |" in table and "Forget acc ↓" in table
        assert "→ 0.5 nearer to 0.5 is better" in table


def test_a_settings_file_of_another_form_is_named(tmp_path, capsys):
    where = write(tmp_path / "run", BASE)
    record = json.loads((where / "settings.json").read_text())
    record["settings"]["seed"] = 0
    (where / "settings.json").write_text(json.dumps(record))
    assert run.main(["report", str(where), "--out", str(tmp_path / "report")]) == 2
    said = capsys.readouterr().err
    assert (
        "settings.seed is 0; expected an object with value and source" in said
        and said.count("\n") == 1
    )
