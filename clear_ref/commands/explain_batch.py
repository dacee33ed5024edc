"""explain METHOD --batch: what a method does to each token of a batch."""

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from clear_ref.common.errors import UserError
from clear_ref.common.files import write_text
from clear_ref.common.run_directory import check_file
from clear_ref.data.prompts import read_phrases
from clear_ref.loop import mini_recipes
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.rows import split_rows
from clear_ref.loop.unlearn import label_mask
from clear_ref.methods import Variant, table
from clear_ref.methods.semantics import DATED, TEXT_ONLY
from clear_ref.mini.directories import data_directory
from clear_ref.model.vlm import VLM
from clear_ref.oracle.explain import terminal
from clear_ref.oracle.explain.explanation import Explanation, explain
from clear_ref.oracle.explain.mistaken import explain_mistake, first_semantics
from clear_ref.oracle.explain.page import page
from clear_ref.oracle.explain.side_by_side import ComparedRecord, side_by_side
from clear_ref.oracle.mistakes.projects import Entry, find
from clear_ref.report.samples import Picture, embedded

from .examine_settings import ExplainSettings
from .given import Given, given_from, settings_from
from .output import Output
from .released_code import released_code
from .resolve import ModelSource, check_adapter, resolve_model
from .training_recipe import options_for, recipe_name_for


class ExplainedBatch(TypedDict):
    """What `explain METHOD --batch --json` prints.

    explained  one Explanation, or two with --compare
    beside     with --compare: both side by side
    html       with --html: the file that was written
    """

    explained: list[Explanation]
    beside: NotRequired[list[ComparedRecord]]
    html: NotRequired[str]


@dataclass(frozen=True)
class ExplainedVariant:
    """One semantics of the method: its variant, options, plan of records and label mask.

    entry  a known mistake or another project's meaning, computed in place of the loss
    """

    semantics: str
    variant: Variant
    options: Any
    plan: UnlearnPlan
    mask: str
    entry: Entry | None = None


@dataclass(frozen=True)
class ResolvedExplain:
    """A batch to explain.

    indices   numbers of its records in the forget set
    variants  one, or two with --compare
    """

    source: ModelSource
    adapter: str
    method: str
    indices: range
    variants: list[ExplainedVariant]
    html: str


def command(arguments: Namespace) -> Output:
    """What `explain` with a batch prints."""
    settings = settings_from(arguments, ExplainSettings)
    given = given_from(arguments, ExplainSettings)
    return Output(explain_batch(resolve(arguments.method, settings, given)), batch_text)


def resolve(method: str, settings: ExplainSettings, given: Given) -> ResolvedExplain:
    """Everything that the batch needs, checked; nothing is written or loaded."""
    if settings.html:
        check_file(Path(settings.html), "--html")
    source, data = resolve_model(settings), data_directory(settings.data)
    check_adapter(settings.adapter)
    sketch = source.without_weights(source.model, settings.adapter)
    pairs = chosen(method, settings)
    names = [semantics for semantics, _ in pairs]
    retain = "text" if TEXT_ONLY in names else "both"
    rows = split_rows(data, settings.modality, settings.forget, source.sees_pictures, retain)
    n_forget = len(rows[0])
    if settings.records < 1 or not 0 <= settings.index <= n_forget - settings.records:
        raise UserError(
            f"--index is {settings.index} and --records {settings.records}; "
            f"the forget set has records 0 to {n_forget - 1}"
        )
    # What tuning has chosen is not explained: the definition's own values are.
    is_mini = recipe_name_for("", source.model) == "mini"
    defaults = mini_recipes.OPTIONS.get(method, {}) if is_mini else {}
    phrases = read_phrases(data)
    variants = []
    for semantics, entry in pairs:
        variant = table.variant(method, semantics)
        options = options_for(method, semantics, defaults, settings.seed, given.options)
        batches = tuple(variant.needs_of(options))
        plan = UnlearnPlan(*rows, batches, phrases, settings.seed, variant.contents)
        mask = label_mask(sketch.family.name, variant, settings.mask)
        variants.append(ExplainedVariant(semantics, variant, options, plan, mask, entry))
    indices = range(settings.index, settings.index + settings.records)
    return ResolvedExplain(source, settings.adapter, method, indices, variants, settings.html)


def explain_batch(run: ResolvedExplain) -> ExplainedBatch:
    """The Explanation of a batch under one semantics or two."""
    vlm = run.source.load(run.source.model, run.adapter)
    explanations = [explain_variant(run, chosen, vlm) for chosen in run.variants]
    result = ExplainedBatch(explained=explanations)
    if len(explanations) == 2:
        result["beside"] = side_by_side(explanations[0], explanations[1])
    if run.html:
        write_text(Path(run.html), page(explanations, pictures_of(run)))
        result["html"] = run.html
    return result


def pictures_of(run: ResolvedExplain) -> dict[tuple[str, int], Picture]:
    """{(batch, number of its record): picture} of the records that have one."""
    found = {}
    for chosen in run.variants:
        for s, index in enumerate(run.indices):
            for name, record in chosen.plan.records(0, index).items():
                if isinstance(record.image, Path) and run.source.sees_pictures:
                    found[name, s] = embedded(record.image, f"{name}, record {s}")
    return found


def explain_variant(run: ResolvedExplain, chosen: ExplainedVariant, vlm: VLM) -> Explanation:
    """The Explanation of the batch under one semantics."""
    about = models_in_words(run.source.model, run.adapter)
    if table.reference_model(run.method, chosen.options) == "idk":
        about += "; the reference that training makes first, tuned on refusals, is not made here"
    about += f"; labels cover the {'answer' if chosen.mask == 'answer' else 'released span'}"
    what = (vlm, run.method, chosen.semantics, chosen.options, chosen.plan, run.indices)
    if chosen.entry is None:
        return explain(*what, chosen.mask, about)
    return explain_mistake(*what, chosen.mask, about, chosen.entry)


Chosen = list[tuple[str, Entry | None]]


def chosen(method: str, settings: ExplainSettings) -> Chosen:
    """(semantics, entry) of each explanation: one, or two with --compare or --mistake.

    entry  the known mistake or other project's meaning that is computed under the semantics
    """
    if settings.mistake:
        if settings.compare:
            raise UserError("--mistake and --compare are both given; expected one of them")
        own = chosen_semantics(settings)[0] if settings.semantics else ""
        return with_mistake(method, own, settings.mistake)
    names = [name.strip() for name in settings.compare.split(",")]
    if len(names) == 2 and not settings.semantics and names[1] not in table.SEMANTICS:
        own = chosen_semantics(replace(settings, compare="", semantics=names[0]))[0]
        return with_mistake(method, own, names[1])
    return [(name, None) for name in chosen_semantics(settings)]


def with_mistake(method: str, semantics: str, name: str) -> Chosen:
    """A semantics, and what the name means for it; semantics "": the first that shows it."""
    table.variant(method)  # raises UserError for an unknown method
    found = find(method, name)
    if isinstance(found, str):
        own = semantics or next(s for s in table.SEMANTICS if s != found)
        if own == found:
            raise UserError(f"{name}'s {method} is {found} semantics; expected another --semantics")
        return [(own, None), (found, None)]
    semantics = semantics or first_semantics(found, method)
    if semantics not in getattr(found, "semantics", table.SEMANTICS):
        raise UserError(
            f"{found.name} is the definition of {method} under {semantics}; expected --semantics "
            + " or ".join(getattr(found, "semantics", ()))
        )
    return [(semantics, None), (semantics, found)]


def chosen_semantics(settings: ExplainSettings) -> list[str]:
    """The two semantics of --compare, or the one of --semantics; released@nlp for text-only code.

    --released-code is that of `released`, and changes no other name.
    """
    names = [settings.semantics or table.DEFAULT_SEMANTICS]
    if settings.compare:
        names = [name.strip() for name in settings.compare.split(",")]
    if settings.compare and (len(names) != 2 or settings.semantics):
        raise _not_two(settings)
    code = settings.released_code
    if code != "auto" and not set(names) & set(DATED):
        released_code(names[0], settings.modality, code)  # raises UserError
    found = []
    for name in names:
        own = released_code(name, settings.modality, code if name in DATED else "auto")
        found.append(TEXT_ONLY if own == "nlp" else name)
    if len(set(found)) < len(found):
        raise _not_two(settings)
    return found


def _not_two(settings: ExplainSettings) -> UserError:
    also = f" beside --semantics {settings.semantics}" if settings.semantics else ""
    if "released" in settings.compare and settings.modality == "text":
        also += f" with --modality text, where auto is {TEXT_ONLY}"
    return UserError(
        f"--compare is {settings.compare!r}{also}; expected two different semantics, "
        "such as --compare paper,released, and no --semantics"
    )


def models_in_words(directory: Path, adapter: str) -> str:
    """Which models student and teacher are."""
    if adapter:
        return f"student {directory.name} with {adapter}, teacher {directory.name}"
    return f"student and teacher are the same: {directory.name}"


def batch_text(result: ExplainedBatch) -> str:
    """The text of an ExplainedBatch for the terminal."""
    explanations = result["explained"]
    if "beside" in result:
        shown = terminal.comparison_text(explanations[0], explanations[1])
    else:
        shown = terminal.explanation_text(explanations[0])
    if "html" in result:
        shown += f"\n\nwritten to {result['html']}"
    return shown
