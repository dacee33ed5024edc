#!/usr/bin/env bash
# An adapter with the layer names of transformers 4 loads fully by one route and not at all by the other.
#
# Versions   peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  a LoRA adapter of Qwen2-VL's decoder, saved with transformers 4.45; there the decoder's
#            layers are called model.layers..., in transformers 5 model.language_model.layers...
# Guess      both loaders know the old names, or both refuse the file.
# Behaviour  model.load_adapter translates the names and applies the adapter. PeftModel.from_pretrained
#            warns of missing keys and returns the base model's logits.
# Seen       logits from base: load_adapter 2.9, PeftModel.from_pretrained 0.0 (largest logit 2.8)
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 peft==0.21.2
cat > "$home/run.py" <<'PY'
import json
import os
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1)


def random_weights(model):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
    return model.eval()


def largest(a, b):
    return float((a.float() - b.float()).abs().max())


def qwen(name, vision):
    text = {**SIZES, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    ids = dict(image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8)
    config = getattr(transformers, name + "Config")(text_config=text, vision_config=vision, **ids)
    return random_weights(getattr(transformers, name + "ForConditionalGeneration")(config))


QWEN2 = dict(depth=2, embed_dim=32, num_heads=2, hidden_size=32)
QWEN2_5 = dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32)


import copy
import warnings

import peft
from safetensors.torch import load_file, save_file

base = qwen("Qwen2VL", QWEN2)
options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
trained = peft.get_peft_model(copy.deepcopy(base), options)
with torch.no_grad():
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            parameter.normal_(generator=torch.Generator().manual_seed(0))
trained.save_pretrained("adapter")
file = "adapter/adapter_model.safetensors"
old = {name.replace(".model.language_model.", ".model."): value for name, value in load_file(file).items()}
save_file(old, file, metadata={"format": "pt"})
by_model = copy.deepcopy(base)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    by_model.load_adapter("adapter")
    by_peft = peft.PeftModel.from_pretrained(copy.deepcopy(base), "adapter")
ids = torch.arange(9, 60)[None]
with torch.no_grad():
    plain, first, second = (each.eval()(input_ids=ids).logits for each in (base, by_model, by_peft))
print("from base: load_adapter", round(largest(plain, first), 1), "| PeftModel.from_pretrained",
      largest(plain, second), "| largest logit", round(float(plain.abs().max()), 1))
assert largest(plain, first) > 0.3 and largest(plain, second) == 0
PY
(cd "$home" && "$home/venv/bin/python" run.py)
