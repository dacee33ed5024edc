#!/usr/bin/env bash
# Adding rope_scaling to a config.json that transformers 5 wrote silently resets rope_theta.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  guides for long inputs say: add a rope_scaling object to config.json. transformers 5 writes
#            rope_parameters instead, and rope_theta is inside it.
# Guess      the two objects are merged: the type is the new one, rope_theta stays 500000.
# Behaviour  rope_scaling replaces the whole of rope_parameters. rope_theta is then the default, 10000;
#            a factor of 1, which should change nothing, changes every logit. No error.
# Seen       rope_theta 500000.0 -> 10000.0, logits differ by 3.8 (largest logit 3.7)
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


config = transformers.LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
model = random_weights(transformers.LlamaForCausalLM(config))
model.save_pretrained("model")
path = Path("model/config.json")
written = json.loads(path.read_text())
assert "rope_theta" not in written and written["rope_parameters"]["rope_theta"] == 500000.0
path.write_text(json.dumps({**written, "rope_scaling": {"rope_type": "linear", "factor": 1.0}}))
again = transformers.LlamaForCausalLM.from_pretrained("model").eval()
ids = torch.arange(3, 60)[None]
with torch.no_grad():
    before, after = model(ids).logits, again(ids).logits
print("rope_theta 500000.0 ->", again.config.rope_parameters["rope_theta"], "| logits differ by",
      round(largest(before, after), 1), "| largest logit", round(float(before.abs().max()), 1))
assert again.config.rope_parameters["rope_theta"] == 10000.0 and largest(before, after) > 0.5
PY
(cd "$home" && "$home/venv/bin/python" run.py)
