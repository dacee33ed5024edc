"""Guards of a training: what is watched, and when it is said. They change no number of the run.

zero_gradient    a named term of the loss whose gradient is exactly 0, with respect to the hidden
                 states that the output layer reads, in STEPS steps one after the other. Counted
                 from the step after the first one with a gradient: before it student and teacher
                 are equal, and a KL between them has no gradient. A term that had one once is not
                 looked at again. In a stage with phases each phase has its own steps. Also: no
                 step of the first epoch had a gradient
empty_rows       a row set that a loss reads and that selects no row of a batch in a step; said
                 once for each row set, and once more if it holds for every step
unchanged        no trained tensor has changed at the end of a stage; of adapters every lora_B (the
                 model computes what it did: B begins at 0, and weight decay alone changes A)
frozen_changed   a weight that is not trained, of the model or of a teacher that is a copy, has
                 changed at the end of a stage
not_finite       not_finite.py

"Changed" is judged by a checksum: the sum of the tensor's bytes as 64-bit integers, at the start
and at the end of the stage.
"""

from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor

from clear_ref.common import collectives, distributed
from clear_ref.common.guards import Guard, fire
from clear_ref.methods import Need
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .engine import RowTotals, Terms, Watch, Work
from .sharding import local_rows
from .stage import trainable
from .teacher import Teacher
from .trace import Trace, TraceLine

STEPS = 3  # steps without a gradient after which a term is named
WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)
Tensors = Mapping[str, Tensor]  # by name


class StepWatch(Watch):
    """What is seen of one step.

    probes   look for terms without gradient
    terms    {name of each term: whether it had a gradient in a part of this process}
    empty    names of batches and row sets without a row, in any batch of the step
    """

    def __init__(self, probes: bool) -> None:
        self.probes = probes
        self.terms: dict[str, bool] = {}
        self.empty: list[str] = []

    def count(self, totals: list[RowTotals], needs: Mapping[str, Need]) -> None:
        """See the number of rows of each batch of the step."""
        for name, need in needs.items():
            for row_set in need.rows:
                if any(not total[name][row_set] for total in totals):
                    self.empty.append(f"row set {row_set} of batch {name}")

    def see(self, work: Work, terms: Terms, hidden: Terms) -> None:
        """See the terms of a part, before its backward.

        A process whose parts are all not counted knows the names too: these are exchanged.
        """
        for name, term in terms.items():
            had = self.terms.setdefault(name, False)
            self.terms[name] = had or (work.share > 0 and has_gradient(term, hidden.values()))


def has_gradient(term: Tensor, hidden: Iterable[Tensor]) -> bool:
    """Whether the gradient of a term with respect to any of the hidden states is not exactly 0.

    True too where the hidden states have no gradient: then the output layer alone is trained.
    """
    if not term.requires_grad:
        return False
    inputs = [each for each in hidden if each.requires_grad]
    if not inputs:
        return True
    found = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
    return any(each is not None and bool(each.any()) for each in found)


class ZeroGradients:
    """The terms of a stage that have had no gradient since its weights move."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.moves = False  # a step had a gradient
        self.n_steps: dict[str, int] = {}  # by phase, since then
        self.without: dict[str, set[str]] = {}  # by phase: terms that never had a gradient

    def restore(self, lines: Iterable[TraceLine]) -> None:
        """Go on after these steps. The count of a phase that is not decided begins anew."""
        for line in lines:
            phase = line.get("phase", self.stage)
            if self.moves:
                self.n_steps[phase] = self.n_steps.get(phase, 0) + 1
            self.moves = self.moves or float(line["gradient_norm"]) > 0
        self.n_steps = {phase: n for phase, n in self.n_steps.items() if n >= STEPS}

    def are_wanted(self, phase: str) -> bool:
        """Whether the next step of the phase is to be looked at."""
        open_terms = self.without.get(phase) != set()
        return self.moves and open_terms and self.n_steps.get(phase, 0) < STEPS

    def after(self, phase: str, watch: StepWatch, gradient_norm: float) -> list[str]:
        """Count a step; the names of the terms that are to be said now."""
        self.moves = self.moves or gradient_norm > 0
        if not watch.probes:
            return []
        names = sorted(watch.terms)
        seen = collectives.largest(torch.tensor([int(watch.terms[name]) for name in names]))
        without = {name for name, had in zip(names, seen.tolist(), strict=True) if not had}
        self.without[phase] = without & self.without.get(phase, without)
        self.n_steps[phase] = self.n_steps.get(phase, 0) + 1
        return sorted(self.without[phase]) if self.n_steps[phase] == STEPS else []


class Guards:
    """The guards of one stage; made at its start, before a checkpoint is restored.

    steps_of_first_epoch  after which it is said that no step had a gradient
    """

    def __init__(
        self, vlm: VLM, teacher: Teacher | None, stage: str, steps_of_first_epoch: int
    ) -> None:
        self.stage = stage
        self.steps_of_first_epoch = steps_of_first_epoch
        self.zero = ZeroGradients(stage)
        self.empty: set[str] = set()
        self.trained = watched_of(trainable(vlm))
        self.frozen = frozen_tensors(vlm, teacher)
        self.at_start = checksums(self.trained), checksums(self.frozen)

    def restore(self, lines: list[TraceLine]) -> None:
        """Go on after these steps of the stage."""
        self.zero.restore(lines)
        self.empty = {each["reason"] for line in lines for each in line.get("guards", [])}

    def watch(self, phase: str) -> StepWatch:
        """What sees the next step."""
        return StepWatch(self.zero.are_wanted(phase))

    def after(self, phase: str, step: int, watch: StepWatch, gradient_norm: float) -> list[Guard]:
        """The guards of a step."""
        at = f"{self.stage}, step {step}"
        found = []
        for term in self.zero.after(phase, watch, gradient_norm):
            reason = (
                f"term {term} has a gradient of exactly 0 in the first {STEPS} steps after the "
                "weights began to move: it does nothing; look at its weight and its records"
            )
            found.append(fire("zero_gradient", at, reason))
        if step == self.steps_of_first_epoch and not self.zero.moves:
            reason = "no step of the first epoch had a gradient: nothing is learned"
            found.append(fire("zero_gradient", at, reason))
        for what in watch.empty:
            reason = f"{what} selects no row: its terms are 0 there"
            if reason in self.empty:  # said already
                found.append({"guard": "empty_rows", "at": at, "reason": reason})
            else:
                found.append(fire("empty_rows", at, reason))
            self.empty.add(reason)
        return found

    def at_end(self, trace: Trace, n_steps: int) -> list[Guard]:
        """The guards of the whole stage."""
        at = f"{self.stage}, end"
        found = []
        for reason in distributed.from_first(lambda: _in_every_line(trace.of_stage(), n_steps)):
            every = f"{reason} (in every one of {n_steps} steps)"
            found.append(fire("empty_rows", at, every))
        trained, frozen = self.at_start
        if self.trained and not different(trained, checksums(self.trained)):
            reason = "no trained tensor has changed: the model is what it was before the training"
            found.append(fire("unchanged", at, reason))
        names = different(frozen, checksums(self.frozen))
        if names:
            reason = (
                f"{len(names)} of {len(frozen)} weights that are not trained have changed, first "
                f"{names[0]}: a teacher computes with them, so the loss is another one"
            )
            found.append(fire("frozen_changed", at, reason))
        return found


def _in_every_line(lines: list[TraceLine], n_steps: int) -> list[str]:
    """The reasons of empty_rows that all steps of a stage have, if there are several steps."""
    n_times: dict[str, int] = {}
    for line in lines:
        for guard in line.get("guards", []):
            if guard["guard"] == "empty_rows" and guard["at"].endswith(f"step {line['step']}"):
                n_times[guard["reason"]] = n_times.get(guard["reason"], 0) + 1
    return [reason for reason, n in n_times.items() if n == n_steps > 1]


def watched_of(trained: Tensors) -> dict[str, Tensor]:
    """Of adapters every lora_B, else all trained tensors; see `unchanged` above."""
    of_b = {name: tensor for name, tensor in trained.items() if name.endswith("lora_B")}
    return of_b or dict(trained)


def frozen_tensors(vlm: VLM, teacher: Teacher | None) -> dict[str, Tensor]:
    """Every weight that the training must not change, by name."""
    found = {
        name: parameter.detach()
        for name, parameter in vlm.model.named_parameters()
        if not parameter.requires_grad
    }
    for name, adapter in lora.adapters(vlm.model).items():
        for number, tensor in enumerate(adapter.reference or ()):
            found[f"reference of {name}, {'AB'[number]}"] = tensor
    if teacher is not None and teacher.copy is not None:
        for name, parameter in teacher.copy.model.named_parameters():
            found[f"teacher's {name}"] = parameter.detach()
    return found


@torch.no_grad()
def checksums(tensors: Tensors) -> dict[str, int]:
    """{name: the sum of the bytes as 64-bit integers}; of a tensor that is shared out, of its part
    in this process.
    """
    sums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    return {name: int(value) for name, value in sums.items()}


def _checksum(tensor: Tensor) -> Tensor:
    data = local_rows(tensor)
    if not data.untyped_storage().size():  # no values, or FSDP2 has released them
        return torch.zeros((), dtype=torch.int64)
    data = data.contiguous().view(-1).view(torch.uint8)
    # The widest word that the place and the number of the bytes allow.
    step = next(
        word
        for word in WORDS
        if not data.storage_offset() % word.itemsize and not prod(data.shape) % word.itemsize
    )
    return data.view(step).sum(dtype=torch.int64)


def different(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The names whose checksum has changed, in any process."""
    names = list(before)
    changed = torch.tensor([int(before[name] != after[name]) for name in names])
    together = collectives.largest(changed).tolist()
    return [name for name, has_changed in zip(names, together, strict=True) if has_changed]
