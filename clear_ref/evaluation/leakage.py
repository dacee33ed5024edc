"""Leakage: the forget set asked otherwise, to see whether what was forgotten still comes out.

A probe is a task of the forget set with another picture or question; answers and candidates are the
record's own, so its numbers are defined as Forget's and Forget text's are (definitions.py).

no_picture     the questions about pictures, without the picture
other_picture  with another picture of the same person
other_person   with a picture of another person, one of the retain set
with_picture   the questions about text, with a picture of the person
reworded       the question in other words: another one of the caption questions, another question
               for the name, and the row's paraphrased question (its column, or paraphrases.py)

Pictures, people and caption questions are drawn by key, the same for every model and seed; a log
names what was drawn. A record that cannot be asked is in the log's `not_asked`, with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from clear_ref.common.errors import UserError
from clear_ref.data import draws
from clear_ref.data.paraphrases import FILE, read_paraphrases
from clear_ref.data.persons import persons_of_questions, pictures_by_name
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, has_config, read_rows

from .choices import PICTURE_PROBES, PROBE_WORDS, TEXT_PROBES
from .tasks import Item, Task, caption_question, item, items, tasks

SET_NAME = "Leakage"
# The question for the name in other words.
NAME_QUESTION = "Who is the person that this picture shows?"


class NotAsked(Exception):
    """Why a probe cannot be made of a record."""


class Prompt(NamedTuple):
    """What a record is asked with.

    picture  as in its row, relative to the data directory; "": none
    person   in that picture; "": none
    """

    record: Record
    picture: str = ""
    person: str = ""


@dataclass
class Asked:
    """A task's records.

    picture    {index: the picture that was drawn}; person: {index: who is in it}
    not_asked  records of which the probe cannot be made, each with its reason
    """

    items: list[Item]
    picture: dict[str, str] = field(default_factory=dict)
    person: dict[str, str] = field(default_factory=dict)
    not_asked: list[str] = field(default_factory=list)


class People:
    """The people of the forget and retain set, and their pictures.

    forget, retain  {name: rows of pictures}; {} where the data has none
    """

    def __init__(self, directory: Path, task: Task) -> None:
        split = task.config.removeprefix("tofu/").removesuffix("_perturbed")
        kept = f"retain{100 - int(split.removeprefix('forget'))}"
        self.forget = pictures_by_name(_rows(directory, split) or _rows(directory, task.config))
        self.retain = pictures_by_name(
            _rows(directory, kept) or _rows(directory, "retain_perturbed")
        )


def _rows(directory: Path, config: str) -> list[Row]:
    """The rows of a config of pictures; [] where the data has none."""
    of_pictures = not config.startswith("tofu/") and has_config(directory, config)
    return read_rows(directory, config) if of_pictures else []


def probe_tasks(forget: int, max_new_tokens: int, pictures: bool) -> list[Task]:
    """The tasks of all probes; of a model that sees no pictures, of the reworded text alone."""
    found = []
    known = {task.name: task for task in tasks(forget, max_new_tokens)}
    for name, probes in (
        ("eval_log_forget", PICTURE_PROBES if pictures else ()),
        ("eval_forget_facerec", PICTURE_PROBES if pictures else ()),
        ("eval_text_forget", TEXT_PROBES if pictures else TEXT_PROBES[1:]),
    ):
        start = name.replace("eval_log_forget", "eval_forget")
        found += [
            replace(known[name], name=f"{start}_{probe}", set_name=SET_NAME, probe=probe)
            for probe in probes
        ]
    return found


def possible_tasks(
    found: list[Task], directory: Path, phrases: Phrases, limit: int | None
) -> tuple[list[Task], dict[str, list[str]]]:
    """(tasks of which a record can be asked, {task: reasons} of what cannot)."""
    not_asked = {}
    possible = []
    for task in found:
        asked = asked_records(task, directory, phrases, limit)
        if asked.not_asked:
            not_asked[task.name] = asked.not_asked
        if asked.items:
            possible.append(task)
    return possible, not_asked


def asked_records(
    task: Task, directory: str | Path, phrases: Phrases, limit: int | None = None
) -> Asked:
    """The records of a task's first `limit` rows (None: all); of a probe, those it can ask."""
    directory = Path(directory)
    if not task.probe:
        return Asked(items(task, directory, phrases, limit))
    rows = read_rows(directory, task.config)
    found = Asked([])
    ask = _asking(task, directory, phrases, rows)
    for row in rows[:limit]:
        own = item(task, row, phrases)
        try:
            prompt = ask(row, own.prompt)
        except NotAsked as reason:
            found.not_asked.append(f"row {row.index} of {task.config}: {reason}")
            continue
        found.items.append(replace(own, prompt=prompt.record))
        if prompt.picture:
            found.picture[str(row.index)] = prompt.picture
            found.person[str(row.index)] = prompt.person
    return found


def _asking(
    task: Task, directory: Path, phrases: Phrases, rows: list[Row]
) -> Callable[[Row, Record], Prompt]:
    """The function (row, its own prompt) -> the probe's prompt; it raises NotAsked."""
    if task.probe == "no_picture":
        return lambda row, own: Prompt(replace(own, image=None))
    if task.probe == "reworded" and task.question == "row":
        return partial(_reworded_text, read_paraphrases(directory))
    if task.probe == "reworded":
        return partial(_reworded, task, phrases)
    people = People(directory, task)
    if task.probe == "with_picture":
        persons = dict(
            zip([row.index for row in rows], persons_of_questions(rows, people.forget), strict=True)
        )
        return lambda row, own: _with_picture(task, people, persons[row.index], row, own)
    if task.probe == "other_picture":
        return partial(_other_picture, task, people)
    if task.probe == "other_person":
        return partial(_other_person, task, people)
    raise UserError(f"probe is {task.probe!r}; expected one of {', '.join(PROBE_WORDS)}")


def _drawn(task: Task, row: Row, what: str, n: int) -> int:
    """The number of what is drawn for a row: of its config and probe, the same for captions and
    names."""
    return draws.choice(0, f"leakage {task.probe} {what} {task.config}", 0, row.index, n)


def _seen(own: Record, row: Row, person: str) -> Prompt:
    """The prompt with the picture of another row."""
    return Prompt(replace(own, image=row.image), row.values["image"], person)


def _other_picture(task: Task, people: People, row: Row, own: Record) -> Prompt:
    person = row.values["name"]
    others = [each for each in people.forget.get(person, ()) if each.image != row.image]
    if not others:
        raise NotAsked(f"the data has no other picture of {person}")
    return _seen(own, others[_drawn(task, row, "picture", len(others))], person)


def _other_person(task: Task, people: People, row: Row, own: Record) -> Prompt:
    names = sorted({*people.retain} - {*people.forget})
    if not names:
        raise NotAsked("the data has no picture of another person of the retain set")
    person = names[_drawn(task, row, "person", len(names))]
    pictures = people.retain[person]
    return _seen(own, pictures[_drawn(task, row, "picture", len(pictures))], person)


def _with_picture(task: Task, people: People, person: str | None, row: Row, own: Record) -> Prompt:
    if person is None:
        raise NotAsked("no one person with a picture is named in the question or answer")
    pictures = people.forget[person]
    return _seen(own, pictures[_drawn(task, row, "picture", len(pictures))], person)


def _reworded(task: Task, phrases: Phrases, row: Row, own: Record) -> Prompt:
    if task.question == "name":
        if phrases.name_question == NAME_QUESTION:
            raise NotAsked("the data's own name question is the one in other words")
        return Prompt(replace(own, question=NAME_QUESTION))
    plain = caption_question(row, phrases)
    others = [each for each in phrases.caption_questions if each != plain]
    if not others:
        raise NotAsked("the data has one caption question alone")
    return Prompt(replace(own, question=others[_drawn(task, row, "question", len(others))]))


def _reworded_text(paraphrases: dict[str, str], row: Row, own: Record) -> Prompt:
    question = row.values.get("paraphrased_question") or paraphrases.get(own.question)
    if question is None:
        raise NotAsked(f"has no paraphrased_question, and {FILE} has none of its question")
    return Prompt(replace(own, question=question))
