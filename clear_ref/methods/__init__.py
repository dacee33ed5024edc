"""The eleven unlearning methods: one file each, one function per meaning.

Sources in their heads: mm/... and utils.py are the authors' code at bb14c96 (2025-08-06), before 2025-03-30 at dcc7070
(2024-12-10) and 3e33dae (2024-10-23); TOFU bdc209e; NPO 1207bbe; open-unlearning d3d7cf9; llm_unlearn 647f309; SKU a17663f;
SCRUB 98ffb11 (below thirdparty/repdistiller); direct-preference-optimization f8b8c0f. WMDP is known from the ledger and from
open-unlearning's copy alone.
"""

from clear_ref.common.errors import UserError

from .batch_contents import BatchContents
from .loss import Loss
from .table import (
    DEFAULT_SEMANTICS,
    METHODS,
    SEMANTICS,
    make_options,
    needs,
    reference_model,
    second_stage,
    variant,
)
from .variant import Need, Phase, Variant

__all__ = [
    "DEFAULT_SEMANTICS",
    "METHODS",
    "SEMANTICS",
    "BatchContents",
    "Loss",
    "Need",
    "Phase",
    "Variant",
    "make_options",
    "method_loss",
    "needs",
    "reference_model",
    "second_stage",
    "variant",
]


def method_loss(method, outputs, semantics=DEFAULT_SEMANTICS, phase=None, **options) -> Loss:
    """Loss of a method on raw tensors, each batch being the whole optimiser step.

    outputs   {batch name: Outputs}: exactly the batches the method needs (forget, retain, idk, random1, ...)
    phase     of a method that takes its terms in turn (scrub, original: max, min), that phase's loss alone; None: their sum
    options   the variant's own; unknown names are errors
    raises    UserError on a missing or superfluous batch or tensor; ShapeError, LabelError
    """
    chosen, options = variant(method, semantics), make_options(method, options, semantics)
    needed, loss = chosen.needs_of(options), chosen.loss
    if phase is not None:
        phases = {one.name: one for one in chosen.phases_of(options)}
        if phase not in phases:
            raise UserError(
                f"phase is {phase!r}; {method} ({semantics}) has {', '.join(phases) or 'none: leave it out'}"
            )
        needed, loss = phases[phase].needs, phases[phase].loss
    for name in needed.keys() ^ outputs.keys():
        state = "is missing" if name in needed else "is not used"
        raise UserError(
            f"batch {name!r} {state}; {method} ({semantics}) expects exactly {', '.join(needed)}"
        )
    for name, need in needed.items():
        tensor = "hidden" if need.hidden else "logits"
        for wanted in (tensor, f"teacher_{tensor}") if need.teacher else (tensor,):
            if getattr(outputs[name], wanted) is None:
                raise UserError(
                    f"batch {name!r} has no {wanted}, and {method} ({semantics}) needs it: pass it"
                )
    return loss({name: outputs[name].batch_rows() for name in needed}, options)
