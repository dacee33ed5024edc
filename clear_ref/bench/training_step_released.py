"""The released way of `bench --what step`: the way of the code released with CLEAR.

PEFT around the model of transformers, a second copy of it as teacher, logits of every position.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clear_ref.data.batches import IGNORE, Batch

from .settings import EVALUATIONS
from .training_step_inputs import PAD, Inputs, Question

# In the losses below, logits that a function names stay in memory until it returns.
Mean = Callable[[Tensor, Tensor], Tensor]  # (values [B, T], labels [B, T]) -> scalar


class Released:
    """The models of the released way.

    base     the model of transformers: the teacher, and the model that is evaluated
    student  a second copy of it, in PEFT
    """

    def __init__(self, directory: Path, task: str = "") -> None:
        """For one task, only the models that it needs; without a task, both."""
        transformers = importlib.import_module("transformers")
        peft = importlib.import_module("peft")
        transformers.utils.logging.disable_progress_bar()

        def model() -> Any:
            return transformers.LlavaForConditionalGeneration.from_pretrained(
                directory / "model", dtype=torch.float32
            ).eval()

        # transformers and peft have no types here: they are optional packages.
        self.base: Any = None
        self.student: Any = None
        if task != "grad_diff":
            self.base = model().requires_grad_(False)
        if task not in EVALUATIONS:
            self.student = peft.PeftModel.from_pretrained(
                model(), directory / "adapter", is_trainable=True
            )

    def modules(self) -> list[torch.nn.Module]:
        """Every module that holds weights."""
        return [module for module in (self.base, self.student) if module is not None]

    def trained(self) -> dict[str, Tensor]:
        """The adapters' parameters by the names of PEFT's files."""
        return {
            name.replace(".default.", "."): parameter
            for name, parameter in self.student.named_parameters()
            if parameter.requires_grad
        }

    def step(self, task: str, inputs: Inputs) -> dict[str, Any]:
        """{loss} of one step; its gradients are left in the parameters."""
        loss = LOSSES[task](self, inputs)
        loss.backward()
        return {"loss": float(loss.detach())}

    def generate(self, prompts: Batch, new_tokens: int) -> list[list[int]]:
        """Greedy ids after each prompt."""
        with torch.no_grad():
            ids = self.base.generate(
                **_arguments(prompts), max_new_tokens=new_tokens, do_sample=False
            )
        return ids[:, prompts.input_ids.shape[1] :].tolist()

    def likelihood(self, questions: list[Question]) -> list[float]:
        """Summed nll of each candidate, in nats.

        One forward of all sequences of a question, each with the prompt.
        """
        sums: list[float] = []
        for prompt, candidates in questions:
            n_prompt, n = prompt.input_ids.shape[1], len(candidates)
            longest = max(len(ids) for ids in candidates)
            sequences = torch.full((n, n_prompt + longest), PAD)
            mask = torch.zeros_like(sequences)
            labels = torch.full_like(sequences, IGNORE)
            for row, ids in enumerate(candidates):
                end = n_prompt + len(ids)
                sequences[row, :n_prompt] = prompt.input_ids[0]
                sequences[row, n_prompt:end] = torch.tensor(ids)
                mask[row, :end] = 1
                labels[row, n_prompt:end] = torch.tensor(ids)
            assert prompt.pixel_values is not None
            with torch.no_grad():
                out = self.base(
                    input_ids=sequences,
                    attention_mask=mask,
                    pixel_values=prompt.pixel_values.expand(n, -1, -1, -1),
                )
            sums += _nll(out.logits, labels).sum(-1).tolist()
        return sums

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(mean nll of the answer tokens, logits [B, T, V]) of the student."""
        out = self.student(**_arguments(batch), labels=batch.labels)
        return out.loss, out.logits

    def kl(self, batch: Batch, logits: Tensor, direction: str) -> Tensor:
        """[B, T]: KL of every row; direction: teacher_student or student_teacher."""
        with torch.no_grad():
            teacher = F.log_softmax(self.base(**_arguments(batch)).logits, -1)
        student = F.log_softmax(logits, -1)
        if direction == "teacher_student":
            return F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
        return F.kl_div(teacher, student, log_target=True, reduction="none").sum(-1)


def _arguments(batch: Batch) -> dict[str, Tensor | None]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "pixel_values": batch.pixel_values,
    }


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, T - 1]: nll of each next token, 0 where its label is IGNORE."""
    return F.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=IGNORE
    )


def _over_answers(values: Tensor, labels: Tensor) -> Tensor:
    """Mean over each sequence's answer rows of values [B, T], then over sequences."""
    answers = labels[:, 1:] != IGNORE
    return ((values[:, : answers.shape[1]] * answers).sum(1) / answers.sum(1)).mean()


def _over_all(values: Tensor, labels: Tensor) -> Tensor:
    return values.mean()


def _grad_diff(way: Released, inputs: Inputs) -> Tensor:
    return way.forward(inputs["retain"])[0] - way.forward(inputs["forget"])[0]


def _kl(
    way: Released,
    inputs: Inputs,
    direction: str = "student_teacher",
    mean: Mean = _over_answers,
) -> Tensor:
    forget = way.forward(inputs["forget"])[0]
    _, logits = way.forward(inputs["retain"])
    retain_kl = way.kl(inputs["retain"], logits, direction)
    return mean(retain_kl, inputs["retain"].labels) - forget


def _scrub(
    way: Released,
    inputs: Inputs,
    direction: str = "teacher_student",
    mean: Mean = _over_answers,
) -> Tensor:
    forget, retain = inputs["forget"], inputs["retain"]
    _, forget_logits = way.forward(forget)
    retain_nll, retain_logits = way.forward(retain)
    forget_kl = mean(way.kl(forget, forget_logits, direction), forget.labels)
    retain_kl = mean(way.kl(retain, retain_logits, direction), retain.labels)
    return retain_kl - forget_kl + retain_nll


def _llmu(way: Released, inputs: Inputs, mean: Mean = _over_answers) -> Tensor:
    idk, retain = inputs["idk"], inputs["retain"]
    forget_nll, _forget_logits = way.forward(inputs["forget"])
    idk_nll, idk_logits = way.forward(idk)
    _, retain_logits = way.forward(retain)
    if mean is _over_answers:
        idk_nll = mean(_nll(idk_logits, idk.labels), idk.labels)
    retain_kl = mean(way.kl(retain, retain_logits, "student_teacher"), retain.labels)
    return retain_kl - forget_nll + idk_nll


LOSSES: dict[str, Callable[[Released, Inputs], Tensor]] = {
    "grad_diff": _grad_diff,
    "kl": _kl,
    "scrub": _scrub,
    "llmu": _llmu,
    "kl all rows": lambda way, inputs: _kl(way, inputs, "teacher_student", _over_all),
    "scrub all rows": lambda way, inputs: _scrub(way, inputs, "student_teacher", _over_all),
    "llmu all rows": lambda way, inputs: _llmu(way, inputs, _over_all),
}
