"""records.jsonl: one JSON object for each record of each model, for tables and notebooks.

pandas.read_json(path, lines=True) reads it.
"""

import math
from collections.abc import Mapping
from typing import TypedDict

from .exact_means import log_sum_exp
from .log_format import Log, Logs
from .task_metrics import below_one, log_truth_ratio


class RecordLine(TypedDict):
    """What one model did with one record of one task.

    model                         as in metrics.json: base, gold, unlearned, model, ...
    index                         number of the row in its data config
    prompt, answer, paraphrased, perturbed, generated_text    texts
    nll, nll_paraphrased, nll_perturbed    nats for each token of these candidates
    probability                   exp(-nll)
    probability_among_candidates  the answer's share among the answer and the wrong ones
    log_truth_ratio               log R, R arithmetic: above 0 if the wrong answers are likelier
    truth_ratio_score             max(0, 1 - R)
    truth_ratio_tofu              TOFU's R, the geometric one
    rouge1_recall, rougeL_recall  of the generated text
    """

    model: str
    task: str
    set: str
    config: str
    index: int
    prompt: str
    answer: str
    paraphrased: str
    perturbed: list[str]
    generated_text: str
    nll: float
    nll_paraphrased: float
    nll_perturbed: list[float]
    probability: float
    probability_among_candidates: float
    log_truth_ratio: float
    truth_ratio_score: float
    truth_ratio_tofu: float
    rouge1_recall: float
    rougeL_recall: float


def record_lines(models: Mapping[str, Logs]) -> list[RecordLine]:
    """A line for every record: model after model, and task after task of each.

    models  {model: {task: log}} of logs that this project has made
    """
    found = []
    for model, logs in models.items():
        for task, log in logs.items():
            found += [_line(model, task, log, index) for index in log["avg_gt_loss"]]
    return found


def _line(model: str, task: str, log: Log, index: str) -> RecordLine:
    prompt, generated, answer = log["generated_text"][index]
    texts = log["candidates"][index]
    nll = log["avg_gt_loss"][index]
    wrong = log["average_perturb_loss"][index]
    log_ratio = log_truth_ratio(log["avg_paraphrased_loss"][index], wrong)
    among = log_sum_exp([0.0, *(nll - each for each in wrong)])
    return {
        "model": model,
        "task": task,
        "set": log["set"],
        "config": log["config"],
        "index": int(index),
        "prompt": prompt,
        "answer": answer,
        "paraphrased": texts["paraphrased"],
        "perturbed": texts["perturbed"],
        "generated_text": generated,
        "nll": nll,
        "nll_paraphrased": log["avg_paraphrased_loss"][index],
        "nll_perturbed": wrong,
        "probability": math.exp(-nll),
        "probability_among_candidates": math.exp(-among),
        "log_truth_ratio": log_ratio,
        "truth_ratio_score": below_one({index: log_ratio}),
        "truth_ratio_tofu": log["truth_ratio"][index],
        "rouge1_recall": log["rouge1_recall"][index],
        "rougeL_recall": log["rougeL_recall"][index],
    }
