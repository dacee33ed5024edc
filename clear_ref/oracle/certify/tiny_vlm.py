"""A LLaVA small enough for finite differences in float64."""

import json
import shutil
import tempfile
from pathlib import Path

import torch

from clear_ref.data.draws import uniform_vector
from clear_ref.mini.directories import BASE
from clear_ref.model.vlm import VLM

TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 16,
}


def tiny_vlm() -> VLM:
    """The model in float64, with adapters that are not 0; weights depend on their names alone."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "tiny"
        write_tiny(directory)
        vlm = VLM(directory, torch.float64, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in vlm.weights().items():
            tensor.copy_(drawn(7, name, tensor) - 0.5 + (tensor.dim() == 1))
        vlm.add_lora(2, 2.0)
        for name, tensor in vlm.model.named_parameters():
            if name.endswith("lora_B"):
                tensor.copy_(0.2 * drawn(8, name, tensor) - 0.1)
    return vlm


def drawn(seed: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1) in the shape of the tensor."""
    return torch.from_numpy(uniform_vector(seed, name, tensor.numel())).reshape(tensor.shape)


def write_tiny(directory: Path) -> None:
    """Write the model directory: the tokenizer of the embedded world, no weights."""
    directory.mkdir(parents=True)
    for path in BASE.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copyfile(path, directory / path.name)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= TEXT
    config["vision_config"] |= VISION
    config["image_seq_length"] = 9
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = directory / "processor_config.json"
    processor = json.loads(path.read_text(encoding="utf-8")) | {"patch_size": 16}
    path.write_text(json.dumps(processor), encoding="utf-8")
