"""--evaluate-every and --keep: what is measured during a training, and which weights are kept.

Scores of an evaluation during a training and those at its end are of the same model, but for one
thing: at the end adapters are merged into fp32 weights, which rounds each weight once. So the two
differ by rounding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import CHANGEABLE, WITHOUT_EFFECT
from clear_ref.data import draws
from clear_ref.data.records import Record, Row, read_rows
from clear_ref.evaluation import selection
from clear_ref.evaluation.definitions import AGGREGATES
from clear_ref.evaluation.likelihood import mean_answer_nll
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import Scores, score
from clear_ref.evaluation.summary import Kept, Summary
from clear_ref.loop.curve import Curve, CurveLine, check_every
from clear_ref.loop.history import row_id
from clear_ref.loop.plan import ask
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import forget_rows
from clear_ref.loop.saving import read_saving
from clear_ref.model.vlm import VLM

from .model_logs import evaluate_model, remove_finished
from .resolve import Inputs
from .settings import Finetune, Unlearn

LAST = "last"
BEST = "best:"
# The halves are the same for every seed, so that no run chooses on the half that others report.
SPLIT_SEED = 0
Numbers = dict[str, float]


def check(settings: Unlearn | Finetune, inputs: Inputs, recipe: Recipe) -> None:
    """UserError for values of --evaluate-every, --save-every and --keep that it cannot follow."""
    read_saving(settings.save_every, settings.keep_checkpoints)
    if settings.evaluate_every:
        check_every(settings.evaluate_every, "--evaluate-every")
        if distributed.size() > 1 and not recipe.lora_rank:
            raise UserError(
                "--evaluate-every with --lora-rank 0 under torchrun: no process has the whole "
                "model between the steps; leave --evaluate-every out, or train adapters"
            )
    keep = keep_of(settings)
    if keep == LAST:
        return
    if not keep.startswith(BEST):
        raise UserError(
            f"--keep is {keep!r}; expected {LAST}, or {BEST}RULE such as "
            f"{BEST}{selection.DEFAULT_RULE}"
        )
    selection.check_rule(rule_of(settings), f"--keep {BEST}", inputs.gold is not None)
    if not settings.evaluate_every:
        raise UserError(
            f"--keep {keep}: there is no evaluation to choose from; add --evaluate-every epoch, or "
            "a number of steps"
        )
    check_halves(inputs, "--keep")


def check_split(settings: Unlearn, split_seed: int) -> None:
    """UserError if --keep would choose on records of the half that a sweep reports."""
    if settings.keep != LAST and split_seed != SPLIT_SEED:
        raise UserError(
            f"--split-seed is {split_seed}, and --keep chooses on the half of --split-seed "
            f"{SPLIT_SEED}, so on records that the sweep reports; leave one of the two out"
        )


def keep_of(settings: Unlearn | Finetune) -> str:
    """The value of --keep; `finetune` has no such option."""
    return settings.keep if isinstance(settings, Unlearn) else LAST


def rule_of(settings: Unlearn | Finetune) -> str:
    """The rule of --keep best:RULE; "" for last."""
    keep = keep_of(settings)
    return "" if keep == LAST else keep.removeprefix(BEST)


def check_halves(inputs: Inputs, what: str) -> None:
    """UserError unless the tasks give Forget and Retain on two halves of their records.

    what  the option or command that chooses, for the message
    """
    names = {task.name for task in inputs.tasks}
    numbers = AGGREGATES["paper"]
    if not any(
        all(task in names for metric in pair for task, _ in numbers[metric])
        for pair in selection.PAIRS
    ):
        raise UserError(
            f"{what} compares Forget with Retain; expected --tasks with all tasks of both, or all"
        )
    for task in inputs.tasks:
        n = len(read_rows(inputs.data, task.config)[: inputs.evaluation.limit])
        if task.set_name in selection.SPLIT_SETS and n < 2:
            raise UserError(
                f"{what}: {task.name} has {n} record to evaluate; expected 2 or more (--limit), "
                "one for the choice and one for the report"
            )


def changeable(settings: Unlearn | Finetune) -> set[str]:
    """The settings that may change when the run is resumed.

    The evaluation of a curve's later points must be that of the earlier ones, and that of a
    sequence's later requests that of the earlier ones.
    """
    several = settings.evaluate_every or getattr(settings, "sequence", "")
    return WITHOUT_EFFECT if several else CHANGEABLE


def unlearn_records(
    inputs: Inputs, settings: Unlearn, rows: tuple[list[Row], list[Row]]
) -> dict[str, list[Record]]:
    """{forget, retain: records of the rows that a method trains on}; see _records."""
    return _records(inputs, settings.seed, *rows)


def finetune_records(
    inputs: Inputs, settings: Finetune, rows: list[Row]
) -> dict[str, list[Record]]:
    """{forget: records of the forget set, trained on or not; retain: of the other training rows}.

    See _records. There is no "forget" for data without this forget set.
    """
    forget = {row_id(row): row for row in forget_rows(inputs.data, settings.forget)}
    retain = [row for row in rows if row_id(row) not in forget]
    seen = [row for row in forget.values() if row.image is None or inputs.sees_pictures]
    return _records(inputs, settings.seed, seen, retain)


def _records(
    inputs: Inputs, seed: int, forget: list[Row], retain: list[Row]
) -> dict[str, list[Record]]:
    """{forget, retain: the records whose answer nll a curve shows}, the same at every step.

    All forget rows, and as many retain rows, drawn by the seed; with --limit the first N of each.
    """
    if forget and len(retain) > len(forget):
        drawn = draws.sample(seed, "curve retain rows", 0, 0, len(retain), len(forget))
        retain = [retain[index] for index in sorted(drawn)]
    found = {}
    for name, rows in (("forget", forget), ("retain", retain)):
        records = [
            ask(row, inputs.phrases, seed, f"curve {name}", 0, index)
            for index, row in enumerate(rows[: inputs.evaluation.limit])
        ]
        if records:
            found[name] = records
    return found


def make_curve(
    inputs: Inputs,
    settings: Unlearn | Finetune,
    records: Mapping[str, list[Record]],
    logs: Mapping[str, Logs],
    out: Path,
) -> Curve | None:
    """The Curve of a run; None without --evaluate-every.

    records  {forget, retain: training records whose answer nll is measured}
    logs     of base (the model before the first step) and gold, as far as they are known
    """
    if not settings.evaluate_every:
        return None
    rule = rule_of(settings)

    def measure(vlm: VLM, step: int) -> dict[str, Any]:
        own = logs.get("base") if step == 0 else None
        name = f"step {step}"
        found = own or evaluate_model(inputs, vlm, name, out, inputs.tasks_of_sets)
        remove_finished(out, name)
        line: dict[str, Any] = numbers(score(found, logs.get("gold"), inputs.metrics))
        for name, some in records.items():
            line[f"nll_{name}"] = mean_answer_nll(vlm, some)
        if rule:
            line |= half_scores(found, logs.get("gold"))
        return line

    best = None
    if rule:
        base = half_scores(logs["base"], None)["choosing"]
        gold = None
        if "gold" in logs:
            gold = half_scores(logs["gold"], None)["choosing"]

        def best(lines: list[CurveLine]) -> int:
            return selection.best([line["choosing"] for line in lines], rule, base, gold)

    return Curve(out, settings.evaluate_every, measure, best)


def numbers(scores: Scores) -> Numbers:
    """{reported number: value}, those that were evaluated."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def half_scores(logs: Logs, gold: Logs | None) -> dict[str, Numbers]:
    """{choosing, reporting: numbers by the paper's definitions on that half of the records}."""
    scored = selection.scored_halves(logs, gold, SPLIT_SEED)
    return {half: numbers(scores) for half, scores in scored.items()}


def summarised(
    curve: Curve | None, settings: Unlearn | Finetune, logs: Mapping[str, Logs]
) -> Summary:
    """The keys of metrics.json that a curve gives: curves; with --keep also kept and a note."""
    if curve is None:
        return {}
    found: Summary = {"curves": curve.lines}
    rule = rule_of(settings)
    if rule:
        line = curve.best_line()
        base = half_scores(logs["base"], None)["choosing"]
        kept: Kept = {
            "rule": rule,
            "step": line["step"],
            "epoch": line["epoch"],
            "last": curve.lines[-1]["step"],
            "meets": selection.meets(line["choosing"], rule, base),
            "choosing": line["choosing"],
            "reporting": line["reporting"],
        }
        found |= {"kept": kept, "notes": [kept_note(kept, selection.pair_of(base))]}
    return found


def kept_note(kept: Kept, pair: tuple[str, str]) -> str:
    """The sentence about the kept weights, for the text of a run."""
    halves = []
    for half, own in (("that half", kept["choosing"]), ("the other half", kept["reporting"])):
        forget, retain = (own[metric] for metric in pair)
        halves.append(f"Forget {forget:.3f} and Retain {retain:.3f} on {half}")
    unmet = "" if kept["meets"] else "; no evaluation met the rule, this one has the highest Retain"
    return (
        f"kept: the weights after step {kept['step']} of {kept['last']}, by {kept['rule']} on half "
        f"of the forget and retain records ({', '.join(halves)}; the table is of all){unmet}"
    )
