"""Operations and memory of the visual-only track at real size.

The numbers of steps and pictures are those of the training itself: an Experiment without pixels and
weights is asked for each plan, its rows, its passes and their steps (experiment.py, training.py,
batches.py). Those of one picture are computed from shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .batches import epoch_steps
from .clear_people import LISTS
from .experiment import BASE, GOLD, Experiment, plan_of, rows_of
from .methods.table import make_options, methods_under, variant
from .methods.variant import Target
from .names import Classes
from .network import WIDTH, ResNet18
from .pictures import SIZE, Pictures
from .recipes import VisualRecipe, recipe_of
from .splits import Split
from .targets import AT_ONCE
from .training import CLASS_STAGES, Faces, Plan, Rows, passes_of

ROWS, N_CLASSES = 3768, 200  # of CLEAR's config default; data/schema.json counts the rows
FLOAT, INDEX = 4, 8  # bytes of a float32, and of a place that maxpool keeps


@dataclass(frozen=True)
class PictureCosts:
    """Of one picture.

    forward   floating-point operations of a forward pass
    training  those of a forward and a backward pass: three times as many, less those of a gradient
              of the pixels, which is not computed
    kept      bytes that a forward pass keeps for backward: its pixels, the output of each
              convolution, of each relu and of maxpool, and maxpool's places
    passing   bytes at once of a forward pass that keeps nothing: its pixels, and two tensors of the
              size of the first convolution's output, which is the largest
    """

    forward: int
    training: int
    kept: int
    passing: int


def picture_costs(size: int = SIZE, width: int = WIDTH) -> PictureCosts:
    """The costs of a square picture of `size` pixels; of operations convolutions are counted."""
    forward, kept = 0, FLOAT * 3 * size * size

    def add(side: int, kernel: int, inside: int, outside: int) -> None:
        nonlocal forward, kept
        values = side * side * outside
        forward += 2 * values * kernel * kernel * inside
        # The shortcut's convolution (kernel 1) has no relu of its own.
        kept += FLOAT * values * (1 if kernel == 1 else 2)

    side = -(-size // 2)
    add(side, 7, 3, width)
    first = forward
    passing = FLOAT * (3 * size * size + 2 * side * side * width)
    side = -(-side // 2)
    kept += (FLOAT + INDEX) * side * side * width
    channels = width
    for stage in range(4):
        planes = width << stage
        if stage:
            side = -(-side // 2)
            add(side, 1, channels, planes)
        for block in range(2):
            add(side, 3, channels if block == 0 else planes, planes)
            add(side, 3, planes, planes)
        channels = planes
    return PictureCosts(forward, 3 * forward - first, kept, passing)


def parameters(width: int = WIDTH) -> int:
    """Numbers of the network that are trained: convolutions, and two for each channel of BN."""
    total = 7 * 7 * 3 * width + 2 * width
    channels = width
    for stage in range(4):
        planes = width << stage
        if stage:
            total += channels * planes + 2 * planes
        total += 9 * channels * planes + 3 * 9 * planes * planes + 4 * 2 * planes
        channels = planes
    return total


@dataclass(frozen=True)
class Work:
    """What one training with its scoring passes through networks.

    steps    of the optimiser
    trained  pictures that are passed forward and backward
    passed   pictures that are passed forward alone: by the base for targets, and the scoring
    largest  pictures of the largest step; all are kept until its backward pass
    """

    steps: int
    trained: int
    passed: int
    largest: int


def work_of(experiment: Experiment, stage: str) -> Work:
    """The Work of a stage in the first split."""
    split = experiment.splits[0]
    plan, rows = plan_of(experiment, split, stage), rows_of(experiment, split, stage)
    sizes = []
    for epoch, passes in enumerate(passes_of(plan, rows)):
        for _, sets in passes:
            for step in epoch_steps(sets, plan.recipe, plan.seed, epoch):
                sizes.append(sum(len(pictures) for pictures in step.values()))
    passed = embedded(plan, rows) + len(experiment.faces.pictures)
    return Work(len(sizes), sum(sizes), passed, max(sizes))


def embedded(plan: Plan, rows: Rows) -> int:
    """Pictures that the base embeds for a method's targets; targets.py has their meaning."""
    target = None if plan.stage in CLASS_STAGES else variant(plan.stage, plan.semantics).target
    if target is None:
        return 0
    forget = len(rows["forget"]) if target in (Target.BASE, Target.MIRRORED) else 0
    return len(rows["retain"]) + forget


def costs_of(experiment: Experiment, stage: str) -> dict[str, float]:
    """{"steps", "memory_gb", "pflop"} of one training of a stage with its scoring, in 10^9 bytes
    and 10^15 operations; its pictures are squares.
    """
    pixels, network = experiment.faces.pictures.values, experiment.start
    picture, work = picture_costs(pixels.shape[-1], network.width), work_of(experiment, stage)
    numbers = parameters(network.width) + experiment.faces.n_classes * network.embedding_width
    # The start, the network that is trained, its gradients and momenta; for a method also the base.
    n_bytes = FLOAT * numbers * (4 if stage in CLASS_STAGES else 5)
    n_bytes += pixels.nbytes
    n_bytes += max(work.largest * picture.kept, min(AT_ONCE, len(pixels)) * picture.passing)
    flop = work.trained * picture.training + work.passed * picture.forward
    return {"steps": work.steps, "memory_gb": n_bytes / 1e9, "pflop": flop / 1e15}


def without_pixels(
    classes: Classes,
    splits: Sequence[Split],
    semantics: str,
    recipes: Mapping[str, VisualRecipe],
    size: int = SIZE,
    width: int = WIDTH,
) -> Experiment:
    """What `visual all` trains on these rows with default options; pixels and weights are not
    allocated.

    recipes  {stage: how it is trained}
    """
    with torch.device("meta"):
        pixels = torch.empty(len(classes.labels), 3, size, size, dtype=torch.uint8)
        start = ResNet18(width)
    methods = methods_under(semantics)
    return Experiment(
        classes=classes,
        splits=splits,
        faces=Faces(Pictures(pixels), torch.from_numpy(classes.labels), len(classes.names)),
        start=start,
        semantics=semantics,
        stages=(BASE, GOLD, *methods),
        recipes=recipes,
        options={method: make_options(method, {}, semantics) for method in methods},
        seed=0,
        keep_all=False,
    )


def real_size(semantics: str) -> Experiment:
    """One split of CLEAR with its lists of 10 percent, as if the rows were shared out evenly over
    the names: 1,884 pictures of members, 377 of them forgotten and 1,507 kept.
    """
    names = tuple(f"person {number}" for number in range(N_CLASSES))
    classes = Classes(names, np.arange(ROWS) * N_CLASSES // ROWS)
    n_listed = len(LISTS[10][0])
    n_drawn = (N_CLASSES - 2 * n_listed) // 2
    forget, holdout = range(n_listed), range(n_listed, 2 * n_listed)
    retain = range(2 * n_listed, 2 * n_listed + n_drawn)
    people = ((*forget, *retain), tuple(forget), tuple(holdout), tuple(retain))
    stages = (BASE, GOLD, *methods_under(semantics))
    recipes = {stage: recipe_of(stage, semantics) for stage in stages}
    return without_pixels(classes, [Split(0, 0, *people)], semantics, recipes)
