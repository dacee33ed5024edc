"""Questions in other words, for rows without a column `paraphrased_question`.

A data directory may hold paraphrased_questions.jsonl, one object with `question` and
`paraphrased_question` a line. TOFU's rows have the column; the embedded world has the file.
"""

from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line, parse_json

from .records import read_lines

FILE = "paraphrased_questions.jsonl"
KEYS = {"question", "paraphrased_question"}


def paraphrases_file(directory: PathName) -> Path:
    """The path of the file; it need not exist."""
    return Path(directory) / FILE


def read_paraphrases(directory: PathName) -> dict[str, str]:
    """{question: the question in other words}; {} without the file.

    raises  UserError naming file and line for a line without the two texts, and for a question that
            is given twice
    """
    path = paraphrases_file(directory)
    found: dict[str, str] = {}
    for where, line in read_lines(path) if path.exists() else ():
        values = parse_json(line.encode("utf-8"), where)
        texts = all(isinstance(text, str) and text.strip() for text in values.values())
        if set(values) != KEYS or not texts:
            raise UserError(
                f"{where}: is {one_line(line, 60)}; expected two texts, "
                f"{' and '.join(sorted(KEYS))}"
            )
        if values["question"] in found:
            raise UserError(
                f"{where}: the question {one_line(values['question'], 60)!r} is given twice"
            )
        found[values["question"]] = values["paraphrased_question"]
    return found
