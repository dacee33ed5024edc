"""Options of each command: one frozen dataclass each, every field with its default, meaning and source."""

from dataclasses import dataclass

from clear_ref.common.settings import setting


@dataclass(frozen=True)
class Common:
    """What every command that runs a model can be told."""

    model: str = setting("mini", "model directory in HF format, or mini: the embedded world's")
    template: str = setting(
        "",
        "chat template by name (data/prompts.py); default: the one that the model directory asks for",
    )
    data: str = setting(
        "mini", "data directory (CONFIG/rows.jsonl, images/), or mini: the embedded world's"
    )
    out: str = setting("", "directory for what the command writes; default: a new one below runs/")
    device: str = setting("cpu", "torch device, such as cpu or cuda")
    dtype: str = setting(
        "float32", "compute dtype of the weights: float32, bfloat16, float16 or float64"
    )
    forget: int = setting(
        10, "which forget split: 1, 5 or 10 percent of the authors", "paper Sec. 4"
    )
    limit: int = setting(0, "evaluate the first N records of each task; 0: all")
    tasks: str = setting(
        "all",
        "evaluation tasks: all, or names with commas, such as eval_log_forget,eval_forget_facerec",
    )
    eval_batch: int = setting(
        8,
        "records evaluated together; memory, speed and rounding, not meaning",
        "released code (config/mm/eval.yaml)",
    )
    plain: bool = setting(
        False,
        "likelihoods by one forward of prompt and answer for each candidate: slow, for checking",
    )
    metrics: str = setting(
        "paper", "whose definitions of the metrics: paper, released, tofu or all", "design 6"
    )
    max_new_tokens: int = setting(
        64,
        "longest generated answer of captions and questions (names: a quarter)",
        "this project; released code: 300",
    )


@dataclass(frozen=True)
class Unlearn(Common):
    """METHOD: unlearn, evaluate base, gold and the unlearned model, write table and report."""

    seed: int = setting(0, "key of every random choice")
    method: str = setting("scrub", "unlearning method")
    semantics: str = setting(
        "paper",
        "whose meaning of the method: paper, original, released, released@2024-12-10 or "
        "released@2024-10-23",
        "design: paper is the default",
    )
    mask: str = setting(
        "auto",
        "what the labels cover: answer, released (most of the picture and the question too), or auto: "
        "the semantics' own for this model",
        "paper and original: answer; released: mm/dataset.py:315-339",
    )
    modality: str = setting(
        "both", "what of the forget set is trained on: both, text or visual", "paper Sec. 5.4"
    )
    retain_modality: str = setting(
        "both", "the same of the retain set", "paper App. C: both, whatever is forgotten"
    )
    gold: str = setting(
        "",
        "model directory of the gold model; default: the embedded world's for mini, none otherwise",
    )
    recipe: str = setting(
        "", "mini or paper; default: mini for the embedded world, paper for any other model"
    )


@dataclass(frozen=True)
class Finetune(Common):
    """finetune: a base (split full) or gold (split retain) model."""

    seed: int = setting(0, "key of every random choice")
    split: str = setting("full", "full (a base model) or retain (a gold model)")
    recipe: str = setting(
        "", "mini or paper; default: mini for the embedded world, paper for any other model"
    )


@dataclass(frozen=True)
class Evaluate(Common):
    """evaluate MODEL: logs and metrics."""

    adapter: str = setting("", "PEFT directory of adapters to put on the model")
    gold: str = setting(
        "",
        "model directory of the gold model; default: the embedded world's for mini, none otherwise",
    )
    robustness: bool = setting(
        False,
        "also whether it comes back: relearning, rounded weights and membership scores, of model "
        "and gold; the settings below are theirs",
    )
    seed: int = setting(
        0,
        "key of every random choice: which records are relearned, new adapters, caption questions",
    )
    recipe: str = setting(
        "",
        "mini or paper: adapters and learning rate of relearning; default: mini for the embedded world, "
        "paper for any other model",
    )
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
        0.0, "peak learning rate of relearning; 0: the recipe's, that of unlearning"
    )
    round_bits: str = setting("8,4", "bits of the rounded weights, with commas", "arXiv 2410.16454")
    round_group: int = setting(
        128,
        "columns of a weight that share a scale, with less than 8 bits; 0, and with 8 bits or more: "
        "the whole row",
        "GPTQ's and AWQ's usual group",
    )
    min_k: float = setting(
        0.2,
        "share of an answer's tokens, the least likely ones, that mia_min_k is the mean of",
        "arXiv 2310.16789",
    )
    holdout: str = setting(
        "holdout10",
        "membership compares the forget set with this config (questions: tofu/CONFIG), people "
        "that no model has seen",
        "open-unlearning (holdout_split)",
    )


# What of Evaluate means nothing without --robustness.
OF_ROBUSTNESS = (
    "seed",
    "recipe",
    "relearn_records",
    "relearn_at",
    "relearn_lr",
    "round_bits",
    "round_group",
    "min_k",
    "holdout",
)


@dataclass(frozen=True)
class Score:
    """score LOG: metrics of logs that are already written, by anyone."""

    gold: str = setting(
        "",
        "log of the gold model, which never saw the forget set; without one there is no Forget Quality",
    )
    metrics: str = setting(
        "paper", "whose definitions of the metrics: paper, released, tofu or all", "design 6"
    )


@dataclass(frozen=True)
class Report:
    """report DIR...: a page of runs that are already there."""

    out: str = setting(
        "",
        "directory for report.html and leaderboard.csv, .tex, .md; default: a new one below runs/",
    )
    metrics: str = setting(
        "paper",
        "whose definitions of the metrics: paper, released, tofu or all; computed from the logs "
        "again",
        "design 6",
    )
    data: str = setting(
        "",
        "data directory with the pictures, or mini; default: the first run's own, if it is still there",
    )
