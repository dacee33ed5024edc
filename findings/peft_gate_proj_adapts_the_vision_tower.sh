#!/usr/bin/env bash
# target_modules that adapt only the decoder of Qwen2-VL adapt the vision tower of Qwen2.5-VL too.
#
# Versions   peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  the usual seven names of a decoder's layers (q, k, v, o, gate, up, down _proj), with which
#            recipes for Qwen2-VL leave the tower frozen.
# Guess      the same in Qwen2.5-VL: the tower's layers have other names (qkv, proj), so they stay frozen.
# Behaviour  Qwen2.5-VL's tower has a gated MLP whose layers are called gate_proj, up_proj, down_proj.
#            PEFT matches the last part of a name, so three layers of each vision block are trained.
# Seen       adapted layers of the tower: Qwen2-VL 0, Qwen2.5-VL 6 (2 blocks)
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


import peft

targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
adapted = {}
for name, vision in (("Qwen2VL", QWEN2), ("Qwen2_5_VL", QWEN2_5)):
    model = peft.get_peft_model(qwen(name, vision), peft.LoraConfig(r=2, target_modules=targets))
    layers = [key for key, module in model.named_modules() if hasattr(module, "lora_A")]
    assert sum(".language_model." in key for key in layers) == 14
    adapted[name] = sum(".visual." in key for key in layers)
print("adapted layers of the tower:", adapted)
assert adapted == {"Qwen2VL": 0, "Qwen2_5_VL": 6}
PY
(cd "$home" && "$home/venv/bin/python" run.py)
