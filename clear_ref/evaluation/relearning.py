"""Relearning: train on a few forget records for a few steps, and measure how much is known again.

start     the model as evaluated, with new adapters of the recipe's rank on its layers. This is the
          cheap attack. The weights do not change, so removing the adapters restores the model bit
          for bit. Adapters that could not be merged exactly (half precision) are trained further
          instead and then restored; gold, with new adapters, then has a slower start
loss      cross-entropy of the answers (as in retain_ft: mean over answer tokens of the nll) on the
          drawn records, all of them in every step; AdamW with the recipe's other values, no
          warm-up, the learning rate falls linearly to zero after the last step
reading   what a model that never saw the records (gold) gains in the same steps is learning; a
          model that gains faster had kept something of them
source    Lynch et al. 2024 (arXiv 2402.16835), Hu et al. 2024 (arXiv 2406.13356): forgotten
          knowledge returns after a few steps, also that of records that are not trained on again
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.data import draws
from clear_ref.data.records import Row, read_rows
from clear_ref.loop.finetune import finetune
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.trace import TraceLine
from clear_ref.loop.train import AfterStep
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .bootstrap import Interval, Sample, drawn_numbers
from .intervals import over_draws
from .kept_files import read_kept, write_kept
from .likelihood import answer_means
from .log_format import Log, Logs
from .metrics import score
from .tasks import Task

FORGET_METRICS = ("forget", "text_forget")
# What is measured at a step of relearning.
MEASURES = (
    "nll_relearned",
    "forget",
    "forget_not_relearned",
    "text_forget",
    "text_forget_not_relearned",
)
Measures = dict[str, float | None]
OF_EVERY_STEP = ("step", "loss", "gradient_norm", "lr")
LINES = "lines.json"  # in the directory of a relearning that is not finished


def draw_records(rows: list[Row], n: int, seed: int) -> list[Row]:
    """n of the rows, chosen by the seed, in the rows' order.

    raises  UserError unless 1 <= n < len(rows)
    """
    if not 1 <= n < len(rows):
        raise UserError(
            f"--relearn-records is {n}; expected 1 to {len(rows) - 1}, fewer than the forget set's "
            f"{len(rows)}"
        )
    indices = draws.sample(seed, "relearned records", 0, 0, len(rows), n)
    return [rows[index] for index in sorted(indices)]


def record_key(row: Row) -> tuple[str, ...]:
    """The row's caption, or its question and answer: equal for one record in different configs."""
    values = row.values
    if values.get("caption") is not None:
        return (values["caption"],)
    question, answer = values.get("question"), values.get("answer")
    if question is None or answer is None:
        raise UserError(
            f"{row.where}: has no caption, and no question with its answer; expected a config of "
            "training records, such as holdout10 or tofu/holdout10"
        )
    return (question, answer)


def logs_without(logs: Logs, tasks: list[Task], directory: Path, relearned: list[Row]) -> Logs:
    """The tasks' logs without the relearned records. A task with no other record is left out."""
    relearned_keys = {record_key(row) for row in relearned}
    remaining: Logs = {}
    for task in tasks:
        removed = {
            str(row.index)
            for row in read_rows(directory, task.config)
            if record_key(row) in relearned_keys
        }
        log = {
            name: _column_without(column, removed) if isinstance(column, dict) else column
            for name, column in logs[task.name].items()
        }
        if log["avg_gt_loss"]:
            remaining[task.name] = cast(Log, log)
    return remaining


def _column_without(column: dict[str, object], removed: set[str]) -> dict[str, object]:
    return {index: value for index, value in column.items() if index not in removed}


def forget_numbers(logs: Logs, logs_not_relearned: Logs, metrics: str) -> dict[str, Any]:
    """{metric: value, metric_not_relearned: value} for forget and text_forget.

    logs_not_relearned  the same logs without the relearned records
    returns             None for a metric of tasks that were not evaluated; and "drawn":
                        {measure: its values on drawn records (bootstrap.py)} of the others
    """
    numbers: dict[str, Any] = {"drawn": {}}
    for suffix, some_logs in (("", logs), ("_not_relearned", logs_not_relearned)):
        scores = score(some_logs, None, metrics) if some_logs else {}
        drawn = drawn_numbers(some_logs, None, metrics, scores) if some_logs else {}
        for metric in FORGET_METRICS:
            numbers[f"{metric}{suffix}"] = scores.get(metric)
            if metric in drawn:
                numbers["drawn"][f"{metric}{suffix}"] = drawn[metric].tolist()
    return numbers


@contextmanager
def trainable_adapters(vlm: VLM, recipe: Recipe, seed: int) -> Iterator[None]:
    """Inside the block the model has trainable adapters: its own, or new ones if it has none.

    After the block the model is bit for bit what it was before.
    """
    own_adapters = lora.adapters(vlm.model)
    saved = [
        (parameter, parameter.detach().clone())
        for adapter in own_adapters.values()
        for parameter in adapter.parameters()
    ]
    try:
        if own_adapters:
            for parameter, _ in saved:
                parameter.requires_grad_(True)
        else:
            prepare(vlm, recipe, seed)
        yield
    finally:
        vlm.model.requires_grad_(False)
        for parameter, before in saved:
            parameter.copy_(before)
        for name, layer in lora.linear_layers(vlm.model).items():
            layer.adapter = own_adapters.get(name)


def relearn(
    vlm: VLM,
    plan: FinetunePlan,
    recipe: Recipe,
    measured_steps: list[int],
    initial: Mapping[str, Any],
    measure: Callable[[int], Mapping[str, Any]],
    kept: Path | None = None,
) -> list[dict]:
    """One line for each step from 0 to the last of measured_steps; the model is restored.

    initial   {measure: value, "drawn": {measure: values}} of the model as evaluated, for step 0
    measure   called with each of measured_steps, after it; returns the same measures of the changed
              model
    kept      directory for checkpoints and lines, from which a stopped relearning goes on; it
              belongs to one model, plan and measure
    returns   {"step", "loss", "gradient_norm", "lr"}, where the loss is the one before the step;
              lines of step 0 and of measured_steps also have "nll_relearned", the mean over the
              plan's records of their mean nll, what `measure` returned, and "drawn": {measure: its
              values on drawn records}
    """
    records = [plan.records(0, index)["retain"] for index in range(len(plan))]
    n_threads = torch.get_num_threads()
    lines: list[dict] = []
    stored: list[dict] = []
    begin_again = f"remove the directory {kept}, and --resume measures the model again"
    names = [f"{plan.row_of('retain', 0, index).index}" for index in range(len(plan))]

    def measured(others: Mapping[str, Any]) -> dict[str, Any]:
        nll = answer_means(vlm, records)
        drawn = Sample(plan.seed).counts("relearned records", names) @ np.array(nll) / len(nll)
        own = {"nll_relearned": drawn.tolist()} | others.get("drawn", {})
        return {"nll_relearned": math.fsum(nll) / len(nll)} | dict(others) | {"drawn": own}

    def add(line: TraceLine) -> None:
        lines.append({name: value for name, value in line.items() if name in OF_EVERY_STEP})
        if line["step"] in measured_steps:
            n_training_threads = torch.get_num_threads()
            torch.set_num_threads(n_threads)
            lines[-1] |= measured(measure(line["step"]))
            torch.set_num_threads(n_training_threads)
        if kept:
            write_kept(kept / LINES, lines)

    def again(line: TraceLine) -> None:
        lines[1:] = [each for each in stored if 0 < each["step"] <= line["step"]]
        if len(lines) == line["step"]:  # of step 0 and all others but the last
            add(line)
        if [each["step"] for each in lines] != list(range(line["step"] + 1)):
            raise UserError(
                f"{kept}/{LINES}: has not one line for each of {line['step'] + 1} steps that are "
                f"done; {begin_again}"
            )

    lines.append({"step": 0} | measured(initial))
    if kept:
        fits = partial(_are_lines, measured_steps, lines[0].keys())
        stored += distributed.from_first(lambda: read_kept(kept / LINES, fits, begin_again)) or []
    short_recipe = dataclasses.replace(
        recipe,
        epochs=max(measured_steps),
        batch_size=len(plan),
        accumulate=1,
        warmup_epochs=0.0,
    )
    with trainable_adapters(vlm, recipe, plan.seed):
        finetune(
            vlm,
            plan,
            short_recipe,
            plan.seed,
            "relearn",
            kept,
            resume=kept is not None,
            after_step=AfterStep(add, again, measured_steps),
            begin_again=begin_again,
        )
    return lines


def _are_lines(measured_steps: list[int], measures: Set[str], found: Any) -> bool:
    """Whether these are lines of the steps from 0 on.

    measures  the names of what a line of step 0 and of measured_steps has
    """
    if not isinstance(found, list):
        return False
    for step, line in enumerate(found):
        needed = set(measures) if step == 0 or step in measured_steps else {"step"}
        needed |= set(OF_EVERY_STEP) if step else set()
        if not isinstance(line, dict) or not line.keys() >= needed or line["step"] != step:
            return False
    return True


def mean_rise(steps: list[int], values: list[float | None]) -> float | None:
    """Mean height of a curve above its first value, over the steps; None if a value is missing.

    formula  sum over neighbouring steps s, s' with values v, v' of
             (s' - s) ((v - v_0) + (v' - v_0)) / 2, divided by the last step (trapezoids);
             negative if the curve falls
    flaw     a curve that starts high has little room to rise
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    rises = [value - known[0] for value in known]
    area = sum(
        (b - a) * (x + y) / 2
        for a, b, x, y in zip(steps, steps[1:], rises, rises[1:], strict=False)
    )
    return area / steps[-1]


def curve_intervals(
    steps: list[int], lines: list[dict], measure: str
) -> tuple[list[Interval | None], Interval | None]:
    """The 95 % intervals of a curve at each of the steps, and of its mean rise, over the records.

    lines    of relearn, at these steps
    returns  None where a number is missing, or its drawn values (a run that an older version
             began); a draw takes the same records at every step
    """
    drawn = [line.get("drawn", {}).get(measure) for line in lines]
    at_steps = [None if values is None else over_draws(np.array(values)) for values in drawn]
    if None in drawn:
        return at_steps, None
    rises = [mean_rise(steps, list(values)) for values in zip(*drawn, strict=True)]
    return at_steps, over_draws(np.array(rises))
