"""ask: one answer of a model, with the probabilities of its first tokens; with an adapter, both."""

import json
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import is_file, no_file
from clear_ref.common.text_table import aligned
from clear_ref.data.batches import Batch
from clear_ref.data.images import open_image
from clear_ref.data.records import Record
from clear_ref.model.language import at_least_float32
from clear_ref.model.vlm import VLM

from .file_settings import Ask
from .given import settings_from
from .output import Output
from .resolve import check_adapter, resolve_model

NO_PICTURE = "-"


def command(arguments: Namespace) -> Output:
    """What `ask` prints."""
    settings = settings_from(arguments, Ask)
    return Output(ask(settings, arguments.picture, arguments.question), text)


def ask(settings: Ask, picture: str, question: str) -> dict[str, Any]:
    """The question, and the answer of each model.

    picture  path, or -: no picture
    returns  "answers": {"answer": ...}, or {"before": ..., "after": ...} with an adapter; see
             answer_of
    raises   UserError for a number, model, adapter, picture or question that cannot be used
    """
    for name, least in (("max_new_tokens", 1), ("tokens", 0), ("candidates", 1)):
        value = getattr(settings, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected {least} or more")
    if not question.strip():
        raise UserError(f"QUESTION is {question!r}; expected a text that is not empty")
    source = resolve_model(settings)
    check_adapter(settings.adapter)
    record = Record(question)
    if picture != NO_PICTURE:
        if not source.sees_pictures:
            raise UserError(
                f"PICTURE is {picture}, and {source.model} is a language model, which sees none; "
                f"expected {NO_PICTURE}"
            )
        if not is_file(picture):
            expected = f"a picture file, or {NO_PICTURE}"
            raise UserError(f"PICTURE is {picture}: {no_file(picture, expected)}")
        open_image(picture, "PICTURE")
        record = Record(question, image=Path(picture))
    vlm = source.load(source.model, settings.adapter)
    names = ("before", "after") if settings.adapter else ("answer",)
    answers = {}
    for name in names:
        with vlm.adapters_off() if name == "before" else nullcontext():
            answers[name] = answer_of(vlm, record, settings)
    return {
        "model": str(source.model),
        "adapter": settings.adapter,
        "picture": "" if picture == NO_PICTURE else picture,
        "question": question,
        "prompt": vlm.template.prompt(question, record.image is not None),
        "answers": answers,
    }


@torch.no_grad()
def answer_of(vlm: VLM, record: Record, settings: Ask) -> dict[str, Any]:
    """The greedy answer to a prompt.

    returns  "text"; "ended": whether its end token came within --max-new-tokens; "tokens": of each
             of its first tokens the "token", its "probability", and the likely "candidates" as
             [token, probability]. Probabilities are the softmax of the logits over the whole
             vocabulary, in float32 or more, before the rules of generation_config.json
    """
    batch = vlm.encode([record])
    n_prompt = batch.input_ids.shape[1]
    ids = vlm.generate_ids(batch, settings.max_new_tokens)
    shown = ids[:, : settings.tokens]
    both = torch.cat((batch.input_ids, shown), 1)
    longer = Batch(
        both,
        torch.ones_like(both),
        both,
        batch.pixel_values,
        batch.image_grid_thw,
    )
    tokens = []
    if shown.shape[1]:
        logits = vlm.head(vlm.hidden(longer, start=n_prompt - 1)[0, :-1])
        probabilities = at_least_float32(logits).softmax(-1)
        for token_id, row in zip(shown[0].tolist(), probabilities, strict=True):
            best = row.topk(min(settings.candidates, len(row)))
            candidates = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            tokens.append(
                {
                    "token": vlm.tokenizer.piece(token_id),
                    "probability": float(row[token_id]),
                    "candidates": [[vlm.tokenizer.piece(each), p] for each, p in candidates],
                }
            )
    ended = bool(set(ids[0].tolist()) & vlm.generation.stop_ids)
    return {"text": vlm.tokenizer.text(ids[0].tolist()).strip(), "ended": ended, "tokens": tokens}


def text(found: dict[str, Any]) -> str:
    """Question and answers, and a table of the first tokens."""
    answers = found["answers"]
    width = max(len("question"), *map(len, answers))
    lines = [f"{'question':{width}}  {found['question']}"]
    for name, answer in answers.items():
        cut = "" if answer["ended"] else " ... (cut at --max-new-tokens)"
        lines.append(f"{name:{width}}  {answer['text']}{cut}")
    n = max(len(answer["tokens"]) for answer in answers.values())
    if not n:
        return "\n".join(lines)
    rows = []
    for place in range(n):
        cells = [str(place + 1)]
        for answer in answers.values():
            cells += cells_of(answer["tokens"][place : place + 1])
        rows.append(cells)
    header = ["token"]
    for name in answers:
        header += [name, "p", "likely tokens"]
    left = [column for column in range(len(header)) if column % 3 != 2]
    return "\n".join([*lines, "", *aligned(header, rows, left=tuple(left))])


def cells_of(tokens: list[dict[str, Any]]) -> list[str]:
    """Token, probability, and candidates with probabilities; empty cells without a token."""
    if not tokens:
        return ["", "", ""]
    [token] = tokens
    likely = ", ".join(f"{quoted(each)} {p:.3f}" for each, p in token["candidates"])
    return [quoted(token["token"]), f"{token['probability']:.3f}", likely]


def quoted(token: str) -> str:
    """A token in quotes, so that its blanks are seen and it takes one line."""
    return json.dumps(token, ensure_ascii=False)
