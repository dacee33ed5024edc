"""The methods by name. What is true of one method stands in its own file; this one only collects."""

from dataclasses import fields

from clear_ref.common.errors import UserError

from . import (
    dpo,
    formula_table,
    grad_ascent,
    grad_diff,
    idk,
    kl,
    llmu,
    npo,
    retain_ft,
    rmu,
    scrub,
    sku,
)
from .variant import Need, Variant

METHODS = {
    "retain_ft": retain_ft,
    "grad_ascent": grad_ascent,
    "grad_diff": grad_diff,
    "kl": kl,
    "idk": idk,
    "dpo": dpo,
    "npo": npo,
    "scrub": scrub,
    "llmu": llmu,
    "rmu": rmu,
    "sku": sku,
}
DEFAULT_SEMANTICS = "paper"
SEMANTICS = ("paper", "original", "released", "released@2024-12-10", "released@2024-10-23")
RELEASED = SEMANTICS.index("released")


def method_module(method):
    """The module of a method; UserError listing the methods if there is none of that name."""
    if method not in METHODS:
        raise UserError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    return METHODS[method]


def variant(method, semantics=DEFAULT_SEMANTICS) -> Variant:
    """The Variant of a method. A dated name that the method has no own meaning for is the next later one, at last `released`.

    raises  UserError listing the names if there is none of that name
    """
    variants = method_module(method).VARIANTS
    if semantics not in SEMANTICS:
        raise UserError(f"semantics is {semantics!r}; expected one of {', '.join(SEMANTICS)}")
    return variants[next(name for name in later(semantics) if name in variants)]


def later(semantics) -> list[str]:
    """The names among which the first that a method has is what `semantics` means."""
    first = SEMANTICS.index(semantics)
    return list(reversed(SEMANTICS[RELEASED : first + 1])) if first >= RELEASED else [semantics]


def make_options(method, given, semantics=DEFAULT_SEMANTICS):
    """The Options of a method's variant from {name: value}, values typed or text; UserError on an unknown name or wrong type."""
    options = variant(method, semantics).options
    known = {field.name: field for field in fields(options)}
    for name in given:
        if name not in known:
            listing = (
                "; ".join(f"{field.name} ({field.metadata['meaning']})" for field in known.values())
                or "none"
            )
            raise UserError(
                f"{method} ({semantics}) has no option {name!r}; its options: {listing}"
            )
    return options(**{name: _typed(name, value, known[name].type) for name, value in given.items()})


def needs(method, semantics, options) -> dict[str, Need]:
    """{batch name: Need} of a method's variant under these options."""
    return variant(method, semantics).needs_of(options)


def reference_model(method, options) -> str:
    """Which model is the teacher: "base", the model before unlearning, or "idk", that model tuned on refusals first."""
    method_module(method)
    return getattr(options, "reference", "base")


def second_stage(method, semantics=DEFAULT_SEMANTICS) -> str | None:
    """What is done with the weights after training: None or "negate_delta"."""
    return variant(method, semantics).second_stage


def summaries() -> dict[str, str]:
    """{method: the first sentence of its file}."""
    return {
        name: module.__doc__.split("\n", 1)[0].split(": ", 1)[-1].rstrip(".")
        for name, module in METHODS.items()
    }


def option_help(method) -> list[str]:
    """One text per option of a method: name, default, meaning, source; options of one meaning alone name it."""
    lines = {}
    for semantics, chosen in method_module(method).VARIANTS.items():
        for field in fields(chosen.options):
            line = f"{field.name}={field.default} {field.metadata['meaning']} ({field.metadata['source']})"
            lines.setdefault(line, []).append(semantics)
    return [
        line if "paper" in names else f"{', '.join(names)}: {line}" for line, names in lines.items()
    ]


def markdown() -> str:
    """The table of all methods and variants as README has it, made from the method files."""
    return formula_table.markdown(METHODS)


def _typed(name, value, wanted):
    if wanted is str and isinstance(value, str):
        return value
    if (
        wanted in (int, float)
        and isinstance(value, (str, int, float))
        and not isinstance(value, bool)
    ):
        try:
            number = float(value) if wanted is float else int(value)
        except (ValueError, OverflowError):
            number = None
        if number is not None and (isinstance(value, str) or number == value or value != value):
            return number
    raise UserError(
        f"option {name} is {value!r}; expected {'an' if wanted is int else 'a'} {wanted.__name__}"
    )
