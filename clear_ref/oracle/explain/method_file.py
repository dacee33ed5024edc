"""The docstring of a method file as data and as text: formulas, sources, deviations."""

import re
import textwrap
from dataclasses import fields
from types import ModuleType
from typing import TypedDict

from clear_ref.common.errors import UserError
from clear_ref.methods import FURTHER, Variant, formula_table, table
from clear_ref.oracle.mistakes.projects import entries_of

# The first word or words of a line that starts a field of the docstring.
FIELD = re.compile(
    r"(paper|original|released(?:@[\w-]+)?|needs|positions|resolved|deviations|at teacher|evidence"
    r"|trained|at base)(?: +(.*))?$"
)
SOURCE_IN_BRACKETS = re.compile(r"\s*\[[^\[\]]*[a-zA-Z]{2}[^\[\]]*\]$")
WIDTH = 100
CODE_MEANS = (
    '"X\'s code": its loss and gradients on three sequences of unequal length, with padding and '
    "prompts, are ours to 1e-12 in float64 without scaling, where the line above says no less"
)


class DescribedOption(TypedDict):
    """One option of a variant: its default, what it does, where the default is from."""

    name: str
    default: object
    meaning: str
    source: str


class DescribedVariant(TypedDict):
    """One method under one semantics.

    formula  lines; source: of the formula
    reads    the batches with their row sets
    divides  by what the sums are divided
    """

    formula: list[str]
    source: str
    reads: str
    divides: str
    options: list[DescribedOption]


class Description(TypedDict):
    """What a method's file says about it, as `explain METHOD --json` prints it.

    meanings    {semantics: DescribedVariant}
    resolved, deviations  [number, text] of each resolution (R1) and each deviation (D1)
    at_teacher  what is true if student and teacher are the same
    evidence    how this is known
    mistakes    [name, what] of each known mistake and each meaning of another project
    """

    method: str
    about: str
    meanings: dict[str, DescribedVariant]
    needs: str
    positions: str
    resolved: list[list[str]]
    deviations: list[list[str]]
    at_teacher: str
    evidence: str
    mistakes: list[list[str]]


def describe(method: str, semantics: str | None = None) -> Description:
    """The Description of a method under one semantics, or under all if `semantics` is None.

    raises  UserError for a method or a semantics that does not exist
    """
    module = table.method_module(method)
    lines_of = docstring_fields(module)
    sources = formula_table.formulas(module)
    names = list(module.VARIANTS)
    if semantics is not None:
        names = [own_name(method, semantics)]
    variants = {}
    for name in sorted(names, key=table.SEMANTICS.index):
        source = sources[name][1] if name in sources else ""
        variants[name] = described_variant(module.VARIANTS[name], lines_of.get(name, []), source)
    text_of = {key: " ".join(lines) for key, lines in lines_of.items()}
    return Description(
        method=method,
        about=str(module.__doc__).splitlines()[0],
        meanings=variants,
        needs=text_of.get("needs", ""),
        positions=text_of.get("positions", ""),
        resolved=numbered(lines_of.get("resolved", [])),
        deviations=numbered(lines_of.get("deviations", [])),
        at_teacher=text_of.get("at teacher", ""),
        evidence=text_of.get("evidence", ""),
        mistakes=[[entry.name, entry.what] for entry in entries_of(method)],
    )


def own_name(method: str, semantics: str) -> str:
    """The semantics itself, or the later one that the method has in its place."""
    table.variant(method, semantics)  # raises UserError if there is none of that name
    variants = table.method_module(method).VARIANTS
    if semantics in variants:
        return semantics
    return next(name for name in table.later(semantics) if name in variants)


def described_variant(variant: Variant, formula: list[str], source: str) -> DescribedVariant:
    """The DescribedVariant of a Variant with the formula and the source of its docstring."""
    divides = "by the counts of the whole step"
    if variant.by_batch:
        divides = "by the counts of each batch, and then the mean of the step's batches"
    return DescribedVariant(
        formula=formula,
        source=source,
        reads=formula_table.rows_read(variant),
        divides=divides,
        options=described_options(variant.options),
    )


def described_options(options: type) -> list[DescribedOption]:
    """A DescribedOption for each field of a class of options."""
    return [
        DescribedOption(
            name=field.name,
            default=field.default,
            meaning=field.metadata["meaning"],
            source=field.metadata["source"],
        )
        for field in fields(options)
    ]


def docstring_fields(module: ModuleType) -> dict[str, list[str]]:
    """{field: its lines} of a method file's docstring, without the sources in brackets."""
    found: dict[str, list[str]] = {}
    key = None
    for line in str(module.__doc__).splitlines()[2:]:
        start = FIELD.match(line)
        if start:
            key = start.group(1)
            line = start.group(2) or ""
            found[key] = []
        line = SOURCE_IN_BRACKETS.sub("", line).strip()
        if key is not None and line:
            found[key].append(line)
    return found


def numbered(lines: list[str]) -> list[list[str]]:
    """[[number, text]] of "R1 ... R2 ...".

    A number starts a new text only if it is the next one; otherwise it is a reference.
    """
    found: list[tuple[str, list[str]]] = []
    for word in " ".join(lines).split(" "):
        if re.fullmatch(r"[RD]\d+", word) and int(word[1:]) == len(found) + 1:
            found.append((word, []))
        elif found:
            found[-1][1].append(word)
        else:
            raise UserError(
                f"method file: the text starts with {word!r}; expected its first number, R1 or D1"
            )
    return [[number, " ".join(words)] for number, words in found]


def text(description: Description) -> str:
    """The description for a terminal, wrapped at WIDTH columns."""
    lines = [*textwrap.wrap(description["about"], WIDTH), ""]
    for name, variant in description["meanings"].items():
        lines += variant_lines(name, variant)
    lines += read_lines(description["needs"], description["positions"])
    gaps = "resolved: gaps and contradictions of the paper"
    lines += numbered_lines(gaps, description["resolved"])
    is_further = description["method"] in FURTHER
    code = "open-unlearning's code" if is_further else "the released code"
    lines += numbered_lines(f"deviations of {code}", description["deviations"])
    lines += ["where student and teacher are the same"]
    lines += hanging("    ", description["at_teacher"])
    lines += ["", "how we know"]
    lines += hanging("    ", description["evidence"])
    lines += hanging("    ", CODE_MEANS)
    names = ", ".join(name for name, _ in description["mistakes"])
    lines += ["", "known mistakes, and meanings of other projects: --mistake NAME shows one"]
    lines += hanging("    ", names)
    return "\n".join(lines)


def variant_lines(name: str, variant: DescribedVariant) -> list[str]:
    """The lines of one semantics, and an empty one."""
    lines = [name]
    for line in variant["formula"]:
        lines += hanging("    ", line)
    lines += hanging("    source   ", variant["source"])
    lines += hanging("    reads    ", variant["reads"])
    lines += hanging("    divides  ", variant["divides"])
    return [*lines, *option_lines(variant["options"]), ""]


def option_lines(options: list[DescribedOption]) -> list[str]:
    """The lines of the options of one semantics."""
    lines = []
    for option in options:
        about = f"{option['name']} = {option['default']}: {option['meaning']} ({option['source']})"
        lines += hanging("    option   ", about)
    return lines


def read_lines(needs: str, positions: str) -> list[str]:
    """The lines of what a method reads, and over what it averages, and an empty one."""
    return ["needs", *hanging("    ", needs), "", "positions", *hanging("    ", positions), ""]


def numbered_lines(heading: str, parts: list[list[str]]) -> list[str]:
    """A heading, the numbered texts below it, and an empty line."""
    lines = [heading]
    for number, part in parts:
        lines += hanging(f"    {number:4}", part)
    return [*lines, ""]


def hanging(start: str, words: str) -> list[str]:
    """The words wrapped after `start`, later lines indented by as much; [] without words."""
    if not words:
        return []
    return textwrap.wrap(words, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
