"""The eleven unlearning methods: one file each, one function per meaning."""

from ..errors import UserError
from .loss import Loss, Need, Variant
from .table import DEFAULT_SEMANTICS, METHODS, finish, make_options, needs, reference, variant

__all__ = ["DEFAULT_SEMANTICS", "METHODS", "Loss", "Need", "Variant", "finish", "make_options", "method_loss", "needs",
           "reference", "variant"]


def method_loss(method, outputs, semantics=DEFAULT_SEMANTICS, **options) -> Loss:
    """Loss of a method on raw tensors, each batch being the whole optimiser step.

    outputs   {batch name: Outputs}: exactly the batches the method needs (forget, retain, idk, random1, ...)
    options   the method's own; unknown names are errors
    raises    UserError on a missing or superfluous batch or tensor; ShapeError, LabelError
    """
    chosen, options = variant(method, semantics), make_options(method, options)
    needed = chosen.needs_of(options)
    for name in needed.keys() ^ outputs.keys():
        state = "is missing" if name in needed else "is not used"
        raise UserError(f"batch {name!r} {state}; {method} ({semantics}) expects exactly {', '.join(needed)}")
    for name, need in needed.items():
        wanted = [] if need.rows is None else ["logits", "teacher_logits"] if need.teacher else ["logits"]
        wanted += [] if not need.hidden else ["hidden", "teacher_hidden"] if need.teacher else ["hidden"]
        for tensor in wanted:
            if getattr(outputs[name], tensor) is None:
                raise UserError(f"batch {name!r} has no {tensor}, and {method} ({semantics}) needs it: pass it")
    return chosen.loss({name: outputs[name].split() for name in needed}, options)
