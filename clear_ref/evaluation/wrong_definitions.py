"""Wrong definitions of metrics that public evaluations compute, as functions of logs.

They are no metrics and are in no table or page. They serve to recognise a published number: one
that a wrong definition gives from the logs, and the right one does not; `score --metrics
mmunlearner` prints them in a block of their own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from . import log_columns, rouge
from .exact_means import mean
from .log_format import Log, Logs
from .mmunlearner import sentence_bleu


@dataclass(frozen=True)
class WrongDefinition:
    """One wrong definition.

    what     what it computes; seen: who has it, and where
    of       the number that it is reported as
    right    the number of the set mmunlearner that it is mistaken for, without forget_ or retain_
    tasks    the tasks of the two logs, of the forget set and of the retain set
    compute  (log of the questions with pictures, log of the other questions) -> the number
    """

    name: str
    what: str
    seen: str
    of: str
    compute: Callable[[Log, Log], float]
    right: str
    tasks: tuple[tuple[str, str], tuple[str, str]]
    version: int = 1


def constant_answer_rouge_f(pictures: Log, texts: Log) -> float:
    """Mean over text questions of ROUGE-L F1 of the last picture's generated text, in [0, 1].

    The text that the model generates for a text question is not read. The order of records is that
    of the log's column.
    raises  UserError for a log without generated_text
    """
    return _constant(pictures, texts, lambda right, said: rouge.scores(right, said)["rougeL"].f)


def constant_answer_rouge1_f(pictures: Log, texts: Log) -> float:
    """The same of ROUGE-1 F1."""
    return _constant(pictures, texts, lambda right, said: rouge.scores(right, said)["rouge1"].f)


def constant_answer_rouge2_f(pictures: Log, texts: Log) -> float:
    """The same of ROUGE-2 F1."""
    return _constant(pictures, texts, lambda right, said: rouge.rouge2(right, said).f)


def constant_answer_bleu(pictures: Log, texts: Log) -> float:
    """The same of the sentence BLEU."""
    return _constant(pictures, texts, sentence_bleu)


def _constant(pictures: Log, texts: Log, value: Callable[[str, str], float]) -> float:
    *_, last = log_columns.texts(pictures).values()
    return mean(value(expected, last[1]) for _, _, expected in log_columns.texts(texts).values())


def name_in_lower_case_letters(names: Log, _: Log) -> float:
    """Share of records whose text, in lower case and without all but letters and digits, contains
    the name as it is written, in [0, 1]: 0 for every name with a capital or a space.

    raises  UserError for a log without generated_text
    """
    return mean(
        float(expected in re.sub("[^a-zA-Z0-9]", "", generated).lower())
        for _, generated, expected in log_columns.texts(names).values()
    )


WITH_TEXTS = (("eval_log_forget", "eval_text_forget"), ("eval_log", "eval_text_retain"))
NAMES_ALONE = (
    ("eval_forget_facerec", "eval_forget_facerec"),
    ("eval_retain_facerec", "eval_retain_facerec"),
)
CONSTANT = (
    "The generated text of the last picture is scored against the answer of every text "
    "question: the score does not depend on the model's answers to them."
)


def _constant_answer(suffix: str, of: str, compute: Callable[[Log, Log], float]) -> WrongDefinition:
    return WrongDefinition(
        name="constant_answer_scored",
        what=CONSTANT,
        seen="MMUnlearner fa77c66, CLEAR_eval.py:144-171",
        of=f"Average {of} (QA)",
        compute=compute,
        right=f"qa_{suffix}",
        tasks=WITH_TEXTS,
    )


WRONG_DEFINITIONS = (
    _constant_answer("rougeL_f", "ROUGE-L", constant_answer_rouge_f),
    _constant_answer("rouge1_f", "ROUGE-1", constant_answer_rouge1_f),
    _constant_answer("rouge2_f", "ROUGE-2", constant_answer_rouge2_f),
    _constant_answer("bleu", "BLEU", constant_answer_bleu),
    WrongDefinition(
        name="name_in_lower_case_letters",
        what=(
            "The name as it is written is looked for in a text without capitals and spaces: no "
            "name with a capital or a space is ever found, so the accuracy is 0."
        ),
        seen="MMUnlearner fa77c66, CLEAR_eval.py:74-79, for data without options",
        of="VQA Accuracy",
        compute=name_in_lower_case_letters,
        right="name",
        tasks=NAMES_ALONE,
    ),
)


def wrong_numbers(logs: Logs) -> list[dict[str, object]]:
    """[{"of", "value", "definition", "version", "seen"}]: what the wrong definitions give for these
    logs, of those that hold both tasks with texts; `of` names the right number of the set."""
    found: list[dict[str, object]] = []
    for one in WRONG_DEFINITIONS:
        for part, (first, second) in zip(("forget", "retain"), one.tasks, strict=True):
            if all(
                log_columns.has(logs.get(task, {}), "generated_text") for task in (first, second)
            ):
                found.append(
                    {
                        "of": f"{part}_{one.right}",
                        "value": one.compute(logs[first], logs[second]),
                        "definition": one.name,
                        "version": one.version,
                        "seen": f"{one.seen}: {one.of}",
                    }
                )
    return found
