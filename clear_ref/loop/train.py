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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice, product
from math import isfinite
from pathlib import Path
from typing import cast

import torch
from torch.nn.utils import clip_grad_norm_

from clear_ref.common import distributed, stopping
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

    out         run directory: trace.jsonl gets one line per step, checkpoint/ the state after every
                epoch; None: neither
    resume      continue from out/checkpoint; the end has the same bytes as that of an uninterrupted
                run
    save_every  the state is saved after every so many steps too; 0: after epochs alone
    """

    plan: Plan
    stage: Stage
    recipe: Recipe
    seed: int
    out: Path | None = None
    resume: bool = False
    save_every: int = 0

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
    raises      RunFailed if a loss or gradient is not finite; Stopped after a signal, when the step
                that runs is done and saved
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
        self.epoch_ends = training.epoch_ends()
        self.n_steps = self.epoch_ends[-1]
        self.norms = Norms(self.parameters, training.recipe, adapted)
        self.step = 0
        self.trace = Trace(training.out if distributed.is_first() else None, training.stage.name)
        if training.resume:
            self._restore()
        self.trace.keep(self.step)

    def run(self, after_step: AfterStep | None) -> None:
        """All steps that are left; a checkpoint after each epoch, and where save_every says."""
        if after_step is not None and self.step:
            last = distributed.from_first(lambda: self.trace.last())
            if last is not None:  # a stopped run may have ended before its evaluation
                after_step(last)
        bar = Progress(f"train {self.training.stage.name}", self.n_steps, done=self.step)
        with stopping.after_the_step():
            for epoch, phase, indices in self._steps_left():
                line = self._one_step(phase, epoch, indices)
                self._after(line, after_step)
                bar.step(note=f"loss {line['loss']:.4g}")
        bar.close()

    def _steps_left(self) -> Iterator[tuple[int, Stage, Sequence[int]]]:
        """(epoch, stage, records of the plan) of every step after those that are made."""
        stage, plan = self.training.stage, self.training.plan
        per_step = self.training.records_per_step()
        begin = 0
        for epoch, end in enumerate(self.epoch_ends):
            visited = order(self.training.seed, epoch, len(plan))
            starts = range(0, len(plan), per_step)
            made = max(0, self.step - begin)
            for phase, start in islice(product(stage.passes(epoch), starts), made, None):
                yield epoch, phase, visited[start : start + per_step]
            begin = end

    def _after(self, line: TraceLine, after_step: AfterStep | None) -> None:
        """What follows a step: evaluation, checkpoint, and the end if a signal asks for it."""
        signal = int(distributed.largest(torch.tensor(stopping.requested())))
        if not signal and after_step is not None:
            try:
                with stopping.at_once():
                    after_step(line)
            except stopping.Stopped:
                if distributed.size() == 1:  # the others may be elsewhere, and would not save
                    self._save()
                raise
        every = self.training.save_every
        is_due = bool(every) and self.step % every == 0
        if signal or is_due or self.step in self.epoch_ends:
            self._save()
        if signal:
            raise stopping.Stopped(signal)

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
            checkpoint.check_plan(directory, state, self.n_steps, self.epoch_ends)
            tensors = state_tensors(self.optimiser, self.parameters)
            restore_whole(tensors, partial(checkpoint.restore, directory))
            self.step = state["step"]

    def _save(self) -> None:
        self.trace.write()
        if self.training.out is None:
            return
        tensors = {}
        for name, tensor in state_tensors(self.optimiser, self.parameters).items():
            value = whole(tensor)  # all processes take part in this, one tensor after the other
            if distributed.is_first():
                tensors[name] = value
        if distributed.is_first():
            self._write(tensors)

    def _write(self, tensors: dict[str, torch.Tensor]) -> None:
        assert self.training.out is not None
        checkpoint.save(
            self.training.out / CHECKPOINT_DIRECTORY,
            stage=self.training.stage.name,
            step=self.step,
            n_steps=self.n_steps,
            epoch=sum(end <= self.step for end in self.epoch_ends),
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
