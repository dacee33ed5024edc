"""Wrong definitions of metrics that public evaluations compute, as functions of logs.

They are never reported. They serve to recognise a published number: one that a wrong definition
gives from the logs, and the right one does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import log_columns, rouge
from .exact_means import mean
from .log_format import Log


@dataclass(frozen=True)
class WrongDefinition:
    """One wrong definition.

    what     what it computes; seen: who has it, and where
    of       the number that it is reported as
    compute  (log of the questions with pictures, log of the text questions) -> the number
    """

    name: str
    what: str
    seen: str
    of: str
    compute: Callable[[Log, Log], float]


def constant_answer_rouge_f(pictures: Log, texts: Log) -> float:
    """Mean over text questions of ROUGE-L F1 of the last picture's generated text, in [0, 1].

    The text that the model generates for a text question is not read. The order of records is that
    of the log's column.
    raises  UserError for a log without generated_text
    """
    *_, last = log_columns.texts(pictures).values()
    generated = last[1]
    return mean(
        rouge.scores(expected, generated)["rougeL"].f
        for _, _, expected in log_columns.texts(texts).values()
    )


WRONG_DEFINITIONS = (
    WrongDefinition(
        name="constant_answer_scored",
        what=(
            "The generated text of the last picture is scored against the answer of every text "
            "question: the score does not depend on the model's answers to them."
        ),
        seen="MMUnlearner fa77c66, CLEAR_eval.py:144-171",
        of="Average ROUGE-L (QA)",
        compute=constant_answer_rouge_f,
    ),
)
