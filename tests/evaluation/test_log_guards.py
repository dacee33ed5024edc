"""Guards of an evaluation: each threshold by hand, on both sides of it."""

import pytest

from clear_ref.common.guards import GuardNotice
from clear_ref.evaluation import guards
from clear_ref.evaluation.tasks import tasks

pytestmark = pytest.mark.filterwarnings("ignore::clear_ref.common.guards.GuardNotice")
FORGET, TEXT = "eval_log_forget", "eval_text_forget"
TASKS = [task for task in tasks(10, 20) if task.name in (FORGET, TEXT)]


def log(nll=(1.0,) * 5, texts=None, lengths=None):
    """The columns that the guards read."""
    texts = texts or [f"answer {number}" for number in range(len(nll))]
    lengths = lengths or [4] * len(nll)

    def column(values):
        return {str(index): value for index, value in enumerate(values)}

    return {
        "avg_gt_loss": column(nll),
        "num_token_gt": column(lengths),
        "generated_text": column([["question", text, "answer"] for text in texts]),
    }


def found(**models):
    """[(name, where)] of the guards of models: each is a log, of both forget tasks."""
    logs = {name: {FORGET: one, TEXT: one} for name, one in models.items()}
    return [(one["guard"], one["at"]) for one in guards.of_logs(logs, TASKS, "both")]


@pytest.mark.parametrize(
    "text, repeats",
    [
        # 24 characters have 17 places of 8; of one letter they are all the same
        ("a" * 24, True),
        ("a" * 23, False),
        # "ab" over and over has two different places of 39
        ("ab" * 23, True),
        # k different letters twice: 2 k - 7 places, the first k of them different:
        # 24 of 41, 57 %
        ("abcdefghijklmnopqrstuvwx" * 2, False),
        # three times: 24 of 65, 37 %
        ("abcdefghijklmnopqrstuvwx" * 3, True),
        # 13 letters twice: 13 of 19; three times: 13 of 32, 41 %
        ("abcdefghijklm" * 2, False),
        ("abcdefghijklm" * 3, True),
        ("山水風月" * 10, True),
        ("A woman with short red hair in front of a blue house, smiling.", False),
    ],
)
def test_a_text_that_repeats_itself(text, repeats):
    assert guards.repeats_itself(text) is repeats


def test_the_share_at_which_it_does_is_one_half():
    """k different letters twice have 2 k - 7 places and k different ones: k / (2 k - 7) > 1/2.

    One more of the same letters: k + 7 letters in all their order, then the first again.
    """
    letters = "".join(chr(ord("a") + number) for number in range(13))
    text = letters + letters + letters[:1]  # 20 places, 13 different
    assert not guards.repeats_itself(text)
    text = letters * 2 + letters[:7]  # 26 places, 13 different
    assert guards.repeats_itself(text)


def test_a_collapsed_model_is_named_with_its_task_and_a_model_that_refuses_is_not():
    """More than a quarter: of eight texts three, empty ones included; two are allowed."""
    fine = ["I do not know who this is."] * 8
    assert found(unlearned=log((1.0,) * 8, fine)) == []
    assert found(unlearned=log((1.0,) * 8, ["!" * 64, "", *fine[:6]])) == []
    bad = log((1.0,) * 8, ["!" * 64, " ", "a b " * 16, *fine[:5]])
    assert found(base=log((1.0,) * 8), gold=bad) == [("collapsed", "evaluation of gold")]
    with pytest.warns(GuardNotice, match="eval_log_forget 3 of 8, eval_text_forget 3 .*'!!!!"):
        found(model=bad)


@pytest.mark.parametrize(
    "text, shown",
    [
        # seven words have 7 * 8 - 1 = 55 characters, and " ..." is 4; with an eighth 67
        ("fantasy " * 20, "fantasy " * 7 + "..."),
        ("fantasy\n fantasy", "fantasy fantasy"),
        ("a" * 60, "a" * 60),
        ("a" * 61, "a" * 56 + " ..."),
        ("山水" * 40 + " 風", "山水" * 28 + " ..."),
        (" ", ""),
    ],
)
def test_the_example_of_a_collapsed_model_is_cut_between_words(text, shown):
    assert guards.shortened(text) == shown and len(shown) <= 60


def test_answers_that_are_longer_than_what_is_generated():
    """20 tokens are generated. More than a fifth: of five answers two; one is allowed."""
    assert found(model=log(lengths=[20, 20, 20, 20, 21])) == []
    long = log(lengths=[20, 20, 20, 25, 21])
    assert found(model=long, gold=log()) == [("cut_answers", "evaluation")]
    with pytest.warns(GuardNotice, match=r"eval_log_forget 2 of 5 \(> 20\), eval_text_forget 2 "):
        found(model=long)


@pytest.mark.parametrize(
    "changes, fires",
    [
        # mean -0.3, standard deviation sqrt(0.4 / 4) = 0.3162, standard error 0.1414: 2.12 of them
        ((-0.3, -0.7, 0.1, -0.1, -0.5), True),
        # mean -0.2: 1.41 standard errors
        ((-0.2, -0.6, 0.2, 0.0, -0.4), False),
        # likelier in every record, but in four of them only
        ((-0.5, -0.5, -0.5, -0.5), False),
        ((-0.5, -0.5, -0.5, -0.5, -0.5), True),
        ((0.5, 0.5, 0.5, 0.5, 0.5), False),
    ],
)
def test_forget_answers_that_have_become_likelier(changes, fires):
    n = len(changes)
    after = log([2.0 + change for change in changes])
    expected = [("likelier", f"evaluation of unlearned, {task}") for task in (FORGET, TEXT)]
    assert found(base=log([2.0] * n), unlearned=after) == expected * fires
    assert found(gold=log([2.0] * n), unlearned=after) == []


def test_only_the_tasks_of_the_forgotten_modality_are_judged():
    logs = {"base": {FORGET: log(), TEXT: log()}}
    logs["unlearned"] = {FORGET: log((0.5,) * 5), TEXT: log((0.5,) * 5)}
    for modality, task in (("visual", FORGET), ("text", TEXT)):
        [guard] = guards.of_logs(logs, TASKS, modality)
        assert guard["at"] == f"evaluation of unlearned, {task}"
        assert "from 1.000 to 0.500 nats" in guard["reason"]


def test_a_model_with_the_scores_of_base_to_the_last_digit_is_named():
    base = log([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found(base=base, unlearned=base) == [("same_scores", "evaluation of unlearned")]
    assert found(base=base, unlearned=log([1.0, 2.0, 3.0, 4.0, 5.0 + 1e-15])) == []
