"""doctor --model names every problem of a model directory at once; exit status 1."""

import json
import shutil

import pytest

from clear_ref.mini.directories import BASE
from tests.helpers.commands import call


def test_a_model_that_loads_is_described(capsys):
    status, text, errors = call(capsys, "doctor", "--model", "mini")
    assert (status, errors) == (0, "")
    assert text == f"{BASE}: loads as llava, 2,809,056 parameters, chat template llava-end\n"


@pytest.fixture
def spoilt(tmp_path):
    """A copy of the base model with one wrong value in each of four files, and no weights."""
    path = tmp_path / "model"
    shutil.copytree(BASE, path)
    for name, change in (
        ("config.json", {"quantization_config": {"quant_method": "x"}}),
        ("generation_config.json", {"num_beams": 4}),
        ("preprocessor_config.json", {"do_convert_rgb": False}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
    ):
        values = json.loads((path / name).read_text(encoding="utf-8"))
        (path / name).write_text(json.dumps(values | change), encoding="utf-8")
    (path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return path


def test_every_file_that_cannot_be_read_is_named(spoilt, capsys):
    status, text, errors = call(capsys, "doctor", "--model", spoilt)
    assert status == 1 and "2 problems" in errors
    assert "quantization_config" in text and "split_special_tokens" in text
    for name, key in (("config.json", "quantization_config"), ("tokenizer_config.json", "split")):
        values = json.loads((spoilt / name).read_text(encoding="utf-8"))
        values = {own: value for own, value in values.items() if not own.startswith(key)}
        (spoilt / name).write_text(json.dumps(values), encoding="utf-8")
    status, text, errors = call(capsys, "doctor", "--model", spoilt, "--json")
    found = json.loads(text)
    assert status == 1 and len(found["problems"]) == 3
    for word in ("num_beams", "do_convert_rgb", "chat_template.jinja"):
        assert sum(word in line for line in found["problems"]) == 1


def test_missing_weights_and_directories_are_one_line(tmp_path, capsys):
    shutil.copytree(BASE, tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    status, text, _ = call(capsys, "doctor", "--model", tmp_path / "model", "--json")
    (problem,) = json.loads(text)["problems"]
    assert status == 1 and "model.safetensors: no such file" in problem
    status, _, errors = call(capsys, "doctor", "--model", tmp_path / "nowhere")
    assert status == 2 and "no such directory" in errors


def test_a_directory_without_a_chat_template_is_told_which_is_used_once(tmp_path, capsys):
    shutil.copytree(BASE, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").unlink()
    status, text, errors = call(capsys, "doctor", "--model", tmp_path / "model")
    assert status == 0 and text.endswith("chat template llava\n")
    assert errors == (
        f"clear_ref: {tmp_path / 'model'} holds no chat template: llava is used; if the model was "
        "trained with another one, name it by --template (Vicuna: vicuna)\n"
    )
