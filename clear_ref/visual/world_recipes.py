"""The recipes of the embedded world of faces.

Its network has a 64th of the real one's weights and its sets a tenth of the pictures, so batches
are smaller and steps fewer. Rates and epochs of the methods are from two to seven settings tried on
splits 0, 1, 8 and 9 of `--splits 16` (seed 0): the one that forgets most and keeps about nine
tenths of base's Retain accuracy. The README has what they give over all splits.
"""

from dataclasses import replace

from . import recipes
from .recipes import METHOD_RECIPES, VisualRecipe

BASE = VisualRecipe(epochs=60, batch_size=64, lr=0.1, warmup_steps=10)
BATCH_SIZE = 32
FORGET_TIMES = 4
# {method: {semantics: (rate, epochs)}}
TUNED = {
    "retain_ft": {"paper": (0.01, 5), "released": (0.01, 5)},
    "scrub": {"paper": (0.03, 8), "released": (0.01, 8), "original": (0.01, 5)},
    "llmu": {"paper": (0.002, 5), "released": (0.03, 8)},
    "dpo": {"paper": (0.002, 4), "released": (0.3, 5)},
    "rmu": {"paper": (0.6, 10), "released": (0.5, 10)},
    "scrubbio": {"paper": (0.2, 5), "released": (0.4, 5)},
    "twins": {"paper": (1.0, 6), "released": (0.2, 4)},
    "sparsity": {"paper": (0.07, 6), "released": (0.05, 6), "original": (0.004, 4)},
}


def recipe_of(stage: str, semantics: str) -> VisualRecipe:
    """The recipe of base, gold or a method; UserError for another name."""
    if stage in ("base", "gold"):
        return BASE
    recipes.recipe_of(stage, semantics)  # raises UserError
    lr, epochs = TUNED[stage].get(semantics, TUNED[stage]["paper"])
    return replace(
        METHOD_RECIPES[stage],
        lr=lr,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        forget_times=FORGET_TIMES,
    )
