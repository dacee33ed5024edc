"""adapter_config.json: every key that PEFT reads is used, without effect or refused, never skipped;
with any of them changed, the logits are PEFT's or the file is refused by name.
"""

import json

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import NoEffect, Only
from clear_ref.model.families import FAMILIES
from clear_ref.model.peft_config import DEFAULT_TARGETS, KEYS, AdapterConfig, read_config
from clear_ref.model.peft_keys import ADAPTER_CONFIG
from tests.helpers import differential_peft
from tests.helpers.differential import Case
from tests.helpers.peft_files import CONFIG


def test_the_table_has_every_field_of_pefts_class():
    pytest.importorskip("peft", reason="the parity extra is not installed")
    assert differential_peft.fields() <= set(ADAPTER_CONFIG.keys)
    assert differential_peft.fields() <= set(differential_peft.VALUES)


def test_the_values_that_peft_writes_by_default_are_accepted(tmp_path):
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    peft.LoraConfig(target_modules=["q_proj"]).save_pretrained(tmp_path)
    config = read_config(tmp_path / CONFIG, "llama")
    assert (config.rank, config.alpha, config.numbers) == (8, 8, ())


def test_without_target_modules_the_layers_are_pefts():
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    theirs = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    assert {family: theirs[family] for family in theirs if family in FAMILIES} == DEFAULT_TARGETS


def test_a_key_that_is_used_is_one_whose_value_is_checked():
    used = {
        key for key, fate in ADAPTER_CONFIG.keys.items() if not isinstance(fate, (NoEffect, Only))
    }
    assert used == set(KEYS)


@pytest.mark.parametrize("value, refused", [(None, False), (False, False), (3, True), ("x", True)])
def test_a_key_of_another_version_may_be_there_without_a_value(tmp_path, value, refused):
    text = json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"], "tomorrow": value})
    (tmp_path / CONFIG).write_text(text)
    if refused:
        with pytest.raises(UserError, match="tomorrow is .*, a key that PEFT 0.21.2 does not know"):
            read_config(tmp_path / CONFIG, "llama")
    else:
        read_config(tmp_path / CONFIG, "llama")


@pytest.mark.slow
def test_the_comparison_finds_a_key_that_is_skipped(monkeypatch):
    pytest.importorskip("peft", reason="the parity extra is not installed")
    keys = {"alpha_pattern": {"q_proj": 14}}
    change = differential_peft.Change("llama", keys, True, {}, torch.float32)
    cases = [Case("alpha", tuple(keys), change)]
    assert differential_peft.run(cases).equal == 1
    monkeypatch.setattr(AdapterConfig, "alpha_of", lambda config, layer: config.alpha)
    assert len(differential_peft.run(cases).different) == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", differential_peft.FAMILIES)
def test_with_changed_keys_the_logits_are_pefts_or_the_file_is_refused_by_name(family):
    pytest.importorskip("peft", reason="the parity extra is not installed")
    names = tuple(
        name
        for name in (family, f"{family} tied")
        if name in (family, *(f"{each} tied" for each in differential_peft.TIED))
    )
    counts = differential_peft.run(differential_peft.cases(40, 14, names))
    print(counts.row(family))
    assert not counts.different
    assert counts.equal > 10 and counts.refused > 3
