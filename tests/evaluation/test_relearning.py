"""Relearning: which records are drawn, the curve, the model restored."""

import json

import numpy as np
import pytest
import torch

from clear_ref import load
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation.bootstrap import intervals
from clear_ref.evaluation.evaluate import EvaluationSettings, run_tasks
from clear_ref.evaluation.intervals import over_draws
from clear_ref.evaluation.likelihood import answer_nll
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.relearning import (
    curve_intervals,
    draw_records,
    forget_numbers,
    logs_without,
    mean_rise,
    record_key,
    relearn,
)
from clear_ref.evaluation.tasks import tasks
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.recipes import MiniUnlearn
from clear_ref.mini.directories import BASE, GOLD, WORLD
from clear_ref.model import lora
from tests.helpers.model_state import same, state

OWN = read_phrases(WORLD)
FORGET = [task for task in tasks(10, 16) if task.set_name == "Forget"]


@pytest.mark.slow
class TestRelearning:
    ROWS = read_rows(WORLD, "forget10+tofu")

    def curve(self, vlm, rows, seed=0, at=(1, 3), numbers=lambda step: {"forget": 0.5}):
        return relearn(
            vlm, FinetunePlan(rows, OWN, seed), MiniUnlearn(), list(at), {"forget": 0.25}, numbers
        )

    def test_the_seed_draws_the_records(self):
        first, again, other = (draw_records(self.ROWS, 6, seed) for seed in (0, 0, 1))
        assert first == again != other and len({row.index for row in first}) == 6
        assert [row.index for row in first] == sorted(row.index for row in first)
        for n in (0, 60, 61):
            with pytest.raises(UserError, match=f"--relearn-records is {n}; expected 1 to 59"):
                draw_records(self.ROWS, n, 0)

    def test_the_records_not_relearned_are_all_others_in_every_task(self):
        """Row 7 of the pictures, rows 2 and 5 of the text: removed from both tasks of pictures, and
        from that of text."""
        shown = [self.ROWS[7], self.ROWS[20 + 2], self.ROWS[20 + 5]]
        logs = {
            task.name: {
                "task": task.name,
                "avg_gt_loss": {str(k): 1.0 for k in range(20 if "text" not in task.name else 40)},
            }
            for task in FORGET
        }
        found = logs_without(logs, FORGET, WORLD, shown)
        assert set(logs["eval_log_forget"]["avg_gt_loss"]) - set(
            found["eval_log_forget"]["avg_gt_loss"]
        ) == {"7"}
        assert set(logs["eval_log_forget"]["avg_gt_loss"]) - set(
            found["eval_forget_facerec"]["avg_gt_loss"]
        ) == {"7"}
        assert set(logs["eval_text_forget"]["avg_gt_loss"]) - set(
            found["eval_text_forget"]["avg_gt_loss"]
        ) == {"2", "5"}
        assert (
            found["eval_log_forget"]["task"] == "eval_log_forget"
            and len(logs["eval_log_forget"]["avg_gt_loss"]) == 20
        )
        assert record_key(self.ROWS[7]) == (
            read_rows(WORLD, "forget10_perturbed")[7].values["caption"],
        )

    def test_a_task_with_no_other_record_gives_no_number(self):
        log = {
            "task": "eval_text_forget",
            "avg_gt_loss": {"2": 1.0},
            "avg_paraphrased_loss": {"2": 1.0},
        }
        assert logs_without({"eval_text_forget": log}, FORGET[2:], WORLD, [self.ROWS[22]]) == {}
        logs = run_tasks(load(BASE), WORLD, OWN, FORGET[2:], EvaluationSettings(2))
        found = forget_numbers(logs, {}, "paper")
        drawn = found.pop("drawn")
        assert (
            set(drawn) == {"text_forget"}
            and over_draws(np.array(drawn["text_forget"]))
            == (intervals(logs, None, "paper", score(logs))["text_forget"])
        )
        assert found == {
            "forget": None,
            "text_forget": score(logs)["text_forget"],
            "forget_not_relearned": None,
            "text_forget_not_relearned": None,
        }

    def test_a_curve_has_the_intervals_of_its_steps_and_of_its_mean_rise(self):
        """Drawn values 0, 1, ... 1000 after step 2: from 25 to 975. The mean rise of a straight
        line from 0 at step 0 is half of its end; a draw is one line."""
        straight = [float(value) for value in range(1001)]
        lines = [{"drawn": {"forget": [0.0] * 1001}}, {"drawn": {"forget": straight[::-1]}}]
        ends, of_rise = curve_intervals([0, 2], lines, "forget")
        assert ends[0] == (0.0, 0.0) and ends[1] == pytest.approx((25.0, 975.0))
        assert of_rise == pytest.approx((12.5, 487.5))
        # The same draws at both steps: no line rises, though both steps have a wide interval.
        lines = [{"drawn": {"forget": straight}}] * 2
        assert curve_intervals([0, 2], lines, "forget")[1] == (0.0, 0.0)
        assert curve_intervals([0, 2], lines, "text_forget") == ([None, None], None)
        assert curve_intervals([0, 2], [{}, lines[0]], "forget")[1] is None

    def test_relearned_records_become_likelier_and_the_model_is_restored(self):
        """Gold in three steps. The first loss is that of the unchanged model: mean nll over all
        answer tokens, computed by plain forwards."""
        gold, rows = load(GOLD), draw_records(self.ROWS, 3, 0)
        before = state(gold)
        lines = self.curve(gold, rows)
        assert same(state(gold), before) and not lora.adapters(gold.model)
        assert [line["step"] for line in lines] == [0, 1, 2, 3]
        assert [("nll_relearned" in line, line.get("forget")) for line in lines] == [
            (True, 0.25),
            (True, 0.5),
            (False, None),
            (True, 0.5),
        ]
        nll = [line["nll_relearned"] for line in lines if "nll_relearned" in line]
        assert nll[0] > nll[1] + 0.05 > nll[2] + 0.1
        records = [FinetunePlan(rows, OWN, 0).records(0, k)["retain"] for k in range(3)]
        tokens = [answer_nll(gold, record) for record in records]
        assert lines[1]["loss"] == pytest.approx(
            sum(map(sum, tokens)) / sum(map(len, tokens)), rel=1e-5
        )
        assert nll[0] == pytest.approx(np.mean([np.mean(one) for one in tokens]), rel=1e-12)
        assert [line["lr"] for line in lines[1:]] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])

    def test_new_adapters_alone_change_no_likelihood_and_no_text(self):
        """Step 0 is the plain evaluation: B = 0 adds exact zeros."""
        vlm = load(BASE)
        plain = run_tasks(vlm, WORLD, OWN, FORGET, EvaluationSettings(2))
        vlm.add_lora(8, 32)
        assert json.dumps(run_tasks(vlm, WORLD, OWN, FORGET, EvaluationSettings(2))) == json.dumps(
            plain
        )

    def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(self):
        rows, found = draw_records(self.ROWS, 3, 0), []
        for threads in (1, 2):
            torch.set_num_threads(threads)

            def measure(step, expected=threads):
                return {"threads": torch.get_num_threads() == expected}

            found.append(json.dumps(self.curve(load(GOLD), rows, numbers=measure)))
        torch.set_num_threads(2)
        assert found[0] == found[1] and '"threads": true' in found[0]
        assert (
            json.dumps(self.curve(load(GOLD), rows, seed=1)) != found[0]
        )  # other adapters, other questions

    def test_existing_adapters_are_trained_further_and_restored(self, tiny):
        """Half precision: the evaluated model is base with adapters, where relearning starts."""
        tiny.add_lora(2, 4, "language", seed=1)
        with torch.no_grad():
            for adapter in lora.adapters(tiny.model).values():
                adapter.lora_B.fill_(0.01)
        tiny.model.requires_grad_(False)
        before, rows = state(tiny), self.ROWS[:2]
        seen = []
        lines = self.curve(tiny, rows, at=(2,), numbers=lambda step: seen.append(state(tiny)) or {})
        moved = {name for name in before if not torch.equal(before[name][0], seen[0][name][0])}
        assert moved and all(".adapter." in name for name in moved)
        assert same(state(tiny), before) and lines[-1]["nll_relearned"] < lines[0]["nll_relearned"]

    @pytest.mark.parametrize("adapted", [False, True])
    def test_a_failure_restores_the_model(self, tiny, adapted):
        if adapted:
            tiny.add_lora(2, 4, seed=1)
            tiny.model.requires_grad_(False)
        before = state(tiny)

        def fail(step):
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            self.curve(tiny, self.ROWS[:2], at=(1,), numbers=fail)
        assert same(state(tiny), before)

    def test_a_mean_rise_by_hand(self):
        """Steps 0, 1, 3: rises 0, 2, 4; areas 1 and 6; 7 / 3. It falls: negative. A gap: none."""
        assert mean_rise([0, 1, 3], [1.0, 3.0, 5.0]) == pytest.approx(7 / 3)
        assert mean_rise([0, 2], [1.0, 0.5]) == -0.25 and mean_rise([0, 1], [None, 1.0]) is None
