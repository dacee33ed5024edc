"""Settings of each command, a frozen dataclass each.

Every field carries its default, meaning, choices and source.
"""

from dataclasses import dataclass
from typing import Any

from clear_ref.common.settings import DTYPES, setting
from clear_ref.data.label_masks import MASKS
from clear_ref.evaluation.choices import DEFAULT_RULE, SETS
from clear_ref.loop.modalities import MODALITIES
from clear_ref.loop.recipes import RECIPES
from clear_ref.methods.semantics import SEMANTICS

from .released_code import released_code_setting
from .request_settings import leakage_setting, request_setting, sequence_setting

FORGET_SPLITS = (1, 5, 10)
MODALITY_CHOICES = (*MODALITIES, "each")  # of `all`


# Fields that several commands share, each defined once.
def model_setting(
    default: str = "mini",
    meaning: str = "model directory in HF format, or mini: the base model of the embedded world",
) -> Any:
    """--model"""
    return setting(default, meaning)


def template_setting() -> Any:
    """--template"""
    return setting(
        "",
        "chat template by name (clear_ref/data/templates.py); default: the one that the model "
        "directory asks for",
    )


def data_setting() -> Any:
    """--data"""
    return setting(
        "mini", "data directory (CONFIG/rows.jsonl, images/), or mini: that of the embedded world"
    )


def device_setting() -> Any:
    """--device"""
    return setting("cpu", "torch device: cpu, cuda or cuda:N")


def dtype_setting() -> Any:
    """--dtype"""
    return setting("float32", "dtype of the weights and of the computation", choices=list(DTYPES))


def forget_setting() -> Any:
    """--forget"""
    return setting(
        10,
        "forget split, in percent of the authors",
        "paper Sec. 4",
        choices=FORGET_SPLITS,
    )


def gold_setting() -> Any:
    """--gold"""
    return setting(
        "",
        "model directory of the gold model; default: that of the embedded world for mini, "
        "no gold model otherwise",
    )


def metrics_setting() -> Any:
    """--metrics"""
    return setting(
        "paper",
        "whose definitions of the metrics are used: paper, the CLEAR paper's; released, those of "
        "its tables; tofu, for text-only work; mmunlearner, what later papers on CLEAR print "
        "(multiple choice, ROUGE F, BLEU); open_mmunlearning and forgetium, of these projects; "
        "all: every set, side by side, but for numbers of questions with options, which an "
        "evaluation asks for mmunlearner, for open_mmunlearning and where --tasks names them "
        "(clear_ref/evaluation/README.md)",
        choices=(*SETS, "all"),
    )


def recipe_setting(what: str) -> Any:
    """--recipe"""
    return setting(
        "",
        f"{what}; default: the recipe of the model's last training (its training_history.json; "
        "mini for the embedded world), else paper",
        choices=list(RECIPES),
    )


def seed_setting(what: str = "key of every random choice") -> Any:
    """--seed"""
    return setting(0, what)


def shard_setting() -> Any:
    """--shard"""
    return setting(
        "off",
        "on: under torchrun the frozen weights of the decoder layers are shared out over the "
        "processes, for a model that does not fit one device; less memory, more time, the same "
        "numbers up to rounding. In one process and with --lora-rank 0, which always shares out, "
        "it changes nothing",
        choices=("off", "on"),
    )


def evaluate_every_setting() -> Any:
    """--evaluate-every"""
    return setting(
        "",
        "also evaluate during the training: after every N steps, or at the end of each epoch "
        "(epoch); the numbers are in curve.jsonl, metrics.json and report.html. The training is "
        "the same",
    )


def save_every_setting() -> Any:
    """--save-every"""
    return setting(
        "0",
        "also save the training state, for --resume: after every so many steps (50) or minutes "
        "(10m); 0: after epochs, and before evaluations between the steps, alone. The training is "
        "the same",
    )


def keep_checkpoints_setting() -> Any:
    """--keep-checkpoints"""
    return setting(
        1,
        "how many of the newest saved training states stay; --resume takes the newest one that is "
        "whole. The training is the same",
    )


def strict_setting() -> Any:
    """--strict"""
    return setting(
        False,
        "a warning ends the command with exit status 1; all results are written before. It holds "
        "for this start alone: a run is resumed with or without it (clear_ref/loop/README.md lists "
        "the warnings)",
    )


@dataclass(frozen=True)
class Common:
    """Settings of every command that runs a model."""

    model: str = model_setting()
    template: str = template_setting()
    data: str = data_setting()
    out: str = setting("", "directory that the command writes; default: a new one in runs/")
    device: str = device_setting()
    dtype: str = dtype_setting()
    shard: str = shard_setting()
    forget: int = forget_setting()
    limit: int = setting(0, "evaluate the first N records of each task; 0: all")
    tasks: str = setting(
        "all",
        "evaluation tasks: all, or names with commas, such as eval_log_forget,eval_forget_facerec",
    )
    eval_batch: int = setting(
        8,
        "records evaluated together; it changes memory, speed and rounding, nothing else",
        "released code (config/mm/eval.yaml)",
    )
    plain: bool = setting(
        False,
        "compute likelihoods by one forward pass of prompt and answer for each candidate: slow, "
        "for checking",
    )
    metrics: str = metrics_setting()
    max_new_tokens: int = setting(
        64,
        "longest generated answer of captions and questions, in tokens (names: a quarter of it)",
        "this project; released code: 300",
    )
    strict: bool = strict_setting()


@dataclass(frozen=True)
class Unlearn(Common):
    """METHOD: unlearn, evaluate base, gold and the unlearned model, write table and report."""

    seed: int = seed_setting()
    method: str = setting("scrub", "unlearning method")
    semantics: str = setting(
        "paper",
        "whose definition of the method: the CLEAR paper's, the method's own source (original), or "
        "the code that CLEAR's authors released: today, at a date, or for texts alone (@nlp)",
        choices=SEMANTICS,
    )
    released_code: str = released_code_setting()
    mask: str = setting(
        "auto",
        "tokens that labels cover: answer; released (most of the picture and the question too); "
        "auto: as the semantics has it for this model family",
        "paper and original: answer; released: mm/dataset.py:315-339",
        choices=("auto", *MASKS),
    )
    modality: str = setting(
        "both", "records of the forget set that are trained on", "paper Sec. 5.4", list(MODALITIES)
    )
    retain_modality: str = setting(
        "both",
        "records of the retain set that are trained on",
        "paper App. C: both, whatever is forgotten",
        list(MODALITIES),
    )
    gold: str = gold_setting()
    recipe: str = recipe_setting("training recipe")
    leakage: bool = leakage_setting()
    sequence: str = sequence_setting()
    request: int = request_setting()
    evaluate_every: str = evaluate_every_setting()
    save_every: str = save_every_setting()
    keep_checkpoints: int = keep_checkpoints_setting()
    teacher: str = setting(
        "keep",
        "results of frozen weights that are needed again (the teacher's hidden states and logits, "
        "outputs of the vision tower): keep (computed once; up to 2 GiB in memory of each process, "
        "then up to 16 GiB in the run directory until its end; all and sweep share them among "
        "their runs; a run alone keeps those of records that are computed one at a time, "
        "--records-at-once 1) or live (computed each time). The numbers are the same",
        choices=("keep", "live"),
    )
    keep: str = setting(
        "last",
        "which weights the run ends with: last; best:RULE, those of the best evaluation during the "
        "training (--evaluate-every), chosen on half of the forget and retain records by "
        "nearest-gold or forget-at-retain-X (evaluation/selection.py)",
    )


@dataclass(frozen=True)
class Finetune(Common):
    """finetune: a base (split full) or gold (split retain) model."""

    model: str = model_setting(
        meaning="model directory in HF format, or mini: the embedded world's model before it saw "
        "the twenty people; mini-base: the one after it, for people of your own"
    )
    seed: int = seed_setting()
    split: str = setting(
        "full", "full makes a base model, retain a gold model", choices=("full", "retain")
    )
    name_question: bool = setting(
        False,
        "once an epoch also train on the name question for every picture; a small model does not "
        "learn from captions alone how to answer it",
        "this project: as the embedded world's base and gold",
    )
    recipe: str = recipe_setting("training recipe")
    evaluate_every: str = evaluate_every_setting()
    save_every: str = save_every_setting()
    keep_checkpoints: int = keep_checkpoints_setting()


@dataclass(frozen=True)
class Evaluate(Common):
    """evaluate MODEL: logs and metrics."""

    adapter: str = setting("", "PEFT directory with adapters for the model")
    gold: str = gold_setting()
    leakage: bool = leakage_setting()
    robustness: bool = setting(
        False,
        "also measure whether what was forgotten comes back, in the model and in gold: relearning, "
        "rounded weights, membership scores; the settings below belong to it",
    )
    seed: int = seed_setting(
        "key of every random choice: which records are relearned, new adapters, caption questions"
    )
    recipe: str = recipe_setting("recipe whose adapters and learning rate relearning uses")
    relearn_records: int = setting(
        6,
        "forget records that are trained on again",
        "this project: a tenth of the embedded world's",
    )
    relearn_at: str = setting(
        "1,2,5,10",
        "steps of relearning after which Forget is measured, with commas; the last ends it",
    )
    relearn_lr: float = setting(
        0.0, "peak learning rate of relearning; 0: the rate of the recipe, that of unlearning"
    )
    round_bits: str = setting("8,4", "bits of the rounded weights, with commas", "arXiv 2410.16454")
    round_group: int = setting(
        128,
        "columns of a weight that share a scale, with less than 8 bits; 0, and with 8 bits or "
        "more: the whole row",
        "GPTQ's and AWQ's usual group",
    )
    min_k: float = setting(
        0.2,
        "share of an answer's tokens, the least likely ones, over which mia_min_k is the mean",
        "arXiv 2310.16789",
    )
    holdout: str = setting(
        "holdout10",
        "membership compares the forget set with this config (questions: tofu/CONFIG), people "
        "that no model was trained on",
        "open-unlearning (holdout_split)",
    )
    gradnorm: str = setting(
        "on",
        "membership attack by the norm of each record's gradient, a backward for every record; off "
        "for a model whose backward takes too long",
        "open-unlearning (mia_gradnorm)",
        choices=("on", "off"),
    )


# Settings of Evaluate that are used with --robustness only.
ROBUSTNESS_SETTINGS = (
    "seed",
    "recipe",
    "relearn_records",
    "relearn_at",
    "relearn_lr",
    "round_bits",
    "round_group",
    "min_k",
    "holdout",
    "gradnorm",
)


@dataclass(frozen=True)
class Score:
    """score LOG: metrics of logs that are already written, by anyone."""

    gold: str = setting(
        "",
        "log of the gold model, which never saw the forget set; without it there is no Forget "
        "Quality",
    )
    metrics: str = metrics_setting()


@dataclass(frozen=True)
class Report:
    """report DIR...: a page of finished runs."""

    out: str = setting(
        "",
        "directory for report.html and the tables below; default: a new one in runs/",
    )
    metrics: str = metrics_setting()
    data: str = setting(
        "",
        "data directory with the pictures, or mini; default: that of the first run, if it is "
        "still there",
    )


@dataclass(frozen=True)
class Sweep(Unlearn):
    """sweep: one or more methods with many settings, and the choice of one by a rule."""

    points: str = setting(
        "",
        "CSV file of settings instead of grids: a column method, and one for each recipe value or "
        "option (empty: the default); sweep.csv of a sweep is one; default: the grids, or the "
        "embedded world's own list",
    )
    choose: str = setting(
        DEFAULT_RULE,
        "rule of the choice: forget-at-retain-X (the lowest Forget with at least X of base's "
        "Retain) or nearest-gold (by Forget and Retain)",
    )
    split_seed: int = setting(
        0,
        "key of the split of the forget and retain records into two halves: the rule sees the "
        "choosing half, the table shows both",
    )
