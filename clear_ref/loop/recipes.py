"""How to train: the recipes of the paper and of the embedded world, every value with its meaning and source."""

import math
from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.common.settings import setting


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
        "released code (mm/forget.py); there the first step has rate 0",
    )
    clip: float = setting(
        1.0, "largest gradient norm of a step", "released code (Trainer's default)"
    )
    lora_rank: int = setting(8, "rank of the LoRA adapters; 0: full fine-tuning", "paper App. H")
    lora_alpha: float = setting(32.0, "adapters are scaled by alpha / rank", "paper App. H")
    lora_targets: str = setting(
        "all",
        "adapted layers: all (every linear layer but the head), language "
        "(those of the decoder) or names with commas",
        "released code (utils.py:10-19)",
    )
    records_at_once: int = setting(
        1,
        "records of a step computed together; memory, speed and order of sums, not meaning; with 1 "
        "nothing is padded (--semantics paper; in the others batch_size records are padded together)",
    )
    checkpointing: str = setting(
        "off",
        "on: keep only each layer's input for backward and compute the rest again; less memory, "
        "more time, the same numbers",
    )
    l1: float = setting(
        0.0,
        "weight of the sum of absolute values of what is trained",
        "released code (config/mm/forget.yaml)",
    )
    l0: float = setting(
        0.0,
        "weight of the number of trained values that are not 0: no gradient",
        "released code (the same)",
    )
    norm_from: str = setting(
        "init",
        "what l1 and l0 measure: init (adapters themselves, or the change of the weights) or zero "
        "(the weights; --lora-rank 0)",
        "released code (the same)",
    )
    threads: int = setting(
        1,
        "CPU threads of training; more are faster for wide models, and the last bits then depend on them",
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
    """What the embedded world's models learn before they meet an author: faces with names, shapes with questions."""

    epochs: int = setting(
        8,
        "passes over the pretrain rows",
        "mini: more fits the training pictures, not the held-out ones",
    )
    batch_size: int = setting(8, "records in one batch", "mini")
    records_at_once: int = setting(8, "records computed together", "mini: speed")


# Method options that differ in the embedded world from what methods/NAME.py has for real models, each with its reason.
# rmu: the decoder has four layers; with c = 30 the Forget metric ends at 0.48, with the 300 of real models at 0.54 (seed 0).
MINI_OPTIONS = {"rmu": {"layer": 2, "c": 30.0}}


RECIPES = {
    "paper": {"unlearn": Recipe, "finetune": PaperFinetune},
    "mini": {"unlearn": MiniUnlearn, "finetune": MiniFinetune},
}


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
        raise UserError(
            f"norm_from is zero with lora_rank {recipe.lora_rank}, and adapters leave the weights as they are; "
            "expected --norm-from init, or --lora-rank 0"
        )
    if not 0 <= recipe.beta2 < 1:
        raise UserError(f"beta2 is {recipe.beta2}; expected 0 or more and less than 1")
