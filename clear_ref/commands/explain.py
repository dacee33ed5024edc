"""The command `explain`: what a method's file says, or with a batch what the method does to each of its tokens."""

from argparse import Namespace
from dataclasses import dataclass, fields
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import write_text
from clear_ref.common.settings import setting
from clear_ref.data.prompts import read_phrases
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.unlearn import label_mask, split_rows
from clear_ref.methods import table
from clear_ref.mini import directories
from clear_ref.model.vlm import load
from clear_ref.oracle.explain import method_file, terminal
from clear_ref.oracle.explain.attribution import explain
from clear_ref.oracle.explain.page import page

from .given import given_from, settings_from
from .output import Output
from .resolve import options_for


@dataclass(frozen=True)
class ExplainSettings:
    """explain METHOD."""

    semantics: str = setting("", "one meaning; default: without --batch all, with it paper")
    compare: str = setting(
        "", "two meanings with a comma, such as paper,released: a batch in both, side by side"
    )
    html: str = setting("", "file for a page with the tokens of a batch coloured")
    records: int = setting(2, "records in the batch")
    index: int = setting(0, "the first record's number in the forget set")
    model: str = setting("mini", "model directory in HF format, or mini: the embedded world's base")
    adapter: str = setting(
        "",
        "PEFT directory: the student is the model with these adapters, the teacher without; "
        "default: none, the student is the teacher",
    )
    template: str = setting(
        "",
        "chat template by name (data/prompts.py); default: the one that the model directory asks for",
    )
    data: str = setting(
        "mini", "data directory (CONFIG/rows.jsonl, images/), or mini: the embedded world's"
    )
    modality: str = setting("both", "which forget set: both, text or visual")
    forget: int = setting(
        10, "which forget split: 1, 5 or 10 percent of the authors", "paper Sec. 4"
    )
    mask: str = setting(
        "auto",
        "what the labels cover: answer, released (image and prompt too) or auto: as the meaning has it",
    )
    seed: int = setting(0, "key of every random choice")
    device: str = setting("cpu", "torch device, such as cpu or cuda")
    dtype: str = setting(
        "float64", "compute dtype of the weights: float64, float32, bfloat16 or float16"
    )


def run(
    method: str, s: ExplainSettings, batch: bool, options_given: dict, options_for, given=()
) -> dict:
    """What --json prints: `describe`'s result; or {"explained": [one or two results of `explain`], "beside": of two}.

    options_for  (method, semantics, recipe name, seed, given) -> (options, names): where the run's own options come from
    given        the settings that were named, to refuse those that change nothing
    raises       UserError for input that is wrong
    """
    if not (batch or s.compare or s.html):
        if options_given:
            raise UserError(
                "--set changes nothing without a batch; add --batch, or leave --set out"
            )
        idle = [f"--{f.name}" for f in fields(s) if f.name in given and f.name != "semantics"]
        if idle:
            raise UserError(
                f"{', '.join(idle)} {'change' if len(idle) > 1 else 'changes'} nothing without a batch; add --batch, "
                f"or leave {'them' if len(idle) > 1 else 'it'} out"
            )
        return method_file.describe(method, s.semantics or None)
    meanings = (
        [name.strip() for name in s.compare.split(",")]
        if s.compare
        else [s.semantics or table.DEFAULT_SEMANTICS]
    )
    if s.compare and (len(set(meanings)) != 2 or len(meanings) != 2 or s.semantics):
        raise UserError(
            f"--compare is {s.compare!r}"
            + (f" beside --semantics {s.semantics}" if s.semantics else "")
            + "; expected two different meanings, such as --compare paper,released, and no --semantics"
        )
    recipe = "mini" if s.model == "mini" else "paper"
    options = {
        name: options_for(method, name, recipe, s.seed, options_given)[0] for name in meanings
    }
    found = explained(method, s, options)
    if s.html:
        write_text(Path(s.html), page(found))
    return (
        {"explained": found}
        | ({"beside": terminal.beside(*found)} if s.compare else {})
        | ({"html": s.html} if s.html else {})
    )


def explained(method: str, s: ExplainSettings, options: dict) -> list[dict]:
    """The batch in each meaning of `options`."""
    directory, data = directories.model_directory(s.model), directories.data_directory(s.data)
    if s.adapter and not Path(s.adapter).is_dir():
        raise UserError(
            f"--adapter {s.adapter}: no such directory; expected one with adapter_config.json"
        )
    vlm = load(directory, s.dtype, s.device, s.template)
    if s.adapter:
        vlm.load_adapter(s.adapter)
    if s.forget not in (1, 5, 10):
        raise UserError(f"--forget is {s.forget}; expected 1, 5 or 10")
    rows, own, found = (
        split_rows(data, s.modality, s.forget, vlm.images is not None),
        read_phrases(data),
        [],
    )
    if s.records < 1 or not 0 <= s.index <= len(rows[0]) - s.records:
        raise UserError(
            f"--index is {s.index} and --records {s.records}; the forget set has records 0 to {len(rows[0]) - 1}"
        )
    for semantics, one in options.items():
        chosen = table.variant(method, semantics)
        plan = UnlearnPlan(*rows, tuple(chosen.needs_of(one)), own, s.seed, chosen.contents)
        mask = label_mask(vlm.family.name, chosen, s.mask)
        result = explain(
            vlm, method, semantics, one, plan, range(s.index, s.index + s.records), mask
        )
        teacher = (
            f"student {directory.name} with {s.adapter}, teacher {directory.name}"
            if s.adapter
            else f"student and teacher are the same: {directory.name}"
        )
        if table.reference_model(method, one) == "idk":
            teacher += (
                "; the reference that training makes first, tuned on refusals, is not made here"
            )
        found.append(
            result
            | {
                "teacher": f"{teacher}; labels cover the {'answer' if mask == 'answer' else 'released span'}"
            }
        )
    return found


def text(found: dict) -> str:
    """What the command prints for people."""
    if "meanings" in found:
        return method_file.text(found)
    shown = (
        terminal.compared(*found["explained"])
        if "beside" in found
        else terminal.one(found["explained"][0])
    )
    return f"{shown}\n\nwritten to {found['html']}" if "html" in found else shown


def command(arguments: Namespace) -> Output:
    """What `explain` prints."""
    settings = settings_from(arguments, ExplainSettings)
    given = given_from(arguments, ExplainSettings)
    found = run(
        arguments.method, settings, arguments.batch, given.options, options_for, given.settings
    )
    return Output(found, text)
