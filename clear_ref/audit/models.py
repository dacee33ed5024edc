"""Trains and measures the models of an audit; what is done stays on disk and is not done again.

Below OUT/models/NAME: model/ (the weights), trace.jsonl, logs/CONDITION/TASK.json as of an
evaluation, scores/CONDITION.json (the membership scores, written after the logs), and checkpoint/
while something is unfinished. A stopped audit goes on after the last epoch, group of records or
step of relearning, and ends with the same bytes.

trained    the model as it is
relearned  after a few steps on a few forget records, as in relearning.py, its adapters merged
N bits     with weights rounded to N bits, as in rounding.py
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import read_json, write_json
from clear_ref.common.processes import map_in_processes
from clear_ref.common.progress import Progress, only_line
from clear_ref.common.run_directory import CHECKPOINT_DIRECTORY, LOGS_DIRECTORY
from clear_ref.evaluation.evaluate import EvaluationSettings, run_tasks
from clear_ref.evaluation.kept_scores import scores_problem
from clear_ref.evaluation.leakage import asked_records
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.membership_scores import ComparedScores, membership_scores
from clear_ref.evaluation.relearning import relearn
from clear_ref.evaluation.robustness import RobustnessPlan
from clear_ref.evaluation.rounding import merged_layers, rounded_layers
from clear_ref.evaluation.tasks import Task
from clear_ref.loop.finetune import finetune
from clear_ref.loop.history import FILE, read_history, write_history
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.mini.build_models import finetune_plan
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .kept_logs import checked_log
from .members import GOLD, WITH, Member

TRAINED = "trained"
RELEARNED = "relearned"
MODELS = "models"  # in the run directory
FORMAT = "clear_ref.audit_scores/1"
Scores = dict[str, dict[str, ComparedScores]]  # of membership_scores


@dataclass(frozen=True)
class Experiment:
    """How every model is trained and measured; everything is checked.

    start            directory of the model that all begin with; load: (directory) -> model
    split            name of the split without the people to forget, such as retain90
    recipe           of the training, recipe_name its name; relearn_recipe: of relearning
    robustness       the relearned records, the bits, the records that membership compares
    out              the run directory
    """

    start: Path
    load: Callable[[Path], VLM]
    split: str
    recipe: Recipe
    recipe_name: str
    relearn_recipe: Recipe
    tasks: tuple[Task, ...]
    evaluation: EvaluationSettings
    robustness: RobustnessPlan
    out: Path

    def conditions(self) -> list[str]:
        """The states in which a model is measured, `trained` first."""
        return [TRAINED, RELEARNED, *(f"{bits} bits" for bits in self.robustness.bits)]

    def conditions_of(self, member: Member) -> list[str]:
        """Gold is what others are compared with, so it is measured as trained alone."""
        return [TRAINED] if member.kind == GOLD else self.conditions()

    def directory(self, member: Member) -> Path:
        """Where all of a model is."""
        return self.out / MODELS / member.name

    def plan_of(self, member: Member) -> FinetunePlan:
        """The records that each step of its training sees."""
        return plan_of(member, self.robustness.directory, self.split)


def plan_of(member: Member, data: Path, split: str) -> FinetunePlan:
    """The records that each step of a model's training sees.

    split  the one without the people to forget
    """
    return finetune_plan(data, "full" if member.kind == WITH else split, member.seed)


def make_all(experiment: Experiment, members: list[Member], n_processes: int) -> None:
    """Every model, trained and measured; member i by process i % n_processes.

    raises  UserError, before anything is computed, if what is done is damaged; RunFailed at the end
            if a training failed: the other models are done and stay
    """

    def made(member: Member, bar: Progress) -> str:
        try:
            make(experiment, member)
        except RunFailed as error:
            return f"{member.name}: {error}"
        bar.step(note=member.name)
        return ""

    map_in_processes(lambda member: check_measured(experiment, member), members, n_processes)
    with only_line("models of the audit", len(members[::n_processes]), "model") as bar:
        texts = map_in_processes(lambda member: made(member, bar), members, n_processes)
    failed = [text for text in texts if text]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(members)} models, first {failed[0]}")


def make(experiment: Experiment, member: Member) -> None:
    """Train one model and measure it in every condition, as far as that is not done."""
    directory = experiment.directory(member)
    if not (directory / "model" / FILE).exists():
        train(experiment, member)
    left = [
        condition
        for condition in experiment.conditions_of(member)
        if not scores_file(directory, condition).exists()
    ]
    if left:
        vlm = trained(experiment, member)
        for condition in left:
            measure(experiment, member, vlm, condition)
    shutil.rmtree(directory / CHECKPOINT_DIRECTORY, ignore_errors=True)


def trained(experiment: Experiment, member: Member) -> VLM:
    """The trained model; UserError if its files are missing or damaged."""
    directory = experiment.directory(member)
    try:
        return experiment.load(directory / "model")
    except UserError as error:
        again = f"remove the directory {directory}, and --resume --out DIR trains it again"
        raise UserError(f"{error}; {again}") from None


def train(experiment: Experiment, member: Member) -> None:
    """Fine-tune the start on the member's plan, and write its weights; the history is last."""
    directory = experiment.directory(member)
    vlm = experiment.load(experiment.start)
    plan = experiment.plan_of(member)
    prepare(vlm, experiment.recipe, member.seed)
    finetune(
        vlm,
        plan,
        experiment.recipe,
        member.seed,
        member.name,
        directory,
        resume=True,
        begin_again=f"remove the directory {directory}, and --resume --out DIR trains it again",
    )
    vlm.merge_lora()
    vlm.save(directory / "model")
    write_history(
        directory / "model",
        read_history(experiment.start),
        command="metrics-audit",
        recipe=experiment.recipe_name,
        split="full" if member.kind == WITH else experiment.split,
        seed=member.seed,
        rows=plan.rows,
    )
    shutil.rmtree(directory / CHECKPOINT_DIRECTORY, ignore_errors=True)


def measure(experiment: Experiment, member: Member, vlm: VLM, condition: str) -> None:
    """Write logs and membership scores of the model in one condition; the model is restored."""
    plan = experiment.robustness
    if condition == TRAINED:
        write_measured(experiment, member, vlm, condition)
    elif condition == RELEARNED:
        last = plan.measured_steps[-1]

        def measured(step: int) -> dict[str, float | None]:
            with merged_layers(lora.linear_layers(vlm.model)):
                write_measured(experiment, member, vlm, condition)
            return {}

        relearn(
            vlm,
            FinetunePlan(plan.relearned, plan.phrases, plan.settings.seed),
            experiment.relearn_recipe,
            [last],
            {},
            measured,
            experiment.directory(member) / CHECKPOINT_DIRECTORY / RELEARNED,
        )
    else:
        with rounded_layers(vlm.model, int(condition.split()[0]), plan.settings.round_group):
            write_measured(experiment, member, vlm, condition)


def write_measured(experiment: Experiment, member: Member, vlm: VLM, condition: str) -> None:
    """The logs and scores of the model as it is now; finished groups of records are kept."""
    directory = experiment.directory(member)
    plan = experiment.robustness
    kept = directory / CHECKPOINT_DIRECTORY / f"measured {condition}"
    logs = run_tasks(
        vlm,
        plan.directory,
        plan.phrases,
        list(experiment.tasks),
        experiment.evaluation,
        f"{member.name}, {condition}",
        kept,
    )
    settings = plan.settings
    scores = membership_scores(vlm, plan.compared, settings.min_k, settings.gradnorm, kept)
    for task, log in logs.items():
        write_json(logs_directory(directory, condition) / f"{task}.json", log)
    write_json(scores_file(directory, condition), {"format": FORMAT, "scores": scores})


def logs_directory(directory: Path, condition: str) -> Path:
    """Where the logs of a model in one condition are."""
    return directory / LOGS_DIRECTORY / condition.replace(" ", "")


def scores_file(directory: Path, condition: str) -> Path:
    """The file of a model's membership scores in one condition; it is written last."""
    return directory / "scores" / f"{condition.replace(' ', '')}.json"


def read_scores(experiment: Experiment, member: Member, condition: str) -> Scores:
    """The membership scores of a model that was measured.

    raises  UserError for a damaged file, or one without every score of every record
    """
    file = scores_file(experiment.directory(member), condition)
    plan = experiment.robustness
    with naming(experiment, member, condition, file):
        content = object_in(file)
        problem = scores_problem(content.get("scores"), plan.compared, plan.settings.gradnorm)
        if content.get("format") != FORMAT:
            problem = f"format is {shown(content.get('format'))}; expected {FORMAT!r}"
        if problem:
            raise UserError(problem)
    return cast(Scores, content["scores"])


def read_logs(experiment: Experiment, member: Member, condition: str) -> Logs:
    """The logs of a model that was measured.

    raises  UserError for a file that is missing or damaged
    """
    folder = logs_directory(experiment.directory(member), condition)
    plan, limit = experiment.robustness, experiment.evaluation.limit
    logs = {}
    for task in experiment.tasks:
        asked = asked_records(task, plan.directory, plan.phrases, limit).items
        path = folder / f"{task.name}.json"
        with naming(experiment, member, condition, path):
            indices = [str(item.index) for item in asked]
            logs[task.name] = checked_log(object_in(path), task, indices)
    return logs


def check_measured(experiment: Experiment, member: Member) -> None:
    """UserError if a file of a condition in which a model was measured is missing or damaged."""
    for condition in experiment.conditions_of(member):
        if scores_file(experiment.directory(member), condition).exists():
            read_scores(experiment, member, condition)
            read_logs(experiment, member, condition)


@contextmanager
def naming(experiment: Experiment, member: Member, condition: str, path: Path) -> Iterator[None]:
    """A UserError inside the block gets the file, and what to do so that the model is measured
    again."""
    try:
        yield
    except UserError as error:
        file = scores_file(experiment.directory(member), condition)
        again = f"remove {file}, and --resume --out DIR measures {member.name} again"
        raise UserError(f"{path}: {error}; {again}") from None


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError, without the file's name, if there is none."""
    if not path.exists():
        raise UserError("no such file")
    try:
        return read_json(path)
    except UserError:
        raise UserError("is not the JSON object that was written there") from None
