"""Membership inference: scores by hand, their direction, held-out rows."""

import dataclasses
import math
import shutil

import pytest

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation.distances import auc
from clear_ref.evaluation.likelihood import answer_nll
from clear_ref.evaluation.membership import membership
from clear_ref.evaluation.membership_scores import (
    evaluation_record,
    membership_scores,
    mia_loss,
    mia_min_k,
)
from clear_ref.evaluation.robustness import RobustnessSettings, make_plan
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.mini.directories import BASE, GOLD, WORLD

OWN = read_phrases(WORLD)
SETTINGS = RobustnessSettings(
    metrics="paper",
    forget=10,
    seed=0,
    relearn_records=6,
    relearn_at="1,2,5,10",
    relearn_lr=0.0,
    round_bits="8,4",
    round_group=128,
    min_k=0.2,
    holdout="holdout10",
    holdout_required=False,
)
FORGET = [task for task in tasks(10, 16) if task.set_name == "Forget"]


class TestMembership:
    def test_scores_by_hand(self):
        nll = [1.0, 4.0, 0.5, 2.0, 0.0, 3.0, 0.25, 0.25, 0.0, 1.0]
        assert mia_loss(nll) == 1.2
        assert (
            mia_min_k(nll, 0.2) == 3.5 and mia_min_k(nll, 0.3) == 3.0 and mia_min_k(nll, 1.0) == 1.2
        )
        assert (
            mia_min_k(nll, 0.19) == 4.0 and mia_min_k([2.0, 1.0], 0.2) == 2.0
        )  # rounded down, one token at least

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
    def test_an_invalid_share_is_refused(self, share):
        with pytest.raises(UserError, match="--min-k is"):
            mia_min_k([1.0], share)

    def test_above_a_half_means_that_forget_records_look_trained_on(self):
        """Low scores are a member's: forget below held-out in 3 of 4 pairs."""
        scores = {"mia_loss": {"forget": {"0": 1.0, "1": 3.0}, "holdout": {"0": 2.0, "1": 4.0}}}
        assert membership(scores)["mia_loss"] == 0.75
        assert auc([0.1, 0.2], [5.0, 6.0]) == 1.0

    def test_token_nll_is_that_of_a_plain_forward(self, tiny):
        """float64, log-softmax of whole logits, each answer token and the end token."""
        for record in (
            evaluation_record(read_rows(WORLD, "forget10")[3], OWN),
            Record("Who is it?", "Nobody at all."),
        ):
            batch = tiny.encode([record])
            logits = tiny.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)[
                0
            ].log_softmax(-1)
            ids = tiny.tokenizer.answer(tiny.template, record.answer)[1]
            first = batch.input_ids.shape[1] - len(ids)
            assert answer_nll(tiny, record) == pytest.approx(
                [-float(logits[first + k - 1, token]) for k, token in enumerate(ids)], rel=1e-11
            )

    @pytest.mark.slow
    def test_a_model_that_saw_the_forget_set_shows_it_and_gold_does_not(self):
        """Every forget record of base is likelier than every held-out one.

        Gold never saw either: on questions its AUC is 1/2 within two standard errors of an AUC of
        40 against 40 (0.065 each). On captions it is not (see clear_ref/evaluation/results.md).
        """
        plan = make_plan(SETTINGS, WORLD, OWN, True)
        assert {
            kind: {part: len(found) for part, found in parts.items()}
            for kind, parts in plan.compared.items()
        } == {"captions": {"forget": 20, "holdout": 20}, "questions": {"forget": 40, "holdout": 40}}
        found = {
            name: membership_scores(load(path), plan.compared, 0.2)
            for name, path in (("base", BASE), ("gold", GOLD))
        }
        numbers = {
            name: {kind: membership(one[kind], found["gold"][kind]) for kind in one}
            for name, one in found.items()
        }
        for kind in ("captions", "questions"):
            assert numbers["base"][kind]["mia_loss"] == numbers["base"][kind]["mia_min_k"] == 1.0
            assert (
                numbers["gold"][kind]["mia_min_k"] < 0.5
                and numbers["gold"][kind]["privleak"] == 0.0
            )
            assert numbers["base"][kind]["privleak"] == pytest.approx(-100.0, abs=1e-6)
        assert abs(numbers["gold"]["questions"]["mia_loss"] - 0.5) < 0.13

    def test_a_picture_is_asked_about_as_in_the_evaluation(self):
        """The same caption question for the same row as in eval_log_forget, the caption as
        answer."""
        for row, item in zip(
            read_rows(WORLD, "forget10"), items(FORGET[0], WORLD, OWN), strict=True
        ):
            assert evaluation_record(row, OWN) == Record(
                item.prompt.question, item.answer, row.image
            )

    def test_held_out_rows_that_models_are_trained_on_are_refused(self, tmp_path):
        shutil.copytree(WORLD, tmp_path / "w")
        line = (
            (WORLD / "retain90/rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[4]
        )
        with open(tmp_path / "w/holdout10/rows.jsonl", "a", encoding="utf-8") as file:
            file.write(line)
        with pytest.raises(
            UserError, match=r"holdout10/rows.jsonl:21: is also .*full/rows.jsonl:5, which"
        ):
            make_plan(SETTINGS, tmp_path / "w", OWN, True)

    def test_missing_held_out_rows_are_reported_and_an_unknown_name_is_an_error(self, tmp_path):
        shutil.copytree(WORLD, tmp_path / "w", ignore=shutil.ignore_patterns("holdout10"))
        found = make_plan(SETTINGS, tmp_path / "w", OWN, True)
        assert not found.compared and "captions: the data has no holdout10" in found.missing
        assert "questions: the data has no tofu/holdout10" in found.missing
        with pytest.raises(UserError, match="no such file"):
            make_plan(
                dataclasses.replace(SETTINGS, holdout_required=True), tmp_path / "w", OWN, True
            )
