"""Every key of config.json that transformers reads for these families is in a table.

Found from its classes' fields and from the source of the code that runs. The comparison needs the
extra `parity`.
"""

import dataclasses
import inspect
import re

import pytest

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import NoEffect
from clear_ref.model import config_keys, qwen2_5_keys
from clear_ref.model.families import family

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
CLASSES = {
    "LlamaConfig": config_keys.LLAMA,
    "MistralConfig": config_keys.MISTRAL,
    "Qwen2Config": config_keys.QWEN2,
    "LlavaConfig": config_keys.LLAVA,
    "CLIPVisionConfig": config_keys.CLIP,
    "Qwen2VLConfig": config_keys.QWEN2_VL,
    "Qwen2VLTextConfig": config_keys.QWEN2_VL_TEXT,
    "Qwen2VLVisionConfig": qwen2_5_keys.QWEN2_VL_VISION,
    "Qwen2_5_VLConfig": config_keys.QWEN2_VL,
    "Qwen2_5_VLTextConfig": config_keys.QWEN2_VL_TEXT,
    "Qwen2_5_VLVisionConfig": qwen2_5_keys.QWEN2_5_VL_VISION,
}
CONFIG = r"(?<![a-z_])(?:text_|vision_|decoder_|layer_)?config"
READ = re.compile(rf"{CONFIG}\.([a-z_0-9]+)\b(?!\()|getattr\((?:self\.)?{CONFIG}, \"([a-z_0-9]+)\"")
TAKEN = re.compile(r"kwargs\.(?:pop|get)\(\"([a-z_0-9]+)\"")


def config_class(name):
    """A config class of transformers."""
    models = transformers.models
    module = models.qwen2_vl.configuration_qwen2_vl
    if name.startswith("Qwen2_5"):
        module = models.qwen2_5_vl.configuration_qwen2_5_vl
    return getattr(transformers, name, None) or getattr(module, name)


def no_values(cls):
    """The names of a config class that no file can set: methods and settings of the class."""
    fields = {field.name for field in dataclasses.fields(cls)}
    return {
        name
        for name in dir(cls)
        if name not in fields
        and not isinstance(inspect.getattr_static(cls, name), property | type(None))
    } | {"is_heterogeneous", "per_layer_attributes", "get_text_config", "sub_configs", "json"}


def keys_in(*pieces):
    """The keys of a config that pieces of source read."""
    found = set()
    for piece in pieces:
        for names in READ.findall(inspect.getsource(piece)):
            found |= set(names)
    return found - {""}


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_and_every_other_name_of_a_config_class_is_in_its_table(name):
    cls = config_class(name)
    known = {field.name for field in dataclasses.fields(cls)} | set(cls.attribute_map)
    assert known - set(CLASSES[name].keys) == set()


@pytest.mark.parametrize("name", CLASSES)
def test_every_keyword_that_a_config_class_takes_is_in_its_table(name):
    pieces = [transformers.PreTrainedConfig.__post_init__, config_class(name).__post_init__]
    taken = {key for piece in pieces for key in TAKEN.findall(inspect.getsource(piece))}
    taken |= set(transformers.GenerationConfig._get_default_generation_params())
    if hasattr(config_class(name)(), "rope_parameters"):
        rope = transformers.modeling_rope_utils.RotaryEmbeddingConfigMixin
        taken |= set(TAKEN.findall(inspect.getsource(rope.convert_rope_params_to_dict)))
    assert taken - set(CLASSES[name].keys) == set()


def test_the_flat_form_of_qwen2_vl_has_the_keys_of_both_levels():
    flat = config_keys.QWEN2_VL_FLAT.keys
    both = {*config_keys.QWEN2_VL.keys, *config_keys.QWEN2_VL_TEXT.keys}
    assert both - set(flat) == set()
    # What reaches the decoder's class is what its signature names, and the rotary keys.
    text = config_class("Qwen2VLTextConfig")
    reaching = {field.name for field in dataclasses.fields(text)}
    reaching |= {"rope_parameters", "rope_scaling", "rope_theta"}
    decoder = set(config_keys.QWEN2_VL_DECODER) - {"bos_token_id", "eos_token_id", "pad_token_id"}
    assert decoder & reaching <= config_keys.QWEN2_VL_FROM_TOP
    for key in config_keys.QWEN2_VL_FROM_TOP - reaching:
        assert isinstance(flat[key], NoEffect), key


def test_every_key_that_the_reference_code_of_a_decoder_reads_is_in_its_table():
    from transformers import cache_utils, masking_utils, modeling_layers, modeling_rope_utils
    from transformers.utils import generic, output_capturing

    shared = keys_in(
        cache_utils.get_layer_types_and_kwargs,
        cache_utils.DynamicCache,
        masking_utils.create_causal_mask,
        masking_utils.create_sliding_window_causal_mask,
        generic.merge_with_config_defaults,
        output_capturing.capture_outputs,
        modeling_layers.GradientCheckpointingLayer,
        modeling_rope_utils,
        transformers.PreTrainedModel,
    )
    for name, module in (
        ("LlamaConfig", transformers.models.llama.modeling_llama),
        ("MistralConfig", transformers.models.mistral.modeling_mistral),
        ("Qwen2Config", transformers.models.qwen2.modeling_qwen2),
        ("Qwen2VLTextConfig", transformers.models.qwen2_vl.modeling_qwen2_vl),
        ("Qwen2_5_VLTextConfig", transformers.models.qwen2_5_vl.modeling_qwen2_5_vl),
    ):
        read = (shared | keys_in(module)) - no_values(config_class(name))
        known = set(CLASSES[name].keys) | set(config_keys.ROPE.keys)
        if name.endswith("VLTextConfig"):
            tower = CLASSES[name.replace("Text", "Vision")]
            known |= {*config_keys.QWEN2_VL.keys, *tower.keys}
        assert read - known == set(), name


def test_every_key_that_the_reference_code_of_llava_and_its_tower_reads_is_in_a_table():
    from transformers.models.clip import modeling_clip
    from transformers.models.llava import modeling_llava

    tower = keys_in(
        modeling_clip.CLIPVisionEmbeddings,
        modeling_clip.CLIPAttention,
        modeling_clip.CLIPMLP,
        modeling_clip.CLIPEncoderLayer,
        modeling_clip.CLIPEncoder,
        modeling_clip.CLIPVisionModel,
    )
    assert tower - no_values(config_class("CLIPVisionConfig")) - set(config_keys.CLIP.keys) == set()
    known = {*config_keys.LLAVA.keys, *config_keys.LLAMA.keys, *config_keys.CLIP.keys}
    assert keys_in(modeling_llava) - no_values(config_class("LlavaConfig")) - known == set()


def test_every_key_of_the_rotary_settings_is_in_their_table():
    from transformers.modeling_rope_utils import RopeParameters

    source = inspect.getsource(transformers.modeling_rope_utils)
    read = set(re.findall(r"rope_parameters(?:_dict)?(?:\.get\(|\[)\"([a-z_]+)\"", source))
    assert (read | set(RopeParameters.__annotations__)) - set(config_keys.ROPE.keys) == set()


@pytest.mark.parametrize("part", ["", "text_config", "vision_config"])
def test_quantised_weights_are_refused_with_the_way_to_plain_ones(part):
    config = {"model_type": "llava", "text_config": {}, "vision_config": {}}
    place = config[part] if part else config
    place["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UserError, match="quantization_config is .*dequantize.. and save_pretrain"):
        family(config, "config.json").config(config, "config.json")
