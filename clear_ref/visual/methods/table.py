"""The eight methods by name: variants, options, the table of README.md."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.methods import formula_table
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import options_from

from ..method_names import SEMANTICS
from . import dpo, llmu, retain_ft, rmu, scrub, scrubbio, sparsity, twins
from .inputs import Inputs
from .variant import Variant

METHODS: dict[str, ModuleType] = {
    "retain_ft": retain_ft,
    "scrub": scrub,
    "llmu": llmu,
    "dpo": dpo,
    "rmu": rmu,
    "scrubbio": scrubbio,
    "twins": twins,
    "sparsity": sparsity,
}


def variant(method: str, semantics: str = "paper") -> Variant:
    """The Variant of a method under one semantics.

    raises  UserError that lists what there is: an unknown method or semantics, and a semantics that
            the method does not have
    """
    if method not in METHODS:
        raise UserError(f"visual method is {method!r}; expected one of {', '.join(METHODS)}")
    variants = METHODS[method].VARIANTS
    if semantics not in SEMANTICS:
        raise UserError(f"semantics is {semantics!r}; expected one of {', '.join(SEMANTICS)}")
    if semantics not in variants:
        raise UserError(
            f"semantics of {method} is {semantics!r}, and no original of it is for face networks; "
            f"expected one of {', '.join(variants)}"
        )
    return variants[semantics]


def methods_under(semantics: str) -> list[str]:
    """The methods that have a semantics, in the order of the table."""
    return [name for name, module in METHODS.items() if semantics in module.VARIANTS]


def make_options(
    method: str, given: Mapping[str, object] | None = None, semantics: str = "paper"
) -> Any:
    """The options of a method's variant from {name: value}; UserError for an unknown name, a wrong
    type or a value out of range.
    """
    return options_from(variant(method, semantics).options, method, semantics, given or {})


def visual_loss(method: str, inputs: Inputs, semantics: str = "paper", **options: object) -> Loss:
    """The Loss of a method on what a step reads."""
    chosen = variant(method, semantics)
    return chosen.loss(inputs, make_options(method, options, semantics))


def sampling(chosen: Variant) -> str:
    """How each pass of an epoch takes its pictures (variant.py)."""
    return ", then ".join(phase.sampling for phase in chosen.phases_of(chosen.options()))


def trained(chosen: Variant) -> str:
    """What a variant trains."""
    return "network and head" if chosen.trains_head else "network"


def markdown() -> str:
    """The table of all methods and semantics in README.md, made from the method files."""
    return formula_table.markdown(METHODS, {"batches": sampling, "trained": trained})
