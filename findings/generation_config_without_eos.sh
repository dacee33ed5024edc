#!/usr/bin/env bash
# A generation_config.json without eos_token_id makes generate() ignore config.json's eos_token_id.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  a model directory has eos_token_id in config.json, and a generation_config.json that only
#            sets, for example, a temperature.
# Guess      generation_config.json overrides what it names; for the rest config.json counts.
# Behaviour  if the file exists, config.json is not looked at: the eos is None and a text runs to
#            max_new_tokens. If the file is deleted, config.json's eos ends the text.
# Seen       without the file 1 token, with a file that names no eos 20 tokens
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
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


model = random_weights(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)))
prompt = torch.tensor([[5, 6, 7]])
greedy = dict(do_sample=False, max_new_tokens=20)
model.config.eos_token_id = int(model.generate(prompt, do_sample=False, max_new_tokens=1)[0, -1])
model.save_pretrained("model")
file = Path("model/generation_config.json")
lengths = {}
for name in ("without the file", "with a file that names no eos"):
    file.unlink(missing_ok=True)
    if name.startswith("with a"):
        file.write_text(json.dumps({"temperature": 0.6, "do_sample": True}))
    loaded = transformers.LlamaForCausalLM.from_pretrained("model").eval()
    assert loaded.config.eos_token_id == model.config.eos_token_id
    lengths[name] = loaded.generate(prompt, **greedy).shape[1] - 3
print(lengths)
assert list(lengths.values()) == [1, 20]
PY
(cd "$home" && "$home/venv/bin/python" run.py)
