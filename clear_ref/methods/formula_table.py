"""The table of all methods and semantics in methods/README.md, made from the method files.

Whitespace in the docstring of a method file is an interface: this module parses it.

- Line 1 is a sentence, line 2 is empty. The formulas follow, up to the line that begins with
  "needs".
- A formula begins in column 1 with the name of its semantics (paper, original, released,
  released@DATE, released@nlp) and at least one space. Its further lines are indented.
- A line may end with its source in square brackets; the bracket is not part of the formula.
- A line that begins with + - = | continues the line before, and so does a line after , : or ;.
  Every other line is a statement of its own and is joined with a semicolon.
- "evidence" begins in column 1. Its first part, up to a semicolon, is true of every semantics;
  each further part is "names: text" for the semantics named.
- The other fields (needs, positions, resolved, deviations, at teacher) begin in column 1;
  oracle/explain/method_file.py parses them. R1, R2, ... and D1, D2, ... begin their items.
"""

import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from .variant import Variant

SEMANTICS_LINE = re.compile(r"(paper|original|released(?:@[\w-]+)?)  ?(\s*\S.*)$")
SOURCE = re.compile(r"\s*\[([^\[\]]*[a-zA-Z]{2}[^\[\]]*)\]$")
FIELDS = re.compile(r"(needs|positions|resolved|deviations|at teacher|evidence)\b")
EVIDENCE = re.compile(r"^evidence\s+((?:.*\n?)(?:\s+.*\n?)*)", re.M)


def formulas(module: ModuleType) -> dict[str, tuple[str, str]]:
    """{semantics: (formula, source)} of a method file, each on one line."""
    lines_of: dict[str, list[str]] = {}
    sources_of: dict[str, list[str]] = {}
    name = None
    for line in docstring(module).splitlines()[2:]:
        if FIELDS.match(line):
            break
        start = SEMANTICS_LINE.match(line)
        if start:
            name, line = start.groups()
            lines_of[name] = []
            sources_of[name] = []
        if name is None:
            continue
        source = SOURCE.search(line)
        if source:
            sources_of[name].append(source.group(1))
            line = line[: source.start()]
        if line.strip():
            lines_of[name].append(re.sub(r"\s+", " ", line.strip()))
    return {name: (joined(lines), "; ".join(sources_of[name])) for name, lines in lines_of.items()}


def docstring(module: ModuleType) -> str:
    """The docstring of a method file."""
    return module.__doc__ or ""


def joined(lines: list[str]) -> str:
    """The lines of a formula as one line, joined as the head of this file says."""
    text = ""
    for line in lines:
        if not text:
            text = line
        elif line[0] in "+-=|" or text[-1] in ",:;":
            text += f" {line}"
        else:
            text += f"; {line}"
    return text


def evidence(module: ModuleType) -> dict[str, str]:
    """{semantics: how we know that it is computed right} of a method file."""
    found = EVIDENCE.search(docstring(module))
    text = found.group(1) if found else ""
    general, *parts = [re.sub(r"\s+", " ", part.strip()) for part in text.split(";")]
    evidence_of = {name: general for name in module.VARIANTS}
    for part in parts:
        names_text, what = part.split(": ", 1)
        named = names_text.split(", ")
        for name in evidence_of:
            undated = name.split("@")[0]
            if name in named or undated in named:
                evidence_of[name] += f"; {what}"
    return evidence_of


def rows_read(chosen: Variant) -> str:
    """What a variant reads with its default options: row sets of each batch, and the teacher."""
    needs = chosen.needs_of(chosen.options())
    n_random = sum(name.startswith("random") for name in needs)
    parts = []
    for name, need in needs.items():
        if name.startswith("random"):
            if name != "random1":
                continue
            name = f"random1-{n_random}"
        hidden = "hidden states, " if need.hidden else ""
        teacher = ", teacher" if need.teacher else ""
        parts.append(f"{name}: {hidden}{' + '.join(need.rows)}{teacher}")
    return "; ".join(parts)


def divided_by(chosen: Variant) -> str:
    """step: by the counts of the whole optimiser step; batch: each batch by its own counts, and
    then the mean of the batches."""
    return "batch" if chosen.by_batch else "step"


# {column: its cell, from a variant}; the other columns are made from the docstrings
COLUMNS: Mapping[str, Callable[[Any], str]] = {"rows read": rows_read, "divided by": divided_by}


def markdown(
    methods: Mapping[str, ModuleType], columns: Mapping[str, Callable[[Any], str]] = COLUMNS
) -> str:
    """One row for each method and semantics; columns: those that are made from the variant."""
    header = ("method", "semantics", "loss", "source", *columns, "how we know")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for method, module in methods.items():
        formula_of = formulas(module)
        evidence_of = evidence(module)
        for name, chosen in module.VARIANTS.items():
            formula, source = formula_of[name]
            cells = (
                f"[`{method}`]({method}.py)",
                f"`{name}`",
                "`" + formula.replace("|", "\\|") + "`",
                source,
                *(cell(chosen) for cell in columns.values()),
                evidence_of[name],
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
