"""Phrases: the questions and refusals of a data directory.

The benchmark asks for a caption with one of nine questions and for a name with one fixed question;
a refusal is one of a hundred sentences. Ours were written for this project and are in texts/. A
data directory can replace them by files of the same names (caption_questions.txt,
name_question.txt, refusals.txt), for example with the released ones.
"""

from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_text

TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Phrases:
    """The caption questions, the name question and the refusals of a data directory."""

    caption_questions: tuple[str, ...]
    name_question: str
    refusals: tuple[str, ...]


def phrase_files(directory: PathName) -> list[Path]:
    """The three files that read_phrases reads: the directory's own, or ours."""
    files = []
    for name in ("caption_questions.txt", "name_question.txt", "refusals.txt"):
        path = Path(directory) / name
        files.append(path if path.exists() else TEXTS / name)
    return files


def read_phrases(directory: PathName) -> Phrases:
    """The phrases of a data directory; ours where it has none.

    One phrase per line; blanks at its ends and blank lines are removed. The first line of
    name_question.txt is the name question.
    """
    questions, name_question, refusals = map(_lines, phrase_files(directory))
    return Phrases(questions, name_question[0], refusals)


def _lines(path: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    found = tuple(line for line in lines if line)
    if not found:
        raise UserError(
            f"{path}: holds no line of text; write one phrase per line or remove the file"
        )
    return found
