"""A LLaVA small enough for float64 and finite differences.

It has the embedded world's tokenizer, rows and pictures.
"""

import json
import shutil
from pathlib import Path

import torch

from clear_ref.data.torch_draws import torch_generator
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


def write_tiny(directory: Path, text: dict | None = None, vision: dict | None = None) -> Path:
    """Writes the model directory and returns its path.

    The decoder has three layers of width 24 with grouped-query attention, the vision tower three
    layers of width 16. Weights are random and depend on their names only.
    text, vision   further keys of the two configurations, or other values for those above
    """
    shutil.copytree(BASE, directory)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"] |= {**TEXT, **(text or {})}
    config["vision_config"] |= {**VISION, **(vision or {})}
    config["image_seq_length"] = 9
    (directory / "config.json").write_text(json.dumps(config))
    processor = json.loads((directory / "processor_config.json").read_text())
    processor["patch_size"] = 16
    (directory / "processor_config.json").write_text(json.dumps(processor))
    vlm = VLM(directory, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in vlm.weights().items():
            noise = torch.randn(tensor.shape, generator=torch_generator(7, name))
            is_vector = tensor.dim() == 1
            tensor.copy_(0.3 * noise + is_vector)
    vlm.save(directory)
    return directory
