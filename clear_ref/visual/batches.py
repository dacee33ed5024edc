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


def n_batches(n: int, recipe: VisualRecipe) -> int:
    """The number of batches of a pass over n pictures."""
    whole, rest = divmod(n, recipe.batch_size)
    return whole + int(rest > 0 and recipe.drop_last == "off")


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
