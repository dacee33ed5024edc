"""Relearning: a few steps on a few forget records, and how much comes back, of these records and of the others.

start     the model as evaluated, new adapters of the recipe's rank on its layers: the cheap attack, and the weights stay as they
          are, so that taking the adapters off puts the model back bit for bit. Adapters that could not be merged exactly
          (half precision) are trained on from where they are, and put back; gold's new ones then have a slower start
loss      cross-entropy of the answers (retain_ft's: mean over answer tokens of nll) on the drawn records, all of them in every
          step; AdamW, the recipe's other values, no warm-up, the rate falls linearly to zero after the last step
reads as  what a model that never saw the records (gold) does in the same steps is learning; what is faster was still there
source    Lynch et al. 2024 (arXiv 2402.16835), Hu et al. 2024 (arXiv 2406.13356): forgotten knowledge returns after a few steps,
          also what is not shown again
"""

import dataclasses
from contextlib import contextmanager

import torch

from clear_ref.common.errors import UserError
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.data import draws
from clear_ref.data.records import Row, read_rows
from clear_ref.loop.finetune import finetune
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.unlearn import prepare
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .exact_means import mean
from .likelihood import answer_nll
from .metrics import score
from .tasks import Task

FORGET = ("forget", "text_forget")
MEASURES = (
    "nll_relearned",
    *(f"{metric}{of}" for metric in FORGET for of in ("", "_not_relearned")),
)


def drawn(rows: list[Row], n: int, seed: int) -> list[Row]:
    """n of the rows, a function of the seed, in the rows' order; UserError unless some rows are left over."""
    if not 1 <= n < len(rows):
        raise UserError(
            f"--relearn-records is {n}; expected 1 to {len(rows) - 1}, fewer than the forget set's {len(rows)}"
        )
    return [
        rows[index] for index in sorted(draws.sample(seed, "relearned records", 0, 0, len(rows), n))
    ]


def content(row: Row) -> tuple:
    """What makes two rows of different configs the same record: the caption, or question and answer."""
    values = row.values
    if values.get("caption") is None and None in (values.get("question"), values.get("answer")):
        raise UserError(
            f"{row.where}: has no caption and no question with its answer; expected a config that is trained on, "
            "such as holdout10 or tofu/holdout10"
        )
    return (
        (values["caption"],)
        if values.get("caption") is not None
        else (values["question"], values["answer"])
    )


def without(
    logs: dict[str, dict], tasks: list[Task], directory, relearned: list[Row]
) -> dict[str, dict]:
    """The tasks' logs without the relearned records; a task of which nothing is left is left out."""
    shown, found = {content(row) for row in relearned}, {}
    for task in tasks:
        gone = {
            str(row.index) for row in read_rows(directory, task.config) if content(row) in shown
        }
        log = {
            name: {key: one for key, one in column.items() if key not in gone}
            if isinstance(column, dict)
            else column
            for name, column in logs[task.name].items()
        }
        if log["avg_gt_loss"]:
            found[task.name] = log
    return found


def forget_numbers(
    logs: dict[str, dict], others: dict[str, dict], metrics: str
) -> dict[str, float | None]:
    """{metric of FORGET: its value, metric_not_relearned: that of the other records}; None where a part was not evaluated."""
    found = {}
    for of, some in (("", logs), ("_not_relearned", others)):
        scored = score(some, None, metrics) if some else {}
        found |= {f"{metric}{of}": scored.get(metric) for metric in FORGET}
    return found


@contextmanager
def trainable_adapters(vlm: VLM, recipe, seed: int):
    """Within the block adapters can be trained: new ones, or those that are there; after it the model is as it was."""
    found = lora.adapters(vlm.model)
    kept = [
        (parameter, parameter.detach().clone())
        for adapter in found.values()
        for parameter in adapter.parameters()
    ]
    try:
        if found:
            for parameter, _ in kept:
                parameter.requires_grad_(True)
        else:
            prepare(vlm, recipe, seed)
        yield
    finally:
        vlm.model.requires_grad_(False)
        for parameter, before in kept:
            parameter.copy_(before)
        for name, layer in lora.linear_layers(vlm.model).items():
            layer.adapter = found.get(name)


def relearn(
    vlm: VLM, plan: FinetunePlan, recipe, at: list[int], before: dict, numbers
) -> list[dict]:
    """The curve, a line a step from 0 to the last of `at`; the model is put back.

    at       steps after which is measured, beside step 0
    before   {measure: value} of the model as evaluated, step 0's      numbers  () -> the same of the model as it is then
    returns  {"step", "loss", "gradient_norm", "lr"} (loss: before the step) and, where measured, "nll_relearned", the mean over
             the plan's records of their mean nll, and what `numbers` gives
    """
    shown = [plan.records(0, index)["retain"] for index in range(len(plan))]
    threads, lines = torch.get_num_threads(), []

    def nll() -> dict:
        return {
            "nll_relearned": mean(
                map_in_processes(
                    lambda record: mean(answer_nll(vlm, record)), shown, process_count(vlm.device)
                )
            )
        }

    def after_step(line: dict) -> None:
        lines.append({key: line[key] for key in ("step", "loss", "gradient_norm", "lr")})
        if line["step"] in at:
            training = torch.get_num_threads()
            torch.set_num_threads(threads)
            lines[-1] |= nll() | numbers()
            torch.set_num_threads(training)

    lines.append({"step": 0} | nll() | before)
    short = dataclasses.replace(
        recipe, epochs=max(at), batch_size=len(plan), accumulate=1, warmup_epochs=0.0
    )
    with trainable_adapters(vlm, recipe, plan.seed):
        finetune(vlm, plan, short, plan.seed, "relearn", after_step=after_step)
    return lines


def mean_rise(steps: list[int], values: list[float | None]) -> float | None:
    """How far a curve lies above its start, on average over the steps (trapezoids); None where a value is missing.

    formula  sum over neighbours of (s' - s) ((v - v_0) + (v' - v_0)) / 2, divided by the last step; negative where it falls
    flaw     a curve that starts high has little room to rise
    """
    if None in values:
        return None
    rises = [value - values[0] for value in values]
    return (
        sum((b - a) * (x + y) / 2 for a, b, x, y in zip(steps, steps[1:], rises, rises[1:]))
        / steps[-1]
    )
