"""The two ways of `bench --what step`, each with step, generate and likelihood on the same inputs.

ours       this package, one record at a time, as its training does by default
released   the way of the code released with CLEAR: PEFT around the model of transformers, a second copy of it as teacher, logits
           of every position
"""

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F

from clear_ref.data.batches import IGNORE, Batch
from clear_ref.evaluation.likelihood import continuation_nll
from clear_ref.loop.stage import Stage
from clear_ref.loop.step import backward, row_totals
from clear_ref.loop.teacher import Teacher
from clear_ref.methods import needs, variant
from clear_ref.methods.table import make_options
from clear_ref.model import lora, peft_format
from clear_ref.model.vlm import load

from .training_step_inputs import EVALUATIONS, PAD, SEQUENCES


def _stage(task) -> Stage:
    """A task's batches and loss: a method's paper variant, or with " all rows" the released one."""
    method = task.removesuffix(" all rows")
    semantics = "paper" if task == method else "released"
    chosen, options = variant(method, semantics), make_options(method, {}, semantics)
    return Stage(
        task, needs(method, semantics, options), lambda batches: chosen.loss(batches, options)
    )


class Ours:
    """This package: one set of weights; the teacher, and the model that is evaluated, is the one with its adapters off."""

    def __init__(self, directory: Path, task: str = ""):
        self.vlm = load(directory / "model")
        self.vlm.load_adapter(directory / "adapter")
        for adapter in lora.adapters(self.vlm.model).values():
            adapter.requires_grad_(True)
        self.teacher = Teacher(self.vlm)

    def modules(self):
        """Every module that holds weights."""
        return [self.vlm.model]

    def trained(self) -> dict:
        """The adapters' parameters by PEFT's names."""
        return peft_format.tensors(self.vlm.model, self.vlm.family.name)

    def step(self, task, inputs) -> dict:
        """{loss, terms: its named parts} of one step; its gradients are left in the parameters."""
        stage = _stage(task)
        encoded = [
            {name: _alone(inputs[name], row) for name in stage.needs} for row in range(SEQUENCES)
        ]
        keys = [(0, row) for row in range(SEQUENCES)]
        found = backward(
            self.vlm,
            encoded,
            stage,
            self.teacher,
            SEQUENCES,
            row_totals(encoded, stage.needs),
            keys,
        )
        return dict(zip(("loss", "terms"), found))

    def generate(self, prompts, new_tokens) -> list[list[int]]:
        """Greedy ids after each prompt."""
        with self.vlm.adapters_off():
            return self.vlm.generate_ids(prompts, new_tokens).tolist()

    def likelihood(self, questions) -> list[float]:
        """Summed nll of each candidate, in nats."""
        with self.vlm.adapters_off():
            return [
                total
                for prompt, candidates in questions
                for total, _ in continuation_nll(
                    self.vlm, prompt, self.vlm.prefill(prompt), [[(0, ids) for ids in candidates]]
                )[0]
            ]


def _alone(batch, row) -> Batch:
    """One row without its padding: a record as the loop encodes it when it takes one at a time."""
    real = batch.attention_mask[row].bool()
    return Batch(
        *(
            tensor[row, real][None]
            for tensor in (batch.input_ids, batch.attention_mask, batch.labels)
        ),
        batch.pixel_values[row : row + 1],
    )


class Released:
    """The released code's way: PEFT around the model of transformers, a second copy as teacher, logits of every position."""

    def __init__(self, directory: Path, task: str = ""):
        """For one task only what it needs; without one both models."""
        transformers, peft = (importlib.import_module(name) for name in ("transformers", "peft"))
        transformers.utils.logging.disable_progress_bar()

        def model():
            return transformers.LlavaForConditionalGeneration.from_pretrained(
                directory / "model", dtype=torch.float32
            ).eval()

        self.plain, self.student = None, None
        if task != "grad_diff":
            self.plain = model().requires_grad_(False)
        if task not in EVALUATIONS:
            self.student = peft.PeftModel.from_pretrained(
                model(), directory / "adapter", is_trainable=True
            )

    def modules(self):
        """Every module that holds weights."""
        return [module for module in (self.plain, self.student) if module is not None]

    def trained(self) -> dict:
        """The adapters' parameters by the names of PEFT's files."""
        return {
            name.replace(".default.", "."): p
            for name, p in self.student.named_parameters()
            if p.requires_grad
        }

    def step(self, task, inputs) -> dict:
        """{loss} of one step; its gradients are left in the parameters."""
        loss = RELEASED_LOSSES[task](self, inputs)
        loss.backward()
        return {"loss": float(loss.detach())}

    def generate(self, prompts, new_tokens) -> list[list[int]]:
        """Greedy ids after each prompt."""
        with torch.no_grad():
            found = self.plain.generate(
                **_given(prompts), max_new_tokens=new_tokens, do_sample=False
            )
        return found[:, prompts.input_ids.shape[1] :].tolist()

    def likelihood(self, questions) -> list[float]:
        """Summed nll of each candidate, in nats: one forward of a question's six sequences, prompt included."""
        found = []
        for prompt, ids in questions:
            T, K = prompt.input_ids.shape[1], len(ids)
            longest = max(map(len, ids))
            whole = torch.full((K, T + longest), PAD)
            mask, labels = torch.zeros_like(whole), torch.full_like(whole, IGNORE)
            for row, candidate in enumerate(ids):
                whole[row, :T], whole[row, T : T + len(candidate)] = (
                    prompt.input_ids[0],
                    torch.tensor(candidate),
                )
                mask[row, : T + len(candidate)] = 1
                labels[row, T : T + len(candidate)] = torch.tensor(candidate)
            with torch.no_grad():
                out = self.plain(
                    input_ids=whole,
                    attention_mask=mask,
                    pixel_values=prompt.pixel_values.expand(K, -1, -1, -1),
                )
            found += _nll(out.logits, labels).sum(-1).tolist()
        return found

    def forward(self, batch):
        """(mean nll of the answer tokens, logits [B, T, V]) of the student."""
        out = self.student(**_given(batch), labels=batch.labels)
        return out.loss, out.logits

    def kl(self, batch, logits, towards: str):
        """[B, T]: KL of every row, teacher_student or student_teacher."""
        with torch.no_grad():
            teacher = F.log_softmax(self.plain(**_given(batch)).logits, -1)
        student = F.log_softmax(logits, -1)
        first, second = (teacher, student) if towards == "teacher_student" else (student, teacher)
        return F.kl_div(second, first, log_target=True, reduction="none").sum(-1)


def _given(batch):
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "pixel_values": batch.pixel_values,
    }


def _nll(logits, labels):
    """[B, T - 1]: of each next token, 0 where its label is IGNORE."""
    return F.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=IGNORE
    )


def _over_answers(values, labels):
    """Mean over each sequence's answer rows of values [B, T], then over sequences."""
    answers = labels[:, 1:] != IGNORE
    return ((values[:, : answers.shape[1]] * answers).sum(1) / answers.sum(1)).mean()


def _released_grad_diff(way, inputs):
    return way.forward(inputs["retain"])[0] - way.forward(inputs["forget"])[0]


def _released_kl(way, inputs, direction="student_teacher", mean=_over_answers):
    forget, (_, logits) = way.forward(inputs["forget"])[0], way.forward(inputs["retain"])
    return mean(way.kl(inputs["retain"], logits, direction), inputs["retain"].labels) - forget


def _released_scrub(way, inputs, direction="teacher_student", mean=_over_answers):
    (_, of_forget), (retain, of_retain) = (
        way.forward(inputs[name]) for name in ("forget", "retain")
    )
    away, near = (
        mean(way.kl(inputs[name], logits, direction), inputs[name].labels)
        for name, logits in (("forget", of_forget), ("retain", of_retain))
    )
    return near - away + retain


def _released_llmu(way, inputs, mean=_over_answers):
    forget, (idk, of_idk), (_, of_retain) = (
        way.forward(inputs[name]) for name in ("forget", "idk", "retain")
    )
    if mean is _over_answers:
        idk = mean(_nll(of_idk, inputs["idk"].labels), inputs["idk"].labels)
    return (
        mean(way.kl(inputs["retain"], of_retain, "student_teacher"), inputs["retain"].labels)
        - forget[0]
        + idk
    )


def _over_all(values, _):
    return values.mean()


RELEASED_LOSSES = {
    "grad_diff": _released_grad_diff,
    "kl": _released_kl,
    "scrub": _released_scrub,
    "llmu": _released_llmu,
    "kl all rows": lambda way, inputs: _released_kl(way, inputs, "teacher_student", _over_all),
    "scrub all rows": lambda way, inputs: _released_scrub(
        way, inputs, "student_teacher", _over_all
    ),
    "llmu all rows": lambda way, inputs: _released_llmu(way, inputs, _over_all),
}


WAYS = {"ours": Ours, "released": Released}
