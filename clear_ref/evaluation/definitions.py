"""What a report can print: which functions make a task's parts, which parts make a number, and what each is called.

paper     the paper's section 5.2, its gaps filled as each docstring says
released  the authors' code: mm/calculate_metrics.py and mm/build_vllm_table.py; for text nlp/aggregate_eval_stat.py and the
          formulas that reproduce the paper's printed text tables
tofu      TOFU, aggregate_eval_stat.py; its successor open-unlearning computes the same
"""

import inspect
from dataclasses import dataclass

from clear_ref.common.errors import UserError

from . import quality, task_metrics

SETS = ("paper", "released", "tofu")
REAL_PICTURES = ("eval_real_faces_wo_options", "eval_real_world_wo_options")
REAL_TEXT = ("eval_real_author_wo_options", "eval_real_world_wo_options")
MULTIPLE_CHOICE = (
    "eval_real_faces_wo_options",
    "eval_real_world_wo_options",
    "eval_forget_facerec",
    "eval_retain_facerec",
    "eval_real_author_wo_options",
)
PICTURES = (
    "eval_real_faces_wo_options",
    "eval_log",
    "eval_log_forget",
    "eval_forget_facerec",
    "eval_retain_facerec",
)
QUALITY_TASKS = (
    "eval_log_forget",
    "eval_text_forget",
)  # Forget Quality is of the first that was evaluated
OPTIONAL = (
    "rouge1",
    "rouge_f",
)  # parts of which a log may hold neither the column nor the text; part of no aggregate
THREE, TWO = ("rouge", "probability", "truth_ratio"), ("probability", "truth_ratio")


@dataclass(frozen=True)
class Definition:
    """A reported metric: its name in every report, a few words, and the whole of it (formula, source, flaw)."""

    name: str
    words: str
    text: str


def _of(tasks, names) -> list[tuple[str, str]]:
    return [(task, part) for task in tasks for part in names]


# The parts of each reported number: (task, part).
AGGREGATES = {
    "paper": {
        "real": _of(REAL_PICTURES, THREE),
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
        "real_faces": _of(REAL_PICTURES[:1], THREE),
        "real_world": _of(REAL_PICTURES[1:], THREE),
        "text_real": _of(REAL_TEXT, THREE),
        "text_retain": _of(["eval_text_retain"], THREE),
        "text_forget": _of(["eval_text_forget"], THREE),
    },
    "released": {
        "real": _of(REAL_PICTURES, TWO),
        "retain": _of(("eval_log", "eval_retain_facerec"), TWO),
        "forget": _of(("eval_log_forget", "eval_forget_facerec"), TWO),
        "model_utility": _of((*REAL_PICTURES, "eval_log", "eval_retain_facerec"), THREE),
        "text_real": _of(REAL_TEXT, TWO),
        "text_retain": _of(["eval_text_retain"], TWO),
        "text_forget": _of(["eval_text_forget"], THREE),
        "text_model_utility": _of(("eval_text_retain", *REAL_TEXT), THREE),
    },
    "tofu": {
        "model_utility": _of(("eval_log", *REAL_PICTURES), THREE),
        "text_model_utility": _of(("eval_text_retain", *REAL_TEXT), THREE),
    },
}

# Functions of two logs: metric, function, and the tasks of which the first that was evaluated is compared.
QUALITIES = {
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
}

# What a function is called: name in reports, words.
NAMES = {
    task_metrics.rouge_recall: ("rougeL_recall", "ROUGE-L recall"),
    task_metrics.rouge_f: ("rougeL_f1", "ROUGE-L F1"),
    task_metrics.rouge1_recall: ("rouge1_recall", "ROUGE-1 recall"),
    task_metrics.probability_among_candidates: (
        "normalised_over_candidates",
        "probability among candidates (names, real sets)",
    ),
    task_metrics.probability_of_answer: ("exp_mean_nll", "exp(-mean nll) elsewhere"),
    task_metrics.truth_ratio_score: (
        "arithmetic_clipped",
        "truth ratio max(0, 1 - R), R arithmetic",
    ),
    task_metrics.truth_ratio_geometric_below_one: (
        "geometric_below_one",
        "truth ratio max(0, 1 - R), R geometric",
    ),
    task_metrics.truth_ratio_geometric_closer_to_one: (
        "geometric_closer_to_one",
        "on Forget min(R, 1/R), R geometric",
    ),
    task_metrics.truth_ratio_grand_mean_below_one: (
        "grand_mean_below_one",
        "truth ratio max(0, 1 - R), R by grand mean",
    ),
    task_metrics.truth_ratio_grand_mean_closer_to_one: (
        "grand_mean_closer_to_one",
        "on Forget min(R, 1/R), R by grand mean",
    ),
    quality.forget_quality: (
        "js_histogram10",
        "FQ: 1 - Jensen-Shannon distance from gold, 10 bins",
    ),
    quality.forget_quality_aligned: (
        "js_index_aligned",
        "FQ: 1 - Jensen-Shannon distance from gold, record against record",
    ),
    quality.forget_quality_ks: ("ks_p_value", "FQ: KS p-value against gold, R geometric"),
    quality.forget_quality_log10_ks: ("log10_ks_p_value", "log10 FQ: of the KS p-value"),
    quality.forget_quality_ln_ks: (
        "ln_ks_p_value",
        "log FQ text: natural logarithm of the KS p-value, R geometric",
    ),
    quality.forget_quality_ks_grand_mean: (
        "ks_p_value_grand_mean",
        "FQ KS: KS p-value against gold, R by grand mean",
    ),
}


def check_set(metrics: str) -> None:
    """UserError unless `metrics` is paper, released, tofu or all."""
    if metrics not in (*SETS, "all"):
        raise UserError(f"--metrics is {metrics!r}; expected {', '.join(SETS)} or all")


def functions(metrics: str, task: str, text: bool) -> dict:
    """{part: function of the task's log} in one set of definitions.

    text    whether the logs are of a model that sees no pictures; eval_real_world_wo_options alone does not tell
    """
    forget = "forget" in task
    ratio = {
        ("paper", False): task_metrics.truth_ratio_score,
        ("paper", True): task_metrics.truth_ratio_score,
        ("tofu", False): task_metrics.truth_ratio_geometric_below_one,
        ("tofu", True): task_metrics.truth_ratio_geometric_closer_to_one,
        ("released", False): task_metrics.truth_ratio_grand_mean_below_one,
        ("released", True): task_metrics.truth_ratio_grand_mean_closer_to_one,
    }
    of_text = text or task not in (*PICTURES, "eval_real_world_wo_options")
    found = {
        "rouge": task_metrics.rouge_recall,
        "probability": task_metrics.probability_among_candidates
        if task in MULTIPLE_CHOICE
        else task_metrics.probability_of_answer,
        "truth_ratio": ratio["tofu" if metrics == "released" and of_text else metrics, forget],
    }
    return found | (
        {"rouge1": task_metrics.rouge1_recall, "rouge_f": task_metrics.rouge_f}
        if metrics == "tofu"
        else {}
    )


def definition(function) -> Definition:
    """The definition of a function that reports print."""
    return Definition(*NAMES[function], inspect.getdoc(function))


def definitions(metrics: str) -> dict[str, Definition]:
    """Every metric of one set of definitions, by the name under which `definitions` of a report lists it."""
    found = {
        "rouge": task_metrics.rouge_recall,
        "probability_multiple_choice": task_metrics.probability_among_candidates,
        "probability_text": task_metrics.probability_of_answer,
    }
    if metrics == "paper":
        found["truth_ratio"] = task_metrics.truth_ratio_score
    if metrics == "released":
        found |= {
            "truth_ratio": task_metrics.truth_ratio_grand_mean_below_one,
            "truth_ratio_forget": task_metrics.truth_ratio_grand_mean_closer_to_one,
        }
    if metrics == "tofu":
        found |= {"rouge1": task_metrics.rouge1_recall, "rouge_f": task_metrics.rouge_f}
    if metrics in ("released", "tofu"):
        of_text = "text_" if metrics == "released" else ""
        found |= {
            f"{of_text}truth_ratio": task_metrics.truth_ratio_geometric_below_one,
            f"{of_text}truth_ratio_forget": task_metrics.truth_ratio_geometric_closer_to_one,
        }
    found |= {metric: function for metric, (function, _) in QUALITIES[metrics].items()}
    return {metric: definition(function) for metric, function in found.items()} | {
        metric: aggregate_definition(metrics, metric) for metric in AGGREGATES[metrics]
    }


def aggregate_definition(metrics: str, metric: str) -> Definition:
    """The definition of a harmonic mean of parts: how many and, outside the paper's own, whether ROUGE is among them."""
    of = AGGREGATES[metrics][metric]
    name, words = "harmonic_mean", "columns: harmonic means"
    if metrics != "paper":
        with_rouge = any(part == "rouge" for _, part in of)
        name += f"_of_{len(of)}_{'with' if with_rouge else 'without'}_rouge"
        words += ", with ROUGE" if with_rouge else " of probability and truth ratio, without ROUGE"
    return Definition(
        name, words, "Harmonic mean of " + ", ".join(f"{part} of {task}" for task, part in of) + "."
    )
