"""Values that no float or memory holds, and directories that cannot be written: one error line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_ref import load
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.mini.directories import BASE

HUGE = 10**400


@pytest.fixture
def model(tmp_path):
    shutil.copytree(BASE, tmp_path / "model")
    return tmp_path / "model"


def edit(directory, name, **changes):
    path = directory / name
    values = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if isinstance(value, dict):
            values[key] = values[key] | value
        else:
            values[key] = value
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("preprocessor_config.json", "rescale_factor", HUGE),
        ("preprocessor_config.json", "image_mean", [HUGE, 0.5, 0.5]),
        ("generation_config.json", "exponential_decay_length_penalty", [-HUGE, 2]),
        ("generation_config.json", "exponential_decay_length_penalty", [1, HUGE]),
        ("generation_config.json", "exponential_decay_length_penalty", [1, float("nan")]),
        ("generation_config.json", "sequence_bias", [[[5], float("nan")]]),
        ("generation_config.json", "repetition_penalty", HUGE),
        ("config.json", "vision_config", {"layer_norm_eps": HUGE}),
        ("config.json", "text_config", {"rms_norm_eps": HUGE}),
    ],
)
def test_a_number_that_no_float_holds_is_refused_by_name(model, name, key, value):
    edit(model, name, **{key: value})
    with pytest.raises(UserError) as caught:
        load(model)
    named = key if "NaN" in json.dumps(value) else "holds the number"
    assert name in str(caught.value) and named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alpha_that_no_float_holds_is_refused_by_name(model, tmp_path):
    vlm = load(model)
    vlm.add_lora(rank=1)
    vlm.save_adapter(tmp_path / "adapter")
    for change in ({"lora_alpha": HUGE}, {"alpha_pattern": {"q_proj": HUGE}}):
        shutil.copytree(tmp_path / "adapter", tmp_path / "spoilt", dirs_exist_ok=True)
        edit(tmp_path / "spoilt", "adapter_config.json", **change)
        with pytest.raises(UserError, match="adapter_config.json: holds the number 1000"):
            load(model, adapter=tmp_path / "spoilt")


def test_sizes_that_no_memory_holds_are_compared_with_the_weights_first(model):
    edit(model, "config.json", text_config={"hidden_size": 1 << 23, "intermediate_size": 1 << 23})
    with pytest.raises(UserError, match="tensors do not fit the model"):
        load(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_save_writes_nothing_where_a_folder_has_the_name_of_a_file(model, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name}: is a folder; expected a file"):
        load(model).save(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_save_into_a_file_is_refused(model, tmp_path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is a file; expected a directory"):
        load(model).save(tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_a_save_that_fails_in_the_weights_changes_nothing(model, tmp_path, monkeypatch):
    vlm = load(model)
    vlm.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out/training_history.json").write_text("mine", encoding="utf-8")

    def full_disk(model, name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clear_ref.model.lora.merged_weight", full_disk)
    edit(model, "tokenizer_config.json", model_max_length=7)
    with pytest.raises(RunFailed, match="out/model.safetensors: cannot be written"):
        vlm.save(tmp_path / "out")
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after == before | {"training_history.json": b"mine"}


def test_save_removes_the_training_history_of_other_weights(model, tmp_path):
    vlm = load(model)
    shutil.copytree(model, tmp_path / "out")
    assert (tmp_path / "out/training_history.json").exists()
    vlm.save(tmp_path / "out")
    assert not (tmp_path / "out/training_history.json").exists()


def test_a_tied_model_may_store_its_tensor_under_the_heads_name_alone(model):
    edit(model, "config.json", tie_word_embeddings=True)
    path = model / "model.safetensors"
    tensors = load_file(path)
    head, embedding = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    tensors[head] = tensors[embedding].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    ids = torch.arange(5, 20)[None]
    expected = load(model).forward(ids, torch.ones_like(ids))
    del tensors[embedding]
    save_file(tensors, path, metadata={"format": "pt"})
    assert torch.equal(load(model).forward(ids, torch.ones_like(ids)), expected)
