"""The two ways of `bench --what step`, each with step, generate and likelihood on the same inputs.

ours       this package, one record at a time, as it trains by default
released   the code released with CLEAR (training_step_released.py)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from clear_ref.data.batches import Batch
from clear_ref.evaluation.likelihood import continuation_nll
from clear_ref.loop.engine import Engine, Work
from clear_ref.loop.share import Part
from clear_ref.loop.stage import Stage
from clear_ref.loop.step import row_totals
from clear_ref.loop.teacher import Teacher
from clear_ref.methods import needs, variant
from clear_ref.methods.table import make_options
from clear_ref.model import lora, peft_format
from clear_ref.model.vlm import load

from .generation_parts import generation_parts
from .training_step_inputs import SEQUENCES, Inputs, Question
from .training_step_released import Released


class Way(Protocol):
    """One way to compute the tasks."""

    def modules(self) -> list[torch.nn.Module]:
        """Every module that holds weights."""

    def trained(self) -> dict[str, Tensor]:
        """The adapters' parameters by PEFT's names."""

    def step(self, task: str, inputs: Inputs) -> dict[str, Any]:
        """{loss} of one step, ours with {terms}; its gradients are left in the parameters."""

    def generate(self, prompts: Batch, new_tokens: int) -> list[list[int]]:
        """Greedy ids after each prompt."""

    def likelihood(self, questions: list[Question]) -> list[float]:
        """Summed nll of each candidate, in nats."""


def stage_of(task: str) -> Stage:
    """A task's batches and loss: a method's paper variant; with " all rows" the released one."""
    method = task.removesuffix(" all rows")
    semantics = "paper" if task == method else "released"
    chosen = variant(method, semantics)
    options = make_options(method, {}, semantics)
    return Stage(
        task, needs(method, semantics, options), lambda batches: chosen.loss(batches, options)
    )


class Ours:
    """This package: one set of weights.

    The teacher, and the model that is evaluated, is the same model with its adapters off.
    """

    def __init__(self, directory: Path, task: str = "") -> None:
        self.vlm = load(directory / "model")
        self.vlm.load_adapter(directory / "adapter")
        for adapter in lora.adapters(self.vlm.model).values():
            adapter.requires_grad_(True)
        self.teacher = Teacher(self.vlm)

    def modules(self) -> list[torch.nn.Module]:
        """Every module that holds weights."""
        return [self.vlm.model]

    def trained(self) -> dict[str, Tensor]:
        """The adapters' parameters by PEFT's names."""
        return peft_format.tensors(self.vlm.model, self.vlm.family.name)

    def step(self, task: str, inputs: Inputs) -> dict[str, Any]:
        """{loss, terms: its named parts} of one step; its gradients are left in the parameters."""
        stage = stage_of(task)
        batches: dict[str, Batch] = {
            "forget": inputs["forget"],
            "retain": inputs["retain"],
            "idk": inputs["idk"],
        }
        encoded = [
            {name: record_alone(batches[name], row) for name in stage.needs}
            for row in range(SEQUENCES)
        ]
        parts = [Part([row], 0, row) for row in range(SEQUENCES)]
        [n_rows] = row_totals(encoded, parts, stage.needs, 1)
        works = [
            Work(batches, SEQUENCES, n_rows, (0, row), 1) for row, batches in enumerate(encoded)
        ]
        loss, terms = Engine(self.vlm, self.teacher).backward(stage, works)
        return {"loss": loss, "terms": terms}

    def generate(self, prompts: Batch, new_tokens: int) -> list[list[int]]:
        """Greedy ids after each prompt."""
        with self.vlm.adapters_off():
            return self.vlm.generate_ids(prompts, new_tokens).tolist()

    def generation_parts(self, prompts: Batch, new_tokens: int) -> dict[str, dict[str, float]]:
        """Where the time of generate goes, see generation_parts.py."""
        return generation_parts(self.vlm.model, lambda: self.generate(prompts, new_tokens))

    def likelihood(self, questions: list[Question]) -> list[float]:
        """Summed nll of each candidate, in nats."""
        sums = []
        with self.vlm.adapters_off():
            for prompt, candidates in questions:
                pieces = [[(0, ids) for ids in candidates]]
                # The prefilled prompt has no name here, so that it is freed after the call.
                values = continuation_nll(self.vlm, prompt, self.vlm.prefill(prompt), pieces)[0]
                sums += [total for total, _ in values]
        return sums


def record_alone(batch: Batch, row: int) -> Batch:
    """One row without its padding, as the loop encodes a record when it takes one at a time."""
    real = batch.attention_mask[row].bool()
    assert batch.pixel_values is not None
    return Batch(
        batch.input_ids[row, real][None],
        batch.attention_mask[row, real][None],
        batch.labels[row, real][None],
        batch.pixel_values[row : row + 1],
    )


WAYS: dict[str, Callable[[Path, str], Way]] = {"ours": Ours, "released": Released}
