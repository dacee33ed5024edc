"""The eight methods by name: variants, options, the table of README.md."""

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.methods.formula_table import evidence, formulas
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import typed_value

from . import dpo, llmu, retain_ft, rmu, scrub, scrubbio, sparsity, twins
from .inputs import Inputs
from .variant import SEMANTICS, Variant

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
    options = variant(method, semantics).options
    known = {field.name: field for field in fields(options)}
    values = {}
    for name, value in (given or {}).items():
        if name not in known:
            raise UserError(
                f"{method} ({semantics}) has no option {name!r}; "
                f"its options: {', '.join(known) or 'none'}"
            )
        values[name] = typed_value(name, value, known[name].default.__class__)
    return options(**values)


def visual_loss(method: str, inputs: Inputs, semantics: str = "paper", **options: object) -> Loss:
    """The Loss of a method on what a step reads."""
    chosen = variant(method, semantics)
    return chosen.loss(inputs, make_options(method, options, semantics))


def markdown() -> str:
    """The table of all methods and semantics in README.md, made from the method files."""
    lines = [
        "| method | semantics | loss | source | batches | trained | how we know |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, module in METHODS.items():
        formula_of, evidence_of = formulas(module), evidence(module)
        for name, each in module.VARIANTS.items():
            formula, source = formula_of[name]
            cells = (
                f"[`{method}`]({method}.py)",
                f"`{name}`",
                "`" + formula.replace("|", "\\|") + "`",
                source,
                each.sampling,
                "network and head" if each.trains_head else "network",
                evidence_of[name],
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
