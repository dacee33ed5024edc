"""Metrics: stored values of real models' logs, values by hand, invariances, bad logs, and mutants
that must be caught.

The stored logs are TOFU's (tests/real/README.md). Tests named *_peer need nltk, rouge-score or
scipy and are skipped without them.
"""

import copy
import gzip
import json
import math
import random
import re
import warnings

import numpy as np
import pytest

from clear_ref.common.errors import UserError
from clear_ref.evaluation import metrics, porter, rouge
from tests.helpers.real_data import real_data

TOFU_SETS = {
    "eval_log": "Retain",
    "eval_log_forget": "Forget",
    "eval_real_author_wo_options": "Real Authors",
    "eval_real_world_wo_options": "Real World",
}
WITH_ROUGE_AND_RATIO = {
    "real": ("eval_real_faces_wo_options", "eval_real_world_wo_options"),
    "retain": ("eval_log",),
    "real_faces": ("eval_real_faces_wo_options",),
    "real_world": ("eval_real_world_wo_options",),
    "forget": ("eval_log_forget",),
    "text_retain": ("eval_text_retain",),
    "text_real": ("eval_real_author_wo_options", "eval_real_world_wo_options"),
    "text_forget": ("eval_text_forget",),
}
WITH_PROBABILITY = {
    **WITH_ROUGE_AND_RATIO,
    "retain": ("eval_retain_facerec",),
    "forget": ("eval_forget_facerec",),
}
LOWEST = 1 - math.sqrt(math.log(2))


def real_log(path):
    return json.loads(gzip.decompress(path.read_bytes()))


@pytest.fixture(scope="module")
def generations():
    """[generated, expected, ROUGE-L recall, ROUGE-1 recall] of six logs' 4,542 generations."""
    found = []
    for path in sorted(real_data("tofu_eval_logs").glob("*.json.gz")):
        for task in real_log(path).values():
            for key, (_, generated, expected) in task["generated_text"].items():
                recalls = [task["rougeL_recall"][key], task["rouge1_recall"][key]]
                found.append([generated, expected, *recalls])
    assert len(found) == 4542
    return found


@pytest.fixture(scope="module")
def tofu():
    """The columns of two models' logs that these tests read; their rows of TOFU's leaderboard."""
    columns = (
        "avg_gt_loss",
        "avg_paraphrased_loss",
        "average_perturb_loss",
        "truth_ratio",
        "rougeL_recall",
    )
    logs = {}
    for name in ("llama2-7b_full_wd0.01", "llama2-7b_retain90_wd0.01"):
        tasks = real_log(real_data("tofu_eval_logs", f"{name}.json.gz"))
        logs[name] = {
            task: {column: values[column] for column in columns} for task, values in tasks.items()
        }
    expected = json.loads(real_data("tofu_eval_logs", "expected.json").read_text())
    return {"logs": logs, "published": expected["published"]["rows"]}


def log(
    gt=(1.0, 2.0), paraphrased=(1.0, 1.0), perturbed=((1.0, 1.0), (2.0, 2.0)), recall=(1.0, 0.5)
):
    """A log of as many records as each argument has entries."""

    def column(values):
        return {str(i): value for i, value in enumerate(values)}

    return {
        "avg_gt_loss": column(gt),
        "avg_paraphrased_loss": column(paraphrased),
        "rougeL_recall": column(recall),
        "average_perturb_loss": column([list(row) for row in perturbed]),
    }


def logs(**columns):
    """The same log under every task."""
    return {task: log(**columns) for parts in metrics.PARTS.values() for task, _ in parts}


def ratios(values):
    """A log whose truth ratios R are the values.

    One wrong answer; log R = the loss of the right one - that of the wrong one.
    """
    n = len(values)
    return log([1.0] * n, [50.0 + math.log(r) for r in values], [[50.0]] * n, [1.0] * n)


# ---- ROUGE


@pytest.mark.slow
def test_rouge_of_all_4542_stored_generations_is_exactly_the_stored_one(generations):
    assert len(generations) == 4542
    for generated, expected, rouge_l, rouge_1 in generations:
        found = rouge.scores(expected, generated)
        assert (found["rougeL"].recall, found["rouge1"].recall) == (rouge_l, rouge_1), (
            generated,
            expected,
        )


@pytest.mark.parametrize(
    "mutant", ["no stemmer", "stems short words", "f", "precision", "rouge1 for rougeL"]
)
def test_stored_rouge_detects_each_mutant(generations, monkeypatch, mutant):
    if mutant == "no stemmer":
        monkeypatch.setattr(rouge, "stem", lambda word: word)
    if mutant == "stems short words":

        def every(text):
            return [porter.stem(word) for word in re.findall("[a-z0-9]+", text.lower())]

        monkeypatch.setattr(rouge, "tokens", every)
    name = "rouge1" if mutant == "rouge1 for rougeL" else "rougeL"
    field = mutant if mutant in ("f", "precision") else "recall"
    assert any(getattr(rouge.scores(row[1], row[0])[name], field) != row[2] for row in generations)


def test_rouge_by_hand():
    """Expected "the cat sat on the mat" (6 words), generated "the mat the cat" (4).

    Common words: the twice, mat, cat = 4, so ROUGE-1 is P 4/4, R 4/6, F 2*(2/3)/(5/3) = 0.8. The
    longest common subsequences are "the mat", "the cat" and "the the" = 2 ("the the mat" is only in
    the expected text). So ROUGE-L is P 2/4, R 2/6, F 0.4.
    """
    found = rouge.scores("The cat sat on the mat.", "the mat, the CAT!")
    assert (found["rouge1"].precision, found["rouge1"].recall) == (1.0, 4 / 6)
    assert found["rouge1"].f == pytest.approx(0.8, abs=1e-15)
    assert (found["rougeL"].precision, found["rougeL"].recall) == (0.5, 2 / 6)
    assert found["rougeL"].f == pytest.approx(0.4, abs=1e-15)


@pytest.mark.parametrize(
    "expected, generated", [("", ""), ("a word", ""), ("", "word"), ("...", "word"), ("日", "日")]
)
def test_rouge_without_words_is_zero(expected, generated):
    for found in rouge.scores(expected, generated).values():
        assert (found.precision, found.recall, found.f) == (0.0, 0.0, 0.0)


def test_common_subsequence_equals_the_quadratic_table():
    """The textbook table, on sequences longer than a machine word and of few letters."""
    rng = random.Random(0)
    for n, m in [(0, 3), (1, 1), (64, 64), (65, 130), (200, 90)]:
        a, b = rng.choices("abc", k=n), rng.choices("abc", k=m)
        table = [[0] * (m + 1) for _ in range(n + 1)]
        for i in range(n):
            for j in range(m):
                table[i + 1][j + 1] = (
                    table[i][j] + 1 if a[i] == b[j] else max(table[i][j + 1], table[i + 1][j])
                )
        assert rouge.lcs_length(a, b) == table[n][m] == rouge.lcs_length(b, a)


@pytest.mark.parametrize(
    "word, stem",
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("ties", "tie"),
        ("died", "die"),
        ("feed", "feed"),
        ("agreed", "agre"),
        ("plastered", "plaster"),
        ("motoring", "motor"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("happy", "happi"),
        ("enjoy", "enjoy"),
        ("relational", "relat"),
        ("vietnamization", "vietnam"),
        ("adoption", "adopt"),
        ("probate", "probat"),
        ("rate", "rate"),
        ("controll", "control"),
        ("dying", "die"),
    ],
)
def test_stems_are_those_of_porters_paper_and_of_nltks_list(word, stem):
    assert porter.stem(word) == stem


@pytest.mark.slow
def test_stem_of_every_word_and_of_stacked_suffixes_equals_the_peer(generations):
    peer = pytest.importorskip("nltk.stem.porter").PorterStemmer()
    words = {
        word
        for row in generations
        for text in row[:2]
        for word in re.findall("[a-z0-9]+", text.lower())
    }
    rng, suffixes = (
        random.Random(0),
        [s for s, _ in porter.STEP_2 + porter.STEP_3]
        + list(porter.STEP_4)
        + ["s", "es", "ies", "sses", "ied", "ed", "eed", "ing", "y", "ll", "e"],
    )
    for _ in range(20000):
        start = rng.choices("aeiouybcdlst1", k=rng.randint(1, 5))
        words.add("".join(start + rng.choices(suffixes, k=rng.randint(0, 3))))
    assert [word for word in sorted(words) if porter.stem(word) != peer.stem(word)] == []


@pytest.mark.slow
def test_rouge_equals_the_peer(generations):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rougeL"], use_stemmer=True
    )
    odd = [
        ["", "", 0, 0],
        ["a", "", 0, 0],
        ["Straße İx K ﬁne", "strasse", 0, 0],
        ["_x_ y's", "x's y", 0, 0],
    ]
    for generated, expected, *_ in generations[::9] + odd:
        ours, peer = rouge.scores(expected, generated), scorer.score(expected, generated)
        for name in ours:
            assert (ours[name].precision, ours[name].recall, ours[name].f) == tuple(peer[name])


# ---- TOFU's published numbers, where the definitions coincide


@pytest.mark.parametrize("model", ["llama2-7b_full_wd0.01", "llama2-7b_retain90_wd0.01"])
def test_tofus_published_probability_and_rouge_are_reproduced(tofu, model):
    """The leaderboard summed in another order: a few ulp apart, far below 1e-14."""
    for task, name in TOFU_SETS.items():
        found = metrics.score_task(task, tofu["logs"][model][f"{task}.json"])
        assert found["probability"] == pytest.approx(
            tofu["published"][model][f"Prob. {name}"], abs=1e-14
        )
        assert found["rouge"] == pytest.approx(tofu["published"][model][f"ROUGE {name}"], abs=1e-14)


@pytest.mark.parametrize("model", ["llama2-7b_full_wd0.01", "llama2-7b_retain90_wd0.01"])
def test_tofus_truth_ratio_and_model_utility_are_reproduced(tofu, model):
    """Per record to 2e-6, because the logs were written in fp32.

    The published aggregates are means over the exact ones.
    """
    shown = tofu["published"][model]
    for task, name in TOFU_SETS.items():
        found = tofu["logs"][model][f"{task}.json"]
        r = {
            key: metrics.tofu_truth_ratio(loss, found["average_perturb_loss"][key])
            for key, loss in found["avg_paraphrased_loss"].items()
        }
        for key, value in r.items():
            assert value == pytest.approx(found["truth_ratio"][key], rel=2e-6)
        rescaled = [
            min(1 / value, value) if task == "eval_log_forget" else max(0, 1 - value)
            for value in r.values()
        ]
        assert metrics.mean(rescaled) == pytest.approx(shown[f"Truth Ratio {name}"], abs=1e-14)
    nine = [
        shown[f"{part} {name}"]
        for part in ("Prob.", "ROUGE", "Truth Ratio")
        for name in TOFU_SETS.values()
        if name != "Forget"
    ]
    assert metrics.harmonic_mean(nine) == pytest.approx(shown["Model Utility"], abs=1e-14)


def test_our_arithmetic_truth_ratio_is_not_tofus_geometric_one(tofu):
    """Jensen: the arithmetic mean of the wrong answers' probabilities is the larger one."""
    found = tofu["logs"]["llama2-7b_full_wd0.01"]["eval_log_forget.json"]
    right, wrong = found["avg_paraphrased_loss"], found["average_perturb_loss"]
    gaps = [
        value - math.log(metrics.tofu_truth_ratio(right[key], wrong[key]))
        for key, value in metrics.truth_ratios(found).items()
    ]
    assert min(gaps) >= -1e-12 and max(gaps) > 0.1


# ---- by hand


def test_truth_ratio_by_hand():
    """Right answer p = 1/2, wrong answers 1/4 and 1/8: R = (3/16)/(1/2) = 3/8; TOFU's R is
    sqrt(1/32)/(1/2) = sqrt(1/8).

    Score of records with R = 3/8 and R = 2: mean(5/8, 0) = 5/16.
    """
    wrong = [math.log(4), math.log(8)]
    assert math.exp(metrics.log_truth_ratio(math.log(2), wrong)) == pytest.approx(3 / 8, rel=1e-15)
    assert metrics.tofu_truth_ratio(math.log(2), wrong) == pytest.approx(
        math.sqrt(1 / 8), rel=1e-14
    )
    two = log(paraphrased=(math.log(2), math.log(4)), perturbed=(wrong, [math.log(2)]))
    assert metrics.truth_ratio_score(two) == pytest.approx(5 / 16, rel=1e-14)


def test_probability_by_hand():
    """Answers 1/2 and 1/4; wrong ones {1/4, 1/4} and {1/2, 1/4}.

    Plain: 3/8. Among candidates: mean(1/2, 1/4) = 3/8.
    """
    found = log(
        gt=(math.log(2), math.log(4)), perturbed=([math.log(4)] * 2, [math.log(2), math.log(4)])
    )
    assert metrics.probability_of_answer(found) == pytest.approx(3 / 8, rel=1e-15)
    assert metrics.probability_among_candidates(found) == pytest.approx(3 / 8, rel=1e-15)
    found["average_perturb_loss"]["0"] = [
        math.log(4)
    ]  # now 1/2 of 3/4, so 2/3: mean(2/3, 1/4) = 11/24
    assert metrics.probability_of_answer(found) == pytest.approx(3 / 8, rel=1e-15)
    assert metrics.probability_among_candidates(found) == pytest.approx(11 / 24, rel=1e-15)


def test_harmonic_mean_by_hand():
    """3 / (1/1 + 1/(1/2) + 1/(1/3)) = 3/6."""
    assert metrics.harmonic_mean([1, 1 / 2, 1 / 3]) == pytest.approx(0.5, rel=1e-15)


def test_one_part_of_zero_makes_the_harmonic_mean_zero():
    assert metrics.harmonic_mean([0.9, 0.0, 0.9]) == 0.0
    found = metrics.score(logs(recall=(0.0, 0.0)))
    assert [found[metric] for metric in metrics.PARTS] == [0.0] * 8


def test_jensen_shannon_distance_by_hand():
    """Disjoint: sqrt(ln 2).

    (1, 0) and (1/2, 1/2): m = (3/4, 1/4), KL(p||m) = ln(4/3), KL(q||m) = (ln(2/3) + ln 2)/2.
    """
    assert metrics.jensen_shannon_distance([1, 0], [0, 1]) == pytest.approx(
        math.sqrt(math.log(2)), rel=1e-15
    )
    by_hand = math.sqrt((math.log(4 / 3) + (math.log(2 / 3) + math.log(2)) / 2) / 2)
    assert metrics.jensen_shannon_distance([1, 0], [1, 1]) == pytest.approx(by_hand, rel=1e-14)


def test_histogram_by_hand():
    """R/(1+R): 0.26 -> 0.206 and 0.27 -> 0.213 in bin 2, 0.05 -> 0.048 in bin 0, 3 -> 0.75 in 7."""
    assert metrics.histogram(ratios([0.26, 0.27, 0.05, 3.0])).tolist() == [
        0.25,
        0,
        0.5,
        0,
        0,
        0,
        0,
        0.25,
        0,
        0,
    ]


def test_forget_quality_by_hand():
    """Half of the records move from bin 2 to bin 7: p = (1, 0), q = (1/2, 1/2), known by hand."""
    by_hand = 1 - math.sqrt((math.log(4 / 3) + (math.log(2 / 3) + math.log(2)) / 2) / 2)
    assert metrics.forget_quality(ratios([0.3, 0.3]), ratios([0.3, 3.0])) == pytest.approx(
        by_hand, rel=1e-14
    )


def test_each_reported_number_is_made_of_its_own_parts():
    """Move one part at a time: exactly the reported numbers that contain it move."""
    before = metrics.score(logs())
    for task in logs():
        for column in ("rougeL_recall", "avg_gt_loss", "avg_paraphrased_loss"):
            changed = logs()
            changed[task][column]["0"] = 0.25
            after = metrics.score(changed)
            moved = {metric for metric in metrics.PARTS if after[metric] != before[metric]}
            contain = WITH_PROBABILITY if column == "avg_gt_loss" else WITH_ROUGE_AND_RATIO
            assert moved == {metric for metric, tasks in contain.items() if task in tasks}, (
                task,
                column,
            )


def test_reported_numbers_by_hand():
    """Recall 3/4; answers 1/e and 1/e^2; names have the share 1/(1 + 2) each; R = 1 and 1/e, so the
    score is (1 - 1/e)/2."""
    found = metrics.score(logs())
    ratio, plain, share = (1 - math.exp(-1)) / 2, (math.exp(-1) + math.exp(-2)) / 2, 1 / 3

    def hmean(*parts):
        return len(parts) / sum(1 / part for part in parts)

    for metric in ("real", "real_faces", "real_world", "retain", "forget"):
        assert found[metric] == pytest.approx(hmean(0.75, share, ratio), rel=1e-14), metric
    for metric in ("text_retain", "text_forget"):
        assert found[metric] == pytest.approx(hmean(0.75, plain, ratio), rel=1e-14), metric
    parts = {"rouge": 0.75, "probability": plain, "truth_ratio": ratio, "n": 2}
    assert found["tasks"]["eval_log"] == pytest.approx(parts, rel=1e-14)
    assert found["forget_quality"] is None


# ---- ranges, invariances, peers


def test_forget_quality_is_one_for_the_same_model_and_never_leaves_its_range(tofu):
    rng = random.Random(1)
    full, gold = (
        tofu["logs"][f"llama2-7b_{name}_wd0.01"]["eval_log_forget.json"]
        for name in ("full", "retain90")
    )
    assert metrics.forget_quality(gold, gold) == 1.0
    assert LOWEST < metrics.forget_quality(full, gold) < 1.0
    assert metrics.forget_quality(ratios([1e-9] * 3), ratios([1e9] * 3)) == pytest.approx(
        LOWEST, abs=1e-15
    )
    for _ in range(50):
        a, b = ([math.exp(rng.gauss(shift, 2)) for _ in range(7)] for shift in (-1, 1))
        assert LOWEST - 1e-15 <= metrics.forget_quality(ratios(a), ratios(b)) <= 1.0


def test_forget_quality_depends_on_the_wrong_answers():
    """The released one does not: there a global constant stands for them and cancels."""
    a = ratios([0.3, 0.4, 3.0])
    b = copy.deepcopy(a)
    b["average_perturb_loss"]["2"] = [60.0]
    assert metrics.forget_quality(a, b) < 1.0


def test_order_of_records_and_candidates_cannot_change_a_bit(tofu):
    rng = random.Random(2)

    def shuffled(value):
        return rng.sample(value, len(value)) if isinstance(value, list) else value

    given, gold = (tofu["logs"][f"llama2-7b_{name}_wd0.01"] for name in ("full", "retain90"))
    mixed = {}
    for task, found in given.items():
        mixed[task] = {}
        for column, values in found.items():
            keys = rng.sample(list(values), len(values))
            mixed[task][column] = {key: shuffled(values[key]) for key in keys}
    tasks = list(mixed)[::-1]
    assert metrics.score({task: mixed[task] for task in tasks}, gold) == metrics.score(given, gold)


def test_a_constant_added_to_every_loss_moves_probability_and_no_ratio():
    base, moved = (
        log(),
        log(gt=(1.5, 2.5), paraphrased=(1.5, 1.5), perturbed=((1.5, 1.5), (2.5, 2.5))),
    )
    for function, factor in (
        (metrics.truth_ratio_score, 1.0),
        (metrics.probability_among_candidates, 1.0),
        (metrics.probability_of_answer, math.exp(-0.5)),
    ):
        assert function(moved) == pytest.approx(factor * function(base), rel=1e-14)


def test_jensen_shannon_distance_and_harmonic_mean_equal_the_peer():
    distance = pytest.importorskip("scipy.spatial.distance").jensenshannon
    hmean = pytest.importorskip("scipy.stats").hmean
    rng = np.random.default_rng(0)
    for n in (2, 10, 300):
        p, q = rng.random(n) * (rng.random(n) > 0.3) + 1e-12, rng.random(n)
        assert metrics.jensen_shannon_distance(p, q) == pytest.approx(distance(p, q), abs=1e-14)
        assert metrics.harmonic_mean(q) == pytest.approx(hmean(q), rel=1e-14)


# ---- models that diverged, logs that are wrong


def test_a_model_that_diverged_is_scored_without_a_warning():
    """Losses of 1e4: plain probability 0, equal candidates share 1/3, R is 1.

    Losses 1e4 apart: R is 0 or larger than any float.
    """
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        same = log(
            gt=(1e4, 1e4),
            paraphrased=(1e4, 1e4),
            perturbed=((1e4, 1e4), (1e4, 1e4)),
            recall=(0.0, 0.0),
        )
        assert metrics.score_task("eval_log", same) == {
            "rouge": 0.0,
            "probability": 0.0,
            "truth_ratio": 0.0,
            "n": 2,
        }
        assert metrics.score_task("eval_retain_facerec", same)["probability"] == pytest.approx(
            1 / 3, rel=1e-14
        )
        apart = log(gt=(0.0, 1e4), paraphrased=(0.0, 1e4), perturbed=((1e4, 1e4), (0.0, 0.0)))
        found = metrics.score_task("eval_retain_facerec", apart)
        assert (found["probability"], found["truth_ratio"]) == (0.5, 0.5)
        assert metrics.histogram(apart).tolist() == [0.5] + [0] * 8 + [0.5]
        assert math.isfinite(metrics.tofu_truth_ratio(1e4, [0.0]))
        assert metrics.forget_quality(apart, same) == pytest.approx(LOWEST, abs=1e-15)


def test_an_empty_text_has_rouge_zero():
    found = log()
    del found["rougeL_recall"]
    found["generated_text"] = {
        "0": ["Who?", "", "Ann Bell"],
        "1": ["Who?", "It is Ann Bell.", "Ann Bell"],
    }
    assert metrics.score_task("eval_log", found)["rouge"] == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1.0", True, -1.0])
@pytest.mark.parametrize(
    "column", ["avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall"]
)
def test_a_value_that_is_not_a_finite_number_is_an_error_that_names_task_column_and_record(
    column, value
):
    bad = log()
    bad[column]["1"] = [1.0, value] if column == "average_perturb_loss" else value
    message = rf"eval_retain_facerec: {column} of record 1 is .*{re.escape(repr(value))}"
    with pytest.raises(UserError, match=message) as caught:
        metrics.score({"eval_retain_facerec": bad})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda found: found.pop("avg_gt_loss"), "no column avg_gt_loss"),
        (lambda found: found.pop("average_perturb_loss"), "no column average_perturb_loss"),
        (lambda found: found.pop("rougeL_recall"), "no column generated_text"),
        (lambda found: found["avg_gt_loss"].clear(), "column avg_gt_loss is empty"),
        (lambda found: found["avg_gt_loss"].pop("1"), "record 1 is in only one of avg_gt_loss"),
        (
            lambda found: found["rougeL_recall"].pop("0"),
            "record 0 is in only one of avg_gt_loss .* and rougeL_recall",
        ),
        (
            lambda found: found["average_perturb_loss"].pop("0"),
            "record 0 is in only one of avg_paraphrased_loss",
        ),
        (
            lambda found: found["average_perturb_loss"].update({"0": []}),
            "average_perturb_loss of record 0",
        ),
        (
            lambda found: (
                found.pop("rougeL_recall"),
                found.update(generated_text={"0": ["a", "b", "c"], "1": ["a"]}),
            ),
            "generated_text of record 1",
        ),
    ],
)
def test_a_bad_log_is_one_line_that_names_it(break_it, message):
    bad = log()
    break_it(bad)
    with pytest.raises(UserError, match=f"eval_log: .*{message}") as caught:
        metrics.score({"eval_log": bad})
    assert "\n" not in str(caught.value)


def test_gold_of_other_records_is_an_error():
    with pytest.raises(UserError, match="2 records, gold has 1; record 1 is in only one"):
        metrics.score(
            {"eval_log_forget": log()}, {"eval_log_forget": log([1.0], [1.0], [[1.0]], [1.0])}
        )
    with pytest.raises(UserError, match="expected eval_log_forget"):
        metrics.score({"eval_log_forget": log()}, {"eval_log": log()})
    ours, gold = log(), log()
    ours["generated_text"] = {"0": ["Who?", "x", "Ann"], "1": ["Who?", "x", "Bob"]}
    gold["generated_text"] = {"0": ["Who?", "y", "Ann"], "1": ["Who?", "y", "Eve"]}
    with pytest.raises(UserError, match="record 1 expects 'Bob', in gold 'Eve'"):
        metrics.score({"eval_log_forget": ours}, {"eval_log_forget": gold})


@pytest.mark.parametrize("given", [{}, {"eval_of_mine": {}}, {"eval_log": []}])
def test_logs_without_a_known_task_are_an_error_that_lists_the_known(given):
    with pytest.raises(UserError, match="eval_real_faces_wo_options, .*eval_text_retain"):
        metrics.score(given)


def test_what_was_not_evaluated_is_null_and_every_number_has_a_named_definition():
    found = metrics.score({"eval_text_retain": log()}, {"eval_text_retain": log()})
    assert [
        found[metric] for metric in ("real", "retain", "forget", "forget_quality", "text_forget")
    ] == [None] * 5
    assert found["text_retain"] > 0
    assert found["definitions"] == {
        "rouge": "rougeL_recall",
        "probability_multiple_choice": "normalised_over_candidates",
        "probability_text": "exp_mean_nll",
        "truth_ratio": "arithmetic_clipped",
        "forget_quality": "js_histogram10",
        **dict.fromkeys(metrics.PARTS, "harmonic_mean"),
    }
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("values", [[], [0.5, -0.1]])
def test_harmonic_mean_of_nothing_or_of_a_negative_number_is_an_error(values):
    with pytest.raises(UserError):
        metrics.harmonic_mean(values)


@pytest.mark.parametrize(
    "p, q", [([1, 0], [1]), ([0, 0], [1, 0]), ([1, -1], [1, 0]), ([[1]], [[1]])]
)
def test_distance_of_an_invalid_distribution_is_an_error(p, q):
    with pytest.raises(UserError):
        metrics.jensen_shannon_distance(p, q)
