"""An adapter in a model's own directory is loaded or left out on the user's word only, never
unseen; a saved directory is one that transformers opens, with nothing left of an earlier one.

transformers loads such a directory with its adapter. Tolerance of logits: 5e-5, as in
test_parity.py.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.model import lora
from clear_ref.model.families import sees_pictures
from clear_ref.model.model_directory import COPIED
from clear_ref.model.vlm import load_without_weights
from tests.helpers.peft_files import CONFIG, TODAY, WEIGHTS, write_adapter

ATOL = 5e-5
RECORDS = [Record("Who is it?", "a name", Image.radial_gradient("L")), Record("What?", "that")]


@pytest.fixture
def both(tiny_directory, tmp_path):
    """A directory with the tiny model and an adapter of two layers."""
    directory = tmp_path / "both"
    shutil.copytree(tiny_directory, directory)
    adapter = write_adapter(tmp_path / "a", load(tiny_directory).model, TODAY, lora_alpha=0.01)
    for name in (CONFIG, WEIGHTS):
        shutil.copy(adapter / name, directory / name)
    return directory


def logits(vlm):
    """Our logits of RECORDS, and the batch."""
    batch = vlm.encode(RECORDS)
    return vlm.forward(batch.input_ids, batch.attention_mask, batch.pixel_values).detach(), batch


@pytest.mark.parametrize("loading", [load, load_without_weights])
def test_a_model_with_an_adapter_beside_it_is_loaded_only_if_the_user_says_how(
    both, tiny_directory, loading
):
    for adapter in ("", tiny_directory):
        with pytest.raises(UserError, match="stands beside a model, and transformers loads"):
            loading(both, adapter=adapter)
    assert set(lora.adapters(loading(both, adapter=both).model)) == set(TODAY)
    (both / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"stands beside a model without {WEIGHTS}.*remove it"):
        loading(both)
    (both / CONFIG).unlink()
    assert not lora.adapters(loading(both).model)


@pytest.mark.slow
def test_with_its_adapter_it_gives_the_logits_of_transformers(both, tiny_directory):
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    pytest.importorskip("peft", reason="the parity extra is not installed")
    found, batch = logits(load(both, adapter=both))
    alone, _ = logits(load(tiny_directory))
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(both, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits
    real = batch.attention_mask.bool()
    assert float((found - expected)[real].abs().max()) < ATOL
    assert float((alone - expected)[real].abs().max()) > 0.1


def test_a_directory_with_an_adapter_alone_is_no_model(both):
    for name in ("config.json", "model.safetensors"):
        (both / name).unlink()
    for read in (load, sees_pictures):
        with pytest.raises(UserError, match="holds an adapter and no model; .*--adapter"):
            read(both)


@pytest.mark.slow
def test_what_is_saved_with_an_adapter_is_one_whole_model_for_transformers(both, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    vlm = load(both, adapter=both)
    expected, batch = logits(vlm)
    vlm.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / CONFIG).exists()
    theirs, info = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits
    real = batch.attention_mask.bool()
    assert float((found - expected)[real].abs().max()) < ATOL
    transformers.AutoProcessor.from_pretrained(tmp_path / "saved")


def test_only_files_for_text_and_pictures_are_copied_and_none_of_an_earlier_model_stays(
    tiny_directory, tmp_path
):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(tiny_directory, source)
    for name in ("trainer_state.json", "model.safetensors.index.json", "notes.md", "old.jinja"):
        (source / name).write_text("{}")
    (source / "merges.txt").write_text("#version: 0.2\n")
    further = Path("additional_chat_templates")
    for directory, name in ((source, "tools.jinja"), (target, "rag.jinja")):
        (directory / further).mkdir(parents=True)
        (directory / further / name).write_text("{{ bos_token }}")
    for name in ("chat_template.json", "video_preprocessor_config.json", "theirs.txt"):
        (target / name).write_text("{}")
    load(source).save(target)
    ours = {name for name in COPIED if (source / name).is_file()}
    assert {path.name for path in target.iterdir()} == ours | {
        "config.json",
        "model.safetensors",
        "theirs.txt",
        str(further),
    }
    assert [path.name for path in (target / further).iterdir()] == ["tools.jinja"]
    assert all((target / name).read_bytes() == (source / name).read_bytes() for name in ours)


def test_nothing_is_saved_over_an_adapter(tiny, tmp_path):
    """transformers would add it to the saved weights."""
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="an adapter, which transformers would add"):
        tiny.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]
