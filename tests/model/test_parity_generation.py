"""Greedy text follows the generation settings of a directory as transformers follows them.

The call is `model.generate(**inputs, max_new_tokens=n, do_sample=False)`. These tests need the
extra `parity`.
"""

import inspect
import json
import re

import pytest
import torch

from clear_ref import Record, load
from clear_ref.model import generation_keys
from tests.helpers.differential_generation import FAMILIES, run
from tests.helpers.letter_models import write_model

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")


@pytest.mark.slow
def test_changed_settings_give_the_same_text_or_are_refused(tmp_path):
    """Every key once, and pairs. By hand: python -m tests.helpers.differential_generation"""
    counts = [run(family, tmp_path, 32, seed) for seed, family in enumerate(FAMILIES)]
    assert [line for each in counts for line in each.different] == []
    assert min(each.equal for each in counts) >= 20
    assert sum(each.refused for each in counts) >= 4


def test_every_key_that_the_reference_reads_has_a_fate():
    """Its fields are the attributes of a new GenerationConfig and the keys that its constructor
    takes from a file; generate's own names of arguments fail there."""
    constructor = inspect.getsource(transformers.GenerationConfig.__init__)
    keys = set(vars(transformers.GenerationConfig())) | set(
        re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', constructor)
    )
    refused = re.findall(
        r'"(\w+)",',
        inspect.getsource(transformers.GenerationConfig.validate)
        .split("generate_arguments = (")[1]
        .split(")")[0],
    )
    assert len(keys) > 70 and len(refused) == 8
    assert keys <= generation_keys.SETTINGS.keys()
    assert set(refused) <= generation_keys.GENERATE_ARGUMENTS.keys()


def test_every_setting_that_generate_reads_has_a_fate():
    """Every attribute of generation_config in the source of generate, but those that generate
    itself writes there, and its cache's and its compiler's."""
    from transformers.generation import utils

    read = set(re.findall(r"generation_config\.(\w+)", inspect.getsource(utils)))
    written = {name for name in read if name.startswith("_")} | {"json"}  # json: a file name
    methods = {name for name in read if hasattr(transformers.GenerationConfig, name)}
    assert read - written - methods <= generation_keys.SETTINGS.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "own, config",
    [
        ({"eos_token_id": 17, "repetition_penalty": 1.3, "pad_token_id": 0}, {"eos_token_id": 20}),
        ({"suppress_tokens": [17, 20], "pad_token_id": 0}, {"eos_token_id": 20}),
        (None, {"eos_token_id": [2, 17, 20], "pad_token_id": 0}),
    ],
)
def test_whole_directories_give_the_same_ids(own, config, tmp_path):
    """Loaded from the files on both sides; the second one never ends although config.json and the
    tokenizer name an end."""
    write_model("llama", tmp_path)
    if own is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(own))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    vlm = load(tmp_path)
    batch = vlm.encode([Record("ABC"), Record("j"), Record("GHIJKLMN")])
    expected = reference.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
    )[:, batch.input_ids.shape[1] :]
    found = vlm.generate_ids(batch, 24)
    assert found.where(found != vlm.tokenizer.pad, 0).tolist() == expected.tolist()
    if own is not None and "eos_token_id" not in own:
        assert expected.shape[1] == 24
