"""How to train: the recipes of the paper and of the embedded world (mini).

Every value has its meaning and its source.
"""

import math
from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.common.guards import SETTINGS, fire
from clear_ref.common.settings import check_choices, setting


@dataclass(frozen=True)
class Recipe:
    """How to train. The values of the paper (unlearning of LLaVA-1.5-7B)."""

    epochs: int = setting(5, "passes over the forget set", "paper App. H")
    batch_size: int = setting(1, "records in one batch", "paper App. H")
    accumulate: int = setting(2, "batches in one optimiser step", "paper App. H")
    lr: float = setting(1e-5, "peak learning rate", "paper App. H")
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay", "paper App. H")
    beta2: float = setting(0.999, "AdamW's decay of the second moment", "PyTorch's default")
    warmup_epochs: float = setting(
        1.0,
        "linear warm-up, in epochs, before the linear decay",
        "CLEAR mm/forget.py at bb14c96; there the first step has rate 0",
    )
    clip: float = setting(
        1.0, "largest gradient norm of a step", "CLEAR at bb14c96 (Trainer's default)"
    )
    lora_rank: int = setting(8, "rank of the LoRA adapters; 0: full fine-tuning", "paper App. H")
    lora_alpha: float = setting(32.0, "adapters are scaled by alpha / rank", "paper App. H")
    lora_targets: str = setting(
        "all",
        "adapted layers: all (every linear layer but the head), language "
        "(those of the decoder) or names with commas",
        "CLEAR utils.py:10-19 at bb14c96",
    )
    records_at_once: int = setting(
        1,
        "records of a step computed together; changes memory, speed and order of sums only; with 1 "
        "nothing is padded (--semantics paper; the others pad batch_size records together)",
    )
    checkpointing: str = setting(
        "off",
        "on: keep only each layer's input for backward and compute the rest again; less memory, "
        "more time, the same numbers",
        choices=("on", "off"),
    )
    l1: float = setting(
        0.0,
        "weight of the sum of absolute values of what is trained",
        "CLEAR config/mm/forget.yaml at bb14c96",
    )
    l0: float = setting(
        0.0,
        "weight of the number of trained values that are not 0: no gradient",
        "CLEAR config/mm/forget.yaml at bb14c96",
    )
    norm_from: str = setting(
        "init",
        "what l1 and l0 measure: init (adapters themselves, or the change of the weights) or zero "
        "(the weights; --lora-rank 0)",
        "CLEAR config/mm/forget.yaml at bb14c96",
        choices=("init", "zero"),
    )
    threads: int = setting(
        1,
        "CPU threads of training; more are faster for wide models, and the last bits then depend "
        "on their number",
    )


@dataclass(frozen=True)
class PaperFinetune(Recipe):
    """Base and gold of the paper."""

    epochs: int = setting(3, "passes over the split", "paper App. H")
    batch_size: int = setting(12, "records in one batch", "paper App. H")
    accumulate: int = setting(1, "batches in one optimiser step", "paper App. H")


@dataclass(frozen=True)
class MiniUnlearn(Recipe):
    """Unlearning in the embedded world."""

    lr: float = setting(
        1e-3,
        "peak learning rate",
        "mini: a model 2,500 times smaller moves with steps 100 times larger",
    )
    batch_size: int = setting(
        4, "records in one batch", "mini: 60 forget records make 15 steps an epoch"
    )
    accumulate: int = setting(1, "batches in one optimiser step", "mini: as above")
    records_at_once: int = setting(4, "records computed together", "mini: speed")


@dataclass(frozen=True)
class MiniFinetune(Recipe):
    """Base and gold of the embedded world, trained from scratch."""

    epochs: int = setting(20, "passes over the split", "mini: memorises its records")
    batch_size: int = setting(
        4, "records in one batch", "mini: many small steps memorise faster than few large ones"
    )
    accumulate: int = setting(1, "batches in one optimiser step", "mini")
    lr: float = setting(
        1.5e-3, "peak learning rate", "mini: from scratch; twice as much was no faster"
    )
    beta2: float = setting(
        0.95, "AdamW's decay of the second moment", "mini: 0.999 needs a third more epochs"
    )
    lora_rank: int = setting(
        0,
        "rank of the LoRA adapters; 0: full fine-tuning",
        "mini: from scratch there is nothing to adapt",
    )
    records_at_once: int = setting(4, "records computed together", "mini: speed")


@dataclass(frozen=True)
class MiniPretrain(MiniFinetune):
    """Pre-training of the embedded world's models: faces with names, shapes with questions."""

    epochs: int = setting(
        8,
        "passes over the pretrain rows",
        "mini: more fits the training pictures, not the held-out ones",
    )
    batch_size: int = setting(8, "records in one batch", "mini")
    records_at_once: int = setting(8, "records computed together", "mini: speed")


RECIPES = {
    "paper": {"unlearn": Recipe, "finetune": PaperFinetune},
    "mini": {"unlearn": MiniUnlearn, "finetune": MiniFinetune},
}


HIGH_RATE = 1.0  # AdamW's first step changes every weight by the rate
ADAMW_EPSILON = 1e-8  # PyTorch's default
AT_LEAST_ONE = ("epochs", "batch_size", "accumulate", "records_at_once", "threads")
POSITIVE = ("lr", "clip", "lora_alpha")
NOT_NEGATIVE = ("weight_decay", "warmup_epochs", "l1", "l0")


def check_recipe(recipe: Recipe) -> None:
    """UserError for a value that no training can run with."""
    check_choices(recipe)
    for name in AT_LEAST_ONE:
        _check(recipe, name, getattr(recipe, name) >= 1, "1 or more")
    _check(recipe, "lora_rank", recipe.lora_rank >= 0, "0 or more")
    for name in POSITIVE:
        _check(recipe, name, 0 < getattr(recipe, name) < math.inf, "a positive number")
    for name in NOT_NEGATIVE:
        _check(recipe, name, 0 <= getattr(recipe, name) < math.inf, "0 or a positive number")
    _check(recipe, "beta2", 0 <= recipe.beta2 < 1, "0 or more and less than 1")
    regularised = recipe.l1 or recipe.l0
    if recipe.norm_from == "zero" and recipe.lora_rank and regularised:
        raise UserError(
            f"norm_from is zero with lora_rank {recipe.lora_rank}, and adapters do not change the "
            "weights; expected --norm-from init, or --lora-rank 0"
        )


def warn_recipe(recipe: Recipe) -> None:
    """A guard for each value with which a training runs and is not what anyone wants."""
    if recipe.lr > HIGH_RATE:
        reason = f"lr is {recipe.lr}, above {HIGH_RATE}: expect weights that diverge"
        fire("high_rate", SETTINGS, reason)
    if recipe.clip < ADAMW_EPSILON:
        reason = (
            f"clip is {recipe.clip}: gradients are cut below AdamW's epsilon ({ADAMW_EPSILON}), so "
            "the steps are nearly 0"
        )
        fire("small_clip", SETTINGS, reason)
    if recipe.l0:
        reason = (
            f"l0 is {recipe.l0}: the number of weights that are not 0 has no gradient, so the term "
            "changes the printed loss and nothing else"
        )
        fire("zero_gradient", SETTINGS, reason)


def _check(recipe: Recipe, name: str, valid: bool, expected: str) -> None:
    if not valid:
        raise UserError(f"{name} is {getattr(recipe, name)}; expected {expected}")
