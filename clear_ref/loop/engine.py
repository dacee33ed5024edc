"""The loss of a part, and the exchange of gradients between processes.

One process: forward and backward, nothing else. Several processes that torchrun started: PyTorch's
DistributedDataParallel (DDP) around the same forward; for full fine-tuning FSDP2, which also shares
out the weights (sharding.py). For adapters on a frozen model that is shared out (model/sharded.py)
gradients are exchanged here, after the last part. Every loss is (sum of this process's numerators)
/ (count over all processes), and each of these ways takes the mean over processes; so the loss is
multiplied by the number of processes, and the gradient is that of one process.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clear_ref.common import collectives, distributed
from clear_ref.common.errors import RunFailed
from clear_ref.losses.planning import plan
from clear_ref.methods import Need
from clear_ref.model.base_model import Model
from clear_ref.model.vlm import VLM

from .batch_rows import Batches, Key, all_batch_rows
from .sharding import share_out, skeleton, whole
from .stage import Stage, trainable
from .teacher import Teacher

RowTotals = dict[str, dict[str, int]]  # {batch name: {row set: number of rows}}
Terms = Mapping[str, Tensor]  # by name


@dataclass(frozen=True)
class Work:
    """A part, encoded.

    batches              by name
    n_sequences, n_rows  by which reductions divide
    key                  of the random choices of a loss
    share                weight of the part's loss in that of the step; 0: it is not counted
    indices              of the records in the plan
    """

    batches: Batches
    n_sequences: int
    n_rows: Mapping[str, dict[str, int]]
    key: Key
    share: float
    indices: Sequence[int] = ()


class Watch(ABC):
    """Sees what a step computes, and changes nothing. probes: whether `see` is called."""

    probes: bool

    @abstractmethod
    def count(self, totals: list[RowTotals], needs: Mapping[str, Need]) -> None:
        """See how many rows each batch of the step has."""

    @abstractmethod
    def see(self, work: Work, terms: Terms, hidden: Terms) -> None:
        """See the terms of a part, and the student's hidden states by batch, before backward."""


class PartLoss(nn.Module):
    """The loss of a part as a module: everything that reads a weight is inside its forward."""

    def __init__(self, vlm: VLM, teacher: Teacher | None) -> None:
        super().__init__()
        self.model = vlm.model
        self.vlm = vlm
        self.teacher = teacher

    def forward(
        self, stage: Stage, work: Work, watch: Watch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its named terms without gradient."""
        hidden: dict[str, Tensor] | None = None
        if watch is not None and watch.probes:
            hidden = {}
        rows = all_batch_rows(
            self.vlm,
            work.batches,
            stage,
            self.teacher,
            work.n_sequences,
            work.n_rows,
            work.key,
            hidden,
        )
        factor = work.share * distributed.size()
        plan(lambda zeros: factor * stage.loss(zeros).value, rows)
        loss = stage.loss(rows)
        if watch is not None and hidden is not None:
            watch.see(work, loss.terms, hidden)
        return loss.value, {name: term.detach() for name, term in loss.terms.items()}


class Engine:
    """Computes the parts of a step; then the gradients are those of all processes.

    sharded  share out the weights over the processes, until `end`; a frozen model that is shared
             out already stays so
    """

    def __init__(self, vlm: VLM, teacher: Teacher | None, sharded: bool = False) -> None:
        self.vlm = vlm
        self.module: nn.Module = PartLoss(vlm, teacher)
        self.checked = distributed.size() == 1
        self.whole: Model | None = None
        self.frozen_is_shared_out = vlm.is_shared_out
        self.group = collectives.group_of(vlm.device) if distributed.size() > 1 else None
        if self.frozen_is_shared_out:
            return
        if distributed.size() > 1 and sharded:
            self.whole = skeleton(vlm.model)
            copied = None if teacher is None else teacher.copy
            share_out(vlm, self.module, None if copied is None else copied.model)
        elif distributed.size() > 1:
            # DDP prints a warning in every process if all parameters are used: this one never is.
            unused = nn.Parameter(torch.zeros(1, device=vlm.device))
            self.module.register_parameter("unused", unused)
            # Which weights a part uses depends on its records (pictures, or text alone).
            # init_sync: every process has read the same files. forward_sync_buffers: otherwise
            # every forward is a collective operation.
            self.module = DistributedDataParallel(
                self.module,
                process_group=self.group,
                init_sync=False,
                find_unused_parameters=True,
                forward_sync_buffers=False,
            )

    def backward(
        self, stage: Stage, works: Sequence[Work], watch: Watch | None = None
    ) -> tuple[float, dict[str, float]]:
        """The loss and named terms of a step; backward of each part adds to .grad.

        works  the parts of this process; every process has as many
        """
        n_processes = distributed.size()
        value = 0.0
        terms: dict[str, float] = {}
        for number, work in enumerate(works, 1):
            with self._exchange(number == len(works)):
                loss, named = self.module(stage, work, watch)
                (work.share * n_processes * loss).backward()
            value += work.share * float(loss.detach())
            for name, term in named.items():
                terms[name] = terms.get(name, 0.0) + work.share * float(term)
        if self.frozen_is_shared_out:
            average_gradients(trainable(self.vlm).values(), self.group)
        sums = collectives.total(torch.tensor([value, *terms.values()], dtype=torch.float64))
        return float(sums[0]), dict(zip(terms, sums[1:].tolist(), strict=True))

    def search(self, stage: Stage, works: Sequence[Work], watch: Watch) -> None:
        """Compute the parts of a step once more, for a watch alone, without backward."""
        for work in works:
            with self._exchange(False):
                self.module(stage, work, watch)

    def _exchange(self, last: bool) -> AbstractContextManager[None]:
        """Inside the block gradients are added up in this process alone, but for the last part."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        if self.whole is not None:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]  # FSDP2's method
        return nullcontext()

    @property
    def shares_out(self) -> bool:
        """True while the weights are shared out over the processes."""
        return self.whole is not None

    def end(self) -> None:
        """Give every process the whole model again, if its weights were shared out."""
        if self.whole is None:
            return
        values = {
            name: whole(parameter).detach() for name, parameter in self.vlm.model.named_parameters()
        }
        self.whole.load_state_dict(values, assign=True)
        self.vlm.model = self.whole
        self.whole = None

    def check(self) -> None:
        """RunFailed unless all processes have the same gradients; done after the first step alone.

        A parameter that the exchange does not know keeps another gradient in each process.
        """
        if self.checked:
            return
        self.checked = True
        norms = {
            name: -1.0 if parameter.grad is None else float(whole(parameter.grad.norm()))
            for name, parameter in trainable(self.vlm).items()
        }
        first, *others = distributed.gather(norms)
        for process, other in enumerate(others, 1):
            for name, norm in first.items():
                if other.get(name) != norm:
                    raise RunFailed(
                        f"the gradient of {name} has norm {other.get(name)} in process {process} "
                        f"and {norm} in process 0; expected one gradient for all processes"
                    )


def average_gradients(parameters: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
    """Replace the gradients in every process by their mean over processes.

    A parameter without a gradient in all processes keeps none. All gradients are sent at once: DDP
    would send them during the backward pass, between the weights that FSDP2 sends, in an order that
    depends on the records of a process.
    """
    tensors = list(parameters)
    used = collectives.largest(torch.tensor([int(each.grad is not None) for each in tensors]))
    own = [each for each, some in zip(tensors, used.tolist(), strict=True) if some]
    if not own:
        return
    flat = torch.cat(
        [(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in own]
    )
    dist.all_reduce(flat, group=group)
    flat /= distributed.size()
    sizes = [each.numel() for each in own]
    for each, mean in zip(own, flat.split(sizes), strict=True):
        each.grad = mean.view(each.shape).clone()
