"""From settings to one frozen value that holds everything a command needs, checked.

Nothing is written or loaded: model files are checked by their headers, pictures are decoded once,
and the directory to write is chosen.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from clear_ref.common import distributed, run_directory
from clear_ref.common.devices import device_of, dtype_of
from clear_ref.common.errors import Notice, UserError
from clear_ref.common.files import files_below
from clear_ref.common.guards import DATA, Guard, fire
from clear_ref.common.progress import Progress
from clear_ref.common.run_directory import FORMAT, RunRecord
from clear_ref.common.settings import parse_names, with_sources
from clear_ref.data.chat_templates import FOLDER
from clear_ref.data.images import counting_one_colour, open_image
from clear_ref.data.paraphrases import paraphrases_file
from clear_ref.data.prompts import Phrases, phrase_files, read_phrases
from clear_ref.data.records import Row, read_rows
from clear_ref.evaluation import leakage, leakage_parts
from clear_ref.evaluation.choices import WITH_CHOICES
from clear_ref.evaluation.definitions import without_column
from clear_ref.evaluation.evaluate import EvaluationSettings
from clear_ref.evaluation.summary import TrainedParts
from clear_ref.evaluation.tasks import Task, choice_tasks, tasks, text_tasks
from clear_ref.loop.history import FILE as HISTORY_FILE
from clear_ref.loop.history import n_learned, read_history
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import forget_rows
from clear_ref.losses.implementation import choose_implementation
from clear_ref.losses.native import description
from clear_ref.mini.directories import data_directory, gold_directory, model_directory
from clear_ref.model import lora
from clear_ref.model.families import sees_pictures
from clear_ref.model.vlm import VLM, load, load_without_weights

from .given import Given
from .input_roles import weight_hashes
from .settings import Common


class ModelSettings(Protocol):
    """The settings that say which model is loaded, and how."""

    @property
    def model(self) -> str: ...
    @property
    def template(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class ModelSource:
    """A model directory, and how models are loaded.

    dtype          name of the dtype of weights and computation
    sees_pictures  False for a language model
    shard          share out the decoder layers over the processes of torchrun
    """

    model: Path
    template: str
    device: torch.device
    dtype: str
    sees_pictures: bool
    shard: bool = field(default=False, kw_only=True)

    def without_weights(self, directory: Path, adapter: str = "") -> VLM:
        """The model that `load` returns, without weights.

        raises  UserError if its files do not fit
        """
        return load_without_weights(directory, self.dtype, self.template, adapter)

    def load(self, directory: Path, adapter: str = "") -> VLM:
        """The model of a directory, with the adapter of a PEFT directory if one is named."""
        return load(directory, self.dtype, str(self.device), self.template, adapter, self.shard)


@dataclass(frozen=True)
class Inputs(ModelSource):
    """The models, the data and how models are evaluated on it.

    gold    directory; None: there is no gold model
    tasks   those of text alone for a language model
    impl    implementation of the token terms: native or torch
    hashes  SHA-256 of every file that the run reads
    not_asked  {task of --leakage: why records cannot be asked}
    """

    gold: Path | None
    data: Path
    phrases: Phrases
    tasks: tuple[Task, ...]
    evaluation: EvaluationSettings
    metrics: str
    impl: str
    hashes: dict[str, str]
    not_asked: dict[str, list[str]] = field(default_factory=dict, kw_only=True)

    @property
    def tasks_of_sets(self) -> list[Task]:
        """The tasks without those of --leakage."""
        return [task for task in self.tasks if not task.probe]


@dataclass(frozen=True)
class Resolved:
    """What a run works with. Subclasses in the files of the commands add what only they need.

    record  what settings.json will hold
    out     the directory of the run; resume: it holds the begun run
    guards  those of settings and data, which fired before the run
    """

    inputs: Inputs
    recipe: Recipe
    record: RunRecord
    out: Path
    resume: bool
    guards: tuple[Guard, ...]


def resolve_model(
    settings: ModelSettings, directory_of: Callable[[str], Path] = model_directory
) -> ModelSource:
    """The ModelSource of these settings; raises UserError for a directory, device or dtype.

    directory_of  the directory that --model names
    """
    model = directory_of(settings.model)
    dtype_of(settings.dtype)
    return ModelSource(
        model=model,
        template=settings.template,
        device=device_of(settings.device),
        dtype=settings.dtype,
        sees_pictures=sees_pictures(model),
        shard=getattr(settings, "shard", "off") == "on" and distributed.size() > 1,
    )


def check_adapter(adapter: str) -> None:
    """Raises UserError if --adapter names no directory; "" is no adapter."""
    if adapter and not Path(adapter).is_dir():
        raise UserError(
            f"--adapter {adapter}: no such directory; expected one with adapter_config.json"
        )


def resolve_inputs(
    settings: Common,
    gold: str | None = None,
    adapter: str = "",
    directory_of: Callable[[str], Path] = model_directory,
) -> Inputs:
    """The Inputs of these settings.

    gold          value of --gold; None: the command has none
    adapter       a PEFT directory that is read too
    directory_of  see resolve_model
    raises        UserError for a value or file that cannot be used
    """
    check_sizes(settings)
    source, data = resolve_model(settings, directory_of), data_directory(settings.data)
    gold_model = None if gold is None else gold_directory(gold, source.model)
    check_adapter(adapter)
    if gold_model is not None:
        check_never_saw(gold_model, forget_rows(data, settings.forget), "--gold")
    tasks = chosen_tasks(data, settings, source.sees_pictures)
    note_without_column(settings, tasks, gold_model is not None)
    phrases = read_phrases(data)
    probes, not_asked = chosen_probes(data, settings, source.sees_pictures, phrases)
    hashes = input_hashes(data, source.model, gold_model, adapter or None)
    if gold_model is not None and not adapter:
        check_gold(source.model, gold_model, hashes)
    return Inputs(
        **vars(source),
        gold=gold_model,
        data=data,
        phrases=phrases,
        tasks=(*tasks, *probes),
        evaluation=EvaluationSettings(settings.limit or None, settings.eval_batch, settings.plain),
        metrics=settings.metrics,
        impl=choose_implementation("auto", source.device, dtype_of(settings.dtype)),
        hashes=hashes | (hashes_of_paraphrases(data) if probes else {}),
        not_asked=not_asked,
    )


def check_sizes(settings: Common) -> None:
    """Raises UserError for a number that no evaluation can run with."""
    for name, least in (("limit", 0), ("max_new_tokens", 4), ("eval_batch", 1)):
        value = getattr(settings, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected {least} or more")


def check_gold(model: Path, gold: Path, hashes: Mapping[str, str]) -> None:
    """Raises UserError if a model is its own gold, also as a copy: Forget Quality is then always 1.

    hashes  {path: SHA-256}, see input_hashes
    """
    weights = weight_hashes(hashes, gold)
    if weights and weights == weight_hashes(hashes, model):
        raise UserError(
            f"--gold {gold}: is the model itself; expected another one, which never saw the "
            "forget set"
        )


def check_never_saw(model: Path, rows: list[Row], option: str) -> None:
    """Raises UserError if a model's training history holds rows of the forget set.

    Nothing is raised for a model whose history is not known.
    """
    learned = n_learned(read_history(model), rows)
    if learned:
        raise UserError(
            f"{option} {model}: was trained on {learned} rows of the forget set "
            f"({HISTORY_FILE}); expected a model that never saw them"
        )


def check_gold_files(inputs: Inputs) -> None:
    """Raises UserError if the gold model's files do not fit together."""
    if inputs.gold:
        inputs.without_weights(inputs.gold)


def chosen_tasks(data: Path, settings: Common, with_pictures: bool) -> list[Task]:
    """The evaluation tasks of --tasks; raises UserError for another name.

    Multiple-choice tasks are among all tasks only for a set of definitions that uses them.
    """
    choices: list[Task] = []
    if with_pictures:
        known = tasks(settings.forget, settings.max_new_tokens)
        choices = choice_tasks(settings.forget, settings.max_new_tokens)
    else:
        known = text_tasks(settings.forget, settings.max_new_tokens, data)
    if settings.tasks == "all":
        return [*known, *choices] if settings.metrics in WITH_CHOICES else known
    known += choices
    named = parse_names(settings.tasks, [task.name for task in known], "--tasks")
    return [task for task in known if task.name in named]


def chosen_probes(
    data: Path, settings: Common, with_pictures: bool, phrases: Phrases
) -> tuple[list[Task], dict[str, list[str]]]:
    """(tasks of --leakage, {task: why records cannot be asked}), each task with a Notice.

    raises  UserError if no record can be asked otherwise
    """
    if not getattr(settings, "leakage", False):
        return [], {}
    known = leakage.probe_tasks(settings.forget, settings.max_new_tokens, with_pictures)
    probes, not_asked = leakage.possible_tasks(known, data, phrases, settings.limit or None)
    sentences = leakage_parts.sentences(not_asked)
    if not probes:
        why = sentences[0] if sentences else "the data has none"
        raise UserError(f"--leakage: no record can be asked otherwise; {why}")
    for sentence in sentences:
        warnings.warn(Notice(sentence), stacklevel=2)
    return probes, not_asked


def hashes_of_paraphrases(data: Path) -> dict[str, str]:
    """{path: SHA-256} of the data's file of questions in other words; {} without one."""
    path = paraphrases_file(data)
    return run_directory.hashes([path]) if path.exists() else {}


def note_without_column(settings: Common, tasks: Sequence[Task], gold: bool) -> None:
    """A Notice if the tasks leave the table without a column."""
    near = without_column([task.name for task in tasks], settings.metrics, gold)
    if near:
        warnings.warn(
            Notice(
                f"--tasks {settings.tasks}: the table has no column, for {near}; the numbers of "
                "each task are printed instead"
            ),
            stacklevel=2,
        )


def check_pictures(inputs: Inputs, training_rows: Iterable[Row] = ()) -> None:
    """Decode every picture of training and evaluation; raises UserError for one that is wrong.

    A guard says how many are of one colour.
    """
    where = used_pictures(inputs, training_rows)
    bar = Progress("check pictures", len(where), "picture")
    with counting_one_colour() as blank:
        for path, place in where.items():
            open_image(path, place)
            bar.step()
    bar.close()
    if blank:
        reason = (
            f"{len(blank)} of {len(where)} pictures are one colour, on which nothing can be seen, "
            f"the first {blank[0]}"
        )
        fire("one_colour", DATA, reason)


def used_pictures(inputs: Inputs, training_rows: Iterable[Row]) -> dict[Path, str]:
    """{path: file and line of a row} of every picture of training and evaluation."""
    rows = list(training_rows)
    for task in inputs.tasks:
        rows += read_rows(inputs.data, task.config)
    found = {row.image: row.where for row in rows if row.image is not None}
    for task in inputs.tasks:
        if task.probe:
            asked = leakage.asked_records(task, inputs.data, inputs.phrases)
            for item in asked.items:
                if isinstance(item.prompt.image, Path):
                    found.setdefault(item.prompt.image, f"{task.name}, row {item.index}")
    return found


def input_hashes(data: Path, *models: Path | str | None) -> dict[str, str]:
    """{path: SHA-256} of model files, rows and phrases, and one hash of all pictures."""
    files: list[Path] = []
    for model in models:
        if model:
            files += [
                path
                for path in sorted(Path(model).iterdir())
                if path.suffix in (".json", ".jinja", ".safetensors")
            ]
            files += sorted((Path(model) / FOLDER).glob("*.jinja"))
    below = files_below(data)
    rows = [path for path in below if path.name == "rows.jsonl"]
    pictures = [path for path in below if path.suffix not in (".jsonl", ".json", ".txt")]
    return run_directory.hashes([*files, *rows, *phrase_files(data)]) | {
        f"{data}, pictures": run_directory.hash_of_all(data, pictures)
    }


def training_record(
    command: str,
    settings: Common,
    inputs: Inputs,
    recipe_name: str,
    recipe: Recipe,
    given: Given,
    sketch: VLM,
    adapted: list[str],
    tuned: Collection[str] = (),
) -> RunRecord:
    """What settings.json holds of a training run: each value with its source, and versions.

    tuned    names of the recipe's values that are the embedded world's for this method
    sketch   the model, trainable as in the run, without weights
    adapted  names of its layers with adapters
    """
    return {
        "format": FORMAT,
        "command": command,
        "impl": inputs.impl,
        "kernel": description(),
        "recipe": recipe_name,
        "settings": with_sources(settings, given.settings, recorded=given.recorded)
        | with_sources(recipe, set(given.recipe), tuned, given.recorded),
        "adapted_layers": adapted,
        "trained": lora.manifest(sketch.model),
        "inputs": inputs.hashes,
        "versions": run_directory.versions(),
    }


def trained_parts(record: RunRecord) -> TrainedParts:
    """How much of the model the run of this record trains."""
    trained = record["trained"]
    return {
        "tensors": len(trained["tensors"]),
        "parameters": trained["trainable"],
        "of": trained["total"],
        "layers": len(record["adapted_layers"]),
    }
