"""The eleven unlearning methods and five further losses: one file each, a function per semantics.

The heads of the method files cite the CLEAR paper as "App. B.8" or "Sec. 3.2"
(https://arxiv.org/abs/2410.18057, version 4) and code as `repository path:line at commit`:

CLEAR            https://github.com/somvy/multimodal_unlearning, the authors' released code:
                 bb14c96 (2025-08-06; the losses are those since 2025-03-30), dcc7070 (2024-12-10),
                 3e33dae (2024-10-23)
TOFU             https://github.com/locuslab/tofu, bdc209e
NPO              https://github.com/licong-lin/negative-preference-optimization, 1207bbe
open-unlearning  https://github.com/locuslab/open-unlearning, d3d7cf9
llm_unlearn      https://github.com/kevinyaobytedance/llm_unlearn (LLMU), 647f309
SKU              https://github.com/franciscoliu/SKU, a17663f
SCRUB            https://github.com/meghdadk/SCRUB, 98ffb11
direct-preference-optimization
                 https://github.com/eric-mitchell/direct-preference-optimization (DPO), f8b8c0f
Unlearn-Simple   https://github.com/OPTML-Group/Unlearn-Simple (SimNPO), f1a355d
LLM_unlearning   https://github.com/dong-river/LLM_unlearning (UNDIAL), 89856dc
G-effect         https://github.com/tmlr-group/G-effect (WGA), ef368ee
SatImp           https://github.com/tmlr-group/SatImp, 51314c0
WMDP             https://github.com/centerforaisafety/wmdp (RMU), c170e87, read in the history that
                 two public copies have, with the same hashes (manwaner333/wmdp_qing and
                 sheepjun0330/wmdp-main)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clear_ref.common.errors import UserError

from .batch_contents import BatchContents
from .loss import Loss
from .modules import FURTHER, LOSSES, METHODS
from .table import (
    DEFAULT_SEMANTICS,
    SEMANTICS,
    make_options,
    needs,
    reference_model,
    second_stage,
    variant,
)
from .variant import LossFunction, Need, Phase, Variant

if TYPE_CHECKING:
    from clear_ref.losses.outputs import Outputs

__all__ = [
    "DEFAULT_SEMANTICS",
    "FURTHER",
    "LOSSES",
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


def method_loss(
    method: str,
    outputs: dict[str, Outputs],
    semantics: str = DEFAULT_SEMANTICS,
    phase: str | None = None,
    **options: object,
) -> Loss:
    """Loss of a method, or a further loss, on raw tensors; each batch is the whole optimiser step.

    outputs   {batch name: Outputs}: exactly the batches that the method needs (forget, retain, idk,
              random1, ...)
    phase     the loss of this phase alone, for a method with phases (scrub, original: max, min);
              None: the whole loss
    options   the variant's own; unknown names are errors
    raises    UserError on a missing or superfluous batch or tensor; ShapeError, LabelError
    """
    chosen = variant(method, semantics)
    checked_options = make_options(method, options, semantics)
    batch_needs = chosen.needs_of(checked_options)
    loss = chosen.loss
    if phase is not None:
        batch_needs, loss = _phase(f"{method} ({semantics})", chosen, checked_options, phase)
    _check_outputs(f"{method} ({semantics})", outputs, batch_needs)
    return loss({name: outputs[name].batch_rows() for name in batch_needs}, checked_options)


def _phase(
    label: str, chosen: Variant, options: object, name: str
) -> tuple[dict[str, Need], LossFunction]:
    phases = {each.name: each for each in chosen.phases_of(options)}
    if name not in phases:
        known = ", ".join(phases) or "none: leave it out"
        raise UserError(f"phase is {name!r}; {label} has {known}")
    return phases[name].needs, phases[name].loss


def _check_outputs(label: str, outputs: dict[str, Outputs], batch_needs: dict[str, Need]) -> None:
    """UserError unless the batches and their tensors are exactly those that are needed."""
    for name in batch_needs.keys() ^ outputs.keys():
        state = "is missing" if name in batch_needs else "is not used"
        raise UserError(f"batch {name!r} {state}; {label} expects exactly {', '.join(batch_needs)}")
    for name, need in batch_needs.items():
        tensors = ["hidden" if need.hidden else "logits"]
        if need.teacher:
            tensors.append("teacher_" + tensors[0])
        for tensor in tensors:
            if getattr(outputs[name], tensor) is None:
                raise UserError(f"batch {name!r} has no {tensor}, and {label} needs it: pass it")
