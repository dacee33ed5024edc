"""What the models say: a few records, each with its picture, its questions, and the texts of base, gold and every model."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.data.images import open_image
from clear_ref.data.prompts import TEMPLATES
from clear_ref.data.records import read_rows

from .html_frame import text
from .leaderboard import PANELS, Row, panels
from .read_runs import Report

SHOWN = {
    "eval_log_forget": 2,
    "eval_forget_facerec": 2,
    "eval_text_forget": 2,
    "eval_log": 1,
    "eval_retain_facerec": 1,
    "eval_text_retain": 1,
    "eval_real_faces_wo_options": 1,
    "eval_real_world_wo_options": 1,
    "eval_real_author_wo_options": 1,
}
TITLES = {
    "Forget": "To be forgotten",
    "Retain": "To be kept",
    "Real Faces": "Real faces",
    "Real World": "Real world",
}
MIMES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
MOST_BYTES, MOST_PIXELS, MOST_LETTERS = (
    40_000,
    320,
    700,
)  # a picture as it is, else its longer side; one text


@dataclass(frozen=True)
class Question:
    """One record of one task: its question, the text expected and what every model said, {panel: {model: text}}."""

    task: str
    index: int
    question: str
    expected: str
    said: dict


@dataclass(frozen=True)
class Card:
    """Questions about one picture, or one question without any. picture: (mime, bytes) or None."""

    set_name: str
    picture: tuple[str, bytes] | None
    questions: tuple[Question, ...]


def cards(report: Report, lines: list[Row], data: Path | None) -> list[Card]:
    """The records that a page shows, evenly spaced in their tasks; a picture that several are about is there once.

    data     the data directory for the pictures; None: no pictures
    raises   UserError if a row there is not the record that was evaluated, or its picture cannot be read
    """
    found, own = [], report.runs[0].logs
    for task, count in SHOWN.items():
        texts = own.get(task, {}).get("generated_text", {})
        keys = sorted(texts, key=int)
        for key in dict.fromkeys(keys[i * len(keys) // count] for i in range(count if keys else 0)):
            question = Question(
                task,
                int(key),
                question_in(texts[key][0]),
                texts[key][2],
                {
                    panel: {
                        name: log[task]["generated_text"][key][1]
                        for name, log in report.logs.items()
                    }
                    | {row.label: row.runs[0].logs[task]["generated_text"][key][1] for row in rows}
                    for panel, rows in panels(lines).items()
                },
            )
            seen = picture(data, own[task], question) if data else None
            set_name = str(own[task].get("set", task))
            same = next(
                (
                    i
                    for i, card in enumerate(found)
                    if seen and card.picture == seen and card.set_name == set_name
                ),
                None,
            )
            if same is None:
                found.append(Card(set_name, seen, (question,)))
            else:
                found[same] = Card(set_name, seen, (*found[same].questions, question))
    return sorted(
        found,
        key=lambda card: list(dict.fromkeys(card.set_name for card in found)).index(card.set_name),
    )


def question_in(prompt: str) -> str:
    """The question in a prompt of one of our templates; the whole prompt if it is of none."""
    forms = [
        (form + template.turn).split("{question}")
        for template in TEMPLATES.values()
        for form in (template.with_image, template.text_only)
        if form
    ]
    fitting = [
        (start, end) for start, end in forms if prompt.startswith(start) and prompt.endswith(end)
    ]
    start, end = max(fitting, key=lambda ends: len(ends[0]) + len(ends[1]), default=("", ""))
    return prompt[len(start) : len(prompt) - len(end)]


def picture(data: Path, log: dict, question: Question) -> tuple[str, bytes] | None:
    """(mime, bytes) of a record's picture, None where it has none: the file itself, or smaller where that is large or of a kind
    that browsers do not show.

    raises  UserError if the row of that number does not hold the text that the log expects
    """
    rows = read_rows(data, log["config"])
    row = rows[question.index] if question.index < len(rows) else None
    if row is None or question.expected not in [
        value for value in row.values.values() if isinstance(value, str)
    ]:
        there = "no such row" if row is None else one_line(repr(row.values), 80)
        raise UserError(
            f"{data}: row {question.index} of {log['config']} is {there}; expected the record that was evaluated, "
            f"{one_line(repr(question.expected), 60)}"
        )
    if row.image is None:
        return None
    whole = row.image.read_bytes()
    if len(whole) <= MOST_BYTES and row.image.suffix.lower() in MIMES:
        return MIMES[row.image.suffix.lower()], whole
    small, out = open_image(row.image, row.where), io.BytesIO()
    small.thumbnail((MOST_PIXELS, MOST_PIXELS))
    small.save(out, "JPEG", quality=85)
    return "image/jpeg", out.getvalue()


def as_html(found: list[Card]) -> str:
    """The cards under a heading for each set."""
    blocks, set_name = [], None
    for card in found:
        if card.set_name != set_name:
            set_name = card.set_name
            blocks.append(f"<h3>{text(TITLES.get(set_name, set_name))}</h3>")
        blocks.append(
            f'<div class="card">{_image(card)}<div>{"".join(map(_question, card.questions))}</div></div>'
        )
    return "\n".join(blocks)


def _image(card: Card) -> str:
    if card.picture is None:
        return ""
    mime, data = card.picture
    about = f"the picture asked about: {card.questions[0].expected}"
    return f'<img alt="{text(about)}" src="data:{mime};base64,{base64.b64encode(data).decode("ascii")}">'


def _question(question: Question) -> str:
    """A question, the text expected, and the models' texts; those of further panels are folded."""
    where = f"{question.task}, record {question.index}"
    blocks = [
        f'<p class="asked"><b>{text(question.question)}</b> <span>{text(where)}</span></p>',
        f'<dl class="expected"><div><dt>expected</dt><dd>{_said(question.expected)}</dd></div></dl>',
    ]
    for i, (panel, said) in enumerate(question.said.items()):
        shown = "".join(
            f"<div><dt>{text(', '.join(names))}</dt><dd>{_said(words)}</dd></div>"
            for words, names in _alike(said)
        )
        shown = f'<dl class="said">{shown}</dl>'
        title = PANELS.get(panel, panel)
        blocks.append(
            shown
            if len(question.said) == 1
            else f"<h4>{text(title)}</h4>{shown}"
            if i == 0
            else f"<details><summary>{text(title)}</summary>{shown}</details>"
        )
    return "".join(blocks)


def _alike(said: dict):
    """(text, [models]) of every different text, in the order of the models."""
    names = {}
    for name, words in said.items():
        names.setdefault(words, []).append(name)
    return names.items()


def _said(words: str) -> str:
    if not words.strip():
        return "<i>nothing</i>"
    more = len(words) - MOST_LETTERS
    return (
        text(words)
        if more <= 0
        else text(words[:MOST_LETTERS]) + f"<i>… and {more} more characters</i>"
    )
