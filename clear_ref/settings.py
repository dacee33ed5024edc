"""What a command can be told: one frozen dataclass each, every field with its default, meaning and source."""

import math
from dataclasses import dataclass, field, fields

from .errors import UserError


def setting(default, meaning: str, source: str = "this project"):
    """A dataclass field that carries its meaning and the source of its default value."""
    return field(default=default, metadata={"meaning": meaning, "source": source})


@dataclass(frozen=True)
class Recipe:
    """How to train. The values of the paper (unlearning of LLaVA-1.5-7B)."""
    epochs: int = setting(5, "passes over the forget set", "paper App. H")
    batch_size: int = setting(1, "records in one batch", "paper App. H")
    accumulate: int = setting(2, "batches in one optimiser step", "paper App. H")
    lr: float = setting(1e-5, "peak learning rate", "paper App. H")
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay", "paper App. H")
    beta2: float = setting(0.999, "AdamW's decay of the second moment", "PyTorch's default")
    warmup_epochs: float = setting(1.0, "linear warm-up, in epochs, before the linear decay",
                                   "released code (mm/forget.py); there the first step has rate 0")
    clip: float = setting(1.0, "largest gradient norm of a step", "released code (Trainer's default)")
    lora_rank: int = setting(8, "rank of the LoRA adapters; 0: full fine-tuning", "paper App. H")
    lora_alpha: float = setting(32.0, "adapters are scaled by alpha / rank", "paper App. H")
    lora_targets: str = setting("all", "adapted layers: all (every linear layer but the head), language "
                                "(those of the decoder) or names with commas", "released code (utils.py:10-19)")
    records_at_once: int = setting(1, "records of a step computed together; memory, speed and order of sums, not meaning; with 1 "
                                 "nothing is padded (--semantics paper; in the others batch_size records are padded together)")
    checkpointing: str = setting("off", "on: keep only each layer's input for backward and compute the rest again; less memory, "
                                 "more time, the same numbers")
    l1: float = setting(0.0, "weight of the sum of absolute values of what is trained", "released code (config/mm/forget.yaml)")
    l0: float = setting(0.0, "weight of the number of trained values that are not 0: no gradient", "released code (the same)")
    norm_from: str = setting("init", "what l1 and l0 measure: init (adapters themselves, or the change of the weights) or zero "
                             "(the weights; --lora-rank 0)", "released code (the same)")
    threads: int = setting(1, "CPU threads of training; more are faster for wide models, and the last bits then depend on them")


@dataclass(frozen=True)
class PaperFinetune(Recipe):
    """Base and gold of the paper."""
    epochs: int = setting(3, "passes over the split", "paper App. H")
    batch_size: int = setting(12, "records in one batch", "paper App. H")
    accumulate: int = setting(1, "batches in one optimiser step", "paper App. H")


@dataclass(frozen=True)
class MiniUnlearn(Recipe):
    """Unlearning in the embedded world."""
    lr: float = setting(1e-3, "peak learning rate", "mini: a model 2,500 times smaller moves with steps 100 times larger")
    batch_size: int = setting(4, "records in one batch", "mini: 60 forget records make 15 steps an epoch")
    accumulate: int = setting(1, "batches in one optimiser step", "mini: as above")
    records_at_once: int = setting(4, "records computed together", "mini: speed")


@dataclass(frozen=True)
class MiniFinetune(Recipe):
    """Base and gold of the embedded world, trained from scratch."""
    epochs: int = setting(20, "passes over the split", "mini: memorises its records")
    batch_size: int = setting(4, "records in one batch", "mini: many small steps memorise faster than few large ones")
    accumulate: int = setting(1, "batches in one optimiser step", "mini")
    lr: float = setting(1.5e-3, "peak learning rate", "mini: from scratch; twice as much was no faster")
    beta2: float = setting(0.95, "AdamW's decay of the second moment", "mini: 0.999 needs a third more epochs")
    lora_rank: int = setting(0, "rank of the LoRA adapters; 0: full fine-tuning", "mini: from scratch there is nothing to adapt")
    records_at_once: int = setting(4, "records computed together", "mini: speed")


@dataclass(frozen=True)
class MiniPretrain(MiniFinetune):
    """What the embedded world's models learn before they meet an author: faces with names, shapes with questions."""
    epochs: int = setting(8, "passes over the pretrain rows", "mini: more fits the training pictures, not the held-out ones")
    batch_size: int = setting(8, "records in one batch", "mini")
    records_at_once: int = setting(8, "records computed together", "mini: speed")


# Method options that differ in the embedded world from what methods/NAME.py has for real models, each with its reason.
# rmu: the decoder has four layers; with c = 30 the Forget metric ends at 0.48, with the 300 of real models at 0.54 (seed 0).
MINI_OPTIONS = {"rmu": {"layer": 2, "c": 30.0}}

RECIPES = {"paper": {"unlearn": Recipe, "finetune": PaperFinetune}, "mini": {"unlearn": MiniUnlearn, "finetune": MiniFinetune}}


@dataclass(frozen=True)
class Common:
    """What every command that runs a model can be told."""
    model: str = setting("mini", "model directory in HF format, or mini: the embedded world's")
    template: str = setting("", "chat template by name (data/prompts.py); default: the one that the model directory asks for")
    data: str = setting("mini", "data directory (CONFIG/rows.jsonl, images/), or mini: the embedded world's")
    out: str = setting("", "directory for what the command writes; default: a new one below runs/")
    device: str = setting("cpu", "torch device, such as cpu or cuda")
    dtype: str = setting("float32", "compute dtype of the weights: float32, bfloat16, float16 or float64")
    forget: int = setting(10, "which forget split: 1, 5 or 10 percent of the authors", "paper Sec. 4")
    limit: int = setting(0, "evaluate the first N records of each task; 0: all")
    tasks: str = setting("all", "evaluation tasks: all, or names with commas, such as eval_log_forget,eval_forget_facerec")
    eval_batch: int = setting(8, "records evaluated together; memory, speed and rounding, not meaning",
                              "released code (config/mm/eval.yaml)")
    plain: bool = setting(False, "likelihoods by one forward of prompt and answer for each candidate: slow, for checking")
    metrics: str = setting("paper", "whose definitions of the metrics: paper, released, tofu or all", "design 6")
    max_new_tokens: int = setting(64, "longest generated answer of captions and questions (names: a quarter)",
                                  "this project; released code: 300")


@dataclass(frozen=True)
class Unlearn(Common):
    """METHOD: unlearn, evaluate base, gold and the unlearned model, write table and report."""
    seed: int = setting(0, "key of every random choice")
    method: str = setting("scrub", "unlearning method")
    semantics: str = setting("paper", "whose meaning of the method: paper, original, released, released@2024-12-10 or "
                             "released@2024-10-23", "design: paper is the default")
    mask: str = setting("auto", "what the labels cover: answer, released (most of the picture and the question too), or auto: "
                        "the semantics' own for this model", "paper and original: answer; released: mm/dataset.py:315-339")
    modality: str = setting("both", "what of the forget set is trained on: both, text or visual", "paper Sec. 5.4")
    retain_modality: str = setting("both", "the same of the retain set", "paper App. C: both, whatever is forgotten")
    gold: str = setting("", "model directory of the gold model; default: the embedded world's for mini, none otherwise")
    recipe: str = setting("", "mini or paper; default: mini for the embedded world, paper for any other model")


@dataclass(frozen=True)
class Finetune(Common):
    """finetune: a base (split full) or gold (split retain) model."""
    seed: int = setting(0, "key of every random choice")
    split: str = setting("full", "full (a base model) or retain (a gold model)")
    recipe: str = setting("", "mini or paper; default: mini for the embedded world, paper for any other model")


@dataclass(frozen=True)
class Evaluate(Common):
    """evaluate MODEL: logs and metrics."""
    adapter: str = setting("", "PEFT directory of adapters to put on the model")
    gold: str = setting("", "model directory of the gold model; default: the embedded world's for mini, none otherwise")
    robustness: bool = setting(False, "also whether it comes back: relearning, rounded weights and membership scores, of model "
                               "and gold; the settings below are theirs")
    seed: int = setting(0, "key of every random choice: which records are relearned, new adapters, caption questions")
    recipe: str = setting("", "mini or paper: adapters and learning rate of relearning; default: mini for the embedded world, "
                          "paper for any other model")
    relearn_records: int = setting(6, "forget records that are trained on again", "this project: a tenth of the embedded world's")
    relearn_at: str = setting("1,2,5,10", "steps of relearning after which Forget is measured, with commas; the last ends it")
    relearn_lr: float = setting(0.0, "peak learning rate of relearning; 0: the recipe's, that of unlearning")
    round_bits: str = setting("8,4", "bits of the rounded weights, with commas", "arXiv 2410.16454")
    round_group: int = setting(128, "columns of a weight that share a scale, with less than 8 bits; 0, and with 8 bits or more: "
                               "the whole row", "GPTQ's and AWQ's usual group")
    min_k: float = setting(0.2, "share of an answer's tokens, the least likely ones, that mia_min_k is the mean of",
                           "arXiv 2310.16789")
    holdout: str = setting("holdout10", "membership compares the forget set with this config (questions: tofu/CONFIG), people "
                           "that no model has seen", "open-unlearning (holdout_split)")


# What of Evaluate means nothing without --robustness.
OF_ROBUSTNESS = ("seed", "recipe", "relearn_records", "relearn_at", "relearn_lr", "round_bits", "round_group", "min_k", "holdout")


@dataclass(frozen=True)
class Score:
    """score LOG: metrics of logs that are already written, by anyone."""
    gold: str = setting("", "log of the gold model, which never saw the forget set; without one there is no Forget Quality")
    metrics: str = setting("paper", "whose definitions of the metrics: paper, released, tofu or all", "design 6")


@dataclass(frozen=True)
class Report:
    """report DIR...: a page of runs that are already there."""
    out: str = setting("", "directory for report.html and leaderboard.csv, .tex, .md; default: a new one below runs/")
    metrics: str = setting("paper", "whose definitions of the metrics: paper, released, tofu or all; computed from the logs "
                           "again", "design 6")
    data: str = setting("", "data directory with the pictures, or mini; default: the first run's own, if it is still there")


def names(kind) -> list[str]:
    """The field names of a settings dataclass."""
    return [f.name for f in fields(kind)]


def some_of(text: str, known, option: str, words: str = "all") -> list[str]:
    """The names in "a, b", each of `known` and once; UserError says what else `option` may be: `words`."""
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if name not in known or found.count(name) > 1:
            raise UserError(f"{option} names {name!r}{' twice' if name in known else ''}; expected {words}, or some of: "
                            + ", ".join(known))
    return found


def convert(kind, name: str, text: str):
    """`text` as the type of the field's default; UserError that says what is expected."""
    known = {f.name: f for f in fields(kind)}
    if name not in known:
        raise UserError(f"unknown setting {name!r}; known: {', '.join(known)}")
    default = known[name].default
    wanted = type(default)
    try:
        return wanted(text)
    except ValueError:
        raise UserError(f"setting {name} is {text!r}; expected {wanted.__name__}, such as {default}") from None


def check_recipe(recipe: Recipe) -> None:
    """UserError for a value that no training can run with."""
    for name in ("epochs", "batch_size", "accumulate", "records_at_once", "threads", "lora_rank"):
        least = 0 if name == "lora_rank" else 1
        if getattr(recipe, name) < least:
            raise UserError(f"{name} is {getattr(recipe, name)}; expected {least} or more")
    if recipe.checkpointing not in ("on", "off"):
        raise UserError(f"checkpointing is {recipe.checkpointing!r}; expected on or off")
    for name in ("lr", "clip", "lora_alpha"):
        if not 0 < getattr(recipe, name) < math.inf:
            raise UserError(f"{name} is {getattr(recipe, name)}; expected a positive number")
    for name in ("weight_decay", "warmup_epochs", "l1", "l0"):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise UserError(f"{name} is {getattr(recipe, name)}; expected 0 or a positive number")
    if recipe.norm_from not in ("init", "zero"):
        raise UserError(f"norm_from is {recipe.norm_from!r}; expected init or zero")
    if recipe.norm_from == "zero" and recipe.lora_rank and (recipe.l1 or recipe.l0):
        raise UserError(f"norm_from is zero with lora_rank {recipe.lora_rank}, and adapters leave the weights as they are; "
                        "expected --norm-from init, or --lora-rank 0")
    if not 0 <= recipe.beta2 < 1:
        raise UserError(f"beta2 is {recipe.beta2}; expected 0 or more and less than 1")


def with_sources(settings, given: set[str], mini: set[str] = frozenset()) -> dict:
    """{name: {value, source}} for settings.json: the command line where a value was given there, mini where its value is."""
    def source(f):
        if f.name in given:
            return "command line"
        return "mini" if f.name in mini else f.metadata["source"]
    return {f.name: {"value": getattr(settings, f.name), "source": source(f)} for f in fields(settings)}
