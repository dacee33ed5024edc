"""Someone else's tensors beside ours: where they differ, and how far they may."""

from dataclasses import dataclass
from math import isfinite

import torch

from clear_ref.common.errors import UserError

from . import dump_file

STAGES = (
    "input_ids",
    "labels",
    "pixel_values",
    "features",
    "embeddings",
    "hidden",
    "layer_hidden",
    "teacher_layer_hidden",
    "logits",
    "teacher_logits",
    *dump_file.COLUMNS,
    "terms",
    "loss",
    "gradient",
)
UNIT = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-9,
    torch.float16: 2.0**-12,
}
ROUNDINGS = {
    torch.float64: (500, 1000),
    torch.float32: (500, 8),
    torch.bfloat16: (16, 8),
    torch.float16: (16, 8),
}
EXACT = "ids are equal or they are not"
IN_MODEL = "{n} roundings of {dtype} at the tensor's largest size: sums in another order, through all layers{more}"
KEPT = "; transformers keeps norms, rotary angles and softmax in float32 also in a float64 model"
IN_LOSS = "{n} roundings of {dtype} at the size of the terms, and at that of the largest logit for each that they are made of"


@dataclass(frozen=True)
class Finding:
    """One stage of one batch ("" for loss and terms).

    error   the largest |theirs - ours|; tolerance, reason: how large it may be, and why
    n_off   places beyond the tolerance, of n; where: the first, (record, position, ...); token: the one there, or that the row
            there predicts; theirs, ours: the numbers there
    """

    stage: str
    batch: str
    error: float
    tolerance: float
    reason: str
    n_off: int
    n: int
    where: tuple = ()
    token: str = ""
    theirs: float | None = None
    ours: float | None = None

    @property
    def same(self) -> bool:
        """Whether no place is beyond the tolerance."""
        return self.n_off == 0


def tolerance(dtype, size: float, in_loss: bool) -> tuple[float, str]:
    """How far a tensor of this dtype may be off, and why; size: of the numbers that are rounded. Integers must be equal."""
    if dtype not in UNIT:
        return 0.0, EXACT
    n, more = ROUNDINGS[dtype][in_loss], ""
    if dtype == torch.float64 and not in_loss:
        dtype, more = torch.float32, KEPT
    name = str(dtype).removeprefix("torch.")
    return n * UNIT[dtype] * size, (IN_LOSS if in_loss else IN_MODEL).format(
        n=n, dtype=name, more=more
    )


class Comparison:
    """A dump and a model (or None): `put` adds to `found`, `skip` to `skipped`, the known mistakes seen on the way to `hints`."""

    def __init__(self, given: dump_file.Dump, vlm):
        self.given, self.vlm, self.found, self.skipped, self.hints = given, vlm, [], [], {}

    def skip(self, batch: str, stages, why: str) -> None:
        """Say that those of these stages that the batch holds could not be compared."""
        there = [stage for stage in stages if stage in self.given.batches.get(batch, {})]
        if there:
            self.skipped.append(f"{batch}: {', '.join(there)} ({why})")

    def put(self, stage: str, batch: str, theirs, ours, places, size: float | None = None) -> None:
        """Compare two tensors at `places`, a mask of their first axes. size: of what is rounded; None: ours at its largest.

        raises  UserError where the shapes differ
        """
        if theirs.shape != ours.shape:
            raise UserError(
                f"{self.given.path}: {batch}/{stage} has shape {list(theirs.shape)}; here it has {list(ours.shape)}: "
                "another model, or other inputs"
            )
        wide, ours, places = theirs.double().cpu(), ours.detach().double().cpu(), places.cpu()
        largest = float(ours[places].abs().max()) if bool(places.any()) else 0.0
        room, reason = tolerance(theirs.dtype, largest if size is None else size, size is not None)
        away = (
            (wide - ours).abs().nan_to_num(torch.inf, torch.inf)
        )  # an infinity less itself is NaN: no agreement
        outside = ~places.reshape(places.shape + (1,) * (wide.ndim - places.ndim))
        away = away.masked_fill(outside, 0)
        bad = (
            (away > room) if isfinite(room) else ~outside.expand_as(away)
        ).nonzero()  # all agree to within infinity
        where = tuple(bad[0].tolist()) if len(bad) else ()
        n_off = len({tuple(place[: places.ndim]) for place in bad.tolist()})
        error = float(away.max()) if away.numel() else 0.0
        numbers = (float(wide[where]), float(ours[where])) if where else ()
        self.found.append(
            Finding(
                stage,
                batch,
                error,
                room,
                reason,
                n_off,
                int(places.sum()),
                where,
                self.token(batch, where, stage),
                *numbers,
            )
        )

    def token(self, batch: str, where: tuple, stage: str) -> str:
        """The token at a place; of a row of logits, and what is made of it, the one that the row predicts."""
        ids = self.given.batches.get(batch, {}).get("input_ids")
        if ids is None or len(where) < 2 or stage in ("pixel_values", "features"):
            return ""
        t = where[1] + (STAGES.index(stage) >= STAGES.index("logits"))
        if t >= ids.shape[1]:
            return "nothing, after the end"
        number = int(ids[where[0], t])
        return str(number) if self.vlm is None else f"{number} {self.vlm.tokenizer.piece(number)!r}"

    def mask(self, name: str):
        """[B, T] bool: the batch's real positions."""
        batch = self.given.batches[name]
        if "attention_mask" in batch:
            return batch["attention_mask"] == 1
        grid = next(batch[key] for key in (*dump_file.IDS, *dump_file.GRIDS) if key in batch)
        return torch.ones(grid.shape[:2], dtype=torch.bool)
