"""Trains the face network: pretrain, base and gold from pictures and classes, a method from base.

One process trains one network. Every draw has a key (data/draws.py), so nothing depends on
processes. On the CPU one thread computes: with more, the gradients of convolutions' weights and, in
some shapes, BN's means are summed in another order, which moves their last bits. Parallelism is
over trainings (experiment.py).

Batches of a step pass the network one after another. Targets and the base's embeddings are computed
once, before training, with BN in eval mode.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clear_ref.common.errors import RunFailed, ShapeError, UserError
from clear_ref.common.processes import one_thread
from clear_ref.common.progress import Progress
from clear_ref.data.draws import choice
from clear_ref.methods.loss import Loss

from .batches import (
    Step,
    check_full_batch,
    check_lone_pictures,
    check_pairs,
    epoch_steps,
    n_batches,
    sets_of,
)
from .head import HEAD_WEIGHT, Head, check_labels, new_head
from .methods.inputs import Batch, Inputs
from .methods.table import METHODS, make_options, variant
from .methods.terms import mean_am_softmax
from .methods.variant import Phase, Variant
from .network import ResNet18, last_positions
from .pictures import Pictures
from .recipes import VisualRecipe, learning_rate
from .targets import Targets, embed, forget_values, target_table

CLASS_STAGES = ("pretrain", "base", "gold")


@dataclass(frozen=True)
class Plan:
    """One training.

    name       what it is called in messages: "split 3"
    stage      pretrain, base, gold, or a method
    semantics  paper, released or original
    recipe     how to train
    options    the method's; None: its defaults
    seed       of all draws: 0 in the released code, for every split
    """

    name: str
    stage: str
    semantics: str
    recipe: VisualRecipe
    options: Any = None
    seed: int = 0

    @property
    def where(self) -> str:
        """The training in words, for messages."""
        return f"{self.name}, {self.stage} ({self.semantics})"


@dataclass(frozen=True)
class Faces:
    """The pictures, and what is known of each.

    labels     [n] int64: the class of each picture, in [0, n_classes)
    n_classes  people, of which a training may see a part
    captions   of each picture, for the released lookup of targets; None if not known
    """

    pictures: Pictures
    labels: Tensor
    n_classes: int
    captions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.pictures), self.n_classes)
        if self.captions is not None and len(self.captions) != len(self.pictures):
            raise ShapeError(
                f"there are {len(self.captions)} captions and {len(self.pictures)} pictures; "
                "expected as many"
            )

    def to(self, device: torch.device) -> "Faces":
        """The same on a device."""
        moved = self.pictures.to(device), self.labels.to(device)
        return Faces(*moved, self.n_classes, self.captions)


Rows = Mapping[str, Sequence[int]]  # {set: its pictures}
LogLine = dict[str, Any]  # step, epoch, rate, loss and the named terms


@dataclass
class Trainer:
    """A training while it runs; `train` makes one."""

    plan: Plan
    network: ResNet18
    head: Head
    faces: Faces
    optimizer: torch.optim.SGD
    base_weight: Tensor
    variant: Variant | None = None
    options: Any = None
    targets: Targets | None = None
    forget: frozenset[int] = frozenset()
    others: list[int] = field(default_factory=list)  # classes that a random person can have

    def batch(self, name: str, pictures: list[int], step: int) -> Batch:
        """One batch, passed through the network."""
        device = self.faces.labels.device
        pixels = self.faces.pictures.pixels(pictures).to(self.network.conv1.weight)
        values, forget = None, torch.tensor([each in self.forget for each in pictures]).to(device)
        if self.targets is not None:
            values, forget = self.targets.of(pictures)
        random = None
        if name == "forget" and self.variant is not None and self.variant.draws:
            places = [
                choice(self.plan.seed, "visual random person", step, position, len(self.others))
                for position in range(len(pictures))
            ]
            random = torch.tensor([self.others[place] for place in places], device=device)
        labels = self.faces.labels[torch.tensor(pictures, device=device)]
        return Batch(self.network(pixels), labels, values, forget, random)

    def loss(self, phase: Phase | None, step: Step, number: int, done: float) -> Loss:
        """The Loss of a step."""
        batches = {name: self.batch(name, each, number) for name, each in step.items()}
        if phase is None:
            normalise = self.plan.semantics != "released"
            return Loss.of(am=mean_am_softmax(batches["retain"], self.head.weight, normalise))
        inputs = Inputs(
            batches, self.head.weight, self.base_weight, tuple(self.network.parameters()), done
        )
        return phase.loss(inputs, self.options)

    def step(self, loss: Loss, rate: float, number: int, n_steps: int) -> dict[str, float]:
        """Move the weights; returns the terms. RunFailed if one, or a gradient, is not finite."""
        where = f"{self.plan.where}, step {number + 1} of {n_steps}"
        terms = {name: term.item() for name, term in loss.terms.items()}
        for name, value in terms.items():
            if not math.isfinite(value):
                raise RunFailed(f"{where}: term {name} is {value}; expected a finite number")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.value.backward()
        for name, parameter in self.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise RunFailed(f"{where}: the gradient of {name} is not finite")
        self.optimizer.step()
        return terms

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """The parameters of network and head by name."""
        return [*self.network.named_parameters(), (HEAD_WEIGHT, self.head.weight)]

    def check_end(self) -> None:
        """RunFailed if a weight or a running statistic is not finite after the last step."""
        for name, value in (*self.named_parameters(), *self.network.named_buffers()):
            if not bool(torch.isfinite(value).all()):
                raise RunFailed(f"{self.plan.where}: {name} is not finite after the last step")


def train(
    plan: Plan,
    network: ResNet18,
    head: Head | None,
    faces: Faces,
    rows: Rows,
    log: Callable[[LogLine], None] | None = None,
    progress: Progress | None = None,
) -> tuple[ResNet18, Head]:
    """A trained copy of the network and its head; the network given is not changed.

    head      None: a new one, of faces.n_classes people
    faces     on the network's device
    rows      pretrain, base, gold: {"train": pictures}; a method: {"forget": ..., "retain": ...}
    log       called after each step
    progress  one step for each step
    raises    UserError for a set that fills no batch, for a batch that cannot be computed, for
              people in both sets and for captions that are needed and not known; RunFailed that
              names split, stage, step and term if a loss or a gradient is not finite
    """
    cudnn = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
    with cudnn, one_thread():
        trainer = trainer_of(plan, network, head, faces, rows)
        run(trainer, rows, log, progress)
    trainer.check_end()
    trainer.network.eval()
    return trainer.network, trainer.head


def trainer_of(
    plan: Plan,
    network: ResNet18,
    head: Head | None,
    faces: Faces,
    rows: Rows,
) -> Trainer:
    """The Trainer of a plan, with its targets."""
    check_rows(plan, faces, rows)
    if head is None:
        head = new_head(faces.n_classes, network.embedding_width, plan.seed)
    student = copy.deepcopy(network)
    student_head = copy.deepcopy(head).to(network.conv1.weight)
    chosen = None if plan.stage in CLASS_STAGES else variant(plan.stage, plan.semantics)
    trained = [*student.parameters()]
    if chosen is None or chosen.trains_head:
        trained += student_head.parameters()
    trainer = Trainer(
        plan,
        student,
        student_head,
        faces,
        torch.optim.SGD(
            trained,
            lr=plan.recipe.lr,
            momentum=plan.recipe.momentum,
            weight_decay=plan.recipe.weight_decay,
        ),
        student_head.weight.detach().clone(),
        chosen,
    )
    if chosen is not None:
        trainer.options = options_of(plan)
        trainer.forget = frozenset(rows["forget"])
        labels = faces.labels.tolist()
        trainer.others = sorted({labels[each] for each in rows["retain"]})
        trainer.targets = targets_of(trainer, network, rows)
    student.train(plan.recipe.bn == "train")
    return trainer


def targets_of(trainer: Trainer, base: ResNet18, rows: Rows) -> Targets | None:
    """The targets of a method's pictures; None if its variant has none."""
    chosen = trainer.variant
    if chosen is None or chosen.target is None:
        return None
    captions = trainer.faces.captions if chosen.by_caption else None
    if chosen.by_caption and captions is None:
        raise UserError(
            f"{trainer.plan.where} looks targets up by caption text, and no caption is known; "
            "expected the caption of each picture"
        )
    pictures, seed = trainer.faces.pictures, trainer.plan.seed
    c = getattr(trainer.options, "c", 0.0)
    forget = forget_values(chosen.target, base, pictures, rows["forget"], c, seed)
    retain = embed(base, pictures, rows["retain"])
    return target_table(rows["forget"], rows["retain"], forget, retain, captions)


def check_rows(plan: Plan, faces: Faces, rows: Rows) -> None:
    """UserError unless the rows are those that the stage reads, and no person is in both sets."""
    if plan.stage not in CLASS_STAGES and plan.stage not in METHODS:
        known = ", ".join([*CLASS_STAGES, *METHODS])
        raise UserError(f"stage is {plan.stage!r}; expected one of {known}")
    expected = ["train"] if plan.stage in CLASS_STAGES else ["forget", "retain"]
    if sorted(rows) != expected:
        raise UserError(f"{plan.where}: rows are {sorted(rows)}; expected {expected}")
    for name, pictures in rows.items():
        if not pictures:
            raise UserError(f"{plan.where}: the {name} set has no picture; expected at least one")
    labels = faces.labels.tolist()
    if plan.stage in CLASS_STAGES and len({labels[each] for each in rows["train"]}) == 1:
        raise UserError(
            f"{plan.where}: all pictures of the train set are of class {labels[rows['train'][0]]}; "
            "expected two people or more"
        )
    if len(rows) == 2:
        both = {labels[each] for each in rows["forget"]} & {labels[each] for each in rows["retain"]}
        if both:
            raise UserError(
                f"{plan.where}: class {min(both)} is in the forget and in the retain set; expected "
                "each person in one of them"
            )


def options_of(plan: Plan) -> Any:
    """The options of a plan's method: those given, or its defaults."""
    if plan.options is not None:
        return plan.options
    return make_options(plan.stage, {}, plan.semantics)


def passes_of(plan: Plan, rows: Rows) -> list[list[tuple[Phase | None, dict[str, list[int]]]]]:
    """For each epoch its passes: (Phase or None, {batch name: the pictures of the pass})."""
    recipe = plan.recipe
    if plan.stage in CLASS_STAGES:
        return [[(None, {"retain": list(rows["train"])})]] * recipe.epochs
    phases = variant(plan.stage, plan.semantics).phases_of(options_of(plan))
    sets = {
        phase.name: sets_of(phase.sampling, rows["forget"], rows["retain"], recipe.forget_times)
        for phase in phases
    }
    return [
        [
            (phase, sets[phase.name])
            for phase in phases
            if phase.epochs is None or epoch < phase.epochs
        ]
        for epoch in range(recipe.epochs)
    ]


def check_batches(plan: Plan, faces: Faces, rows: Rows) -> None:
    """UserError if a pass of the training would have no step, or one that cannot be computed."""
    recipe, where = plan.recipe, plan.where
    sides = faces.pictures.sides
    one_value = recipe.bn == "train" and last_positions(*sides) == 1
    in_pairs = plan.stage in METHODS and variant(plan.stage, plan.semantics).by_position
    # Passes of later epochs have the sets of the first.
    for phase, passed in passes_of(plan, rows)[0]:
        sets = passed if phase is not None else {"train": passed["retain"]}
        check_full_batch(sets, recipe, where)
        if one_value:
            check_lone_pictures(sets, recipe, where, sides)
        if in_pairs:
            check_pairs(sets, recipe, where)


def steps_of(plan: Plan, rows: Rows) -> int:
    """The number of steps of a plan's training."""
    return sum(
        min(n_batches(len(pictures), plan.recipe) for pictures in sets.values())
        for passes in passes_of(plan, rows)
        for _, sets in passes
    )


def run(
    trainer: Trainer,
    rows: Rows,
    log: Callable[[LogLine], None] | None,
    progress: Progress | None,
) -> None:
    """All epochs of a training."""
    plan, recipe = trainer.plan, trainer.plan.recipe
    epochs = passes_of(plan, rows)
    check_batches(plan, trainer.faces, rows)
    n_steps = steps_of(plan, rows)
    number = 0
    for epoch, passes in enumerate(epochs):
        for phase, sets in passes:
            name = "" if phase is None else phase.name
            for step in epoch_steps(sets, recipe, plan.seed, epoch, name):
                rate = learning_rate(recipe, number, epoch, n_steps)
                loss = trainer.loss(phase, step, number, epoch / recipe.epochs)
                terms = trainer.step(loss, rate, number, n_steps)
                number += 1
                value = loss.value.item()
                if log is not None:
                    line = {"step": number, "epoch": epoch + 1, "rate": rate, "loss": value}
                    log({**line, **terms})
                if progress is not None:
                    progress.step(note=f"loss {value:.3f}")
