"""A saved directory says one dtype at every level, in both spellings, and transformers loads it.

The comparison needs the extra `parity`.
"""

import json
import shutil

import pytest

from clear_ref import load
from clear_ref.mini.directories import BASE
from clear_ref.model.config_values import with_dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_old_and_new_spelling_say_the_dtype_of_the_weights_at_every_level(tmp_path, dtype):
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    shutil.copytree(BASE, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["torch_dtype"] = "float16"
    config["text_config"]["dtype"] = "float16"
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    load(tmp_path / "old", dtype).save(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "config.json").read_text())
    for part in (saved, saved["text_config"], saved["vision_config"]):
        # transformers 4.45 reads torch_dtype alone, 5 takes dtype first.
        assert part["torch_dtype"] == dtype and part.get("dtype", dtype) == dtype
    assert saved["dtype"] == dtype
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "new")
    assert {str(tensor.dtype) for tensor in model.parameters()} == {f"torch.{dtype}"}
    for part in (model.config, model.config.text_config, model.config.vision_config):
        assert str(part.dtype) == f"torch.{dtype}"


def test_a_config_without_the_old_spelling_gets_none():
    config = {"model_type": "llava", "text_config": {"vocab_size": 9}, "vision_config": None}
    assert with_dtype(config, "float32") == {**config, "dtype": "float32"}
