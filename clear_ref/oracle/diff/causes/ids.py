"""Causes of wrong ids: BOS, ends, cuts, pictures, templates, the order of records."""

from collections.abc import Callable

from clear_ref.common.errors import UserError
from clear_ref.data.records import Record
from clear_ref.data.templates import TEMPLATES
from clear_ref.model.vlm import VLM

from ..comparison import Causes

Rows = list[list[int]]


def id_causes(
    vlm: VLM, theirs: Rows, right: Rows, records: list[Record], others: dict[str, Rows]
) -> Causes:
    """The causes of wrong ids that hold for every row that differs.

    theirs, right  the real ids of each row, and those of its record
    others         {name of another batch of the dump: the ids of its records}
    """
    pairs = [(row, own) for row, own in zip(theirs, right, strict=True) if row != own]
    causes: Causes = {}
    for name, rule in _row_rules(vlm).items():
        if all(rule(row, own) for row, own in pairs):
            causes[name] = ""
    if "other_number_of_image_tokens" in causes:
        causes["other_number_of_image_tokens"] = _image_tokens(vlm, pairs[0])
    if "sequence_cut" in causes:
        row, own = pairs[0]
        causes["sequence_cut"] = f"{len(row)} of {len(own)} tokens"
    if not causes and sorted(theirs) == sorted(right):
        order = [right.index(row) for row in theirs]
        causes["other_record_order"] = f"the rows are records {', '.join(map(str, order))}"
    for batch, rows in others.items():
        if not causes and sorted(theirs) == sorted(rows):
            causes["other_batch"] = f"they are the records of {batch}"
    if not causes:
        causes |= _other_template(vlm, theirs, records)
    return causes


def _row_rules(vlm: VLM) -> dict[str, Callable[[list[int], list[int]], bool]]:
    """{cause: (a row's ids, its record's ids) -> whether the cause gives them}."""
    bos = vlm.tokenizer.bos
    image = vlm.model.image_token_id
    stops = set(vlm.generation.stop_ids)
    end = stops | {_last_token(vlm)}

    def text(row: list[int]) -> list[int]:
        return [token for token in row if token != image]

    def is_prompt(row: list[int], own: list[int]) -> bool:
        return len(row) < len(own) - 1 and own[: len(row)] == row and own[-1] not in row[-1:]

    return {
        "extra_bos": lambda row, own: bos is not None and row == [bos, *own],
        "bos_missing": lambda row, own: own[:1] == [bos] and row == own[1:],
        "end_missing": lambda row, own: own[-1] in end and row == own[:-1],
        "end_added": lambda row, own: row[:-1] == own and row[-1] in end,
        "other_number_of_image_tokens": lambda row, own: (
            text(row) == text(own) and row.count(image) != own.count(image)  # type: ignore[arg-type]
        ),
        "sequence_cut": is_prompt,
    }


def _last_token(vlm: VLM) -> int:
    """The last id of an answer in the model's template."""
    return vlm.tokenizer.answer(vlm.template, "a")[1][-1]


def _image_tokens(vlm: VLM, pair: tuple[list[int], list[int]]) -> str:
    image = vlm.model.image_token_id
    counts = [row.count(image) for row in pair]  # type: ignore[arg-type]
    return f"theirs are {counts[0]}, ours {counts[1]}"


def _other_template(vlm: VLM, theirs: Rows, records: list[Record]) -> Causes:
    """The template whose texts give these ids, pictures' tokens counted as in theirs."""
    image = vlm.model.image_token_id
    for template in TEMPLATES.values():
        rows = []
        try:
            vlm.tokenizer.check(template)
            for row, record in zip(theirs, records, strict=True):
                n_image = 0 if image is None or record.image is None else row.count(image)
                own = vlm.tokenizer.prompt(template, record.question, n_image)
                if record.answer is not None:
                    n_merged, answer = vlm.tokenizer.answer(template, record.answer)
                    own = own[: len(own) - n_merged] + answer
                rows.append(own)
        except (UserError, ValueError):  # this tokenizer lacks a token of the template
            continue
        if rows == theirs:
            return {"other_template": f"it is {template.name}, ours {vlm.template.name}"}
    return {}
