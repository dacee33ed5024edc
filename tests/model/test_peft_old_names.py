"""An adapter with the layer names of transformers 4.45 computes what transformers 5 computes when
its own load_adapter reads it.

Two routes of the reference differ here (5.23 with PEFT 0.21.2): `model.load_adapter` translates all
names of the tensors, `PeftModel.from_pretrained` some of LLaVA's and none of Qwen2-VL's; the other
layers keep the base weights, with a warning (logits of this test off by 1.3 and 0.2). Tolerance of
logits: 5e-5, as in test_parity.py.
"""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_ref.model import lora, peft_format
from tests.helpers.differential_peft import Base
from tests.helpers.peft_files import WEIGHTS, randomise

peft = pytest.importorskip("peft", reason="the parity extra is not installed")
PREFIX = "base_model.model."
# {family: (beginning of a name in transformers 5, in 4.45)}
OLD = {
    "llava": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    "qwen2_vl": (("model.language_model.", "model."), ("model.visual.", "visual.")),
}


def old_name(family, name):
    """A tensor's name as PEFT wrote it with transformers 4.45."""
    for today, before in OLD[family]:
        if name.startswith(PREFIX + today):
            return PREFIX + before + name.removeprefix(PREFIX + today)
    return name


@pytest.mark.slow
@pytest.mark.parametrize("family", OLD)
def test_old_names_load_as_transformers_own_loader_loads_them(tmp_path, family):
    base = Base(family)
    inputs = base.inputs()
    if family == "qwen2_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == 5).int()
    wanted = peft.LoraConfig(r=2, lora_alpha=9, target_modules=["q_proj", "linear_1", "qkv"])
    model = peft.get_peft_model(copy.deepcopy(base.theirs), wanted).eval()
    randomise(parameter for name, parameter in model.named_parameters() if "lora_" in name)
    model.save_pretrained(tmp_path)
    tensors = {old_name(family, n): t for n, t in load_file(tmp_path / WEIGHTS).items()}
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    plain = copy.deepcopy(base.theirs)
    theirs = copy.deepcopy(base.theirs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.load_adapter(str(tmp_path))
        expected = theirs.eval()(**inputs).logits
        trained = model(**inputs).logits
        nothing = plain(**inputs).logits
        peft_format.load(base.ours, family, tmp_path)
        found = base.ours.head(
            base.ours.hidden(
                inputs["input_ids"],
                inputs["attention_mask"],
                inputs["pixel_values"],
                inputs.get("image_grid_thw"),
            )
        )
    assert float((found - expected).abs().max()) < 5e-5
    assert float((trained - expected).abs().max()) < 5e-5 < float((nothing - expected).abs().max())
    assert len(lora.adapters(base.ours)) == len(tensors) // 2
