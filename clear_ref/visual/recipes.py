"""How the face network is trained: a recipe for each stage and each method.

All use SGD with momentum, one group of parameters with one weight decay, BN and head included.
`released` is what the scripts run. `paper`: App. G has epochs, rate, batch and weight decay of base
and gold; of unlearning the paper gives nothing, so these are the released values.
"""

import math
from dataclasses import dataclass, replace

from clear_ref.common.errors import UserError
from clear_ref.common.settings import check_choices, setting, setting_names

SCHEDULES = ("constant", "cosine", "warmup_cosine", "released_warmup")
# {value: the schedules that read it}; the others are read under every schedule.
READ_BY = {
    "warmup_steps": ("warmup_cosine", "released_warmup"),
    "schedule_steps": ("released_warmup",),
}


@dataclass(frozen=True)
class VisualRecipe:
    """How to train the face network. The values of base and gold (App. G)."""

    epochs: int = setting(20, "passes over the pictures", "paper App. G")
    batch_size: int = setting(256, "pictures in a batch", "paper App. G")
    lr: float = setting(0.1, "learning rate that the schedule starts from", "paper App. G")
    momentum: float = setting(0.9, "SGD's momentum", "CLEAR cv/finetune.py:94 at bb14c96")
    weight_decay: float = setting(5e-5, "SGD's weight decay", "paper App. G")
    schedule: str = setting(
        "warmup_cosine",
        "rate of a step: constant | cosine (by epoch, to 0) | warmup_cosine (linear, then cosine "
        "to 0 by step) | released_warmup (the released schedule, see visual/recipes.py)",
        choices=SCHEDULES,
    )
    warmup_steps: int = setting(20, "steps of the warm-up", "CLEAR cv/finetune.py:99 at bb14c96")
    schedule_steps: int = setting(
        0,
        "steps that released_warmup counts with; 0: those of the training",
        "CLEAR cv/finetune.py:100 at bb14c96",
    )
    bn: str = setting(
        "train",
        "train: BN uses the batch and moves its running statistics; eval: it uses these unmoved",
        "CLEAR cv/finetune.py:18 at bb14c96",
        choices=("train", "eval"),
    )
    drop_last: str = setting(
        "off",
        "on: the last batch of an epoch is left out if it is not full",
        "CLEAR cv/finetune.py:78 at bb14c96",
        choices=("on", "off"),
    )
    forget_times: int = setting(
        1, "how often a pass over the forget set has each of its pictures", "no forget set here"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least in (("epochs", 1), ("batch_size", 1), ("forget_times", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least {least}")
        for name in ("lr", "momentum", "weight_decay", "warmup_steps", "schedule_steps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} is {value}; expected a finite number, not below 0")


BASE = VisualRecipe()
# The scripts count with 160 steps, those of base; gold has 120 and stops before the end.
RELEASED_BASE = replace(BASE, schedule="released_warmup", schedule_steps=160)
# The base's own start, from ImageNet weights; its head is not saved.
PRETRAIN = replace(BASE, epochs=100, weight_decay=5e-4, schedule="cosine")
UNLEARN = replace(BASE, epochs=5, lr=0.01, schedule="constant", drop_last="on", forget_times=10)
_COSINE = replace(UNLEARN, schedule="cosine", bn="eval")
METHOD_RECIPES = {
    "retain_ft": UNLEARN,
    "scrub": _COSINE,
    "llmu": _COSINE,
    "dpo": replace(_COSINE, epochs=4),
    "rmu": replace(UNLEARN, epochs=3, lr=0.2),
    "scrubbio": replace(UNLEARN, epochs=4, lr=0.2, forget_times=5),
    "twins": replace(UNLEARN, batch_size=128, lr=0.4),
    "sparsity": replace(UNLEARN, batch_size=32, epochs=4),
}
SOURCES = {
    "pretrain": "CLEAR cv/pretrain.py:56-120 at bb14c96",
    "base": "paper App. G; CLEAR cv/finetune.py:42-107 at bb14c96",
    "gold": "paper App. G; CLEAR cv/unlearning/retrain.py:40-106 at bb14c96",
    "retain_ft": "CLEAR cv/unlearning/finetune.py:18, 39-49, 76, 94 at bb14c96",
    "scrub": "CLEAR cv/unlearning/scrub_orig.py:17, 52-62, 90-93, 121-123 at bb14c96",
    "llmu": "CLEAR cv/unlearning/llmu.py:17, 54-64, 92-95, 123-125 at bb14c96",
    "dpo": "CLEAR cv/unlearning/dpo.py:16, 53-64, 92-95, 118-120 at bb14c96",
    "rmu": "CLEAR cv/unlearning/rmu.py:17, 38-49, 83-87, 117 at bb14c96",
    "scrubbio": "CLEAR cv/unlearning/scrub.py:17, 38-48, 83-87, 124 at bb14c96",
    "twins": "CLEAR cv/unlearning/twins.py:17, 38-48, 82-86, 123 at bb14c96",
    "sparsity": "CLEAR cv/unlearning/sparsity.py:18, 39-49, 76, 96 at bb14c96",
}


def recipe_of(stage: str, semantics: str = "paper") -> VisualRecipe:
    """The recipe of pretrain, base, gold or a method; UserError for another name."""
    if stage == "pretrain":
        return PRETRAIN
    if stage in ("base", "gold"):
        return RELEASED_BASE if semantics == "released" else BASE
    if stage not in METHOD_RECIPES:
        known = ("pretrain", "base", "gold", *METHOD_RECIPES)
        raise UserError(f"stage is {stage!r}; expected one of {', '.join(known)}")
    return METHOD_RECIPES[stage]


def names_read(recipe: VisualRecipe, reads_forget: bool) -> list[str]:
    """The names of the recipe's values that a training reads.

    reads_forget  whether a batch has forget pictures
    """
    unread = {name for name, schedules in READ_BY.items() if recipe.schedule not in schedules}
    if not reads_forget:
        unread.add("forget_times")
    return [name for name in setting_names(VisualRecipe) if name not in unread]


def learning_rate(recipe: VisualRecipe, step: int, epoch: int, n_steps: int) -> float:
    """The rate of a step; step and epoch count from 0.

    constant         lr
    cosine           lr (1 + cos(pi epoch / epochs)) / 2: the same in all steps of an epoch
    warmup_cosine    lr (step + 1) / warmup_steps, then lr (1 + cos(pi x)) / 2, x from 0 to 1
    released_warmup  lr f: f = step lr / warmup_steps up to step warmup_steps + 1, later
                     lr + lr cos(pi/2 (step - warmup_steps) / (schedule_steps - warmup_steps)).
                     The script returns an absolute rate where a factor is expected, so lr counts
                     twice: with 0.1, 20 and 160 the rate grows from 0 to 0.0105 at step 21, jumps
                     to 0.0200 at 22 and falls to 0.0100 at 160 [CLEAR cv/finetune.py:97-107 at
                     bb14c96]
    """
    warm, lr = recipe.warmup_steps, recipe.lr
    if recipe.schedule == "cosine":
        return lr * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    if recipe.schedule == "warmup_cosine":
        if step < warm:
            return lr * (step + 1) / warm
        return lr * (1 + math.cos(math.pi * (step - warm) / max(n_steps - warm, 1))) / 2
    if recipe.schedule == "released_warmup":
        if step <= warm + 1:
            return lr * step * lr / max(warm, 1)
        total = recipe.schedule_steps or n_steps
        return lr * lr * (1 + math.cos(math.pi / 2 * (step - warm) / max(total - warm, 1)))
    return lr
