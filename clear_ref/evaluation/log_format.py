"""Types of an evaluation log: what logs/TASK.json of a run directory holds.

A log is a set of columns. A column is a dict from a record's index, as text ("0", "1", ...), to the
record's value. TOFU's and the released eval_log_aggregated.json have the same columns, and so has
every log of another project that logs.py has read.

loss    negative log-likelihood (nll) of a candidate answer, in nats; a "gt" loss is that of the
        true answer, a "paraphrased" loss that of the true answer in other words, a "perturb" loss
        that of a wrong answer
avg, average    the loss divided by the number of the candidate's tokens
"""

from typing import TypedDict

LOG_FORMAT = "clear_ref.log/1"


class Candidates(TypedDict):
    """The texts whose likelihood a record compares."""

    answer: str
    paraphrased: str
    perturbed: list[str]


class RecordLog(TypedDict):
    """All values of one record, by column."""

    gt_loss: float
    num_token_gt: int
    avg_gt_loss: float
    paraphrased_loss: float
    num_token_paraphrased: int
    avg_paraphrased_loss: float
    perturb_loss: list[float]
    num_token_perturb: list[int]
    average_perturb_loss: list[float]
    truth_ratio: float
    rouge1_recall: float
    rougeL_recall: float
    generated_text: list[str]
    candidates: Candidates


class Log(TypedDict, total=False):
    """One task's log.

    The metrics need avg_gt_loss, avg_paraphrased_loss, average_perturb_loss, and rougeL_recall or
    generated_text. Logs of other projects may lack the other keys.

    format   clear_ref.log/1, in logs that this project has written
    task     the task's name, such as eval_log_forget
    set      Real Faces, Real World, Forget or Retain
    config   the data config of the rows, such as forget10_perturbed
    source   open-unlearning, in its logs only
    probe    of leakage's tasks: what is changed; picture and person: columns of what was drawn;
             not_asked: records of which it cannot be made (leakage.py)

    generated_text  [prompt, generated text, expected answer] of each record
    rougeL_f1, gt_prob, perturb_prob    in open-unlearning's logs only; a prob is exp(-avg loss)
    """

    format: str
    task: str
    set: str
    config: str
    source: str
    probe: str
    not_asked: list[str]
    picture: dict[str, str]
    person: dict[str, str]
    gt_loss: dict[str, float]
    num_token_gt: dict[str, int]
    avg_gt_loss: dict[str, float]
    paraphrased_loss: dict[str, float]
    num_token_paraphrased: dict[str, int]
    avg_paraphrased_loss: dict[str, float]
    perturb_loss: dict[str, list[float]]
    num_token_perturb: dict[str, list[int]]
    average_perturb_loss: dict[str, list[float]]
    gt_prob: dict[str, float]
    perturb_prob: dict[str, list[float]]
    truth_ratio: dict[str, float]
    rouge1_recall: dict[str, float]
    rougeL_recall: dict[str, float]
    rougeL_f1: dict[str, float]
    generated_text: dict[str, list[str]]
    candidates: dict[str, Candidates]


# {task name: its log}: the logs of one model.
Logs = dict[str, Log]
