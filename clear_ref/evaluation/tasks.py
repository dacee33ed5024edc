"""The evaluation tasks: which rows, which question, which candidate answers.

source  released code, config/mm/eval.yaml:8-39 (the first six tasks, with their names); the two
        text tasks are TOFU's questions, which the released multimodal code does not ask
        MMUnlearner fa77c66, CLEAR_eval.py (the four multiple-choice tasks)
differs one caption question for each row, the same for every candidate and every model (released: a
        new random draw for each)
"""

from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.data import draws
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, has_config, read_rows

# MMUnlearner's question about a picture, where the row has none of its own.
CHOICE_QUESTION = "What is the name of the person in the image?"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Task:
    """An evaluation task.

    set_name        Real Faces, Real World, Real, Forget or Retain
    config          data config of the rows
    question        "caption": one of the caption questions; "name": the question for the name;
                    "row": the row's own question; "choice": a question with its options, of which
                    the letters are the candidate answers
    answer, paraphrased, perturbed   columns of the candidate answers
    max_new_tokens  length limit of the generated text
    probe           "": the question as it is; otherwise what is changed (leakage.py)
    """

    name: str
    set_name: str
    config: str
    question: str
    answer: str
    paraphrased: str
    perturbed: str
    max_new_tokens: int
    probe: str = ""


@dataclass(frozen=True)
class Item:
    """One row of a task: the prompt, and the candidate answers whose likelihood is computed."""

    index: int
    prompt: Record
    answer: str
    paraphrased: str
    perturbed: tuple[str, ...]


def tasks(forget: int, max_new_tokens: int) -> list[Task]:
    """All tasks for forget01, forget05 or forget10; the first six are the benchmark's, in its
    order.

    max_new_tokens  for captions and text answers; for names and the one-word answers of the Real
                    sets a quarter of it
    """
    forget_config = f"forget{forget:02d}_perturbed"
    short = max_new_tokens // 4
    return [
        _real_task("eval_real_faces_wo_options", "Real Faces", "real_faces", "name", short),
        _real_task("eval_real_world_wo_options", "Real World", "real_world", "row", short),
        _caption_task("eval_log_forget", "Forget", forget_config, max_new_tokens),
        _caption_task("eval_log", "Retain", "retain_perturbed", max_new_tokens),
        _name_task("eval_forget_facerec", "Forget", forget_config, short),
        _name_task("eval_retain_facerec", "Retain", "retain_perturbed", short),
        _text_task("eval_text_forget", "Forget", f"tofu/{forget_config}", max_new_tokens),
        _text_task("eval_text_retain", "Retain", "tofu/retain_perturbed", max_new_tokens),
    ]


def choice_tasks(forget: int, max_new_tokens: int) -> list[Task]:
    """The multiple-choice tasks: names, and the answers of the Real sets, among wrong ones.

    max_new_tokens  as for `tasks`; a quarter of it is generated
    """
    short = max_new_tokens // 4
    names = [
        _choice_task("eval_forget_choice", "Forget", f"forget{forget:02d}_perturbed", True, short),
        _choice_task("eval_retain_choice", "Retain", "retain_perturbed", True, short),
    ]
    real = [
        _choice_task("eval_real_faces_choice", "Real Faces", "real_faces", False, short),
        _choice_task("eval_real_world_choice", "Real World", "real_world", False, short),
    ]
    return [*names, *real]


def _choice_task(name: str, set_name: str, config: str, names: bool, max_new_tokens: int) -> Task:
    answer = "name" if names else "answer"
    return Task(
        name=name,
        set_name=set_name,
        config=config,
        question="choice",
        answer=answer,
        paraphrased=answer,
        perturbed="perturbed_names" if names else "options",
        max_new_tokens=max_new_tokens,
    )


def _real_task(name: str, set_name: str, config: str, question: str, max_new_tokens: int) -> Task:
    return Task(
        name=name,
        set_name=set_name,
        config=config,
        question=question,
        answer="answer",
        paraphrased="answer",
        perturbed="options",
        max_new_tokens=max_new_tokens,
    )


def _caption_task(name: str, set_name: str, config: str, max_new_tokens: int) -> Task:
    return Task(
        name=name,
        set_name=set_name,
        config=config,
        question="caption",
        answer="caption",
        paraphrased="paraphrased_caption",
        perturbed="perturbed_captions",
        max_new_tokens=max_new_tokens,
    )


def _name_task(name: str, set_name: str, config: str, max_new_tokens: int) -> Task:
    return Task(
        name=name,
        set_name=set_name,
        config=config,
        question="name",
        answer="name",
        paraphrased="name",
        perturbed="perturbed_names",
        max_new_tokens=max_new_tokens,
    )


def _text_task(
    name: str,
    set_name: str,
    config: str,
    max_new_tokens: int,
    paraphrased: str = "paraphrased_answer",
) -> Task:
    return Task(
        name=name,
        set_name=set_name,
        config=config,
        question="row",
        answer="answer",
        paraphrased=paraphrased,
        perturbed="perturbed_answer",
        max_new_tokens=max_new_tokens,
    )


def text_tasks(forget: int, max_new_tokens: int, directory: str | Path) -> list[Task]:
    """The tasks of a model that sees no pictures: the two text tasks, and those of TOFU's two Real
    sets that the data directory has.

    source  locuslab/tofu, config/eval_everything.yaml (names and columns); released code, nlp/
    """
    short = max_new_tokens // 4
    real_tasks = [
        _text_task(name, "Real", config, short, paraphrased="answer")
        for name, config in (
            ("eval_real_author_wo_options", "tofu/real_authors_perturbed"),
            ("eval_real_world_wo_options", "tofu/world_facts_perturbed"),
        )
    ]
    chosen = [task for task in real_tasks if has_config(directory, task.config)]
    for task in tasks(forget, max_new_tokens):
        if task.config.startswith("tofu/"):
            chosen.append(task)
    return chosen


def items(
    task: Task, directory: str | Path, phrases: Phrases, limit: int | None = None
) -> list[Item]:
    """The task's rows as prompts and candidate answers; the first `limit` rows, None: all."""
    return [item(task, row, phrases) for row in read_rows(directory, task.config)[:limit]]


def caption_question(row: Row, phrases: Phrases) -> str:
    """The question that an evaluation asks about a row's picture: chosen by the row's number."""
    n = len(phrases.caption_questions)
    number = draws.choice(0, "evaluation caption question", 0, row.index, n)
    return phrases.caption_questions[number]


def item(task: Task, row: Row, phrases: Phrases) -> Item:
    """One row with the task's question and candidate answers."""
    values = row.values
    if task.question == "choice":
        return _choice_item(task, row)
    if task.question == "caption":
        question = caption_question(row, phrases)
    elif task.question == "name":
        question = phrases.name_question
    else:
        question = values["question"]
    return Item(
        index=row.index,
        prompt=Record(question, None, row.image),
        answer=values[task.answer],
        paraphrased=values[task.paraphrased],
        perturbed=tuple(values[task.perturbed]),
    )


def _choice_item(task: Task, row: Row) -> Item:
    """The row's question with lettered options; the answers are letters.

    The right option stands at a place drawn by the row's number, the same for every model; the
    wrong ones keep their order. If a wrong option is the right text too, the first of both is the
    right one.
    source  MMUnlearner fa77c66, CLEAR_eval.py:56-59 and :207-224
    raises  UserError for a row without a wrong option, or with more than 25
    """
    values = row.values
    right, options = values[task.answer], list(values[task.perturbed])
    if not 1 <= len(options) < len(LETTERS):
        raise UserError(
            f"{row.where}: {task.perturbed} has {len(options)} texts; expected 1 to "
            f"{len(LETTERS) - 1}, options of a multiple-choice question"
        )
    place = draws.choice(0, f"option order {task.config}", 0, row.index, len(options) + 1)
    options.insert(place, right)
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    question = "\n".join([values.get("question") or CHOICE_QUESTION, *lines, ""])
    answer = LETTERS[options.index(right)]
    others = tuple(letter for letter in LETTERS[: len(options)] if letter != answer)
    return Item(row.index, Record(question, None, row.image), answer, answer, others)
