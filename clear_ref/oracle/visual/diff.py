"""diff for a face network: which definition gives the loss of one step of another implementation?

Every semantics of the method is computed from the step's own inputs with its default options, and
every known mistake in it; the rows that give the loss, and the gradients of the dump, are named.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.text_table import aligned
from clear_ref.visual.method_names import SEMANTICS
from clear_ref.visual.methods import table

from . import dump as dumps
from .conform import ROUNDINGS, UNIT
from .dump import Dump
from .mistakes import mistakes_of
from .reference import Given, Rules, gradients_of, rules_of, terms_of


def run(path: str, method: str, semantics: str) -> dict[str, Any]:
    """{"method", "asked", "loss", "dtype", "rows", "agrees"} of a dump.

    "rows": {"semantics", "mistake", "what", "loss", "difference", "gradient", "same", "why"} of
    each definition; difference in units of the sum of the terms' sizes, gradient in units of the
    largest entry, None without a gradient in the dump; why: what the dump lacks for it
    raises  UserError for a method, a semantics or a file that cannot be used, and if the dump lacks
            what the semantics asked for reads
    """
    table.variant(method, semantics)  # raises UserError
    dump = dumps.read(path)
    rows = []
    for name in SEMANTICS:
        if name not in table.METHODS[method].VARIANTS:
            continue
        right = row_of(dump, method, name, "", "as defined", rules_of(name))
        if right["why"] and name == semantics:
            raise UserError(
                f"{path}: {method} ({name}) reads {right['why']}, which the dump lacks; expected "
                f"{dumps.NAMES_IN_WORDS}"
            )
        rows.append(right)
        if right["why"]:
            continue
        for mistake, each in mistakes_of(method, name).items():
            rules = each.change(rules_of(name))
            wrong = row_of(dump, method, name, mistake, each.meaning, rules)
            if not (wrong["loss"] == right["loss"] and wrong["gradient"] == right["gradient"]):
                rows.append(wrong)
    asked = next(row for row in rows if row["semantics"] == semantics and not row["mistake"])
    return {
        "dump": path,
        "method": method,
        "asked": semantics,
        "loss": dump.loss,
        "dtype": dump.dtype,
        "rows": rows,
        "agrees": asked["same"],
    }


def row_of(
    dump: Dump, method: str, semantics: str, mistake: str, what: str, rules: Rules
) -> dict[str, Any]:
    """One definition beside the dump."""
    options = asdict(table.make_options(method, {}, semantics))
    row: dict[str, Any] = {"semantics": semantics, "mistake": mistake, "what": what, "why": ""}
    lacks = missing(dump.given, method, semantics, options)
    if lacks:
        return row | {
            "loss": None,
            "difference": None,
            "gradient": None,
            "same": False,
            "why": lacks,
        }
    terms = terms_of(method, semantics, dump.given, options, rules)
    loss = float(sum(terms.values()))
    difference = abs(loss - dump.loss) / max(1.0, sum(map(abs, terms.values())))
    gradient = None
    if dump.gradients:
        own = gradients_of(method, semantics, dump.given, options, rules)
        gradient = distance(dump, own)
    tolerance = ROUNDINGS * UNIT[dump.dtype]
    same = difference <= tolerance and (gradient is None or gradient <= tolerance)
    return row | {"loss": loss, "difference": difference, "gradient": gradient, "same": same}


def distance(dump: Dump, own: Mapping[str, np.ndarray]) -> float:
    """The largest difference of a gradient of the dump, in units of the largest entry or 1; inf for
    one that the definition does not have or that has another shape.
    """
    size = max(1.0, *(float(np.abs(each).max()) for each in own.values()))
    found = 0.0
    for name, each in dump.gradients.items():
        right = own.get(name)
        if right is None or right.shape != each.shape:
            return float("inf")
        found = max(found, float(np.abs(each - right).max()) / size)
    return found


def missing(given: Given, method: str, semantics: str, options: Mapping[str, Any]) -> str:
    """What a definition reads and the dump lacks, in words; "" if there is nothing."""
    try:
        terms_of(method, semantics, given, options)
    except KeyError as error:
        return str(error.args[0])
    except ValueError:  # nothing to concatenate
        return f"{dumps.PARAMETER}NAME"
    return ""


def text(found: Mapping[str, Any]) -> str:
    """The table, and the definition that the loss is."""
    rows = [
        [
            row["semantics"],
            row["mistake"] or "as defined",
            "-" if row["loss"] is None else f"{row['loss']:.7g}",
            "-" if row["difference"] is None else f"{row['difference']:.1e}",
            "-" if row["gradient"] is None else f"{row['gradient']:.1e}",
            f"lacks {row['why']}" if row["why"] else "the same" if row["same"] else "",
        ]
        for row in found["rows"]
    ]
    headings = ["semantics", "definition", "loss", "off by", "gradient", ""]
    return "\n".join(
        [
            f"{found['dump']}: {found['method']}, loss {found['loss']:.7g} ({found['dtype']})",
            "",
            *aligned(headings, rows, left=(0, 1, 5)),
            "",
            verdict(found),
        ]
    )


def verdict(found: Mapping[str, Any]) -> str:
    """What the loss is, in a sentence."""
    names = [
        f"{found['method']} ({row['semantics']})"
        + (f" with {row['mistake']}: {row['what']}" if row["mistake"] else "")
        for row in found["rows"]
        if row["same"]
    ]
    if not names:
        return (
            f"no definition of {found['method']} with its default options, and no known mistake, "
            "gives this loss"
        )
    return f"the loss is that of {'; and of '.join(names)}"


def check(found: Mapping[str, Any]) -> None:
    """RunFailed unless the loss is that of the semantics asked for."""
    if not found["agrees"]:
        raise RunFailed(
            f"{found['dump']}: expected {found['method']} ({found['asked']}); {verdict(found)}"
        )
