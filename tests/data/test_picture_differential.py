"""900 changes of picture settings give transformers' pixels, grid and image tokens, or a refusal.

The changes are drawn by differential_pictures.py: one to three keys of preprocessor_config.json and
processor_config.json, pictures of all modes and many sizes, as paths and as objects. These tests
need the extra `parity`.
"""

import pytest
import torch

from clear_ref.data import clip_images
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import open_image
from tests.helpers.differential import Case, compare
from tests.helpers.transformers_models import transformers_model

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
from tests.helpers.differential_pictures import (  # noqa: E402
    BASES,
    LLAVA_PROCESSOR,
    N_FEATURES,
    SIDE,
    Change,
    Readers,
    difference,
    picture,
    run,
)


@pytest.mark.slow
@pytest.mark.parametrize("family", BASES)
def test_no_change_gives_another_result_in_silence(family):
    counts = run(300, 14, family)
    assert counts.different == []
    assert counts.total == 300 and counts.equal > 150, counts
    assert counts.refused > 4 and counts.invalid < 120, counts


def test_a_reader_that_skips_a_key_is_found(tmp_path, monkeypatch):
    """A reader without do_pad: the same case is then different, not equal."""
    settings = {**BASES["llava"], "image_processor_type": "LlavaImageProcessor", "do_pad": True}
    change = Change("llava", settings, LLAVA_PROCESSOR, {}, "nested", ("RGB", (50, 31), 1), False)
    readers = Readers(tmp_path)
    case = Case("do_pad", ("do_pad",), change)
    assert compare([case], readers.ours, readers.theirs, difference).equal == 1
    monkeypatch.setattr(clip_images, "pad_colour", lambda settings: None)
    assert len(compare([case], readers.ours, readers.theirs, difference).different) == 1


@pytest.mark.parametrize("name", ["CLIPImageProcessor", "LlavaImageProcessor"])
def test_what_the_references_processor_saves_is_read_as_the_same(name, tmp_path):
    """transformers 5 writes processor_config.json alone, with an image part."""
    settings = {**BASES["llava"], "image_processor_type": name, "do_pad": True, "resample": 2}
    readers = Readers(tmp_path)
    readers.write(
        Change("llava", settings, LLAVA_PROCESSOR, {}, "preprocessor", ("L", (9, 5), 0), True)
    )
    processor = transformers.AutoProcessor.from_pretrained(readers.at)
    processor.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved/preprocessor_config.json").exists()
    image = picture("RGB", (50, 33), 1)
    found = ClipImages.from_directory(tmp_path / "saved", SIDE, N_FEATURES)(open_image(image))
    expected = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    assert difference((found.pixels, None, 0), (expected, None, 0)) == ""


@pytest.mark.parametrize("side, n_tokens", [(28, 3), (28, 5), (42, 4), (14, 4)])
def test_the_references_model_refuses_another_size_or_number_of_tokens(side, n_tokens):
    """So such settings count as invalid in the comparison. The model takes 28 pixels, 4 tokens."""
    model = transformers_model("llava").eval()

    def logits(side, n_tokens):
        ids = torch.tensor([[1, *[5] * n_tokens, 2]])
        return model(input_ids=ids, pixel_values=torch.zeros(1, 3, side, side)).logits

    assert logits(28, 4).shape == (1, 6, 32)
    with pytest.raises(ValueError):
        logits(side, n_tokens)
