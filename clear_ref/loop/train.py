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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice, product
from math import isfinite
from pathlib import Path
from typing import NoReturn, cast

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from clear_ref.common import collectives, distributed, stopping
from clear_ref.common.errors import RunFailed
from clear_ref.common.guards import Guard
from clear_ref.common.progress import Progress
from clear_ref.common.run_directory import CHECKPOINT_DIRECTORY
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from . import not_finite
from .checkpoint import Checkpoints, check_shared
from .engine import Engine
from .guards import Guards
from .kept import Kept
from .norms import Norms
from .plan import Plan, order
from .recipes import Recipe
from .saving import Clock, Saving
from .sharding import local_rows, restore_whole, row_ranges, rows_of, whole
from .stage import Stage, trainable
from .step import step_loss, step_work
from .teacher import Teacher
from .tower import kept_towers, tower_outputs
from .trace import Trace, TraceLine


@dataclass(frozen=True)
class AfterStep:
    """What is done between the steps; it must not change the model.

    call   gets the line of the step that was made
    again  gets the line of the step from which a resumed training goes on: the run that was
           stopped may have ended before its `call`
    long   the steps whose `call` takes long, as an evaluation: the state is saved before, and a
           signal ends it at once
    """

    call: Callable[[TraceLine], None]
    again: Callable[[TraceLine], None]
    long: Collection[int]


@dataclass(frozen=True)
class Training:
    """One stage on one plan.

    out     run directory: trace.jsonl gets one line per step, checkpoint/ the state after every
            epoch; None: neither
    resume  continue from out/checkpoint; the end has the same bytes as that of an uninterrupted
            run
    saving  when the state is saved inside an epoch, and how many states stay
    guards  those that fired before the training; the first line of the trace has them
    kept    results of the teacher that are used again; None: it always computes
    """

    plan: Plan
    stage: Stage
    recipe: Recipe
    seed: int
    out: Path | None = None
    resume: bool = False
    saving: Saving = Saving()
    guards: tuple[Guard, ...] = ()
    kept: Kept | None = None

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
    after_step  what is done between the steps
    raises      RunFailed if a loss or gradient is not finite; Stopped after a signal, when the step
                that runs is done and saved
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(training.recipe.threads)
    try:
        trainer = Trainer(vlm, training, teacher)
        trainer.run(after_step)
        trainer.check_end()
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
            teacher = Teacher(vlm, kept=training.kept)
        self.teacher = teacher
        # The engine may share out the parameters: before anything that keeps them.
        self.engine = Engine(vlm, teacher, sharded=not adapted)
        self.towers = tower_outputs(vlm, teacher, training.kept)
        self.parameters = trainable(vlm)
        self.optimiser = adamw(self.parameters, training.recipe)
        self.epoch_ends = training.epoch_ends()
        self.n_steps = self.epoch_ends[-1]
        self.norms = Norms(self.parameters, training.recipe, adapted)
        self.guards = Guards(vlm, teacher, training.stage.name, self.epoch_ends[0])
        self.step = 0
        self.trace = Trace(training.out if distributed.is_first() else None, training.stage.name)
        self.clock = Clock(training.saving.minutes)
        self.checkpoints = None if training.out is None else self._checkpoints(training.out)
        trace_bytes = self._restore() if training.resume else None
        self.trace.keep(self.step, trace_bytes)
        self.guards.restore(distributed.from_first(self.trace.of_stage))

    def run(self, after_step: AfterStep | None) -> None:
        """All steps that are left; a checkpoint after each epoch, and where `saving` says."""
        if after_step is not None and self.step:
            last = distributed.from_first(lambda: self.trace.last())
            if last is not None:
                after_step.again(last)
        bar = Progress(f"train {self.training.stage.name}", self.n_steps, done=self.step)
        with stopping.after_the_step():
            for epoch, phase, indices in self._steps_left():
                line = self._one_step(phase, epoch, indices)
                self._after(line, after_step)
                bar.step(note=f"loss {line['loss']:.4g}{self._hits()}")
        bar.close()

    def _hits(self) -> str:
        """How many results of frozen weights were found, for the progress line."""
        hits = "" if self.training.kept is None else self.training.kept.hits()
        return f", kept {hits}" if hits else ""

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
        """What follows a step: checkpoint, the end if a signal asks for it, evaluation."""
        asked = [stopping.requested(), distributed.is_first() and self.clock.is_due()]
        signal, is_time = collectives.largest(torch.tensor(asked)).tolist()  # one clock: the first
        every = self.training.saving.steps
        is_long = after_step is not None and self.step in after_step.long
        is_due = bool(is_time) or (bool(every) and self.step % every == 0)
        if signal or is_due or is_long or self.step in self.epoch_ends:
            self._save(with_table=bool(signal) or self.step in self.epoch_ends)
        if signal:
            raise stopping.Stopped(signal)
        if after_step is not None:
            with stopping.at_once() if is_long else nullcontext():
                after_step.call(line)

    def _one_step(self, phase: Stage, epoch: int, indices: Sequence[int]) -> TraceLine:
        """One optimiser step on these records of the plan; returns its line of the trace."""
        started = time.monotonic()
        recipe, stage = self.training.recipe, self.training.stage
        rate = learning_rate(recipe, self.step, self.n_steps, self.n_steps // recipe.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        watch = self.guards.watch(phase.name)
        plan, teacher = self.training.plan, self.teacher
        with kept_towers(self.towers):
            value, terms, n_answer_tokens = step_loss(
                self.vlm, plan, phase, teacher, recipe, epoch, indices, self.engine, watch
            )
        self.engine.check()
        value, terms = self.norms.add(value, terms)
        parameters = list(self.parameters.values())
        gradients = [each.grad for each in parameters if each.grad is not None]
        norm_tensor = get_total_norm(gradients)
        norm = float(whole(norm_tensor))
        fields = {
            "stage": stage.name,
            "step": self.step + 1,
            "epoch": epoch,
            **({"phase": phase.name} if stage.phases else {}),
            "loss": value,
            "terms": terms,
            "gradient_norm": norm,
            "lr": rate,
            "answer_tokens": n_answer_tokens,
        }
        line = cast(TraceLine, fields)
        if not (isfinite(value) and isfinite(norm)):
            self._fail(phase, indices, line)
        clip_grads_with_norm_(parameters, recipe.clip, norm_tensor)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        line["seconds"] = round(time.monotonic() - started, 4)
        found = self.guards.after(phase.name, self.step, watch, norm)
        if not self.trace.lines:
            found = [*self.training.guards, *found]
        self.trace.add(line, found)
        return line

    def _fail(self, phase: Stage, indices: Sequence[int], line: TraceLine) -> NoReturn:
        """End the run at a step that is not finite: RunFailed. The weights are those before it.

        The state before the step is saved; the step's line is the last one of the trace.
        """
        self._save(True)
        plan, epoch = self.training.plan, line["epoch"]
        gradients = not_finite.gradients_in_words(self.parameters)
        self.optimiser.zero_grad(set_to_none=True)
        search = not_finite.Search()
        _, works = step_work(self.vlm, plan, phase, self.training.recipe, epoch, indices)
        self.engine.search(phase, works, search)
        records = not_finite.in_words(
            search.found, line["terms"], plan, (epoch, indices, list(phase.needs))
        )
        reason = (
            f"loss is {line['loss']}, gradient norm {line['gradient_norm']}; {records}; {gradients}"
        )
        at = f"{line['stage']}, step {line['step']}"
        self.trace.add(line, [{"guard": "not_finite", "at": at, "reason": reason}])
        self.trace.write()
        advice = "look at these records, or lower --lr"
        if self.training.out is not None:
            checkpoint = self.training.out / CHECKPOINT_DIRECTORY
            advice = (
                f"the state before the step is saved in {checkpoint}: "
                "--resume --out DIR makes the step again, with the same settings; with others (a "
                "lower --lr) start a new run"
            )
        raise RunFailed(f"{at}: {reason}; {advice}")

    def check_end(self) -> None:
        """Look at what the whole stage has done; the last line of the trace has the guards."""
        found = self.guards.at_end(self.trace, self.n_steps)
        if found:
            self.trace.add_to_last(found)
            self.trace.write()

    def _checkpoints(self, out: Path) -> Checkpoints:
        """The checkpoints of this stage: where weights are shared out, each process writes its."""
        directory = out / CHECKPOINT_DIRECTORY
        ranges = row_ranges(self._state()) if self.engine.shares_out else {}
        if ranges:
            check_shared(directory)
        training = self.training
        return Checkpoints(
            directory, training.stage.name, self.epoch_ends, training.saving.keep, ranges
        )

    def _state(self) -> dict[str, torch.Tensor]:
        return state_tensors(self.optimiser, self.parameters)

    def _restore(self) -> int | None:
        """Continue from the newest checkpoint of this stage; returns its length of the trace."""
        state = None if self.checkpoints is None else self.checkpoints.newest()
        if self.checkpoints is None or state is None:
            return None
        restore = partial(self.checkpoints.restore, state)
        if self.checkpoints.ranges:
            restore(rows_of(self._state(), self.checkpoints.ranges))
        else:
            restore_whole(self._state(), restore)
        self.step = state["step"]
        return state["trace_bytes"]

    def _save(self, with_table: bool) -> None:
        """Write the trace, then a checkpoint. All processes call this.

        with_table  also write trace.csv, which is written whole each time
        """
        if with_table:
            self.trace.write()
        else:
            self.trace.append()
        if self.checkpoints is None:
            return
        ranges, first = self.checkpoints.ranges, distributed.is_first()
        own = {
            name: local_rows(tensor)
            for name, tensor in self._state().items()
            if first or name in ranges
        }
        self.checkpoints.save(self.step, self.trace.n_bytes, own)
        self.clock.begin()


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
