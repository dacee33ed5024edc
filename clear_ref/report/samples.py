"""The models' answers: a few records with picture, questions, and the texts of all models."""

import base64
import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.data.images import open_image
from clear_ref.data.records import read_rows
from clear_ref.data.templates import TEMPLATES
from clear_ref.evaluation.log_format import Log

from .html_frame import text
from .leaderboard import PANELS
from .read_runs import Report
from .run_groups import RunGroup, by_panel

# {task: number of its records that are shown}.
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
# A picture of at most this many bytes is embedded unchanged; another one is scaled down until its
# longer side has at most this many pixels.
MOST_BYTES = 40_000
MOST_PIXELS = 320
# The most characters of one text.
MOST_LETTERS = 700

BASE = "base"
GOLD = "gold"
Picture = tuple[str, bytes]
"""MIME type and content."""


@dataclass(frozen=True)
class Question:
    """One record of one task.

    expected    the right answer
    said        {panel: {model: text}} of every model: base, the panel's lines, gold
    """

    task: str
    index: int
    question: str
    expected: str
    said: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Card:
    """Questions about one picture, or one question without a picture."""

    set_name: str
    picture: Picture | None
    questions: tuple[Question, ...]


def cards(report: Report, groups: list[RunGroup], data: Path | None) -> list[Card]:
    """The records that a page shows, evenly spaced in their tasks.

    Questions about the same picture share a card.
    data     data directory with the pictures; None: no pictures
    raises   UserError if a row there is not the record that was evaluated, or if its picture cannot
             be read
    """
    logs = report.runs[0].logs
    found: list[Card] = []
    for task, count in SHOWN.items():
        if task not in logs:
            continue
        set_name = str(logs[task].get("set", task))
        for question in _questions(report, groups, task, count):
            seen = picture(data, logs[task], question) if data else None
            same = _card_of(found, set_name, seen)
            if same is None:
                found.append(Card(set_name, seen, (question,)))
            else:
                found[same] = Card(set_name, seen, (*found[same].questions, question))
    set_names = list(dict.fromkeys(card.set_name for card in found))
    return sorted(found, key=lambda card: set_names.index(card.set_name))


def _questions(report: Report, groups: list[RunGroup], task: str, count: int) -> Iterator[Question]:
    """`count` records of a task, evenly spaced; all of them if there are fewer."""
    texts = report.runs[0].logs[task].get("generated_text", {})
    indices = sorted(texts, key=int)
    if not indices:
        return
    chosen = dict.fromkeys(indices[i * len(indices) // count] for i in range(count))
    for index in chosen:
        shared = {name: log[task]["generated_text"][index][1] for name, log in report.logs.items()}
        said = {}
        for panel, own in by_panel(groups).items():
            of_groups = {
                group.label: group.runs[0].logs[task]["generated_text"][index][1] for group in own
            }
            before = {name: words for name, words in shared.items() if name == BASE}
            said[panel] = before | of_groups | shared
        prompt, _, expected = texts[index]
        yield Question(task, int(index), question_in(prompt), expected, said)


def _card_of(cards: list[Card], set_name: str, seen: Picture | None) -> int | None:
    """Number of the card of this set that has this picture."""
    for i, card in enumerate(cards):
        if seen and card.picture == seen and card.set_name == set_name:
            return i
    return None


def question_in(prompt: str) -> str:
    """The question in a prompt of one of our templates; the whole prompt if no template fits."""
    longest = ("", "")
    for template in TEMPLATES.values():
        for form in (template.with_image, template.text_only):
            if not form:
                continue
            start, end = (form + template.turn).split("{question}")
            fits = prompt.startswith(start) and prompt.endswith(end)
            if fits and len(start) + len(end) > len(longest[0]) + len(longest[1]):
                longest = (start, end)
    start, end = longest
    return prompt[len(start) : len(prompt) - len(end)]


def picture(data: Path, log: Log, question: Question) -> Picture | None:
    """The picture of a record; None if it has none.

    raises  UserError if the row of that number does not hold the text that the log expects
    """
    rows = read_rows(data, log["config"])
    row = rows[question.index] if question.index < len(rows) else None
    texts = [] if row is None else [v for v in row.values.values() if isinstance(v, str)]
    if row is None or question.expected not in texts:
        found = "no such row" if row is None else one_line(repr(row.values), 80)
        raise UserError(
            f"{data}: row {question.index} of {log['config']} is {found}; expected the record that "
            f"was evaluated, {one_line(repr(question.expected), 60)}"
        )
    if row.image is None:
        return None
    return embedded(row.image, row.where)


def embedded(path: Path, where: str) -> Picture:
    """A picture file for a page: itself, or a smaller JPEG if it is large or of an unusual kind.

    where   what messages call it
    """
    content = path.read_bytes()
    suffix = path.suffix.lower()
    if len(content) <= MOST_BYTES and suffix in MIMES:
        return MIMES[suffix], content
    small = open_image(path, where)
    small.thumbnail((MOST_PIXELS, MOST_PIXELS))
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=85)
    return "image/jpeg", jpeg.getvalue()


def as_html(cards: Sequence[Card]) -> str:
    """The cards, with a heading for each set."""
    blocks = []
    set_name = None
    for card in cards:
        if card.set_name != set_name:
            set_name = card.set_name
            blocks.append(f"<h3>{text(TITLES.get(set_name, set_name))}</h3>")
        questions = "".join(map(_question, card.questions))
        blocks.append(f'<div class="card">{_image(card)}<div>{questions}</div></div>')
    return "\n".join(blocks)


def _image(card: Card) -> str:
    if card.picture is None:
        return ""
    return image_tag(card.picture, f"the picture asked about: {card.questions[0].expected}")


def image_tag(picture: Picture, about: str) -> str:
    """A picture inside the page; about: its description in words."""
    mime, data = picture
    content = base64.b64encode(data).decode("ascii")
    return f'<img alt="{text(about)}" src="data:{mime};base64,{content}">'


def _question(question: Question) -> str:
    """A question, the right answer, and the models' texts; those of further panels are folded."""
    where = f"{question.task}, record {question.index}"
    expected = _text(question.expected)
    blocks = [
        f'<p class="asked"><b>{text(question.question)}</b> <span>{text(where)}</span></p>',
        f'<dl class="expected"><div><dt>expected</dt><dd>{expected}</dd></div></dl>',
    ]
    for i, (panel, said) in enumerate(question.said.items()):
        shown = _texts_of_models(said)
        title = text(PANELS.get(panel, panel))
        if len(question.said) == 1:
            blocks.append(shown)
        elif i == 0:
            blocks.append(f"<h4>{title}</h4>{shown}")
        else:
            blocks.append(f"<details><summary>{title}</summary>{shown}</details>")
    return "".join(blocks)


def _texts_of_models(said: dict[str, str]) -> str:
    """The text of base, of each unlearned model, of gold. Words that base did not say are marked.

    Unlearned models with equal texts are named together.
    """
    entries: dict[tuple[str, str], list[str]] = {}
    for name, words in said.items():
        kind = name if name in (BASE, GOLD) else "unlearned"
        entries.setdefault((kind, words), []).append(name)
    blocks = []
    for (kind, words), names in entries.items():
        shown = _text(words) if kind == BASE or BASE not in said else _marked(words, said[BASE])
        note = " <i>as base</i>" if kind != BASE and words == said.get(BASE) else ""
        name = f"<dt>{text(', '.join(names))}{note}</dt>"
        blocks.append(f'<div class="{kind}">{name}<dd>{shown}</dd></div>')
    return f'<dl class="said">{"".join(blocks)}</dl>'


def _marked(words: str, of_base: str) -> str:
    """A text as markup in which the words that differ from base's text are marked."""
    if not words.strip():
        return _text(words)
    own, base = words[:MOST_LETTERS].split(), of_base.split()
    matcher = difflib.SequenceMatcher(None, base, own, autojunk=False)
    pieces = []
    for change, _, _, start, end in matcher.get_opcodes():
        piece = text(" ".join(own[start:end]))
        if piece:
            pieces.append(piece if change == "equal" else f"<mark>{piece}</mark>")
    return " ".join(pieces) + _rest(words)


def _text(words: str) -> str:
    """A text as markup; a long one is cut."""
    if not words.strip():
        return "<i>nothing</i>"
    return text(words[:MOST_LETTERS]) + _rest(words)


def _rest(words: str) -> str:
    """How many characters of a text are not shown; "" if none."""
    n_more = len(words) - MOST_LETTERS
    return f"<i>… and {n_more} more characters</i>" if n_more > 0 else ""
