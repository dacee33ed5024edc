"""The numbers of Table 5 from what is finished: means over splits, attacks over all splits."""

from collections.abc import Mapping, Sequence

import numpy as np

from .attacks import Attack, guessed, logits_of, u_lira, u_mia
from .columns import Number
from .names import Classes
from .scores import DEFINITIONS, GROUPS, reference_mask
from .splits import Split
from .store import Store

Numbers = dict[str, Number]


def summary_of(
    store: Store, classes: Classes, splits: Sequence[Split], stages: Sequence[str]
) -> dict[str, dict[str, Numbers]]:
    """{stage: {definition: {number: Number}}} of the stages that are finished in every split."""
    found = {}
    for stage in stages:
        if all(store.is_finished(split.number, stage) for split in splits):
            found[stage] = _of_stage(store, classes, splits, stage)
    return found


def check_kept(
    store: Store, classes: Classes, splits: Sequence[Split], stages: Sequence[str]
) -> None:
    """UserError for a result, cosines or a failure that no training leaves."""
    for split in splits:
        for stage in stages:
            store.failure(split.number, stage)
            if store.is_finished(split.number, stage):
                store.result(split.number, stage)
                store.cosines(split.number, stage, len(classes.labels))


def _of_stage(
    store: Store, classes: Classes, splits: Sequence[Split], stage: str
) -> dict[str, Numbers]:
    """{definition: {number: Number}} of one stage."""
    results = [store.result(split.number, stage) for split in splits]
    n_rows = len(classes.labels)
    cosines = [store.cosines(split.number, stage, n_rows) for split in splits]
    numbers: dict[str, Numbers] = {}
    for definition in DEFINITIONS:
        own: Numbers = {
            group: mean_of([result.accuracy[definition][group] for result in results])
            for group in GROUPS
        }
        of_definition = np.stack([each[definition] for each in cosines], axis=1)
        own |= _attacks(of_definition, classes, splits, definition)
        numbers[definition] = own
    return numbers


def mean_of(values: Sequence[float | None]) -> Number:
    """The mean over splits; None if a split has no number."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"value": None, "spread": 0.0, "n": len(known)}
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"value": float(np.mean(known)), "spread": spread, "n": len(known)}


def _attacks(
    cosines: np.ndarray, classes: Classes, splits: Sequence[Split], definition: str
) -> Numbers:
    """U-LIRA and U-MIA; None with less than four splits, or if a name has no reference."""
    names = ("u_lira", "u_mia")
    if len(splits) < 4 or np.isnan(cosines).any():
        return {name: {"value": None, "spread": 0.0, "n": 0} for name in names}
    forget, holdout = classes.rows_of(splits[0].forget), classes.rows_of(splits[0].holdout)
    if definition == "paper":
        mask = reference_mask(classes.labels, definition)
        forget, holdout = forget[~mask[forget]], holdout[~mask[holdout]]
    targets = guessed(forget, holdout, len(splits))
    logits = logits_of(cosines, definition)
    attacks: Mapping[str, Attack] = {
        "u_lira": u_lira(logits, targets, definition),
        "u_mia": u_mia(logits, targets),
    }
    return {
        name: {"value": each.accuracy, "spread": each.spread(), "n": len(each.by_target)}
        for name, each in attacks.items()
    }
