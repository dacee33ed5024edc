"""What is checked before a command computes or writes anything, and what it then goes by: recipe, options, tasks, hashes."""

from pathlib import Path

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import convert, parse_names, setting_names
from clear_ref.data.images import open_image
from clear_ref.data.prompts import phrase_files
from clear_ref.data.records import read_rows
from clear_ref.evaluation.definitions import check_set
from clear_ref.evaluation.tasks import Task, tasks, text_tasks
from clear_ref.loop.recipes import MINI_OPTIONS, RECIPES, check_recipe
from clear_ref.methods import table


def recipe_for(chosen: str, model: str, purpose: str, given: dict):
    """The recipe (mini for the embedded world, paper otherwise, unless named), with the values given on the command line."""
    name = chosen or ("mini" if model == "mini" else "paper")
    if name not in RECIPES:
        raise UserError(f"--recipe is {name!r}; expected one of {', '.join(RECIPES)}")
    kind = RECIPES[name][purpose]
    recipe = kind(**{key: convert(kind, key, value) for key, value in given.items()})
    check_recipe(recipe)
    return name, recipe


def check(s) -> None:
    """UserError for a value of the common settings that nothing can run with."""
    if s.forget not in (1, 5, 10):
        raise UserError(f"--forget is {s.forget}; expected 1, 5 or 10")
    if s.limit < 0 or s.max_new_tokens < 4:
        raise UserError(
            f"--limit is {s.limit} and --max-new-tokens {s.max_new_tokens}; expected 0 or more, and 4 or more"
        )
    if s.eval_batch < 1:
        raise UserError(f"--eval-batch is {s.eval_batch}; expected 1 or more")
    check_set(s.metrics)


def check_gold(model: Path, gold: Path | None) -> None:
    """UserError if a model would be its own gold: Forget Quality is then 1 whatever the model is."""
    if gold and gold.resolve() == model.resolve():
        raise UserError(
            f"--gold {gold}: is the model itself; expected another one, which never saw the forget set"
        )


def chosen_tasks(data: Path, s, pictures: bool) -> list[Task]:
    """The tasks that the model is evaluated on; without pictures, those of text alone. UserError for --tasks of other names."""
    known = (
        tasks(s.forget, s.max_new_tokens)
        if pictures
        else text_tasks(s.forget, s.max_new_tokens, data)
    )
    if s.tasks == "all":
        return known
    named = parse_names(s.tasks, [task.name for task in known], "--tasks")
    return [task for task in known if task.name in named]


def check_rows(data: Path, s, pictures: bool, training_rows=()) -> None:
    """UserError for a row or picture that is wrong, before anything is trained or written: every picture is decoded once."""
    rows = [
        *training_rows,
        *(row for task in chosen_tasks(data, s, pictures) for row in read_rows(data, task.config)),
    ]
    pictures = {row.image: row.where for row in rows if row.image is not None}
    bar = Progress("check pictures", len(pictures), "picture")
    for path, where in pictures.items():
        open_image(path, where)
        bar.step()
    bar.close()


def inputs(data: Path, *models: Path | str | None) -> dict[str, str]:
    """SHA-256 of everything a run reads: each model's files, rows and phrases of the data, and one for all its pictures."""
    files = [
        path
        for model in models
        if model
        for path in sorted(Path(model).iterdir())
        if path.suffix in (".json", ".jinja", ".safetensors")
    ]
    pictures = sorted(
        path
        for path in data.glob("**/*")
        if path.is_file() and path.suffix not in (".jsonl", ".json", ".txt")
    )
    return run_directory.hashes(
        [*files, *sorted(data.glob("**/rows.jsonl")), *phrase_files(data)]
    ) | {f"{data}, pictures": run_directory.hash_of_all(data, pictures)}


def options_for(method: str, semantics: str, recipe_name: str, seed: int, given: dict):
    """The variant's options: its own defaults, the embedded world's where they differ, the run's seed, what was given."""
    known = setting_names(table.variant(method, semantics).options)
    defaults = MINI_OPTIONS.get(method, {}) if recipe_name == "mini" else {}
    defaults = {name: value for name, value in {**defaults, "seed": seed}.items() if name in known}
    return table.make_options(method, {**defaults, **given}, semantics), set(defaults) - {"seed"}
