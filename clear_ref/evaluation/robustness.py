"""Robustness of unlearning: three measurements of a model and, where there is one, of gold.

relearning  training on a few forget records for a few steps: what is known again (relearning.py)
rounding    metrics with weights rounded to a few bits (rounding.py)
membership  whether likelihoods distinguish forget records from records that no model has seen
            (membership_scores.py, membership.py)

Gold is a model that never saw the forget set; the numbers of a model are read by comparing them
with gold's. Only numbers are written. Every model is restored after each measurement.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_jsonl
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Row, has_config, read_rows
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.recipes import Recipe
from clear_ref.model.vlm import VLM

from .bootstrap import intervals
from .kept_files import read_kept, write_kept
from .kept_scores import scores_problem
from .log_format import Logs
from .membership import membership, membership_intervals
from .membership_scores import (
    CONFIGS,
    ComparedRecords,
    ComparedScores,
    check_min_k,
    compared_records,
    evaluation_record,
    membership_scores,
    with_reference,
)
from .metrics import score
from .relearning import (
    MEASURES,
    curve_intervals,
    draw_records,
    forget_numbers,
    logs_without,
    mean_rise,
    relearn,
)
from .robustness_results import (
    Membership,
    ModelResult,
    Relearning,
    Robustness,
    Rounding,
    robustness_definitions,
)
from .rounding import rounded_layers
from .tasks import Task

# (model, words for the progress line, tasks) -> logs of the model as it is now
ComputeLogs = Callable[[VLM, str, list[Task]], Logs]
Scores = dict[str, dict[str, ComparedScores]]  # as membership_scores


@dataclass(frozen=True)
class RobustnessSettings:
    """The settings that the measurements use. Their defaults and sources are those of the command
    `evaluate` (clear_ref/commands/settings.py).

    metrics            set of definitions: paper, released, or all (then the paper's)
    forget             size of the forget split, in percent: 1, 5 or 10
    seed               chooses the relearned records, the new adapters and the caption questions
    relearn_records    number of forget records that are trained on again
    relearn_at         measured steps, with commas; the last one ends the training
    relearn_lr         peak learning rate; 0: the recipe's
    round_bits         bits of the rounded weights, with commas
    round_group        columns of a weight that share a scale, with less than 8 bits; 0: the row
    min_k              share of an answer's tokens that mia_min_k uses
    holdout            split of people that no model was trained on
    gradnorm           False: mia_gradnorm, a backward for every record, is left out
    holdout_required   True: an error if the data has no such split; False: membership is left out
    """

    metrics: str
    forget: int
    seed: int
    relearn_records: int
    relearn_at: str
    relearn_lr: float
    round_bits: str
    round_group: int
    min_k: float
    holdout: str
    holdout_required: bool
    gradnorm: bool = True

    @property
    def definition_set(self) -> str:
        """The one set of definitions that all numbers follow."""
        return "released" if self.metrics == "released" else "paper"


@dataclass(frozen=True)
class RobustnessPlan:
    """What will be measured: checked settings and all rows, read before anything is computed.

    forget_config      config of the forget records, n_forget of them
    relearned          the rows that are drawn from it
    measured_steps     steps of relearning, ascending, without step 0
    bits               bits of the rounded weights
    compared           {kind of records: the records that membership compares}
    missing            why a kind of records is not in `compared`, or ""
    rows               every row that was read
    """

    settings: RobustnessSettings
    directory: Path
    phrases: Phrases
    forget_config: str
    n_forget: int
    relearned: list[Row]
    measured_steps: list[int]
    bits: list[int]
    compared: dict[str, ComparedRecords]
    missing: str
    rows: list[Row]


def whole_numbers(text: str, option: str, least: int, most: int) -> list[int]:
    """[1, 2, 5] of "1,2,5"; UserError unless each is in least..most and occurs once."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    in_range = all(least <= number <= most for number in found)
    if not found or not in_range or len(set(found)) < len(found):
        raise UserError(
            f"{option} is {text!r}; expected whole numbers from {least} to {most} with commas, "
            "each once"
        )
    return found


def check_settings(settings: RobustnessSettings) -> None:
    """UserError for a value that cannot be used."""
    check_min_k(settings.min_k)
    if settings.metrics not in ("paper", "released", "all"):
        raise UserError(
            f"--metrics is {settings.metrics}, and --robustness measures Forget and Retain by the "
            "paper's or the released definitions; expected paper, released or all (then the "
            "paper's)"
        )
    if settings.round_group < 0 or not 0 <= settings.relearn_lr < float("inf"):
        raise UserError(
            f"--round-group is {settings.round_group} and --relearn-lr {settings.relearn_lr}; "
            "expected 0 or more for both"
        )


def make_plan(
    settings: RobustnessSettings, directory: Path, phrases: Phrases, pictures: bool
) -> RobustnessPlan:
    """The RobustnessPlan of these settings.

    directory  data directory
    pictures   whether the model sees pictures; a language model is measured on text alone
    raises     UserError for a setting that cannot be used, for rows that are missing, and for
               held-out rows that models are trained on
    """
    check_settings(settings)
    split = f"forget{settings.forget:02d}"
    forget_config = f"{split}+tofu" if pictures else f"tofu/{split}"
    forget_rows = read_rows(directory, forget_config)
    kinds = ["captions", "questions"] if pictures else ["questions"]
    compared: dict[str, ComparedRecords] = {}
    missing: list[str] = []
    rows = list(forget_rows)
    for kind in kinds:
        held_out = CONFIGS[kind].format(settings.holdout)
        exists = has_config(directory, held_out)
        if not exists and not settings.holdout_required:
            missing.append(
                f"{kind}: the data has no {held_out}, rows of people that no model was trained on"
            )
            continue
        compared[kind] = compared_records(directory, kind, split, settings.holdout, phrases)
        rows += read_rows(directory, CONFIGS[kind].format(split))
        rows += read_rows(directory, held_out)
    return RobustnessPlan(
        settings=settings,
        directory=directory,
        phrases=phrases,
        forget_config=forget_config,
        n_forget=len(forget_rows),
        relearned=draw_records(forget_rows, settings.relearn_records, settings.seed),
        measured_steps=sorted(whole_numbers(settings.relearn_at, "--relearn-at", 1, 10000)),
        bits=whole_numbers(settings.round_bits, "--round-bits", 2, 16),
        compared=compared,
        missing="; ".join(missing),
        rows=rows,
    )


def run(
    plan: RobustnessPlan,
    models: dict[str, Callable[[], VLM]],
    logs: dict[str, Logs],
    tasks: list[Task],
    recipe: Recipe,
    compute_logs: ComputeLogs,
    out: Path,
    kept: Path,
) -> Robustness:
    """The measurements of every model.

    models   {"model" and, where there is one, "gold": loads it}; loaded one after the other
    logs     {"model" and "gold": logs of the model as evaluated}
    recipe   adapters and learning rate of relearning
    writes   out/relearning.jsonl, a line for each step and model; out/membership.json, the scores
             of every compared record
    kept     directory for what is finished, from which a stopped measurement goes on; it belongs to
             these models, settings and tasks
    """
    if plan.settings.relearn_lr:
        recipe = dataclasses.replace(recipe, lr=plan.settings.relearn_lr)
    results = {
        name: measure_model(plan, load(), name, logs, tasks, recipe, compute_logs, kept / name)
        for name, load in models.items()
    }
    lines = [
        {"model": name, **{key: line[key] for key in line if key != "drawn"}}
        for name, result in results.items()
        for line in result["curve"]
    ]
    write_jsonl(out / "relearning.jsonl", lines)
    if "gold" in results and "model" in results:
        gold = results["gold"]["membership"]
        for kind, scores_of_kind in results["model"]["membership"].items():
            results["model"]["membership"][kind] = with_reference(scores_of_kind, gold[kind])
    scores = {name: result["membership"] for name, result in results.items()}
    write_json(out / "membership.json", {"format": "clear_ref.membership/1", "models": scores})
    known = robustness_definitions(plan.settings.definition_set)
    return {
        "relearning": _relearning(plan, results, recipe),
        "rounding": _rounding(plan, results),
        "membership": _membership(plan, results),
        "missing": plan.missing,
        "definitions": {name: definition.name for name, definition in known.items()},
    }


def measure_model(
    plan: RobustnessPlan,
    vlm: VLM,
    name: str,
    logs: dict[str, Logs],
    tasks: list[Task],
    recipe: Recipe,
    compute_logs: ComputeLogs,
    kept: Path,
) -> ModelResult:
    """The measurements of one model; arguments as in `run`."""
    metrics = plan.settings.definition_set
    scores = kept_or_computed(plan, vlm, kept)
    rounding = {}
    intervals_of = {}
    n_layers = 0
    for bits in plan.bits:
        with rounded_layers(vlm.model, bits, plan.settings.round_group) as layers:
            n_layers = len(layers)
            rounded_logs = compute_logs(vlm, f"{name} in {bits} bits", tasks)
        scores_of = score(rounded_logs, logs.get("gold"), metrics)
        rounding[str(bits)] = scores_of
        intervals_of[str(bits)] = intervals(rounded_logs, logs.get("gold"), metrics, scores_of)
    forget_tasks = [task for task in tasks if task.set_name == "Forget"]

    def numbers(forget_logs: Logs) -> dict[str, Any]:
        others = logs_without(forget_logs, forget_tasks, plan.directory, plan.relearned)
        return forget_numbers(forget_logs, others, metrics)

    def measure(step: int) -> dict[str, Any]:
        return numbers(compute_logs(vlm, f"relearn {name}, step {step}", forget_tasks))

    curve = relearn(
        vlm,
        FinetunePlan(plan.relearned, plan.phrases, plan.settings.seed),
        recipe,
        plan.measured_steps,
        numbers({task.name: logs[name][task.name] for task in forget_tasks}),
        measure,
        kept,
    )
    return {
        "membership": scores,
        "rounding": rounding,
        "intervals": intervals_of,
        "layers": n_layers,
        "curve": curve,
    }


def kept_or_computed(plan: RobustnessPlan, vlm: VLM, kept: Path) -> Scores:
    """The scores in a file of `kept` that this function wrote, or computed and written.

    raises  UserError if the file is not what was written there
    """
    path, gradnorm = kept / "membership.json", plan.settings.gradnorm
    known: Scores | None = distributed.from_first(
        lambda: read_kept(path, lambda scores: not scores_problem(scores, plan.compared, gradnorm))
    )
    if known is not None:
        return known
    scores = membership_scores(vlm, plan.compared, plan.settings.min_k, gradnorm, kept)
    write_kept(path, scores)
    return scores


def _relearning(
    plan: RobustnessPlan, results: dict[str, ModelResult], recipe: Recipe
) -> Relearning:
    steps = [0, *plan.measured_steps]
    curves: dict[str, dict[str, list[float | None]]] = {}
    between = {}
    for name, result in results.items():
        measured = [line for line in result["curve"] if line["step"] in steps]
        curves[name] = {measure: [line[measure] for line in measured] for measure in MEASURES}
        between[name] = {measure: curve_intervals(steps, measured, measure) for measure in MEASURES}
    return {
        "records": [
            {
                "config": plan.forget_config,
                "row": row.index,
                "answer": evaluation_record(row, plan.phrases).answer,
            }
            for row in plan.relearned
        ],
        "n_forget": plan.n_forget,
        "steps": steps,
        "lr": recipe.lr,
        "rank": recipe.lora_rank,
        "models": curves,
        "mean_rise": {
            name: {measure: mean_rise(steps, values) for measure, values in curve.items()}
            for name, curve in curves.items()
        },
        "intervals": {
            name: {measure: at_steps for measure, (at_steps, _) in own.items()}
            for name, own in between.items()
        },
        "mean_rise_intervals": {
            name: {measure: of_rise for measure, (_, of_rise) in own.items()}
            for name, own in between.items()
        },
    }


def _rounding(plan: RobustnessPlan, results: dict[str, ModelResult]) -> Rounding:
    return {
        "layers": results["model"]["layers"],
        "group": plan.settings.round_group,
        "models": {name: result["rounding"] for name, result in results.items()},
        "intervals": {name: result["intervals"] for name, result in results.items()},
    }


def _membership(plan: RobustnessPlan, results: dict[str, ModelResult]) -> dict[str, Membership]:
    gold = results["gold"]["membership"] if "gold" in results else {}
    by_kind: dict[str, Membership] = {}
    for kind, records in plan.compared.items():
        by_kind[kind] = {
            "n_forget": len(records["forget"]),
            "n_holdout": len(records["holdout"]),
            "models": {
                name: membership(result["membership"][kind], gold.get(kind))
                for name, result in results.items()
            },
            "intervals": {
                name: membership_intervals(result["membership"][kind], gold.get(kind))
                for name, result in results.items()
            },
        }
    return by_kind
