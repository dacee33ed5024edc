"""The benchmark's metrics: pure functions of evaluation logs.

A log is a dict of columns, a column a dict from the row's index, as text, to a value (evaluate.py), as in TOFU's and
the released eval_log_aggregated.json. Every mean is exactly rounded (math.fsum), so no order of records or candidates
can change a bit. Losses are nll per token in nats; ratios are formed from their differences, so losses of 1e4 neither
overflow nor turn into 0/0.
"""

import inspect
import math
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from . import columns, rouge

# ---- one record, many records


def mean(values) -> float:
    """The exactly rounded sum of the values divided by their number; UserError when there are none."""
    values = [float(value) for value in values]
    if not values:
        raise UserError("mean of no values; expected one record or more")
    return math.fsum(values) / len(values)


def harmonic_mean(values) -> float:
    """n / sum(1/x) of values >= 0; 0 if any of them is 0.

    source  paper 5.2; scipy.stats.hmean is the same
    flaw    one part at exactly 0 hides every other; on Forget that is the best value there is
    """
    values = [float(value) for value in values]
    if not values or min(values) < 0:
        raise UserError(f"harmonic mean of {values}; expected one number or more, none negative")
    return 0.0 if 0.0 in values else len(values) / math.fsum(1.0 / value for value in values)


def rouge_recall(log: dict) -> float:
    """Mean over records of ROUGE-L recall (Porter stemmer) of the greedy text against the answer, in [0, 1].

    formula LCS(generated, answer) / words of the answer; the log's rougeL_recall, else from generated_text
    source  paper 5.2, TOFU; evaluation/rouge.py
    flaw    recall only: a text that holds the answer somewhere scores 1, whatever else it says
    """
    if "rougeL_recall" in log:
        return mean(columns.numbers(log, "rougeL_recall").values())
    return mean(rouge.scores(expected, generated)["rougeL"].recall for _, generated, expected in columns.texts(log).values())


def probability_of_answer(log: dict) -> float:
    """Mean over records of exp(-loss of the answer), in [0, 1].

    formula mean_i exp(-l_i), l = nll of the answer / its tokens
    source  TOFU; released code for the caption tasks (mm/calculate_metrics.py:95-102)
    flaw    a geometric mean over tokens: one surprising token of a long caption is hidden by the others
    """
    return mean(math.exp(-loss) for loss in columns.numbers(log, "avg_gt_loss").values())


def probability_among_candidates(log: dict) -> float:
    """Mean over records of the answer's share among the candidates, in [0, 1].

    formula mean_i P / (P + sum_k P_k), P = exp(-l), over the answer and the K wrong ones
    source  paper 5.2 (multiple choice); TOFU for its real-world sets
    flaw    chance level is 1/(K+1), not 0, and K differs between sets
    """
    answers, wrong = columns.numbers(log, "avg_gt_loss"), columns.lists(log, "average_perturb_loss")
    columns.same_records(log, answers, wrong, "avg_gt_loss", "average_perturb_loss")
    return mean(math.exp(-_log_sum_exp([0.0, *(answers[key] - np.asarray(wrong[key]))])) for key in answers)


def log_truth_ratio(paraphrased: float, perturbed) -> float:
    """log R of one record, R = (1/K) sum_k exp(-l_k) / exp(-l_paraphrased); below 0 where the right answer is likelier.

    paraphrased  loss of the right answer in other words          perturbed  [K] losses of the wrong ones
    source  paper 5.2, TOFU's utils.py: the arithmetic mean of probabilities
    flaw    one likely wrong answer outweighs the rest
    """
    return _log_sum_exp(paraphrased - np.asarray(perturbed, float)) - math.log(len(perturbed))


def tofu_truth_ratio(paraphrased: float, perturbed) -> float:
    """TOFU's R of one record, the log's column truth_ratio: above 1 where the wrong answers are likelier.

    formula exp(l_paraphrased - mean_k l_k); the geometric mean of the wrong answers' probabilities; exponent cut at 700
    source  TOFU's evaluate_util.py; equals the arithmetic R only when all wrong answers are equally likely
    flaw    a single very unlikely wrong answer moves it as much as a likely one
    """
    return math.exp(min(float(paraphrased) - mean(perturbed), 700.0))


def truth_ratios(log: dict) -> dict[str, float]:
    """log R of every record (see log_truth_ratio), by the row's index."""
    right, wrong = columns.numbers(log, "avg_paraphrased_loss"), columns.lists(log, "average_perturb_loss")
    columns.same_records(log, right, wrong, "avg_paraphrased_loss", "average_perturb_loss")
    return {key: log_truth_ratio(right[key], wrong[key]) for key in right}


def truth_ratio_score(log: dict) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1]: 1 where the wrong answers are impossible, 0 where as likely.

    formula mean_i max(0, 1 - R_i), R arithmetic as in log_truth_ratio
    source  paper 5.2 gives R and no rescaling; this is TOFU's for retain, on Forget too because the paper's
            Forget is better when lower, and TOFU's min(R, 1/R) would rise with forgetting
    flaw    all R above 1 count alike, so a model that prefers the wrong answers looks like one that does not know
    """
    return mean(max(0.0, -math.expm1(min(value, 0.0))) for value in truth_ratios(log).values())


def histogram(log: dict, bins: int = 10) -> np.ndarray:
    """[bins] shares of the records whose R/(1+R) falls in each of `bins` equal bins on [0, 1], 1 in the last."""
    shares = [1.0 / (1.0 + math.exp(min(-value, 700.0))) for value in truth_ratios(log).values()]
    return np.histogram(shares, bins, (0.0, 1.0))[0] / len(shares)


def jensen_shannon_distance(p, q) -> float:
    """Square root of the Jensen-Shannon divergence of two distributions, natural logarithm; in [0, sqrt(ln 2)].

    formula sqrt((KL(p || m) + KL(q || m)) / 2), m = (p + q) / 2; p and q are first divided by their sums
    source  Endres and Schindelin 2003; scipy.spatial.distance.jensenshannon is the same
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    if p.shape != q.shape or p.ndim != 1 or min(p.sum(), q.sum()) <= 0 or min(p.min(), q.min()) < 0:
        raise UserError(f"distributions of shapes {p.shape} and {q.shape}; expected equal lengths, no negative "
                        "share and a positive sum")
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    nats = [share * math.log(share / middle) for r in (p, q) for share, middle in zip(r, m) if share > 0]
    return math.sqrt(max(math.fsum(nats) / 2, 0.0))


def forget_quality(log: dict, gold_log: dict) -> float:
    """1 - Jensen-Shannon distance between two models' truth ratios on the forget captions (a language model's: on the forget
    questions); in [1 - sqrt(ln 2), 1].

    formula 1 - jensen_shannon_distance(h, h_gold), h = shares of R/(1+R) in 10 equal bins on [0, 1]
    source  paper 5.2 names distance and quantity; natural logarithm as published values go down to 0.18; bins ours
    flaw    a histogram does not see which record moved, nor how far two disjoint ones are apart
    raises  UserError when the two logs are not of the same records
    """
    ours, gold = (columns.column_of(each, "avg_paraphrased_loss") for each in (log, gold_log))
    odd = sorted(set(ours) ^ set(gold))
    if odd:
        raise UserError(f"{columns.name_of(log)}: {len(ours)} records, gold has {len(gold)}; record {odd[0]} is in only one; "
                        "evaluate both models on the same rows")
    if "generated_text" in log and "generated_text" in gold_log:
        ours, gold = columns.texts(log), columns.texts(gold_log)
        for key in ours:
            if key in gold and ours[key][2] != gold[key][2]:
                raise UserError(f"{columns.name_of(log)}: record {key} expects {ours[key][2]!r}, in gold {gold[key][2]!r}; "
                                "evaluate both models on the same data")
    return 1.0 - jensen_shannon_distance(histogram(log), histogram(gold_log))


# ---- what is reported, by name


@dataclass(frozen=True)
class Definition:
    """A reported metric: its name in every report, a few words, and the whole of it (formula, source, flaw)."""
    name: str
    words: str
    text: str


# The parts of each reported number: (task, part).
PARTS = {
    "real": [(task, part) for task in ("eval_real_faces_wo_options", "eval_real_world_wo_options")
             for part in ("rouge", "probability", "truth_ratio")],
    "retain": [("eval_log", "rouge"), ("eval_retain_facerec", "probability"), ("eval_log", "truth_ratio")],
    "forget": [("eval_log_forget", "rouge"), ("eval_forget_facerec", "probability"),
               ("eval_log_forget", "truth_ratio")],
    "real_faces": [("eval_real_faces_wo_options", part) for part in ("rouge", "probability", "truth_ratio")],
    "real_world": [("eval_real_world_wo_options", part) for part in ("rouge", "probability", "truth_ratio")],
    "text_real": [(task, part) for task in ("eval_real_author_wo_options", "eval_real_world_wo_options")
                  for part in ("rouge", "probability", "truth_ratio")],
    "text_retain": [("eval_text_retain", part) for part in ("rouge", "probability", "truth_ratio")],
    "text_forget": [("eval_text_forget", part) for part in ("rouge", "probability", "truth_ratio")],
}
DEFINITIONS = {metric: Definition(name, words, inspect.getdoc(function)) for metric, name, words, function in (
    ("rouge", "rougeL_recall", "ROUGE-L recall", rouge_recall),
    ("probability_multiple_choice", "normalised_over_candidates", "probability among candidates (names, real sets)",
     probability_among_candidates),
    ("probability_text", "exp_mean_nll", "exp(-mean nll) elsewhere", probability_of_answer),
    ("truth_ratio", "arithmetic_clipped", "truth ratio max(0, 1 - R), R arithmetic", truth_ratio_score),
    ("forget_quality", "js_histogram10", "FQ: 1 - Jensen-Shannon distance from gold, 10 bins", forget_quality))}
DEFINITIONS |= {metric: Definition("harmonic_mean", "columns: harmonic means", "Harmonic mean of " + ", ".join(
    f"{part} of {task}" for task, part in parts) + ".") for metric, parts in PARTS.items()}
MULTIPLE_CHOICE = ("eval_real_faces_wo_options", "eval_real_world_wo_options", "eval_forget_facerec",
                   "eval_retain_facerec", "eval_real_author_wo_options")


def score_task(task: str, log: dict) -> dict:
    """{"rouge", "probability", "truth_ratio", "n"} of one task's log; the task's name decides which probability."""
    log = {"task": task, **log}
    wanted = ("avg_gt_loss", "avg_paraphrased_loss", "rougeL_recall" if "rougeL_recall" in log else "generated_text")
    for column in wanted[1:]:
        columns.same_records(log, columns.column_of(log, wanted[0]), columns.column_of(log, column), wanted[0], column)
    among = task in MULTIPLE_CHOICE
    return {"rouge": rouge_recall(log),
            "probability": probability_among_candidates(log) if among else probability_of_answer(log),
            "truth_ratio": truth_ratio_score(log), "n": len(columns.column_of(log, "avg_gt_loss"))}


def score(logs: dict, gold_logs: dict | None = None) -> dict:
    """metrics.json of one model: the reported numbers, None where a task they are made of was not evaluated.

    logs, gold_logs  {task: log}; a task may carry the ending .json that TOFU gives it
    returns          {"real", "retain", "forget", "forget_quality", "real_faces", "real_world", "text_real", "text_retain",
                      "text_forget",
                      "tasks": {task: {"rouge", "probability", "truth_ratio", "n"}}, "definitions": {metric: name}}
    raises           UserError for an unknown task, a missing column, an empty log, a bad loss, other records in gold
    """
    logs, gold_logs = _by_task(logs, "logs"), None if gold_logs is None else _by_task(gold_logs, "gold logs")
    tasks = {task: score_task(task, log) for task, log in logs.items()}
    result = {metric: None for metric in ("real", "retain", "forget", "forget_quality", *PARTS)}
    for metric, parts in PARTS.items():
        if all(task in tasks for task, _ in parts):
            result[metric] = harmonic_mean(tasks[task][part] for task, part in parts)
    of_quality = next((task for task in ("eval_log_forget", "eval_text_forget") if task in logs), None)
    if gold_logs is not None and of_quality is not None:
        if of_quality not in gold_logs:
            raise UserError(f"gold logs hold {', '.join(gold_logs)}; expected {of_quality} too; evaluate gold on it")
        result["forget_quality"] = forget_quality({"task": of_quality, **logs[of_quality]},
                                                  {"task": f"{of_quality} of gold", **gold_logs[of_quality]})
    return {**result, "tasks": tasks, "definitions": {metric: found.name for metric, found in DEFINITIONS.items()}}


# ---- reading a log


def _by_task(logs: dict, what: str) -> dict:
    """The logs by task name without .json, in PARTS' order; UserError for a name that is no task's."""
    named = {task.removesuffix(".json"): log for task, log in logs.items()}
    known = dict.fromkeys(task for parts in PARTS.values() for task, _ in parts)
    for task, log in named.items():
        if task not in known or not isinstance(log, dict):
            raise UserError(f"{what}: {task!r} is no task with a log; known: {', '.join(known)}")
    if not named:
        raise UserError(f"{what}: hold no task; expected one or more of {', '.join(known)}")
    return {task: named[task] for task in known if task in named}


def _log_sum_exp(values) -> float:
    """log(sum(exp(values))), shifted by the largest, summed exactly."""
    top = max(float(value) for value in values)
    return top + math.log(math.fsum(math.exp(float(value) - top) for value in values))
