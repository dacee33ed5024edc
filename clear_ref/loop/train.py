"""The training loop: forward, the method's loss, backward, AdamW, linear decay after warm-up.

One optimiser step takes batch_size * accumulate records. They are computed `records_at_once` at a time, and each reduction
divides by the counts of the whole step, so the parts add up to the loss of the one big batch, however it is cut. The parts are
cut from the whole step, so how it splits into batch_size and accumulate cannot change a bit. With records_at_once = 1 nothing
is ever padded. A stage that is `by_batch` is the exception, as its authors' trainers are: each batch_size records are padded
together and are a loss of their own, and the step is the mean of them. (So is an incomplete last step; the released trainer
divides that by `accumulate` all the same, or carries it into the next epoch, by version.)
"""

import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from clear_ref.common.errors import RunFailed, ShapeError
from clear_ref.common.files import write_text
from clear_ref.common.progress import Progress
from clear_ref.losses.rows import BatchRows, select_rows
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from . import checkpoint, prefix
from .norms import Norms
from .plan import order
from .teacher import Teacher


@dataclass(frozen=True)
class Stage:
    """One training run inside a run: its name, what each batch needs, and the loss of the batches.

    by_batch  see above; mask: label mask (VLM.encode)
    phases    stages that take turns in every epoch, each with a pass over the plan; none: this stage itself
    epochs    a phase is part of the first so many epochs; None: of all
    """

    name: str
    needs: dict
    loss: object
    hidden_layer: int | None = None
    by_batch: bool = False
    mask: str = "answer"
    phases: tuple["Stage", ...] = ()
    epochs: int | None = None

    def passes(self, epoch: int) -> list["Stage"]:
        """What is done in an epoch, in order: each a pass over the plan."""
        return [one for one in self.phases or (self,) if one.epochs is None or epoch < one.epochs]


def learning_rate(recipe, step: int, n_steps: int, steps_per_epoch: int) -> float:
    """Linear warm-up over the first warmup_epochs, then linear decay to zero after the last step. step counts from 0."""
    warm = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1)
    return recipe.lr * (n_steps - step) / max(n_steps - warm, 1)


def trainable(vlm: VLM) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {
        name: parameter
        for name, parameter in vlm.model.named_parameters()
        if parameter.requires_grad
    }


def all_batch_rows(
    vlm: VLM, batches: dict, stage: Stage, teacher, n_sequences, n_rows, key=(0, 0)
) -> dict[str, BatchRows]:
    """Every batch as the method sees it: student and teacher by row, or their hidden states at a layer."""
    layers = {
        name: stage.hidden_layer if need.hidden else None for name, need in stage.needs.items()
    }
    student, frozen, starts = {}, {}, {}
    for names in prefix.groups(vlm, batches, layers):
        start = min(first_row(batches[name], stage.needs[name]) for name in names)
        watched = [name for name in names if stage.needs[name].teacher]
        if watched:
            frozen |= zip(
                watched,
                teacher.hidden_of_all([batches[name] for name in watched], layers[names[0]], start),
            )
        student |= zip(
            names,
            prefix.hidden_of_all(vlm, [batches[name] for name in names], layers[names[0]], start),
        )
        starts |= dict.fromkeys(names, start)
    found = {}
    for name, need in stage.needs.items():
        if need.hidden:
            found[name] = BatchRows(
                labels=batches[name].labels,
                attention_mask=batches[name].attention_mask,
                n_sequences=n_sequences,
                n_rows=n_rows.get(name),
                hidden=student[name],
                teacher_hidden=frozen.get(name),
                key=key,
            )
        else:
            found[name] = BatchRows(
                labels=batches[name].labels,
                attention_mask=batches[name].attention_mask,
                student_logits=rows_of(vlm, student[name], starts[name]),
                teacher_logits=rows_of(teacher, frozen.get(name), starts[name]),
                n_sequences=n_sequences,
                n_rows=n_rows.get(name),
                key=key,
            )
    return found


def rows_of(model, hidden, start: int):
    """A function of (sequence [n], position [n]): logits [n, V] of hidden states [B, T - start, D], which begin at `start`."""
    if hidden is None:
        return None

    def logits(sequence, position):
        if bool((position < start).any()):
            raise ShapeError(
                f"row {int(position.min())} of the logits is read, and those from {start} on are computed; "
                "expected a Need that names every row set which the loss reads"
            )
        return model.head(hidden[sequence, position - start])

    return logits


def first_row(batch, need) -> int:
    """The first position of a batch at which anything is read: of logits that of the first row, of hidden states 0."""
    if need.hidden:
        return 0
    positions = torch.cat(
        [select_rows(batch.labels, batch.attention_mask, row_set).position for row_set in need.rows]
    )
    return int(positions.min()) if len(positions) else 0


def step_loss(
    vlm: VLM, plan, stage: Stage, teacher, recipe, epoch: int, indices
) -> tuple[float, dict, int]:
    """Backward of one optimiser step; returns its loss, its named terms and the number of answer tokens trained on."""
    at_once = recipe.batch_size if stage.by_batch else recipe.records_at_once
    slices = [indices[i : i + at_once] for i in range(0, len(indices), at_once)]
    encoded = []
    for part in slices:
        views = [plan.records(epoch, index) for index in part]
        encoded.append(
            {name: vlm.encode([view[name] for view in views], stage.mask) for name in stage.needs}
        )
    n_rows = row_totals(encoded, stage.needs)
    n_tokens = sum(counts.get("answer", 0) for counts in n_rows.values())
    keys = [(epoch, part[0]) for part in slices]
    value, terms = backward(vlm, encoded, stage, teacher, len(indices), n_rows, keys)
    return value, terms, n_tokens


def row_totals(encoded, needs) -> dict[str, dict[str, int]]:
    """{batch name: {row set that is needed of it: its rows in all parts of the step}}."""
    return {
        name: {
            row_set: sum(
                len(select_rows(batches[name].labels, batches[name].attention_mask, row_set).labels)
                for batches in encoded
            )
            for row_set in need.rows
        }
        for name, need in needs.items()
    }


def backward(
    vlm: VLM, encoded, stage: Stage, teacher, n_sequences: int, n_rows, keys
) -> tuple[float, dict]:
    """Backward of a step's parts, each {batch name: Batch}; returns the step's loss and named terms.

    n_sequences, n_rows  totals of the whole step, by which reductions divide; a stage that is by_batch takes each part's own
    keys                 for each part, what its BatchRows' random choices are functions of
    """
    value, terms = 0.0, {}
    if stage.by_batch:
        n_sequences, n_rows = None, {}
    share = 1 / len(encoded) if stage.by_batch else 1
    for key, batches in zip(keys, encoded, strict=True):
        loss = stage.loss(all_batch_rows(vlm, batches, stage, teacher, n_sequences, n_rows, key))
        (share * loss.value).backward()
        value += share * float(loss.value.detach())
        for name, term in loss.terms.items():
            terms[name] = terms.get(name, 0.0) + share * float(term.detach())
    return value, terms


def stage_steps(plan, recipe, stage: Stage) -> int:
    """Optimiser steps of a whole stage; the last step of a pass takes what is left of it."""
    per_pass = -(-len(plan) // (recipe.batch_size * recipe.accumulate))
    return per_pass * sum(len(stage.passes(epoch)) for epoch in range(recipe.epochs))


def train(
    vlm: VLM,
    plan,
    stage: Stage,
    recipe,
    seed: int,
    out: Path | None,
    resume: bool = False,
    teacher=None,
    after_step=None,
) -> int:
    """Train the model's trainable parameters in place; returns the number of optimiser steps of the whole stage.

    out     run directory: trace.jsonl gets one line a step, checkpoint/ the state after every epoch; None: neither
    teacher the frozen model; None: the model as it is now, if the stage needs one
    resume  go on from out/checkpoint, to the same bytes that a straight run reaches
    after_step  called after every step with its line of the trace; it may look at the model, not change it
    raises  RunFailed when a loss or gradient is not finite
    """
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        return run_stage(vlm, plan, stage, recipe, seed, out, resume, teacher, after_step)
    finally:
        torch.set_num_threads(before)


def run_stage(
    vlm: VLM,
    plan,
    stage: Stage,
    recipe,
    seed: int,
    out: Path | None,
    resume: bool,
    teacher,
    after_step,
) -> int:
    """What `train` does, in as many threads as are set."""
    parameters = trainable(vlm)
    optimiser = torch.optim.AdamW(
        parameters.values(),
        lr=recipe.lr,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    start_moments(optimiser, parameters)
    per_step = recipe.batch_size * recipe.accumulate
    n_steps = stage_steps(plan, recipe, stage)
    steps_per_epoch = n_steps // recipe.epochs
    norms = Norms(parameters, recipe, bool(lora.adapters(vlm.model)))
    if teacher is None and any(need.teacher for need in stage.needs.values()):
        teacher = Teacher(vlm)
    step = done = 0
    trace = Trace(out, stage.name)
    if resume:
        state = checkpoint.progress(out / "checkpoint")
        if state and state["stage"] == stage.name:
            checkpoint.restore(out / "checkpoint", state_tensors(optimiser, parameters))
            step, done = state["step"], state["epoch"]
    trace.keep(step)
    bar = Progress(f"train {stage.name}", n_steps, done=step)
    for epoch in range(done, recipe.epochs):
        visit = order(seed, epoch, len(plan))
        for one, first in product(stage.passes(epoch), range(0, len(plan), per_step)):
            started = time.monotonic()
            rate = learning_rate(recipe, step, n_steps, steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            value, terms, n_tokens = step_loss(
                vlm, plan, one, teacher, recipe, epoch, visit[first : first + per_step]
            )
            value, terms = norms.add(value, terms)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip))
            if not (value == value and abs(value) < float("inf") and norm < float("inf")):
                trace.write()
                raise RunFailed(
                    f"{stage.name}, step {step + 1}: loss is {value}, gradient norm {norm}; terms {terms}; "
                    "lower --lr or look at the data of this step"
                )
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            line = {
                "stage": stage.name,
                "step": step,
                "epoch": epoch,
                **({"phase": one.name} if stage.phases else {}),
                "loss": value,
                "terms": terms,
                "gradient_norm": norm,
                "lr": rate,
                "answer_tokens": n_tokens,
                "seconds": round(time.monotonic() - started, 4),
            }
            trace.add(line)
            if after_step is not None:
                after_step(line)
            bar.step(note=f"loss {value:.4g}")
        trace.write()
        if out is not None:
            checkpoint.save(
                out / "checkpoint",
                {"stage": stage.name, "step": step, "n_steps": n_steps, "epoch": epoch + 1},
                state_tensors(optimiser, parameters),
            )
    bar.close()
    return n_steps


def start_moments(optimiser, parameters) -> None:
    """Give AdamW the zero moments that first steps would make: a checkpoint names every parameter, stepped or not yet."""
    for parameter in parameters.values():
        optimiser.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def state_tensors(optimiser, parameters) -> dict[str, torch.Tensor]:
    """Everything that a resumed run needs, by name: parameters and AdamW's moments."""
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    return tensors


class Trace:
    """trace.jsonl: the lines of earlier stages and of the steps that the checkpoint has, then one line a step."""

    def __init__(self, out: Path | None, stage: str):
        self.path = None if out is None else out / "trace.jsonl"
        self.stage, self.lines = stage, []

    def keep(self, step: int) -> None:
        """Take over what is on disk up to this step of this stage."""
        if self.path is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["stage"] != self.stage or row["step"] <= step:
                    self.lines.append(line)

    def add(self, row: dict) -> None:
        """One more step."""
        self.lines.append(json.dumps(row))

    def write(self) -> None:
        """Put the file on disk, whole, if there is a run directory."""
        if self.path is not None:
            write_text(self.path, "".join(line + "\n" for line in self.lines))
