"""Why `score` cannot compute a number of a set of definitions, and what to do about it."""

from collections.abc import Iterable, Mapping

from . import definitions, open_mmunlearning
from .choices import CHOICE_TASKS, PROBE_TASKS
from .definitions import OPTIONAL, QUALITIES, QUALITY_TASKS, Part
from .log_format import Logs
from .metrics import Scores
from .named_values import values_of
from .open_mmunlearning import has_no_truth_ratio

REAL_AUTHORS, AUTHORS_CONFIG = "eval_real_author_wo_options", "tofu/real_authors_perturbed"
NO_GOLD = (
    "no gold log was given; expected --gold LOG, the log of a model that never saw the forget set"
)
NO_FORGET_TASK = "the log holds no forget task; expected one of " + ", ".join(QUALITY_TASKS)


def reasons(sets: Mapping[str, Scores], tasks: Logs, gold: Logs | None) -> dict[str, str]:
    """{metric or "TASK PART": why it has no value} of every number that these sets define.

    sets         {set of definitions: what metrics.score returns}
    tasks, gold  {task: log} of the model and of gold; None: there is no gold
    """
    found: dict[str, str] = {}
    for name, result in sets.items():
        computed = definitions.set_of(name, tasks.values())
        for metric, value, _ in values_of(computed, result):
            if value is None and metric not in found:
                found[metric] = _reason(computed, metric, tasks, gold)
    return found


def _reason(name: str, metric: str, tasks: Logs, gold: Logs | None) -> str:
    """Why a number of one set of definitions has no value."""
    if metric in QUALITIES[name]:
        return _no_comparison(QUALITIES[name][metric][1], tasks, gold)
    if metric in definitions.COMBINED.get(name, {}):
        parts: Iterable[Part] = open_mmunlearning.PARTS
        absent = _absent_part(name, parts, tasks)
        return absent or _no_comparison(QUALITY_TASKS[:1], tasks, gold)
    if metric in definitions.AGGREGATES[name]:
        parts = definitions.AGGREGATES[name][metric]
    else:
        task, part = metric.split(" ")
        parts = [(task, part)]
    return _absent_part(name, parts, tasks)


def _no_comparison(of_tasks: tuple[str, ...], tasks: Logs, gold: Logs | None) -> str:
    """Why there is no comparison with gold on the first of these tasks that the log holds."""
    task = next((task for task in of_tasks if task in tasks), None)
    if task is None:
        return NO_FORGET_TASK if len(of_tasks) > 1 else _no_tasks(of_tasks)
    if has_no_truth_ratio(tasks[task]):
        before = of_tasks[: of_tasks.index(task)]
        return _no_truth_ratio(f"{task} of the log", "".join(f"{each} too, or " for each in before))
    if gold is None:
        return NO_GOLD
    if task not in gold:
        return f"the gold log holds no {task}; evaluate gold on it too"
    return _no_truth_ratio(f"{task} of the gold log")


def _absent_part(name: str, parts: Iterable[Part], tasks: Logs) -> str:
    """Why one of these parts has no value; "" if none is missing."""
    absent = tuple(dict.fromkeys(task for task, _ in parts if task not in tasks))
    if absent:
        return _no_tasks(absent, name)
    for task, part in parts:
        if part == "truth_ratio" and has_no_truth_ratio(tasks[task]):
            return _no_truth_ratio(f"{task} of the log")
        if part in OPTIONAL and "generated_text" not in tasks[task]:
            return (
                f"{task} of the log holds no generated texts; expected the log of an evaluation "
                "that keeps them"
            )
    return ""


def _no_tasks(absent: tuple[str, ...], name: str = "") -> str:
    """That the log does not hold these tasks, and which evaluation asks them."""
    said = f"the log holds no {', '.join(absent)}; expected "
    if set(absent) & set(CHOICE_TASKS):
        return f"{said}an evaluation with --metrics {name}"
    if set(absent) & set(PROBE_TASKS):
        return f"{said}an evaluation with --leakage"
    said += f"the log of an evaluation that asks {'them' if len(absent) > 1 else 'it'}"
    if REAL_AUTHORS in absent:
        said += f"; {REAL_AUTHORS} is asked of a language model, of data with {AUTHORS_CONFIG}"
    return said


def _no_truth_ratio(where: str, instead: str = "") -> str:
    """That a task has no truth ratio, and which log has one."""
    return (
        f"{where} holds neither paraphrases nor wrong answers, as {open_mmunlearning.SOURCE}'s "
        f"tasks of text; expected {instead}a log of `evaluate`, which asks them"
    )
