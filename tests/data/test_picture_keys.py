"""The tables of picture settings hold every key that the reference's classes read.

The keys are found from transformers' own classes. These tests need the extra `parity`.
"""

import inspect
import re

import pytest

from clear_ref.common.file_keys import Only, Used
from clear_ref.data import clip_images, picture_keys, qwen_images
from clear_ref.data.picture_settings import COMMON_DEFAULTS

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

CLASSES = {
    "CLIPImageProcessorPil": (picture_keys.CLIP, clip_images.DEFAULTS),
    "LlavaImageProcessorPil": (picture_keys.LLAVA, clip_images.DEFAULTS),
    "Qwen2VLImageProcessorPil": (picture_keys.QWEN2_VL, qwen_images.DEFAULTS),
}
PROCESSORS = {
    "LlavaProcessor": picture_keys.LLAVA_PROCESSOR,
    "Qwen2VLProcessor": picture_keys.QWEN2_VL_PROCESSOR,
    "Qwen2_5_VLProcessor": picture_keys.QWEN2_VL_PROCESSOR,
}


def read_by(*functions):
    """The keys that the source text of these functions reads from the settings."""
    text = "".join(map(inspect.getsource, functions))
    return set(
        re.findall(r"""(?:_dict|kwargs|config)(?:\.get|\.pop)?[(\[]\s*["'](\w+)["']""", text)
    ) | set(re.findall(r"""["'](\w+)["'] in (?:\w+_dict|kwargs)""", text))


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_of_an_image_processor_is_in_its_table(name):
    image_class = getattr(transformers, name)
    table, defaults = CLASSES[name]
    arguments = set(image_class.valid_kwargs.__annotations__)
    assert arguments and arguments <= set(table.keys), arguments - set(table.keys)
    # Attributes that are settings, not methods, can be set by a file too.
    attributes = {
        key
        for key in dir(image_class)
        if not key.startswith("_") and not callable(getattr(image_class, key))
    }
    own_of_the_class = {"valid_kwargs", "backend", "is_dummy"}
    assert attributes - own_of_the_class <= set(table.keys)
    for key, value in defaults.items():
        expected = getattr(image_class, key, None)
        if isinstance(value, tuple):
            expected = tuple(expected)
        # An omitted do_pad is false or absent in the class: both are off.
        assert value == expected or (key == "do_pad" and not value and not expected), key


@pytest.mark.parametrize("name", CLASSES)
def test_keys_in_the_text_of_the_classes_are_in_the_tables(name):
    image_class = getattr(transformers, name)
    auto = transformers.models.auto.image_processing_auto.AutoImageProcessor
    mixin = transformers.image_processing_utils.ImageProcessingMixin
    functions = (image_class.__init__, mixin.__init__, auto.from_pretrained.__func__)
    # Arguments of from_pretrained itself, which no file holds, and classes in auto_map.
    arguments = set(
        "config use_fast backend trust_remote_code _from_auto revision token local_files_only "
        "cache_dir image_processor_filename code_revision AutoImageProcessor AutoFeatureExtractor "
        "torchvision".split()
    )
    keys = read_by(*functions) - arguments
    assert {"image_processor_type", "feature_extractor_type", "processor_class"} <= keys
    assert keys <= set(CLASSES[name][0].keys), keys - set(CLASSES[name][0].keys)


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_argument_of_a_processor_is_in_its_table(name):
    processor_class = getattr(transformers, name)
    mixin = transformers.processing_utils.ProcessorMixin
    arguments = set(inspect.signature(processor_class.__init__).parameters) - {"self", "kwargs"}
    read = set(
        re.findall(
            r"""processor_dict(?:\.get\(|\.pop\(|\[)"(\w+)\"""",
            inspect.getsource(mixin.get_processor_dict.__func__),
        )
    )
    assert {"chat_template", "audio_tokenizer"} <= read
    keys = set(PROCESSORS[name].keys)
    assert arguments | read | {"auto_map", "processor_class"} <= keys, arguments - keys


def test_the_reference_takes_the_defaults_for_omitted_keys_and_keeps_a_null():
    for name in CLASSES:
        made = getattr(transformers, name)()
        given = getattr(transformers, name)(image_mean=None, do_normalize=None)
        assert list(made.image_mean) == list(COMMON_DEFAULTS["image_mean"])
        assert list(made.image_std) == list(COMMON_DEFAULTS["image_std"])
        assert given.image_mean is None and given.do_normalize is None


def test_every_fate_is_told_in_a_few_words():
    for table in picture_keys.TABLES:
        for key, fate in table.keys.items():
            text = fate.what if isinstance(fate, Used) else fate.why
            assert 5 < len(text) < 150, key
            if isinstance(fate, Only):
                assert text
