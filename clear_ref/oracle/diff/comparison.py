"""Comparison: the tensors of a dump next to ours. Where they differ, and the tolerance of each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch

from clear_ref.common.errors import UserError
from clear_ref.model.vlm import VLM

from .dump_file import Dump
from .dump_tensors import COLUMNS, GRIDS, IDS
from .places import place

# In the order of computation: the first stage that differs is the first of these.
STAGES = (
    "input_ids",
    "attention_mask",
    "labels",
    "image_grid_thw",
    "pixel_values",
    "features",
    "embeddings",
    "position_ids",
    "hidden",
    "layer_hidden",
    "teacher_layer_hidden",
    "logits",
    "teacher_logits",
    *COLUMNS,
    "terms",
    "loss",
    "gradient",
)
UNIT_ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-9,
    torch.float16: 2.0**-12,
}
# {dtype: (roundings allowed in the model, roundings allowed from the logits on)}
ROUNDINGS = {
    torch.float64: (500, 1000),
    torch.float32: (500, 8),
    torch.bfloat16: (16, 8),
    torch.float16: (16, 8),
}
EXACT = "integers must be equal"
IN_MODEL = (
    "{n} roundings of {dtype} at the tensor's largest size: sums in another order, "
    "through all layers{more}"
)
FLOAT32_PARTS = (
    "; transformers keeps norms, rotary angles and softmax in float32 also in a float64 model"
)
IN_LOSS = (
    "{n} roundings of {dtype} at the size of the terms, and at that of the largest logit "
    "for each that they are made of"
)


@dataclass(frozen=True)
class Finding:
    """The result of comparing one tensor of one batch.

    batch    the batch's name; the term's name at stage "terms"; "" at stage "loss"
    error    the largest |theirs - ours|
    tolerance, reason  the largest error that is allowed, and why
    n_off    number of places beyond the tolerance; n: number of places compared
    where    the first place beyond the tolerance, as indices: (record, position, ...)
    place    the same in words: places.place
    token    the token at `where`; from the logits on the token that the row there predicts
    theirs, ours  the two numbers at `where`
    """

    stage: str
    batch: str
    error: float
    tolerance: float
    reason: str
    n_off: int
    n: int
    where: tuple[int, ...] = ()
    place: str = ""
    token: str = ""
    theirs: float | None = None
    ours: float | None = None

    @property
    def same(self) -> bool:
        """Whether no place is beyond the tolerance."""
        return self.n_off == 0


@dataclass(frozen=True)
class Fit:
    """A tensor that differs from ours, to be explained.

    theirs   float64; beyond: bool, where it differs from ours by more than `allowed`
    places   bool, over the first axes: the places that are compared
    """

    theirs: torch.Tensor
    beyond: torch.Tensor
    places: torch.Tensor
    allowed: float
    dtype: torch.dtype

    def explained_by(self, candidate: torch.Tensor, places: torch.Tensor | None = None) -> bool:
        """Whether a candidate gives their numbers, also at a place where ours differ.

        places  those that the candidate says something about; None: all
        """
        if candidate.shape != self.theirs.shape or not isfinite(self.allowed):
            return False
        compared = self.places if places is None else self.places & places.cpu()
        off = (self.theirs - candidate.detach().double().cpu()).abs() > self.allowed
        return bool(self.beyond[compared].any()) and not bool(off[compared].any())


Causes = dict[str, str]  # {name of a cause: what is known of it in this dump, or ""}
Explain = Callable[[Fit], Causes]


def tolerance(dtype: torch.dtype, size: float, in_loss: bool) -> tuple[float, str]:
    """(the largest error that is allowed in a tensor of this dtype, the reason).

    size     the size of the numbers that are rounded
    in_loss  the tensor is computed from the logits, not by the model
    """
    if dtype not in UNIT_ROUNDOFF:
        return 0.0, EXACT
    n = ROUNDINGS[dtype][in_loss]
    if in_loss:
        return n * UNIT_ROUNDOFF[dtype] * size, IN_LOSS.format(n=n, dtype=_name(dtype))
    if dtype == torch.float64:
        reason = IN_MODEL.format(n=n, dtype="float32", more=FLOAT32_PARTS)
        return n * UNIT_ROUNDOFF[torch.float32] * size, reason
    reason = IN_MODEL.format(n=n, dtype=_name(dtype), more="")
    return n * UNIT_ROUNDOFF[dtype] * size, reason


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Comparison:
    """A dump, our model or None, and the results so far.

    findings  one Finding for each tensor compared
    skipped   one line for each tensor that could not be compared, with the reason
    explain   {(stage, batch): a function that returns the causes of the difference there}
    right_masks  {batch: [B, T] bool, the positions that are not padding, as far as ids tell}
    """

    def __init__(self, dump: Dump, vlm: VLM | None) -> None:
        self.dump = dump
        self.vlm = vlm
        self.findings: list[Finding] = []
        self.skipped: list[str] = []
        self.explain: dict[tuple[str, str], Callable[[], Causes]] = {}
        self.right_masks: dict[str, torch.Tensor] = {}

    def skip(self, batch: str, stages: tuple[str, ...], reason: str) -> None:
        """Note that those of these stages that the batch has could not be compared."""
        tensors = self.dump.batches.get(batch, {})
        present = [stage for stage in stages if stage in tensors]
        if present:
            self.skipped.append(f"{batch}: {', '.join(present)} ({reason})")

    def compare(
        self,
        stage: str,
        batch: str,
        theirs: torch.Tensor,
        ours: torch.Tensor,
        places: torch.Tensor,
        size: float | None = None,
        explain: Explain | None = None,
    ) -> None:
        """Compare two tensors and add the Finding.

        places  bool, over the first axes of the tensors: the places that are compared
        size    the size of the numbers that are rounded; None for a stage of the model: the
                largest of our numbers
        explain (the difference) -> its causes; called if this is the first stage that differs
        raises  UserError if the shapes differ
        """
        if theirs.shape != ours.shape:
            raise UserError(
                f"{self.dump.path}: {batch}/{stage} has shape {list(theirs.shape)}; "
                f"here it has {list(ours.shape)}: another model, or other inputs"
            )
        theirs_wide = theirs.double().cpu()
        ours_wide = ours.detach().double().cpu()
        places = places.cpu()
        in_loss = size is not None
        if size is None:
            size = float(ours_wide[places].abs().max()) if bool(places.any()) else 0.0
        allowed, reason = tolerance(theirs.dtype, size, in_loss)
        ignored = ~places.reshape(places.shape + (1,) * (theirs_wide.ndim - places.ndim))
        # inf - inf is NaN. It counts as an infinite error: infinities are never equal.
        errors = (theirs_wide - ours_wide).abs().nan_to_num(torch.inf, torch.inf)
        errors = errors.masked_fill(ignored, 0)
        if isfinite(allowed):
            beyond = errors > allowed
        else:  # every error is within an infinite tolerance, so it would prove nothing
            beyond = ~ignored.expand_as(errors)
        off = beyond.reshape(*places.shape, -1).any(-1)
        n_off = int(off.sum())
        first = tuple(beyond.nonzero()[0].tolist()) if n_off else ()
        self.findings.append(
            Finding(
                stage,
                batch,
                error=float(errors.max()) if errors.numel() else 0.0,
                tolerance=allowed,
                reason=reason,
                n_off=n_off,
                n=int(places.sum()),
                where=first,
                place=place(self.dump.batches.get(batch, {}), self.vlm, stage, first),
                token=self.token(batch, first, stage),
                theirs=float(theirs_wide[first]) if n_off else None,
                ours=float(ours_wide[first]) if n_off else None,
            )
        )
        if n_off and explain is not None:
            fit = Fit(theirs_wide, beyond, places, allowed, theirs.dtype)
            self.explain[stage, batch] = partial(explain, fit)

    def token(self, batch: str, where: tuple[int, ...], stage: str) -> str:
        """The token at a place; from the logits on the token that the row there predicts."""
        ids = self.dump.batches.get(batch, {}).get("input_ids")
        of_pictures = ("image_grid_thw", "pixel_values", "features")
        if ids is None or len(where) < 2 or stage in of_pictures:
            return ""
        predicts = STAGES.index(stage) >= STAGES.index("logits")
        t = where[1] + 1 if predicts else where[1]
        if t >= ids.shape[1]:
            return "nothing, after the end"
        token_id = int(ids[where[0], t])
        if self.vlm is None:
            return str(token_id)
        return f"{token_id} {self.vlm.tokenizer.piece(token_id)!r}"

    def real_positions(self, name: str) -> torch.Tensor:
        """[B, T] bool: the positions of a batch that are not padding."""
        tensors = self.dump.batches[name]
        if "attention_mask" in tensors:
            return tensors["attention_mask"] == 1
        first = next(tensors[key] for key in (*IDS, *GRIDS) if key in tensors)
        return torch.ones(first.shape[:2], dtype=torch.bool)
