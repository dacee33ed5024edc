"""evaluate --robustness: the whole command twice, its printed text, and its errors."""

import json

import pytest

from clear_ref import load
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation.distances import auc
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.relearning import (
    draw_records,
    relearn,
)
from clear_ref.evaluation.robustness_results import robustness_definitions
from clear_ref.evaluation.tasks import tasks
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.recipes import MiniUnlearn
from clear_ref.mini.directories import GOLD, WORLD
from tests.helpers.commands import call, small_copy
from tests.helpers.model_state import write_text_model

OWN = read_phrases(WORLD)
FORGET = [task for task in tasks(10, 16) if task.set_name == "Forget"]


@pytest.fixture(scope="module")
def text_directory(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("models") / "text")


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """The embedded world, three rows of every evaluated set; forget rows 0-2 of each kind."""
    target = small_copy(tmp_path_factory.mktemp("data") / "world")
    for path in target.glob("**/rows.jsonl"):
        if path.parent.name not in (
            "forget10+tofu",
            "full",
            "full+tofu",
            "retain90",
            "retain90+tofu",
            "pretrain",
        ):
            path.write_text(
                "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:3]),
                encoding="utf-8",
            )
    return target


class TestCommand:
    SMALL = (
        "--max-new-tokens",
        8,
        "--relearn-records",
        2,
        "--relearn-at",
        "1,2",
        "--round-bits",
        4,
    )

    @pytest.mark.slow
    def test_the_whole_command(self, capsys, tmp_path, small_world):
        """Twice the same bytes; the plain metrics are those without --robustness, and step 0 of the
        curve; the printed text has tables."""
        found, shown = {}, {}
        for name, more in (("a", ["--json"]), ("b", [])):
            status, shown[name], stderr = call(
                capsys,
                "evaluate",
                "--quiet",
                "mini",
                "--data",
                small_world,
                "--out",
                tmp_path / name,
                "--robustness",
                "--fresh",
                "--seed",
                3,
                *self.SMALL,
                *more,
            )
            assert status == 0 and stderr.startswith("clear_ref: warning cut_answers (evaluation)")
            assert len(stderr.splitlines()) == 1  # 8 tokens hold no caption
            found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
        assert json.loads(shown["a"]) == found["a"]
        assert (
            call(
                capsys,
                "evaluate",
                "--quiet",
                "mini",
                "--data",
                small_world,
                "--out",
                tmp_path / "p",
                "--max-new-tokens",
                8,
            )[0]
            == 0
        )
        plain = json.loads((tmp_path / "p/metrics.json").read_text())
        assert "robustness" not in plain and set(plain["seconds"]) == {"evaluate"}
        assert {path.name for path in (tmp_path / "p").iterdir()} == {
            "logs",
            "metrics.json",
            "records.jsonl",
            "settings.json",
        }
        assert all(one["models"] == plain["models"] for one in found.values())
        assert found["a"]["robustness"] == found["b"]["robustness"]
        for file in ("relearning.jsonl", "membership.json", "logs/model/eval_log_forget.json"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        one = found["a"]["robustness"]
        assert one["relearning"]["steps"] == [0, 1, 2] and set(one["relearning"]["models"]) == {
            "model",
            "gold",
        }
        for name in ("model", "gold"):
            curve = one["relearning"]["models"][name]
            assert curve["forget"][0] == plain["models"][name]["forget"]
            assert curve["text_forget"][0] == plain["models"][name]["text_forget"]
            assert curve["nll_relearned"][2] < curve["nll_relearned"][0]
            assert set(one["rounding"]["models"][name]) == {"4"}
        self.relearned_as_by_hand(tmp_path / "a", small_world, one["relearning"])
        for kind in ("captions", "questions"):
            ours, gold = (one["membership"][kind]["models"][name] for name in ("model", "gold"))
            assert gold["privleak"] == 0.0 and ours["privleak"] == pytest.approx(
                100 * (gold["mia_min_k"] - ours["mia_min_k"]) / (1 - gold["mia_min_k"] + 1e-10),
                rel=1e-9,
            )
        assert one["rounding"]["models"]["model"]["4"]["tasks"] != plain["models"]["model"]["tasks"]
        assert one["rounding"]["layers"] == 54 and one["missing"] == ""
        kept = json.loads((tmp_path / "a/membership.json").read_text())["models"]["model"][
            "captions"
        ]["mia_loss"]
        expected = auc(kept["forget"].values(), kept["holdout"].values())
        assert one["membership"]["captions"]["models"]["model"]["mia_loss"] == expected == 1.0
        assert one["membership"]["captions"]["n_holdout"] == 3
        for name in ("model", "gold"):
            numbers = one["membership"]["captions"]["models"][name]
            assert ("mia_reference" in numbers) == (name == "model")
            assert all(0 <= numbers[each] <= 1 for each in numbers if each != "privleak")
        assert one["definitions"]["forget_not_relearned"] == "harmonic_mean_not_relearned"
        for words in (
            "relearning 2 of 6 forget records",
            "Forget, not relearned",
            "mean_nll_of_relearned",
            "model, 4 bits",
            "js_histogram10 v1: FQ",
            "auc_forget_below_holdout v1",
            "privleak_of_mia_min_k v1",
            "mia_reference",
            "extraction_strength",
        ):
            assert words in shown["b"], words
        assert max(len(line) for line in shown["b"].splitlines() if "written to" not in line) <= 130

    def relearned_as_by_hand(self, out, data, found):
        """The records are those of seed 3; step 0 without them is the score of logs cut by hand;
        gold's curve is that of `relearn`."""
        rows = draw_records(read_rows(data, "forget10+tofu"), 2, 3)
        assert [(one["row"], one["config"]) for one in found["records"]] == [
            (row.index, "forget10+tofu") for row in rows
        ]
        gone = {
            "text": {str(row.index - 3) for row in rows} - {"-1", "-2", "-3"},
            "": {str(row.index) for row in rows},
        }
        logs = {
            task.name: json.loads((out / f"logs/gold/{task.name}.json").read_text())
            for task in FORGET
        }
        for name, log in logs.items():
            for column in [column for column in log.values() if isinstance(column, dict)]:
                for key in gone["text" if "text" in name else ""] & set(column):
                    del column[key]
        cut, curve = score(logs), found["models"]["gold"]
        assert (curve["forget_not_relearned"][0], curve["text_forget_not_relearned"][0]) == (
            cut["forget"],
            cut["text_forget"],
        )
        assert {len(log["gt_loss"]) for log in logs.values()} < {1, 2, 3}  # something is gone
        lines = relearn(
            load(GOLD), FinetunePlan(rows, OWN, 3), MiniUnlearn(), [1, 2], {}, lambda step: {}
        )
        assert [line["nll_relearned"] for line in lines] == curve["nll_relearned"]

    def test_the_printed_text_has_three_tables(self):
        from clear_ref.report.terminal_robustness import robustness

        curve = {
            "nll_relearned": [1.0, 0.5],
            "forget": [0.2, 0.25],
            "forget_not_relearned": [None, None],
            "text_forget": [0.1, 0.1],
            "text_forget_not_relearned": [0.1, 0.1],
        }
        found = {
            "relearning": {
                "records": [{}],
                "n_forget": 9,
                "steps": [0, 2],
                "lr": 1e-3,
                "rank": 8,
                "models": {"model": curve},
                "mean_rise": {"model": dict.fromkeys(curve, 0.025)},
                "intervals": {"model": dict.fromkeys(curve, [(0.1, 0.3), (0.2, 0.4)])},
                "mean_rise_intervals": {"model": dict.fromkeys(curve, (-0.01, 0.06))},
            },
            "rounding": {
                "layers": 3,
                "group": 128,
                "models": {"model": {"8": {"forget": 0.21, "retain": None}}},
                "intervals": {"model": {"8": {"forget": (0.15, 0.3)}}},
            },
            "membership": {
                "questions": {
                    "n_forget": 4,
                    "n_holdout": 5,
                    "models": {"model": {"mia_loss": 0.75, "mia_min_k": 0.5, "privleak": -12.0}},
                    "intervals": {"model": {"mia_loss": (0.5, 0.875), "privleak": (-40.0, 3.0)}},
                }
            },
            "missing": "captions: the data has no holdout10",
            "definitions": {name: one.name for name, one in robustness_definitions().items()},
        }
        text = "\n".join(robustness(found))
        for words in (
            "relearning 1 of 9 forget records",
            "0.250          0.025  harmonic_mean v1\n",
            "0.10–0.30  0.20–0.40  -0.01 to 0.06\n",
            "model, 8 bits      0.210",
            "  95 %         0.15–0.30",
            "  0.50–0.88",
            "-40 to 3",
            "harmonic_mean v1: Forget",
            "questions  mia_loss       0.750       -         -  auc_forget_below_holdout v1",
            "4 against 5 questions",
            "membership not computed of captions: the data has no holdout10",
        ):
            assert words in text, (words, text)
        assert (
            "not relearned      model" not in text.split("Forget text")[0]
            and robustness(None) == []
        )

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--min-k", "0.3"], "--min-k is a setting of --robustness"),
            (["--seed", "1"], "--seed is a setting of --robustness"),
            (["--robustness", "--min-k", "0"], "--min-k is 0.0; expected a share"),
            (
                ["--robustness", "--relearn-records", "60"],
                "--relearn-records is 60; expected 1 to 59",
            ),
            (
                ["--robustness", "--relearn-at", "5,x"],
                "--relearn-at is '5,x'; expected whole numbers",
            ),
            (
                ["--robustness", "--relearn-at", "2,2"],
                "--relearn-at is '2,2'; expected whole numbers",
            ),
            (
                ["--robustness", "--relearn-at", "0,2"],
                "--relearn-at is '0,2'; expected whole numbers from 1",
            ),
            (["--robustness", "--relearn-lr", "-1"], "--relearn-lr -1.0; expected 0 or more"),
            (
                ["--robustness", "--round-bits", "1"],
                "--round-bits is '1'; expected whole numbers from 2 to 16",
            ),
            (["--robustness", "--round-group", "-4"], "--round-group is -4"),
            (["--robustness", "--holdout", "nobody"], "unknown dataset config 'nobody'"),
            (["--robustness", "--recipe", "large"], "recipe is 'large'"),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_an_error_of_one_line_and_nothing_is_written(
        self, capsys, tmp_path, arguments, message
    ):
        status, stdout, stderr = call(
            capsys, "evaluate", "--quiet", "mini", "--out", tmp_path / "r", *arguments
        )
        assert status == 2 and stdout == "" and stderr.count("\n") == 1 and message in stderr
        assert not (tmp_path / "r").exists()

    def test_a_language_model_is_measured_on_text_only(
        self, capsys, tmp_path, small_world, text_directory
    ):
        status, stdout, _ = call(
            capsys,
            "evaluate",
            "--quiet",
            text_directory,
            "--data",
            small_world,
            "--out",
            tmp_path / "r",
            "--robustness",
            "--template",
            "inst",
            "--json",
            *self.SMALL[:2],
            "--relearn-records",
            1,
            "--relearn-at",
            1,
            "--round-bits",
            "8,4",
            "--relearn-lr",
            0.002,
        )
        found = json.loads(stdout)["robustness"]
        assert (
            status == 0
            and set(found["membership"]) == {"questions"}
            and set(found["rounding"]["models"]) == {"model"}
        )
        assert (
            found["relearning"]["records"][0]["config"] == "tofu/forget10"
            and found["relearning"]["n_forget"] == 3
        )
        trace = [
            json.loads(line) for line in (tmp_path / "r/relearning.jsonl").read_text().splitlines()
        ]
        assert found["relearning"]["lr"] == trace[1]["lr"] == 0.002  # the paper's recipe has 1e-5
        assert found["relearning"]["models"]["model"]["forget"] == [None, None]
        assert None not in found["relearning"]["models"]["model"]["text_forget_not_relearned"]
