"""The sets of definitions: which functions make the parts of a task, and which parts make a number.

paper     the paper's section 5.2; what it leaves open is chosen as each docstring says
released  the authors' code: mm/calculate_metrics.py and mm/build_vllm_table.py; for text
          nlp/aggregate_eval_stat.py and the formulas that reproduce the paper's printed text tables
tofu      TOFU, aggregate_eval_stat.py; for logs of open-unlearning, its successor, that one's own
          formulas (open_unlearning.py)
leakage   Forget and Forget text of the paper, asked otherwise (leakage.py)
mmunlearner, open_mmunlearning, forgetium   these projects' (the modules of these names); parts that
          they do not define are the paper's

A part is one metric of one task, such as the ROUGE of eval_log. A reported number is the harmonic
mean of some parts, of one part the part itself (AGGREGATES), a function of the logs of a model and
of gold (QUALITIES), or made of such numbers (COMBINED).
"""

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from clear_ref.common.errors import UserError

from . import forgetium, mmunlearner, open_mmunlearning, open_unlearning, quality, task_metrics
from .choices import (
    CAPTION_PROBE_TASKS,
    CHOICE_TASKS,
    LEAKAGE,
    NAME_PROBE_TASKS,
    SETS,
)
from .definition_names import (
    FORGOT,
    KNOWS,
    MIXED,
    NAMES,
    OPEN,
    OPEN_MM,
    PAPER,
    RELEASED,
    TOFU,
    Named,
)
from .leakage_parts import name_and_words, numbers_of_leakage
from .log_format import Log

TaskFunction = Callable[[Log], float]  # of a task's log
QualityFunction = Callable[[Log, Log], float]  # of a model's log and gold's log of one task
Part = tuple[str, str]  # (task, its metric: rouge, probability or truth_ratio)

# What the set tofu is for open-unlearning's logs. It has the same numbers.
OPEN_UNLEARNING = open_unlearning.SOURCE
REAL_PICTURES = ("eval_real_faces_wo_options", "eval_real_world_wo_options")
REAL_TEXT = ("eval_real_author_wo_options", "eval_real_world_wo_options")
MULTIPLE_CHOICE = (
    "eval_real_faces_wo_options",
    "eval_real_world_wo_options",
    "eval_forget_facerec",
    "eval_retain_facerec",
    "eval_real_author_wo_options",
    *CHOICE_TASKS,
    *NAME_PROBE_TASKS,
)
PICTURES = (
    "eval_real_faces_wo_options",
    "eval_log",
    "eval_log_forget",
    "eval_forget_facerec",
    "eval_retain_facerec",
)
# Forget Quality compares the logs of the first of these tasks that was evaluated.
QUALITY_TASKS = ("eval_log_forget", "eval_text_forget")
# Metrics that some logs cannot give, because they have neither the column nor the text. No
# aggregate of the sets paper, released and tofu uses them.
OF_TEXTS: dict[str, TaskFunction] = {
    "rouge1_f": mmunlearner.rouge1_f,
    "rouge2_f": mmunlearner.rouge2_f,
    "rougeL_f": mmunlearner.rouge_l_f,
    "bleu": mmunlearner.bleu,
}
OPTIONAL = ("rouge1", "rouge_f", "multiple_choice", "contained_name", *OF_TEXTS)
WITH_ROUGE = ("rouge", "probability", "truth_ratio")
WITHOUT_ROUGE = ("probability", "truth_ratio")


@dataclass(frozen=True)
class Definition:
    """The definition of a reported number.

    name       its name in every report
    words      a short description
    text       the whole definition: formula, source, flaw
    source     who defines it, in a few words
    direction  what a higher value says of the model (definition_names.py)
    """

    name: str
    words: str
    text: str
    source: str = ""
    direction: str = KNOWS
    version: int = 1

    @property
    def label(self) -> str:
        """Name and version, as tables and pages show them."""
        return f"{self.name} v{self.version}"


def _parts(tasks: Iterable[str], names: Iterable[str]) -> list[Part]:
    return [(task, name) for task in tasks for name in names]


def _of_mmunlearner() -> dict[str, list[Part]]:
    """MMUnlearner's numbers, each one part; VQA: captions of pictures, QA: questions about text."""
    found = {
        "forget_choice": [("eval_forget_choice", "multiple_choice")],
        "retain_choice": [("eval_retain_choice", "multiple_choice")],
        "real_faces_choice": [("eval_real_faces_choice", "multiple_choice")],
        "real_world_choice": [("eval_real_world_choice", "multiple_choice")],
        "forget_name": [("eval_forget_facerec", "contained_name")],
        "retain_name": [("eval_retain_facerec", "contained_name")],
    }
    for number, task in (
        ("forget_vqa", "eval_log_forget"),
        ("retain_vqa", "eval_log"),
        ("forget_qa", "eval_text_forget"),
        ("retain_qa", "eval_text_retain"),
    ):
        found |= {f"{number}_{metric}": [(task, metric)] for metric in OF_TEXTS}
    return found


# {set of definitions: {reported number: its parts}}
AGGREGATES: dict[str, dict[str, list[Part]]] = {
    "paper": {
        "real": _parts(REAL_PICTURES, WITH_ROUGE),
        "retain": [
            ("eval_log", "rouge"),
            ("eval_retain_facerec", "probability"),
            ("eval_log", "truth_ratio"),
        ],
        "forget": [
            ("eval_log_forget", "rouge"),
            ("eval_forget_facerec", "probability"),
            ("eval_log_forget", "truth_ratio"),
        ],
        "real_faces": _parts(REAL_PICTURES[:1], WITH_ROUGE),
        "real_world": _parts(REAL_PICTURES[1:], WITH_ROUGE),
        "text_real": _parts(REAL_TEXT, WITH_ROUGE),
        "text_retain": _parts(["eval_text_retain"], WITH_ROUGE),
        "text_forget": _parts(["eval_text_forget"], WITH_ROUGE),
    },
    "released": {
        "real": _parts(REAL_PICTURES, WITHOUT_ROUGE),
        "retain": _parts(("eval_log", "eval_retain_facerec"), WITHOUT_ROUGE),
        "forget": _parts(("eval_log_forget", "eval_forget_facerec"), WITHOUT_ROUGE),
        "model_utility": _parts((*REAL_PICTURES, "eval_log", "eval_retain_facerec"), WITH_ROUGE),
        "text_real": _parts(REAL_TEXT, WITHOUT_ROUGE),
        "text_retain": _parts(["eval_text_retain"], WITHOUT_ROUGE),
        "text_forget": _parts(["eval_text_forget"], WITH_ROUGE),
        "text_model_utility": _parts(("eval_text_retain", *REAL_TEXT), WITH_ROUGE),
    },
    "tofu": {
        "model_utility": _parts(("eval_log", *REAL_PICTURES), WITH_ROUGE),
        "text_model_utility": _parts(("eval_text_retain", *REAL_TEXT), WITH_ROUGE),
    },
    "mmunlearner": _of_mmunlearner(),
    "open_mmunlearning": {
        "real": _parts(REAL_PICTURES, WITH_ROUGE),
        "retain": _parts(("eval_log", "eval_retain_facerec"), WITH_ROUGE),
        "forget": _parts(("eval_log_forget", "eval_forget_facerec"), WITH_ROUGE),
        "model_utility": _parts((*REAL_PICTURES, "eval_log", "eval_retain_facerec"), WITH_ROUGE),
        "text_retain": _parts(["eval_text_retain"], WITH_ROUGE),
    },
    "forgetium": {},
}

AGGREGATES[OPEN_UNLEARNING] = AGGREGATES["tofu"]
AGGREGATES[LEAKAGE] = numbers_of_leakage(AGGREGATES["paper"])

# {set of definitions: {reported number: (function, tasks)}}; the function compares the logs of the
# first of the tasks that was evaluated.
QUALITIES: dict[str, dict[str, tuple[QualityFunction, tuple[str, ...]]]] = {
    "paper": {"forget_quality": (quality.forget_quality, QUALITY_TASKS)},
    "released": {
        "forget_quality": (quality.forget_quality_aligned, QUALITY_TASKS),
        "forget_quality_ks": (quality.forget_quality_ks_grand_mean, QUALITY_TASKS[:1]),
        "text_log_forget_quality": (quality.forget_quality_ln_ks, QUALITY_TASKS[1:]),
    },
    "tofu": {
        "forget_quality": (quality.forget_quality_ks, QUALITY_TASKS),
        "log10_forget_quality": (quality.forget_quality_log10_ks, QUALITY_TASKS),
    },
    OPEN_UNLEARNING: {
        "forget_quality": (open_unlearning.forget_quality, QUALITY_TASKS),
        "log10_forget_quality": (open_unlearning.forget_quality_log10, QUALITY_TASKS),
    },
    "mmunlearner": {},
    "open_mmunlearning": {
        "ks_p_value": (open_mmunlearning.ks_p, QUALITY_TASKS[:1]),
        "ks_distance": (open_mmunlearning.ks_distance, QUALITY_TASKS[:1]),
        "js_distance": (open_mmunlearning.js_distance, QUALITY_TASKS[:1]),
    },
    "forgetium": {"minus_log10_p": (forgetium.forget_quality, QUALITY_TASKS)},
    LEAKAGE: {},
}

# {set of definitions: {reported number: function of ({task: its metrics}, the other numbers)}}
COMBINED: dict[str, dict[str, Callable[..., float | None]]] = {
    "open_mmunlearning": {"forget_quality_of_five": open_mmunlearning.forget_quality},
}

SET_SOURCES = {
    "paper": PAPER,
    "released": RELEASED,
    "tofu": TOFU,
    OPEN_UNLEARNING: OPEN,
    LEAKAGE: f"this project; the parts: {PAPER}",
    "open_mmunlearning": OPEN_MM,
}


def check_set(metrics: str) -> None:
    """UserError unless `metrics` is one of SETS or all."""
    if metrics not in (*SETS, "all"):
        raise UserError(f"--metrics is {metrics!r}; expected {', '.join(SETS)} or all")


def set_of(metrics: str, logs: Iterable[Log]) -> str:
    """The set that is computed for a model's logs: open-unlearning's in place of tofu for its own
    logs, otherwise `metrics`."""
    if metrics == "tofu" and any(log.get("source") == OPEN_UNLEARNING for log in logs):
        return OPEN_UNLEARNING
    return metrics


def functions(metrics: str, task: str, text: bool) -> dict[str, TaskFunction]:
    """{metric: function of the task's log} in one set of definitions.

    text    whether the logs are of a model that sees no pictures; the task's name does not show
            this for eval_real_world_wo_options
    """
    of_pictures = (
        *PICTURES,
        "eval_real_world_wo_options",
        *CAPTION_PROBE_TASKS,
        *NAME_PROBE_TASKS,
    )
    of_text = text or task not in of_pictures
    # The released text code computes truth ratios as TOFU does.
    ratio_set = "tofu" if metrics == "released" and of_text else metrics
    chosen: dict[str, TaskFunction] = {
        "rouge": task_metrics.rouge_recall,
        "probability": _probability(metrics, task in MULTIPLE_CHOICE),
        "truth_ratio": _truth_ratio(ratio_set, forget="forget" in task),
    }
    if metrics in ("tofu", OPEN_UNLEARNING):
        chosen["rouge1"] = task_metrics.rouge1_recall
        chosen["rouge_f"] = task_metrics.rouge_f
    if metrics in ("mmunlearner", "open_mmunlearning"):
        chosen |= _of_generated(task, metrics == "mmunlearner")
    return chosen


def _of_generated(task: str, with_texts: bool) -> dict[str, TaskFunction]:
    """MMUnlearner's metrics of the task's generated texts; with_texts: ROUGE and BLEU too."""
    if task in CHOICE_TASKS:
        return {"multiple_choice": mmunlearner.multiple_choice_accuracy}
    if task.endswith("_facerec"):
        return {"contained_name": mmunlearner.contained_name_accuracy}
    if with_texts and task not in MULTIPLE_CHOICE:
        return OF_TEXTS
    return {}


def _probability(metrics: str, multiple_choice: bool) -> TaskFunction:
    """The probability of one set of definitions."""
    module = open_unlearning if metrics == OPEN_UNLEARNING else task_metrics
    if multiple_choice:
        return module.probability_among_candidates
    return module.probability_of_answer


def _truth_ratio(metrics: str, forget: bool) -> TaskFunction:
    """The truth ratio of one set of definitions, of a Forget task or of another one."""
    if metrics in ("paper", "mmunlearner", "forgetium", LEAKAGE):
        return task_metrics.truth_ratio_score
    if metrics in ("tofu", "open_mmunlearning"):
        if forget:
            return task_metrics.truth_ratio_geometric_closer_to_one
        return task_metrics.truth_ratio_geometric_below_one
    if metrics == OPEN_UNLEARNING:
        if forget:
            return open_unlearning.truth_ratio_closer_to_one
        return open_unlearning.truth_ratio_below_one
    if forget:
        return task_metrics.truth_ratio_grand_mean_closer_to_one
    return task_metrics.truth_ratio_grand_mean_below_one


def without_column(tasks: Collection[str], metrics: str, gold: bool) -> str:
    """What a number needs that one of the tasks is part of, if the tasks give no number at all.

    gold     whether there is a gold model; Forget Quality needs one
    returns  "" if the tasks give a number, or are part of none
    """
    near = ""
    for each in SETS if metrics == "all" else (metrics,):
        for _, quality_tasks in QUALITIES[each].values():
            if gold and set(quality_tasks) & set(tasks):
                return ""
        for name, parts in AGGREGATES[each].items():
            needed = list(dict.fromkeys(task for task, _ in parts))
            if set(needed) <= set(tasks):
                return ""
            if set(needed) & set(tasks) and not near:
                near = f"{name} is made of {' and '.join(needed)}"
    return near


def definition(function: Callable[..., float]) -> Definition:
    """The definition of a function in NAMES."""
    named = Named(*NAMES[function])
    text = inspect.getdoc(function) or ""
    return Definition(named.name, named.words, text, named.source, named.direction, named.version)


def definitions(metrics: str) -> dict[str, Definition]:
    """Every definition of one set, by the name under which "definitions" of a report lists it."""
    by_name: dict[str, Callable[..., float]] = {
        "rouge": task_metrics.rouge_recall,
        "probability_multiple_choice": _probability(metrics, multiple_choice=True),
        "probability_text": _probability(metrics, multiple_choice=False),
    }
    if metrics in ("paper", "mmunlearner", "forgetium", LEAKAGE):
        by_name["truth_ratio"] = _truth_ratio("paper", forget=False)
    if metrics == "released":
        by_name["truth_ratio"] = _truth_ratio("released", forget=False)
        by_name["truth_ratio_forget"] = _truth_ratio("released", forget=True)
        by_name["text_truth_ratio"] = _truth_ratio("tofu", forget=False)
        by_name["text_truth_ratio_forget"] = _truth_ratio("tofu", forget=True)
    if metrics in ("tofu", OPEN_UNLEARNING):
        by_name["rouge1"] = task_metrics.rouge1_recall
        by_name["rouge_f"] = task_metrics.rouge_f
    if metrics in ("tofu", OPEN_UNLEARNING, "open_mmunlearning"):
        by_name["truth_ratio"] = _truth_ratio(metrics, forget=False)
        by_name["truth_ratio_forget"] = _truth_ratio(metrics, forget=True)
    for name, (function, _) in QUALITIES[metrics].items():
        by_name[name] = function
    by_name |= COMBINED.get(metrics, {})  # type: ignore[arg-type]
    found = {name: definition(function) for name, function in by_name.items()}
    for name in AGGREGATES[metrics]:
        found[name] = aggregate_definition(metrics, name)
    return found


def aggregate_definition(metrics: str, aggregate: str) -> Definition:
    """The definition of a harmonic mean of parts; of one part, that of the part.

    The names outside the set `paper` say how many parts there are, and whether ROUGE is one.
    """
    parts = AGGREGATES[metrics][aggregate]
    if len(parts) == 1:
        task, metric = parts[0]
        return definition(functions(metrics, task, False)[metric])
    name = "harmonic_mean"
    words = "columns: harmonic means"
    if metrics == LEAKAGE:
        name, words = name_and_words(aggregate, name, words)
    elif metrics != "paper":
        with_rouge = any(metric == "rouge" for _, metric in parts)
        name += f"_of_{len(parts)}_{'with' if with_rouge else 'without'}_rouge"
        words += ", with ROUGE" if with_rouge else " of probability and truth ratio, without ROUGE"
    if metrics == "open_mmunlearning":  # other parts under the same names of metrics
        name = f"harmonic_mean_of_{len(parts)}_open_mm"
    listed = ", ".join(f"{metric} of {task}" for task, metric in parts)
    functions_of = [functions(metrics, task, False)[part] for task, part in parts]
    is_mixed = any(definition(function).direction == FORGOT for function in functions_of)
    direction = MIXED if is_mixed else KNOWS
    source = SET_SOURCES[metrics]
    return Definition(name, words, f"Harmonic mean of {listed}.", source, direction)


def label_of(name: str) -> str:
    """A definition's name with its version, as tables show it; version 1 of a name that is not in
    NAMES, such as that of a harmonic mean."""
    versions = {named.name: named.version for named in NAMES.values()}
    return f"{name} v{versions.get(name, 1)}" if name else ""
