#!/usr/bin/env bash
# An adapter saved into the model's own directory is applied when the base model is loaded.
#
# Versions   transformers 5.23.0, peft 0.21.2, torch 2.13.0 (CPU)
# Situation  a model directory with config.json and model.safetensors, into which an adapter was saved;
#            later LlamaForCausalLM.from_pretrained(directory) loads "the base model".
# Guess      the class's from_pretrained reads config.json and model.safetensors; adapters need PeftModel.
# Behaviour  adapter_config.json is found and the adapter is injected: logits are those of the adapted
#            model. The same file makes a difference for every evaluation of "base" from that directory.
# Seen       logits differ from the base's by 3.1 (largest logit 3.7); they equal PeftModel's
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


import copy

import peft

base = random_weights(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)))
base.save_pretrained("model")
torch.manual_seed(0)
options = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
adapted = peft.get_peft_model(copy.deepcopy(base), options).eval()
adapted.save_pretrained("model")
loaded = transformers.LlamaForCausalLM.from_pretrained("model").eval()
ids = torch.arange(3, 48)[None]
with torch.no_grad():
    a, b, c = (each(ids).logits for each in (base, loaded, adapted))
print("differs from base by", round(largest(a, b), 1), "| from PeftModel by", largest(b, c),
      "| largest logit", round(float(a.abs().max()), 1))
assert largest(a, b) > 0.3 and largest(b, c) < 1e-5
PY
(cd "$home" && "$home/venv/bin/python" run.py)
