"""The methods that `all` and `sweep` run, and which of them takes which option of --set."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from clear_ref.common.errors import Notice, UserError
from clear_ref.common.guards import DATA, Guard
from clear_ref.common.settings import parse_names, setting_names
from clear_ref.methods import table
from clear_ref.methods.semantics import exists

from .resolve import Resolved
from .unlearn import ResolvedUnlearn


@dataclass(frozen=True)
class SeveralRuns(Resolved):
    """Runs of methods with the same inputs, each in a directory inside `out`."""

    runs: list[ResolvedUnlearn]


AnyRuns = TypeVar("AnyRuns", bound=SeveralRuns)


def with_data_guards(run: AnyRuns, guards: Sequence[Guard]) -> AnyRuns:
    """The runs, each with the guards of the data that they share."""
    of_data = tuple(guard for guard in guards if guard["at"] == DATA)
    runs = [replace(one, guards=(*of_data, *one.guards)) for one in run.runs]
    return replace(run, runs=runs, guards=of_data)


def chosen_methods(text: str, option: str) -> list[str]:
    """The methods of "all" or of METHOD,METHOD, in the order of the table.

    option  for the error message: the option whose value is `text`
    raises  UserError for an unknown method, and for one that is named twice
    """
    if text == "all":
        return list(table.METHODS)
    named = parse_names(text, table.METHODS, option)
    return [method for method in table.METHODS if method in named]


def methods_for(methods: list[str], semantics: str) -> list[str]:
    """Those of the methods that exist under a semantics; a Notice names the others.

    raises  UserError if none is left
    """
    found = [method for method in methods if exists(method, semantics)]
    left_out = [method for method in methods if method not in found]
    if not found:
        table.variant(methods[0], semantics)  # raises UserError
    if left_out:
        warnings.warn(
            f"{', '.join(left_out)}: not run under {semantics}, as the authors' text-only code has "
            "none; --released-code mm has",
            Notice,
            2,
        )
    return found


def options_by_method(
    methods: Sequence[str], semantics: str, given: dict[str, str]
) -> dict[str, dict[str, str]]:
    """{method: {option: value}} of --set.

    given   {name: value}. METHOD.NAME is for one method, and NAME for every one that has it and is
            not named itself. A notice says which these are.
    raises  UserError if no chosen method has the option
    """
    found: dict[str, dict[str, str]] = {method: {} for method in methods}
    known = {
        method: setting_names(table.variant(method, semantics).options)
        for method in table.methods_under(semantics)
    }
    for name, value in sorted(given.items(), key=lambda item: "." in item[0]):
        method, _, option = name.rpartition(".")
        takers = [method] if method else [each for each in methods if option in known[each]]
        if not all(each in methods and option in known[each] for each in takers) or not takers:
            raise UserError(_refusal(name, methods, semantics, known))
        for taker in takers:
            found[taker][option] = value
        if not method:
            warnings.warn(f"--set {name}={value}: taken by {', '.join(takers)}", Notice, 2)
    return found


def _refusal(name: str, methods: Sequence[str], semantics: str, known: dict[str, list[str]]) -> str:
    """Why no chosen method takes an option, and which methods have it."""
    method, _, option = name.rpartition(".")
    having = [each for each, options in known.items() if option in options]
    if method and method not in known:
        return f"--set {name}: {method!r} is no method; expected one of {', '.join(known)}"
    if method and method not in methods:
        return f"--set {name}: {method} is not among --methods {','.join(methods)}; add it there"
    if method:
        options = ", ".join(known[method]) or "none"
        return f"--set {name}: {method} ({semantics}) has no option {option!r}; it has {options}"
    if not having:
        return (
            f"--set {name}: no method has this option under {semantics}; METHOD --help lists them"
        )
    return (
        f"--set {name}: none of {', '.join(methods)} has this option under {semantics}; expected "
        f"one of {', '.join(having)} among --methods"
    )
