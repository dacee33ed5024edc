"""The training loop: forward, the method's loss, backward, AdamW, linear decay after warm-up.

One optimiser step takes batch_size * accumulate records. They are computed `records_at_once` at a
time, and each reduction divides by the counts of the whole step, so the parts add up to the loss of
the one big batch. The parts are cut from the whole step, so its cut into batch_size and accumulate
changes no bit. With records_at_once = 1 nothing is padded.

A stage that is `by_batch` is the exception, as its authors' trainers are: each batch_size records
are padded together and give a loss of their own, and the step is the mean of these. This holds for
an incomplete last step too; the released trainer divides that by `accumulate` all the same, or
moves it into the next epoch, depending on its version.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, product
from math import isfinite
from pathlib import Path
from typing import cast

import torch
from torch.nn.utils import clip_grad_norm_

from clear_ref.common import distributed
from clear_ref.common.errors import RunFailed
from clear_ref.common.progress import Progress
from clear_ref.common.run_directory import CHECKPOINT_DIRECTORY
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from . import checkpoint
from .engine import Engine
from .norms import Norms
from .plan import Plan, order
from .recipes import Recipe
from .sharding import restore_whole, whole
from .stage import Stage, trainable
from .step import step_loss
from .teacher import Teacher
from .trace import Trace, TraceLine

AfterStep = Callable[[TraceLine], None]


@dataclass(frozen=True)
class Training:
    """One stage on one plan.

    out     run directory: trace.jsonl gets one line per step, checkpoint/ the state after every
            epoch; None: neither
    resume  continue from out/checkpoint; the end has the same bytes as that of an uninterrupted run
    """

    plan: Plan
    stage: Stage
    recipe: Recipe
    seed: int
    out: Path | None = None
    resume: bool = False

    def n_steps(self) -> int:
        """Optimiser steps of the whole stage; the last step of a pass has what is left of it."""
        return self.epoch_ends()[-1]

    def epoch_ends(self) -> list[int]:
        """How many steps are made at the end of each epoch."""
        per_pass = -(-len(self.plan) // self.records_per_step())
        n_passes = [len(self.stage.passes(epoch)) for epoch in range(self.recipe.epochs)]
        return [per_pass * passes for passes in accumulate(n_passes)]

    def records_per_step(self) -> int:
        """Records of one optimiser step."""
        return self.recipe.batch_size * self.recipe.accumulate


def learning_rate(recipe: Recipe, step: int, n_steps: int, steps_per_epoch: int) -> float:
    """Linear warm-up over the first warmup_epochs, then linear decay to zero after the last step.

    step  counts from 0
    """
    warm = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1)
    return recipe.lr * (n_steps - step) / max(n_steps - warm, 1)


def train(
    vlm: VLM,
    training: Training,
    teacher: Teacher | None = None,
    after_step: AfterStep | None = None,
) -> int:
    """Train the model's trainable parameters in place; returns the number of steps of the stage.

    teacher     the frozen model; None: the model as it is now, if the stage needs one
    after_step  called after every step with its line of the trace; it must not change the model
    raises      RunFailed if a loss or gradient is not finite
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(training.recipe.threads)
    try:
        trainer = Trainer(vlm, training, teacher)
        trainer.run(after_step)
        trainer.engine.end()
        return trainer.n_steps
    finally:
        torch.set_num_threads(threads_before)


class Trainer:
    """The state of one training: parameters, optimiser, steps made."""

    def __init__(self, vlm: VLM, training: Training, teacher: Teacher | None) -> None:
        self.vlm = vlm
        self.training = training
        adapted = bool(lora.adapters(vlm.model))
        # The regularisation and the teacher keep the weights of the start: before any restore.
        if teacher is None and training.stage.needs_teacher:
            teacher = Teacher(vlm)
        self.teacher = teacher
        # The engine may share out the parameters: before anything that keeps them.
        self.engine = Engine(vlm, teacher, sharded=not adapted)
        self.parameters = trainable(vlm)
        self.optimiser = adamw(self.parameters, training.recipe)
        self.n_steps = training.n_steps()
        self.norms = Norms(self.parameters, training.recipe, adapted)
        self.step = 0
        self.epoch = 0
        self.trace = Trace(training.out if distributed.is_first() else None, training.stage.name)
        if training.resume:
            self._restore()
        self.trace.keep(self.step)

    def run(self, after_step: AfterStep | None) -> None:
        """All epochs that are left; a checkpoint after each."""
        stage, plan = self.training.stage, self.training.plan
        per_step = self.training.records_per_step()
        bar = Progress(f"train {stage.name}", self.n_steps, done=self.step)
        for epoch in range(self.epoch, self.training.recipe.epochs):
            visited = order(self.training.seed, epoch, len(plan))
            starts = range(0, len(plan), per_step)
            for phase, start in product(stage.passes(epoch), starts):
                line = self._one_step(phase, epoch, visited[start : start + per_step])
                if after_step is not None:
                    after_step(line)
                bar.step(note=f"loss {line['loss']:.4g}")
            self.trace.write()
            self._save(epoch + 1)
        bar.close()

    def _one_step(self, phase: Stage, epoch: int, indices: Sequence[int]) -> TraceLine:
        """One optimiser step on these records of the plan; returns its line of the trace."""
        started = time.monotonic()
        recipe, stage = self.training.recipe, self.training.stage
        rate = learning_rate(recipe, self.step, self.n_steps, self.n_steps // recipe.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        value, terms, n_answer_tokens = step_loss(
            self.vlm, self.training.plan, phase, self.teacher, recipe, epoch, indices, self.engine
        )
        self.engine.check()
        value, terms = self.norms.add(value, terms)
        norm = float(whole(clip_grad_norm_(self.parameters.values(), recipe.clip)))
        if not (isfinite(value) and isfinite(norm)):
            self.trace.write()
            raise RunFailed(
                f"{stage.name}, step {self.step + 1}: loss is {value}, gradient norm {norm}; "
                f"terms {terms}; lower --lr or look at the data of this step"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        fields = {
            "stage": stage.name,
            "step": self.step,
            "epoch": epoch,
            **({"phase": phase.name} if stage.phases else {}),
            "loss": value,
            "terms": terms,
            "gradient_norm": norm,
            "lr": rate,
            "answer_tokens": n_answer_tokens,
            "seconds": round(time.monotonic() - started, 4),
        }
        line = cast(TraceLine, fields)
        self.trace.add(line)
        return line

    def _restore(self) -> None:
        """Continue from the checkpoint, if it is one of this stage."""
        if self.training.out is None:
            return
        directory = self.training.out / CHECKPOINT_DIRECTORY
        state = distributed.from_first(lambda: checkpoint.read_state(directory))
        if state is not None and state["stage"] == self.training.stage.name:
            checkpoint.check_plan(directory, state, self.n_steps, self.training.epoch_ends())
            tensors = state_tensors(self.optimiser, self.parameters)
            restore_whole(tensors, partial(checkpoint.restore, directory))
            self.step = state["step"]
            self.epoch = state["epoch"]

    def _save(self, epochs_done: int) -> None:
        if self.training.out is None:
            return
        tensors = {}
        for name, tensor in state_tensors(self.optimiser, self.parameters).items():
            value = whole(tensor)  # all processes take part in this, one tensor after the other
            if distributed.is_first():
                tensors[name] = value
        if distributed.is_first():
            self._write(epochs_done, tensors)

    def _write(self, epochs_done: int, tensors: dict[str, torch.Tensor]) -> None:
        assert self.training.out is not None
        checkpoint.save(
            self.training.out / CHECKPOINT_DIRECTORY,
            stage=self.training.stage.name,
            step=self.step,
            n_steps=self.n_steps,
            epoch=epochs_done,
            tensors=tensors,
        )


def adamw(parameters: dict[str, torch.Tensor], recipe: Recipe) -> torch.optim.AdamW:
    """The optimiser, with the zero moments that its first step would make.

    So a checkpoint names every parameter, whether it was stepped or not.
    """
    optimiser = torch.optim.AdamW(
        parameters.values(),
        lr=recipe.lr,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    for parameter in parameters.values():
        optimiser.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimiser


def state_tensors(
    optimiser: torch.optim.Optimizer, parameters: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Everything that a resumed run needs, by name: parameters and AdamW's moments."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    return tensors
