"""Whom rows are about: the name of a picture's row, and the person of a question.

A question's row has no name. It is about the person whose name stands in its question or answer;
a question that names nobody, between two rows of one person, is about that person, as the rows of a
person follow each other in TOFU and in what make-data writes.
"""

from collections.abc import Iterable, Sequence

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

from .records import Row


def pictures_by_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """{name: rows of the person's pictures}, each picture once; rows that have image and name."""
    found: dict[str, dict[object, Row]] = {}
    for row in rows:
        found.setdefault(row.values["name"], {}).setdefault(row.image, row)
    return {name: list(pictures.values()) for name, pictures in found.items()}


def named_in(text: str, names: Iterable[str]) -> str | None:
    """The one of the names that stands in a text; None if there is none, or two different people's.

    Small and capital letters are alike. Where names hold one another the longest counts. A name
    that goes on as another word does not count ("Ann" in "planned" or "Annual"), but for an s
    ("Anns book"); in scripts without capital letters, which may have no blanks, it does.
    """
    left = text.casefold()
    found = []
    for name in sorted(names, key=len, reverse=True):
        small = name.casefold()
        parts = left.split(small)
        ends = zip(parts, parts[1:], strict=False)
        if any(_stands_alone(before, small, after) for before, after in ends):
            found.append(name)
            left = "\n".join(parts)
    return found[0] if len(found) == 1 else None


def _stands_alone(before: str, name: str, after: str) -> bool:
    """Whether no letter that has a capital form joins the name to what is before or after it."""
    after = after[after.startswith("s") :]
    return not any(
        _has_capital(first) and _has_capital(second)
        for first, second in ((before[-1:], name[:1]), (name[-1:], after[:1]))
    )


def _has_capital(letter: str) -> bool:
    return letter != letter.upper()


def persons_of_questions(rows: Sequence[Row], names: Iterable[str]) -> list[str | None]:
    """The person of each row with a question and an answer; None if that cannot be told.

    names   of the people whom the rows may be about
    """
    names = list(names)
    found = [named_in(f"{row.values['question']} {row.values['answer']}", names) for row in rows]
    before: list[str | None] = []
    for person in found:
        before.append(person or (before[-1] if before else None))
    after: list[str | None] = []
    for person in reversed(found):
        after.append(person or (after[-1] if after else None))
    return [
        first if first == last else person
        for person, first, last in zip(found, before, reversed(after), strict=True)
    ]


def split_names(text: str, known: Iterable[str], option: str, what: str) -> list[str]:
    """The names of "Ada Lind,Bruno Costa"; a name may have a comma itself.

    what    the known names are, for the message
    raises  UserError for a name that is not known, and one that is given twice
    """
    known = list(known)
    found: list[str] = []
    left = text.split(",") if text else []
    while left:
        sizes = [n for n in range(len(left), 0, -1) if ",".join(left[:n]).strip() in known]
        name = ",".join(left[: sizes[0]] if sizes else left[:1]).strip()
        if not sizes or name in found:
            twice = " twice" if sizes else ""
            raise UserError(
                f"{option} names {name!r}{twice}; expected {what} with commas: "
                f"{one_line(', '.join(known), 300)}"
            )
        found.append(name)
        left = left[sizes[0] :]
    return found
