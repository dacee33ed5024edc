"""The evaluation tasks: which rows, which question, which answers are compared.

source  released code, config/mm/eval.yaml:8-39 (the first six, under their names); the two text tasks are TOFU's questions, which
        the released multimodal code never asks
differs one caption question per row, the same for every candidate and every model (released: a new random draw for each)
"""

from dataclasses import dataclass
from pathlib import Path

from clear_ref.data import draws
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, read_rows


@dataclass(frozen=True)
class Task:
    """config: where the rows lie. question: "caption", "name" or the row's own. The others: columns of the answers compared."""

    name: str
    set_name: str
    config: str
    question: str
    answer: str
    paraphrased: str
    perturbed: str
    max_new_tokens: int


@dataclass(frozen=True)
class Item:
    """One row of a task: the prompt and the answers whose likelihood is asked for."""

    index: int
    prompt: Record
    answer: str
    paraphrased: str
    perturbed: tuple[str, ...]


def tasks(forget: int, max_new_tokens: int) -> list[Task]:
    """All tasks for forget01, forget05 or forget10; the first six are the benchmark's, in its order.

    max_new_tokens  for captions and text answers; names and the one-word answers of the Real sets get a quarter of it
    """
    part, short = f"forget{forget:02d}_perturbed", max_new_tokens // 4
    caption = ("caption", "caption", "paraphrased_caption", "perturbed_captions", max_new_tokens)
    name = ("name", "name", "name", "perturbed_names", short)
    text = ("row", "answer", "paraphrased_answer", "perturbed_answer", max_new_tokens)
    return [
        Task(
            "eval_real_faces_wo_options",
            "Real Faces",
            "real_faces",
            "name",
            "answer",
            "answer",
            "options",
            short,
        ),
        Task(
            "eval_real_world_wo_options",
            "Real World",
            "real_world",
            "row",
            "answer",
            "answer",
            "options",
            short,
        ),
        Task("eval_log_forget", "Forget", part, *caption),
        Task("eval_log", "Retain", "retain_perturbed", *caption),
        Task("eval_forget_facerec", "Forget", part, *name),
        Task("eval_retain_facerec", "Retain", "retain_perturbed", *name),
        Task("eval_text_forget", "Forget", f"tofu/{part}", *text),
        Task("eval_text_retain", "Retain", "tofu/retain_perturbed", *text),
    ]


def text_tasks(forget: int, max_new_tokens: int, directory) -> list[Task]:
    """The tasks of a model that sees no pictures: the two text tasks, and TOFU's two Real sets where the directory has them.

    source  locuslab/tofu, config/eval_everything.yaml (names and columns); released code, nlp/
    """
    short = max_new_tokens // 4
    real = [
        Task(
            f"eval_real_{name}_wo_options",
            "Real",
            f"tofu/{config}",
            "row",
            "answer",
            "answer",
            "perturbed_answer",
            short,
        )
        for name, config in (
            ("author", "real_authors_perturbed"),
            ("world", "world_facts_perturbed"),
        )
    ]
    have = [task for task in real if (Path(directory) / task.config / "rows.jsonl").exists()]
    return have + [
        task for task in tasks(forget, max_new_tokens) if task.config.startswith("tofu/")
    ]


def items(task: Task, directory, phrases: Phrases, limit: int | None = None) -> list[Item]:
    """The task's rows as prompts and candidate answers; the first `limit` rows, all by default."""
    return [item(task, row, phrases) for row in read_rows(directory, task.config)[:limit]]


def caption_question(row: Row, phrases: Phrases) -> str:
    """What an evaluation asks about a row's picture: a function of the row's number alone."""
    return phrases.caption_questions[
        draws.choice(0, "evaluation caption question", 0, row.index, len(phrases.caption_questions))
    ]


def item(task: Task, row: Row, phrases: Phrases) -> Item:
    """One row as its task asks it."""
    if task.question == "caption":
        question = caption_question(row, phrases)
    else:
        question = phrases.name_question if task.question == "name" else row.values["question"]
    values = row.values
    return Item(
        row.index,
        Record(question, None, row.image),
        values[task.answer],
        values[task.paraphrased],
        tuple(values[task.perturbed]),
    )
