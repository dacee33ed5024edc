"""A method file's head as data and as text: formulas, sources, resolutions, deviations."""

import re
import textwrap
from dataclasses import fields

from clear_ref.common.errors import UserError
from clear_ref.methods import formula_table, table

FIELD = re.compile(
    r"(paper|original|released(?:@[\d-]+)?|needs|positions|resolved|deviations|at teacher|evidence)(?: +(.*))?$"
)
WIDTH = 100


def describe(method: str, semantics: str | None = None) -> dict:
    """What the method's file says of it.

    semantics  one meaning, or None: all
    returns    {"method", "about", "meanings": {name: {"formula": [line], "source", "reads", "divides", "options"}}, "needs",
               "positions", "resolved", "deviations": [[number, text]], "at_teacher", "evidence"}
    raises     UserError for a method or meaning that is not there
    """
    module, found = table.method_module(method), heads(method)
    sources = formula_table.formulas(module)
    if semantics is not None:
        table.variant(method, semantics)
        if semantics not in module.VARIANTS:
            semantics = next(name for name in table.later(semantics) if name in module.VARIANTS)
    names = list(module.VARIANTS) if semantics is None else [semantics]
    meanings = {}
    for name in sorted(names, key=table.SEMANTICS.index):
        chosen = module.VARIANTS[name]
        meanings[name] = {
            "formula": found.get(name, []),
            "source": sources[name][1] if name in sources else "",
            "reads": formula_table.rows_read(chosen),
            "divides": "by the counts of each batch, and then the mean of the step's batches"
            if chosen.by_batch
            else "by the counts of the whole step",
            "options": [
                {
                    "name": f.name,
                    "default": f.default,
                    "meaning": f.metadata["meaning"],
                    "source": f.metadata["source"],
                }
                for f in fields(chosen.options)
            ],
        }
    prose = {
        key: " ".join(found.get(key, []))
        for key in ("needs", "positions", "at teacher", "evidence")
    }
    return {
        "method": method,
        "about": module.__doc__.splitlines()[0],
        "meanings": meanings,
        "needs": prose["needs"],
        "positions": prose["positions"],
        "resolved": numbered(found.get("resolved", [])),
        "deviations": numbered(found.get("deviations", [])),
        "at_teacher": prose["at teacher"],
        "evidence": prose["evidence"],
    }


def heads(method: str) -> dict[str, list[str]]:
    """{field: its lines, sources in brackets left out} of a method file's docstring."""
    found, key = {}, None
    for line in table.method_module(method).__doc__.splitlines()[2:]:
        start = FIELD.match(line)
        if start:
            key, line = start.group(1), start.group(2) or ""
            found[key] = []
        line = re.sub(r"\s*\[[^\[\]]*[a-zA-Z]{2}[^\[\]]*\]$", "", line).strip()
        if key is not None and line:
            found[key].append(line)
    return found


def numbered(lines: list[str]) -> list[list[str]]:
    """[[number, text]] of "R1 ... R2 ...", wherever a number stands; a number out of its turn is a reference, not a start."""
    found = []
    for part in " ".join(lines).split(" "):
        if re.fullmatch(r"[RD]\d+", part) and int(part[1:]) == len(found) + 1:
            found.append([part, []])
        elif not found:
            raise UserError(
                f"method file: {part!r} stands before the first number; expected R1 or D1"
            )
        else:
            found[-1][1].append(part)
    return [[number, " ".join(words)] for number, words in found]


def text(found: dict) -> str:
    """The description for a terminal, wrapped."""
    lines = [*textwrap.wrap(found["about"], WIDTH), ""]
    for name, one in found["meanings"].items():
        lines += [name, *(part for line in one["formula"] for part in hanging("    ", line))]
        lines += hanging("    source   ", one["source"]) + hanging("    reads    ", one["reads"])
        lines += hanging("    divides  ", one["divides"])
        for option in one["options"]:
            lines += hanging(
                "    option   ",
                f"{option['name']} = {option['default']}: {option['meaning']} ({option['source']})",
            )
        lines.append("")
    for title in ("needs", "positions"):
        lines += [title, *hanging("    ", found[title]), ""]
    for title, key in (
        ("resolved: gaps and contradictions of the paper", "resolved"),
        ("deviations of the released code", "deviations"),
    ):
        lines += [
            title,
            *(line for number, part in found[key] for line in hanging(f"    {number:4}", part)),
            "",
        ]
    return "\n".join(
        [
            *lines,
            "where student and teacher are the same",
            *hanging("    ", found["at_teacher"]),
            "",
            "how we know",
            *hanging("    ", found["evidence"]),
        ]
    )


def hanging(start: str, words: str) -> list[str]:
    """The words wrapped behind `start`, later lines set in as far."""
    return (
        textwrap.wrap(words, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
        if words
        else []
    )
