"""The metric sets of other projects equal what the libraries that those projects call give.

Run: python -m pytest tests/evaluation/test_field_metrics_parity.py. Needs scipy, rouge-score and
nltk (the extra parity). The routes are written here with these libraries from the formulas of
MMUnlearner fa77c66, Open-MMUnlearning 60def72 and forgetium 0.2.1.
"""

import random

import numpy as np
import pytest

from clear_ref.evaluation import (
    forgetium,
    log_format,
    logs,
    metrics,
    mmunlearner,
    open_mmunlearning,
    rouge,
)
from tests.helpers.open_mmunlearning import evaluated_log

scipy_stats = pytest.importorskip("scipy.stats")
distance = pytest.importorskip("scipy.spatial.distance")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
bleu_score = pytest.importorskip("nltk.translate.bleu_score")
WORDS = "the a painter paints painted Anna Anna's sea, sea in Oslo 1990 café running runs".split()


def texts(n=400):
    """(expected, generated) of 0 to 12 words; a third of them share a run of words."""
    rng = random.Random(0)
    for i in range(n):
        expected = rng.choices(WORDS, k=rng.randint(1, 12))
        generated = rng.choices(WORDS, k=rng.randint(0, 12))
        if i % 3 == 0:
            generated[1:1] = expected[: rng.randint(1, len(expected))]
        yield " ".join(expected), " ".join(generated)


@pytest.fixture(scope="module")
def both():
    """(what is read of a model's log of Open-MMUnlearning, of gold's; the contents themselves)."""
    contents = evaluated_log(1, 40), evaluated_log(2, 40)
    read = [logs.recognise(content, "x")[1] for content in contents]
    return read, contents


def test_rouge_f_measures_are_rouge_scores_peer():
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for expected, generated in texts():
        theirs = scorer.score(expected, generated)
        log: log_format.Log = {"generated_text": {"0": ["", generated, expected]}}
        for name, function in (
            ("rouge1", mmunlearner.rouge1_f),
            ("rouge2", mmunlearner.rouge2_f),
            ("rougeL", mmunlearner.rouge_l_f),
        ):
            assert function(log) == pytest.approx(theirs[name].fmeasure, rel=1e-15, abs=0)
        assert rouge.rouge2(expected, generated).recall == theirs["rouge2"].recall


@pytest.mark.filterwarnings("ignore")
def test_bleu_is_nltks_with_smoothing_method_1_peer():
    method1 = bleu_score.SmoothingFunction().method1
    values = []
    for expected, generated in texts():
        theirs = bleu_score.sentence_bleu(
            [expected.split()], generated.split(), smoothing_function=method1
        )
        values.append(mmunlearner.sentence_bleu(expected, generated))
        assert values[-1] == pytest.approx(float(theirs), rel=1e-13, abs=0)
    assert 0 in values and max(values) > 0.8


def per_record(content):
    """exp(mean over wrong answers - paraphrase) of eval_log_forget's records, as their code has."""
    log = content["eval_log_forget.json"]
    return np.array(
        [
            np.exp(np.mean(log["average_perturb_loss"][i]) - log["avg_paraphrased_loss"][i])
            for i in log["avg_paraphrased_loss"]
        ]
    )


def test_ks_and_js_are_scipys_of_the_records_truth_ratios_peer(both):
    (own, gold), contents = both
    first, second = map(per_record, contents)
    test = scipy_stats.ks_2samp(first, second)
    logs_of = own["eval_log_forget"], gold["eval_log_forget"]
    assert open_mmunlearning.ks_p(*logs_of) == pytest.approx(test.pvalue, rel=1e-12)
    assert open_mmunlearning.ks_distance(*logs_of) == pytest.approx(test.statistic, rel=1e-12)
    theirs = distance.jensenshannon(first, second)
    assert open_mmunlearning.js_distance(*logs_of) == pytest.approx(theirs, rel=1e-9)


def test_unequal_numbers_of_records_are_compared_by_fifty_bins_peer(both):
    (own, _), contents = both
    fewer = logs.recognise(evaluated_log(3, 25), "x")[1]["eval_log_forget"]
    first, second = per_record(contents[0]), per_record(evaluated_log(3, 25))
    edges = np.linspace(min(*first, *second), max(*first, *second), 51)
    shares = [np.histogram(each, edges)[0] + 1e-12 for each in (first, second)]
    found = open_mmunlearning.js_distance(own["eval_log_forget"], fewer)
    assert found == pytest.approx(distance.jensenshannon(*shares), rel=1e-9)


def their_parts(name, log):
    """(probability, ROUGE, truth ratio) of a task as clear.py computes them."""
    answer = np.array(list(log["avg_gt_loss"].values()))
    wrong = np.array(list(log["average_perturb_loss"].values()))
    paraphrased = np.array(list(log["avg_paraphrased_loss"].values()))
    probability = np.exp(-answer)
    if "eval_log" not in name:
        probability = probability / (probability + np.exp(-wrong).sum(1))
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    words = [scorer.score(t[2], t[1])["rougeL"].recall for t in log["generated_text"].values()]
    ratio = np.exp(wrong.mean(1) - paraphrased)
    if "forget" in name:
        mapped = np.minimum(ratio, 1 / ratio)
    else:
        mapped = np.maximum(0, 1 - 1 / ratio)
    return [probability.mean(), np.mean(words), mapped.mean()]


def test_utility_and_groups_are_the_harmonic_means_of_their_evaluator_peer(both):
    (own, gold), (content, _) = both
    found = metrics.score(own, gold, "open_mmunlearning")
    parts = {
        name.removesuffix(".json"): their_parts(name, log)
        for name, log in content.items()
        if "text" not in name
    }
    for number, tasks in (
        (
            "model_utility",
            ["real_faces_wo_options", "real_world_wo_options", "log", "retain_facerec"],
        ),
        ("forget", ["log_forget", "forget_facerec"]),
        ("retain", ["log", "retain_facerec"]),
        ("real", ["real_faces_wo_options", "real_world_wo_options"]),
    ):
        values = [value for task in tasks for value in parts[f"eval_{task}"]]
        assert found[number] == pytest.approx(scipy_stats.hmean(values), rel=1e-9), number
    task = found["tasks"]["eval_text_forget"]
    answer = list(content["eval_text_forget.json"]["avg_gt_loss"].values())
    assert task["probability"] == pytest.approx(np.exp(-np.array(answer)).mean(), rel=1e-12)
    assert found["forget_quality_of_five"] is None


def test_forgetiums_number_is_scipys_peer(both):
    (own, gold), contents = both
    ratios = []
    for content in contents:
        log = content["eval_log_forget.json"]
        wrong = np.exp(-np.array(list(log["average_perturb_loss"].values()))).mean(1)
        right = np.exp(-np.array(list(log["avg_gt_loss"].values())))
        ratios.append(wrong / np.maximum(right, 1e-12))
    p = scipy_stats.ks_2samp(*ratios).pvalue
    found = forgetium.forget_quality(own["eval_log_forget"], gold["eval_log_forget"])
    assert found == pytest.approx(-np.log10(max(p, 1e-300)), rel=1e-9)
