"""A LLaVA small enough for float64 and finite differences, with the embedded world's tokenizer, rows and pictures."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from clear_ref import load
from clear_ref.common.progress import Progress
from clear_ref.data.draws import torch_generator
from clear_ref.mini.directories import BASE
from clear_ref.model.vlm import VLM

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def progress_is_shown(monkeypatch):
    """Whatever an earlier test's --quiet said."""
    monkeypatch.setattr(Progress, "quiet", False)


def write_tiny(directory, text=None, vision=None):
    """A model directory with two decoder layers of width 24, grouped-query attention and three tower layers; random weights."""
    shutil.copytree(BASE, directory)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"] |= {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        **(text or {}),
    }
    config["vision_config"] |= {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 16,
        **(vision or {}),
    }
    config["image_seq_length"] = 9
    (directory / "config.json").write_text(json.dumps(config))
    processor = json.loads((directory / "processor_config.json").read_text())
    (directory / "processor_config.json").write_text(json.dumps({**processor, "patch_size": 16}))
    vlm = VLM(directory, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in vlm.weights().items():
            tensor.copy_(
                0.3 * torch.randn(tensor.shape, generator=torch_generator(7, name))
                + (tensor.dim() == 1)
            )
    vlm.save(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny(tiny_directory):
    """The tiny model in float64, fresh for each test."""
    return load(tiny_directory, "float64")


def shared_data(*parts):
    """A path of the real test data (tokenizers, TOFU): below CLEAR_REF_SHARED_DATA, or ../shared/data; skips where it is absent."""
    path = Path(
        os.environ.get("CLEAR_REF_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data"
    ).joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f"no real data here ({'/'.join(parts)}): name its directory in CLEAR_REF_SHARED_DATA"
        )
    return path
