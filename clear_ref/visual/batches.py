"""Which pictures each step sees. Orders are drawn by (seed, purpose, epoch) alone.

source  the loaders of the scripts, CLEAR cv/unlearning/scrub_orig.py:89-93 at bb14c96 and others:
        a shuffled pass; a last batch that is not full is left out or kept; two loaders end with
        the shorter one
"""

from collections.abc import Sequence

from clear_ref.common.errors import UserError
from clear_ref.data.draws import permutation

from .methods.variant import SAMPLING
from .recipes import VisualRecipe

Step = dict[str, list[int]]  # {batch name: its pictures}


def sets_of(
    sampling: str, forget: Sequence[int], retain: Sequence[int], forget_times: int
) -> dict[str, list[int]]:
    """{batch name: the pictures of one pass}."""
    repeated = list(forget) * forget_times
    passes = {"retain": list(retain), "forget": repeated, "pool": [*repeated, *retain]}
    return {name: passes[name] for name in SAMPLING[sampling]}


def check_full_batch(sets: dict[str, list[int]], recipe: VisualRecipe, where: str) -> None:
    """UserError if an epoch would have no step: a set that is empty, or that fills no batch."""
    for name, pictures in sets.items():
        if not pictures:
            raise UserError(f"{where}: the {name} set has no picture; expected at least one")
        if recipe.drop_last == "on" and len(pictures) < recipe.batch_size:
            raise UserError(
                f"{where}: a pass over the {name} set has {len(pictures)} pictures, and batches "
                f"that are not full are left out; expected a batch_size up to {len(pictures)}, "
                f"found {recipe.batch_size}"
            )


def check_lone_pictures(
    sets: dict[str, list[int]], recipe: VisualRecipe, where: str, sides: tuple[int, int]
) -> None:
    """UserError for a batch of one picture; sides: (height, width) of the pictures.

    For pictures on which BN in training mode has one value for each channel in the last stage.
    """
    for step in step_sizes(sets, recipe):
        for name, size in step.items():
            if size == 1:
                raise UserError(
                    f"{where}: a batch of the {name} set ({len(sets[name])} pictures, batch_size "
                    f"{recipe.batch_size}) has one picture of {sides[1]} x {sides[0]} pixels, on "
                    "which BN in training mode has one value for each channel in the last stage; "
                    "expected another batch_size, drop_last on, bn eval, or larger pictures"
                )


def check_pairs(sets: dict[str, list[int]], recipe: VisualRecipe, where: str) -> None:
    """UserError unless the batches of each step are as large as each other."""
    for number, step in enumerate(step_sizes(sets, recipe), 1):
        if len(set(step.values())) > 1:
            words = " and ".join(f"{size} of the {name} set" for name, size in step.items())
            raise UserError(
                f"{where}: step {number} of an epoch has {words} (batch_size {recipe.batch_size}, "
                f"drop_last {recipe.drop_last}), and the loss pairs the pictures of both; expected "
                "as many: set drop_last to on"
            )


def batches_of(
    pictures: Sequence[int], recipe: VisualRecipe, seed: int, purpose: str, epoch: int
) -> list[list[int]]:
    """The batches of one shuffled pass."""
    order = permutation(seed, f"visual order {purpose}", epoch, len(pictures))
    shuffled = [pictures[place] for place in order]
    batches = [
        shuffled[start : start + recipe.batch_size]
        for start in range(0, len(shuffled), recipe.batch_size)
    ]
    if recipe.drop_last == "on" and len(batches[-1]) < recipe.batch_size:
        batches.pop()
    return batches


def sizes_of(n: int, recipe: VisualRecipe) -> list[int]:
    """The sizes of the batches of a pass over n pictures."""
    whole, rest = divmod(n, recipe.batch_size)
    last = [rest] if rest > 0 and recipe.drop_last == "off" else []
    return [recipe.batch_size] * whole + last


def n_batches(n: int, recipe: VisualRecipe) -> int:
    """The number of batches of a pass over n pictures."""
    return len(sizes_of(n, recipe))


def step_sizes(sets: dict[str, list[int]], recipe: VisualRecipe) -> list[dict[str, int]]:
    """{batch name: its size} of each step of an epoch."""
    passes = [sizes_of(len(pictures), recipe) for pictures in sets.values()]
    return [dict(zip(sets, step, strict=True)) for step in zip(*passes, strict=False)]


def epoch_steps(
    sets: dict[str, list[int]], recipe: VisualRecipe, seed: int, epoch: int, phase: str = ""
) -> list[Step]:
    """The steps of one epoch; with two sets it ends with the shorter pass.

    phase  a name that gives the passes of one epoch orders of their own
    """
    passes = {
        name: batches_of(pictures, recipe, seed, f"{phase} {name}".strip(), epoch)
        for name, pictures in sets.items()
    }
    return [dict(zip(passes, step, strict=True)) for step in zip(*passes.values(), strict=False)]
