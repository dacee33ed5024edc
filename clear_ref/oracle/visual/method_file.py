"""What the file of a visual-only method says about it, and how its table entry reads, as data and
as text: the same words as those of explain METHOD.
"""

import textwrap
from typing import TypedDict

from clear_ref.methods import formula_table
from clear_ref.oracle.explain.method_file import (
    WIDTH,
    DescribedOption,
    described_options,
    docstring_fields,
    hanging,
    numbered,
    numbered_lines,
    option_lines,
    read_lines,
)
from clear_ref.visual.method_names import SEMANTICS
from clear_ref.visual.methods import table
from clear_ref.visual.methods.variant import SAMPLING_WORDS, Variant
from clear_ref.visual.recipes import SOURCES, names_read, recipe_of

from .mistakes import mistakes_of

CODE_MEANS = (
    "\"authors' code\": loss and gradients on stored inputs are those of the authors' script, to "
    "1e-11 and 1e-9 (tests/visual/test_visual_authors.py)"
)


class DescribedVariant(TypedDict):
    """One method under one semantics.

    formula         lines; source: of the formula
    reads           the batches of a step
    compared_with   what the embeddings are compared with, fixed before training; "" for none
    trained         what the optimiser moves
    recipe          {name: value} of the training at real size; recipe_source: of these values
    mistakes        [name, what] of each known mistake that can be made here
    """

    formula: list[str]
    source: str
    reads: str
    compared_with: str
    trained: str
    options: list[DescribedOption]
    recipe: dict[str, object]
    recipe_source: str
    mistakes: list[list[str]]


class Description(TypedDict):
    """What a method's file says about it, as `explain visual METHOD --json` prints it.

    meanings              {semantics: DescribedVariant}
    resolved, deviations  [number, text] of each resolution (R1) and each deviation (D1)
    at_base               what is true before the first step
    evidence              how this is known
    """

    method: str
    about: str
    meanings: dict[str, DescribedVariant]
    needs: str
    positions: str
    resolved: list[list[str]]
    deviations: list[list[str]]
    at_base: str
    evidence: str


def describe(method: str, semantics: str | None = None) -> Description:
    """The Description of a method under one semantics, or under all if `semantics` is None.

    raises  UserError for a method or a semantics that does not exist
    """
    table.variant(method, semantics or SEMANTICS[0])  # raises UserError
    module = table.METHODS[method]
    lines_of = docstring_fields(module)
    sources = formula_table.formulas(module)
    names = [name for name in SEMANTICS if name in module.VARIANTS and semantics in (None, name)]
    text_of = {key: " ".join(lines) for key, lines in lines_of.items()}
    return Description(
        method=method,
        about=str(module.__doc__).splitlines()[0],
        meanings={
            name: described_variant(method, name, lines_of[name], sources[name][1])
            for name in names
        },
        needs=text_of["needs"],
        positions=text_of["positions"],
        resolved=numbered(lines_of.get("resolved", [])),
        deviations=numbered(lines_of.get("deviations", [])),
        at_base=text_of["at base"],
        evidence=text_of["evidence"],
    )


def described_variant(
    method: str, semantics: str, formula: list[str], source: str
) -> DescribedVariant:
    """The DescribedVariant of a method under a semantics."""
    chosen = table.variant(method, semantics)
    known = mistakes_of(method, semantics)
    return DescribedVariant(
        formula=formula,
        source=source,
        reads=reads(chosen),
        compared_with=compared_with(chosen),
        trained=table.trained(chosen),
        options=described_options(chosen.options),
        recipe=recipe_values(method, semantics, chosen),
        recipe_source=SOURCES[method],
        mistakes=[[name, each.meaning] for name, each in known.items()],
    )


def reads(chosen: Variant) -> str:
    """The batches of a step, pass by pass if an epoch has several, in words."""
    phases = chosen.phases_of(chosen.options())
    if len(phases) == 1:
        return SAMPLING_WORDS[phases[0].sampling]
    words = [SAMPLING_WORDS[phase.sampling].split(";")[0] for phase in phases]
    return "; ".join(f"{phase.name} pass: {own}" for phase, own in zip(phases, words, strict=True))


def recipe_values(method: str, semantics: str, chosen: Variant) -> dict[str, object]:
    """{name: value} of the recipe, without what its schedule and its batches do not read."""
    recipe = recipe_of(method, semantics)
    read = names_read(recipe, chosen.reads_forget(chosen.options()))
    return {name: getattr(recipe, name) for name in read}


def compared_with(chosen: Variant) -> str:
    """What the embeddings of a variant's batches are compared with, in words."""
    if chosen.target is None:
        return ""
    words = f"forget: {chosen.target.value}"
    if chosen.sampling != "forget":
        words += "; retain: the base's embedding of the picture"
    return words + ("; both looked up by caption text" if chosen.by_caption else "")


def text(description: Description) -> str:
    """The description for a terminal, wrapped at WIDTH columns."""
    lines = [*textwrap.wrap(description["about"], WIDTH), ""]
    for name, variant in description["meanings"].items():
        lines += variant_lines(name, variant)
    lines += read_lines(description["needs"], description["positions"])
    lines += numbered_lines("resolved: gaps of the paper", description["resolved"])
    lines += numbered_lines("deviations of the released code", description["deviations"])
    lines += ["before the first step", *hanging("    ", description["at_base"]), ""]
    lines += ["how we know", *hanging("    ", description["evidence"])]
    lines += [*hanging("    ", CODE_MEANS), ""]
    lines.append("known mistakes: visual-oracle conform names them in another implementation")
    for name, what in mistakes_in(description).items():
        lines += hanging(f"    {name:24} ", what)
    return "\n".join(lines)


def mistakes_in(description: Description) -> dict[str, str]:
    """{mistake: what it is, with the semantics if it is not of all that are described}."""
    semantics_of: dict[tuple[str, str], list[str]] = {}
    for semantics, variant in description["meanings"].items():
        for name, what in variant["mistakes"]:
            semantics_of.setdefault((name, what), []).append(semantics)
    every = list(description["meanings"])
    return {
        name: what if names == every else f"{what} ({', '.join(names)})"
        for (name, what), names in semantics_of.items()
    }


def variant_lines(name: str, variant: DescribedVariant) -> list[str]:
    """The lines of one semantics, and an empty one."""
    lines = [name]
    for line in variant["formula"]:
        lines += hanging("    ", line)
    recipe = ", ".join(f"{key} {value}" for key, value in variant["recipe"].items())
    lines += hanging("    source   ", variant["source"])
    lines += hanging("    reads    ", variant["reads"])
    lines += hanging("    against  ", variant["compared_with"])
    lines += hanging("    trains   ", variant["trained"])
    lines += hanging("    recipe   ", f"SGD: {recipe} ({variant['recipe_source']})")
    return [*lines, *option_lines(variant["options"]), ""]
