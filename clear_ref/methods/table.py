"""The methods by name: variants, options, help texts. The facts of a method are in its own file."""

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any

from clear_ref.common.errors import UserError

from . import formula_table
from .modules import LOSSES, METHODS
from .option_checks import options_from
from .semantics import DEFAULT_SEMANTICS, SEMANTICS, exists, later
from .variant import Need, Variant


def method_module(method: str) -> ModuleType:
    """The module of a method or a further loss; UserError listing both if the name is unknown."""
    if method not in LOSSES:
        raise UserError(f"method is {method!r}; expected one of {', '.join(LOSSES)}")
    return LOSSES[method]


def variant(method: str, semantics: str = DEFAULT_SEMANTICS) -> Variant:
    """The Variant of a method under one semantics.

    If a method has no variant for a date, the next later one is used (finally `released`). A method
    without a variant for `released@nlp` is there what it is under `released`.
    raises  UserError listing the semantics if the name is unknown, or if the released code of this
            name does not have the method or further loss
    """
    variants = method_module(method).VARIANTS
    if semantics not in SEMANTICS:
        raise UserError(f"semantics is {semantics!r}; expected one of {', '.join(SEMANTICS)}")
    if not exists(method, semantics):
        raise UserError(
            f"{method} ({semantics}): the authors' text-only code has no {method}; expected "
            "--released-code mm, or another method"
        )
    own = [name for name in later(semantics) if name in variants]
    if not own:
        raise UserError(
            f"semantics of {method} is {semantics!r}, and CLEAR's released code does not have this "
            f"loss; expected one of {', '.join(variants)}"
        )
    return variants[own[0]]


def methods_under(semantics: str) -> list[str]:
    """The methods that exist under a semantics, in the order of the table."""
    return [method for method in METHODS if exists(method, semantics)]


def make_options(
    method: str, given: Mapping[str, object], semantics: str = DEFAULT_SEMANTICS
) -> Any:
    """The options of a method's variant from {name: value}.

    given   values of the option's type, or text
    raises  UserError on an unknown name or a wrong type
    """
    return options_from(variant(method, semantics).options, method, semantics, given)


def needs(method: str, semantics: str, options: object) -> dict[str, Need]:
    """{batch name: Need} of a method's variant under these options."""
    return variant(method, semantics).needs_of(options)


def reference_model(method: str, options: object) -> str:
    """Which model is the teacher.

    "base": the model before unlearning; "idk": that model after a first training on refusals
    """
    method_module(method)
    return getattr(options, "reference", "base")


def second_stage(method: str, semantics: str = DEFAULT_SEMANTICS) -> str | None:
    """What is done with the weights after training: None or "negate_delta"."""
    return variant(method, semantics).second_stage


def summaries() -> dict[str, str]:
    """{method: the first sentence of its file, without the method's name}."""
    summary_of = {}
    for name, module in METHODS.items():
        first_line = (module.__doc__ or "").split("\n", 1)[0]
        summary_of[name] = first_line.split(": ", 1)[-1].rstrip(".")
    return summary_of


def option_help(method: str) -> list[str]:
    """One text per option of a method: name, default, meaning, source.

    An option that `paper` does not have begins with the names of the semantics that have it.
    """
    semantics_of: dict[str, list[str]] = {}
    for semantics, chosen in method_module(method).VARIANTS.items():
        for field in fields(chosen.options):
            meaning = field.metadata["meaning"]
            line = f"{field.name}={field.default} {meaning} ({field.metadata['source']})"
            semantics_of.setdefault(line, []).append(semantics)
    texts = []
    for line, names in semantics_of.items():
        texts.append(line if "paper" in names else f"{', '.join(names)}: {line}")
    return texts


def markdown(modules: Mapping[str, ModuleType] = METHODS) -> str:
    """The table of methods and variants in methods/README.md, made from the method files."""
    return formula_table.markdown(modules)
