"""A method on tensors made for a proof: every option of every meaning, the loss with its gradient, and a VLM small enough."""

import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from clear_ref import methods
from clear_ref.common.settings import field_choices
from clear_ref.data.draws import uniform_vector
from clear_ref.losses.outputs import Outputs
from clear_ref.mini.directories import BASE
from clear_ref.model.vlm import VLM
from clear_ref.oracle.reference import cases

NEAR = (
    "npo",
    "released@2024-12-10",
)  # NaN where a log-ratio is below -1: proved on a teacher that is near


@dataclass(frozen=True)
class Result:
    """Loss and named terms as numbers, the gradient in each batch's student tensor; scale: the sum of the terms' sizes."""

    loss: float
    terms: dict[str, float]
    gradients: dict[str, torch.Tensor]

    @property
    def scale(self) -> float:
        """Rounding errors of the loss are in proportion to this."""
        return max(1.0, sum(map(abs, self.terms.values())))


def option_sets(method: str, semantics: str) -> list[dict]:
    """Options to prove a meaning with: its own; each other choice of each option of words; all numbers doubled.

    Where random answers are asked for there are two of them: more prove nothing new.
    """
    kind = methods.variant(method, semantics).options
    few = {"n_random": 2} if any(f.name == "n_random" for f in fields(kind)) else {}
    words = [
        {f.name: word, **few}
        for f in fields(kind)
        if f.type is str
        for word in field_choices(kind, f.name)
        if word != f.default
    ]
    numbers = {f.name: 2 * f.default for f in fields(kind) if f.type is float}
    doubled = (
        [numbers | {"retain_weight": 2.0} if "retain_weight" in numbers else numbers]
        if numbers
        else []
    )
    return [few, *words, *({**one, **few} for one in doubled)]


def shape_for(method: str, semantics: str, usual: str = "plain") -> str:
    """The shape of cases.py that a meaning is proved on."""
    return "near" if (method, semantics) == NEAR else usual


def batches(
    method: str, semantics: str, given: dict, shape: str = "plain", same: bool = False
) -> dict[str, Outputs]:
    """{batch name: Outputs} that the meaning reads, float64; same: the teacher is the student."""
    found = {}
    for name, one in cases.Case(method, semantics, tuple(given.items()), shape).batches.items():
        arrays = {key: torch.from_numpy(array) for key, array in one.items()}
        student = {key: arrays[key] for key in ("logits", "hidden") if key in arrays}
        teacher = {
            f"teacher_{key}": tensor if same else arrays[f"teacher_{key}"]
            for key, tensor in student.items()
            if f"teacher_{key}" in arrays
        }
        found[name] = Outputs(
            student.get("logits"),
            arrays["labels"],
            teacher.get("teacher_logits"),
            arrays["attention_mask"],
            student.get("hidden"),
            teacher.get("teacher_hidden"),
        )
    return found


def field(outputs: Outputs) -> str:
    """The student's tensor of a batch: logits or hidden."""
    return "hidden" if outputs.logits is None else "logits"


def loss(method: str, semantics: str, given: dict, outputs: dict[str, Outputs], **others) -> Result:
    """The package's loss with the options given, and its gradient."""
    leaves = {
        name: getattr(one, field(one)).detach().clone().requires_grad_()
        for name, one in outputs.items()
    }
    moved = {name: replace(one, **{field(one): leaves[name]}) for name, one in outputs.items()}
    found = methods.method_loss(method, moved, semantics, **given, **others)
    slopes = torch.autograd.grad(found.value, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }
    return Result(
        float(found.value.detach()),
        {name: float(term.detach()) for name, term in found.terms.items()},
        gradients,
    )


def value(method: str, semantics: str, given: dict, outputs: dict[str, Outputs]) -> float:
    """The loss alone."""
    with torch.no_grad():
        return float(methods.method_loss(method, outputs, semantics, **given).value)


def direction(key: str, shape) -> torch.Tensor:
    """A float64 tensor of norm 1, a pure function of its arguments."""
    drawn = torch.from_numpy(
        2 * uniform_vector(0, f"direction/{key}", torch.Size(shape).numel()) - 1
    ).reshape(shape)
    return drawn / drawn.norm()


def write_tiny(directory: Path) -> None:
    """A LLaVA directory with the embedded world's tokenizer, three layers of width 24 and no weights."""
    directory.mkdir(parents=True)
    for path in BASE.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copyfile(path, directory / path.name)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
    }
    config["vision_config"] |= {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 16,
    }
    config["image_seq_length"] = 9
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    processor = json.loads((directory / "processor_config.json").read_text(encoding="utf-8"))
    (directory / "processor_config.json").write_text(
        json.dumps(processor | {"patch_size": 16}), encoding="utf-8"
    )


def tiny_vlm(directory: Path) -> VLM:
    """The model of `write_tiny`'s directory in float64, weights drawn by name, with adapters that have moved from their start."""
    vlm = VLM(directory, torch.float64, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in vlm.weights().items():
            drawn = torch.from_numpy(uniform_vector(7, name, tensor.numel())).reshape(tensor.shape)
            tensor.copy_(drawn - 0.5 + (tensor.dim() == 1))
        vlm.add_lora(2, 2.0)
        for name, tensor in vlm.model.named_parameters():
            if name.endswith("lora_B"):
                tensor.copy_(
                    0.2
                    * torch.from_numpy(uniform_vector(8, name, tensor.numel())).reshape(
                        tensor.shape
                    )
                    - 0.1
                )
    return vlm
