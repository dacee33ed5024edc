"""Trains and scores every stage of every split: base, gold, and the methods from base.

The splits are shared out over processes, on one CPU or under torchrun; the stages of a split follow
each other, because methods begin with its base. What is finished is not done again (store.py).
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clear_ref.common.errors import Notice, RunFailed
from clear_ref.common.processes import map_in_processes
from clear_ref.common.progress import Progress, only_line

from .head import Head
from .names import Classes
from .network import ResNet18
from .recipes import VisualRecipe
from .scores import DEFINITIONS, GROUPS, accuracies, own_cosines, without_length
from .splits import Split
from .store import Result, Store, number_or_none
from .targets import embed
from .training import Faces, LogLine, Plan, check_batches, check_rows, train

BASE, GOLD = "base", "gold"


@dataclass(frozen=True)
class Experiment:
    """Everything that is trained.

    faces     of all rows, on the device
    start     the network from which base and gold are trained, on the device
    stages    base first, then gold and methods
    recipes   {stage: how it is trained}
    options   {method: its options}
    keep_all  keep the networks of all stages, not of base alone
    """

    classes: Classes
    splits: Sequence[Split]
    faces: Faces
    start: ResNet18
    semantics: str
    stages: tuple[str, ...]
    recipes: Mapping[str, VisualRecipe]
    options: Mapping[str, Any]
    seed: int
    keep_all: bool


def check_all(experiment: Experiment) -> None:
    """UserError that names the first training that could not run: before any has run."""
    for split in experiment.splits:
        for stage in experiment.stages:
            plan, rows = plan_of(experiment, split, stage), rows_of(experiment, split, stage)
            check_rows(plan, experiment.faces, rows)
            check_batches(plan, experiment.faces, rows)


def plan_of(experiment: Experiment, split: Split, stage: str) -> Plan:
    """The Plan of one training."""
    return Plan(
        f"split {split.number}",
        stage,
        experiment.semantics,
        experiment.recipes[stage],
        experiment.options.get(stage),
        experiment.seed,
    )


def rows_of(experiment: Experiment, split: Split, stage: str) -> dict[str, list[int]]:
    """{set: its pictures} of one training."""
    rows = experiment.classes.rows_of
    if stage in (BASE, GOLD):
        return {"train": rows(split.members if stage == BASE else split.retain).tolist()}
    return {"forget": rows(split.forget).tolist(), "retain": rows(split.retain).tolist()}


def train_all(experiment: Experiment, store: Store, n_processes: int) -> list[str]:
    """Train and score what is not finished; returns why methods failed, a sentence for each.

    Why a method failed is kept until it is trained again (store.py). A Notice names each network
    whose embeddings pass float32.

    n_processes  of map_in_processes, by which the splits are shared out
    raises       RunFailed if a base or a gold fails: nothing of its split can be compared then
    """
    splits = list(experiment.splits)
    own = len(splits[::n_processes])

    def compute(split: Split, bar: Progress) -> dict[str, list[str]]:
        failed, notes = [], []
        for stage in experiment.stages:
            try:
                notes += _finish(experiment, store, split, stage)
            except RunFailed as error:
                if stage in (BASE, GOLD):
                    raise
                store.write_failure(split.number, stage, str(error))
                failed.append(str(error))
            bar.step(note=f"split {split.number}, {stage}")
        return {"failed": failed, "notes": notes}

    with only_line("visual", own * len(experiment.stages), "training") as bar:
        found = map_in_processes(lambda split: compute(split, bar), splits, n_processes)
    for note in (note for of_split in found for note in of_split["notes"]):
        warnings.warn(note, Notice, stacklevel=2)
    return [reason for of_split in found for reason in of_split["failed"]]


def _finish(experiment: Experiment, store: Store, split: Split, stage: str) -> list[str]:
    """Train, score and keep one stage of one split, unless it is finished; what is to be said."""
    if store.is_finished(split.number, stage):
        return []
    began = time.monotonic()
    network, head, trace = _trained(experiment, store, split, stage)
    if stage == BASE or experiment.keep_all:
        store.write_network(split.number, stage, network, head)
    embeddings = _embeddings(experiment, network)
    accuracy, cosines = scores_of(experiment, split, embeddings)
    result = Result(accuracy, len(trace), round(time.monotonic() - began, 3))
    store.write(split.number, stage, result, cosines, trace)
    where = plan_of(experiment, split, stage).where
    return _passing_float32(where, embeddings, experiment.classes.labels)


def _trained(
    experiment: Experiment, store: Store, split: Split, stage: str
) -> tuple[ResNet18, Head, list[LogLine]]:
    """(network, head, lines of the trace) of one training."""
    start: ResNet18 = experiment.start
    head: Head | None = None
    if stage not in (BASE, GOLD):
        device = experiment.faces.labels.device
        start, head = store.network(split.number, BASE, experiment.faces.n_classes)
        start, head = start.to(device), head.to(device)
    plan, rows = plan_of(experiment, split, stage), rows_of(experiment, split, stage)
    trace: list[LogLine] = []
    network, head = train(plan, start, head, experiment.faces, rows, trace.append)
    return network, head, trace


def _embeddings(experiment: Experiment, network: ResNet18) -> np.ndarray:
    """[rows, D] float32: the embeddings of all rows."""
    pictures = experiment.faces.pictures
    return embed(network, pictures, range(len(pictures))).to("cpu", torch.float32).numpy()


def scores_of(
    experiment: Experiment, split: Split, embeddings: np.ndarray
) -> tuple[dict[str, dict[str, float | None]], dict[str, Any]]:
    """({definition: {group: accuracy}}, {definition: cosines [rows]}) of a network's embeddings."""
    labels = experiment.classes.labels
    groups = {group: getattr(split, group) for group in GROUPS}
    accuracy = {}
    for definition in DEFINITIONS:
        found = accuracies(embeddings, labels, groups, definition)
        accuracy[definition] = {group: number_or_none(found[group]) for group in GROUPS}
    cosines = {each: own_cosines(embeddings, labels, each) for each in DEFINITIONS}
    return accuracy, cosines


def _passing_float32(where: str, embeddings: np.ndarray, labels: np.ndarray) -> list[str]:
    """What is to be said if embeddings or references have no finite length in float32."""
    rows, references = without_length(embeddings, labels)
    if not rows and not references:
        return []
    return [
        f"{where}: the squared lengths of {rows} of {len(labels)} embeddings and of {references} "
        "references are too large for float32, in which the released definitions compute, so their "
        "released cosines are 0 or missing, as in the released code; those of paper are in float64"
    ]
