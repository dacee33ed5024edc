"""Operations, memory and time of the visual-only track at real size, computed from shapes."""

from dataclasses import dataclass

from .network import EXPANSION, WIDTH
from .pictures import SIZE
from .recipes import METHOD_RECIPES, VisualRecipe, recipe_of

# CLEAR's rows of one split (facts of the data set, visual_only in the room's README).
MEMBERS, RETAIN, FORGET, ROWS = 1884, 1507, 377, 3768
N_CLASSES = 200
FLOAT, INDEX = 4, 8  # bytes of a float32, and of a place that maxpool keeps


@dataclass(frozen=True)
class PictureCosts:
    """Of one picture.

    forward  floating-point operations of a forward pass; forward and backward are three times that
    kept     bytes that a forward pass keeps for backward: its pixels, the output of each
             convolution, of each relu and of maxpool, and maxpool's places
    """

    forward: int
    kept: int


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
    return PictureCosts(forward, kept)


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


def pictures_of(stage: str, recipe: VisualRecipe) -> int:
    """Pictures that a training passes forward and backward; an upper bound for two loaders."""
    if stage == "base":
        return recipe.epochs * MEMBERS
    if stage in ("gold", "retain_ft", "sparsity"):
        return recipe.epochs * RETAIN
    repeated = FORGET * recipe.forget_times
    if stage in ("rmu", "scrubbio"):
        return recipe.epochs * (repeated + RETAIN)
    # Two loaders end with the shorter one, a batch of each in a step.
    return recipe.epochs * 2 * min(repeated, RETAIN)


def pictures_once(stage: str) -> int:
    """Pictures that are passed forward alone: the scoring, and the base's embeddings of targets."""
    has_targets = stage in ("scrub", "llmu", "rmu", "scrubbio", "twins")
    return ROWS + (MEMBERS if has_targets else 0)


def costs_of(stage: str, semantics: str = "paper") -> dict[str, float]:
    """{"memory_gb", "pflop"} of one training of a stage with its scoring, in 10^9 bytes and 10^15
    operations.
    """
    recipe, picture = recipe_of(stage, semantics), picture_costs()
    batches = 1 if stage in ("base", "gold", "retain_ft", "sparsity") else 2
    numbers = parameters() + N_CLASSES * EXPANSION * WIDTH
    n_bytes = 4 * FLOAT * numbers  # weights, gradients, momentum, and the start
    n_bytes += ROWS * 3 * SIZE * SIZE  # all pictures, a byte for each colour
    n_bytes += batches * recipe.batch_size * picture.kept
    flop = (3 * pictures_of(stage, recipe) + pictures_once(stage)) * picture.forward
    return {"memory_gb": n_bytes / 1e9, "pflop": flop / 1e15}


def stages() -> tuple[str, ...]:
    """The stages of one split."""
    return ("base", "gold", *METHOD_RECIPES)
