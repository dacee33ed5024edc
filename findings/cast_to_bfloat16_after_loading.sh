#!/usr/bin/env bash
# model.to(torch.bfloat16) is not the model that from_pretrained(dtype=torch.bfloat16) loads.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  the same directory, once loaded in bfloat16, once loaded in float32 and then cast.
# Guess      the same numbers: every weight is rounded once, to the nearest bfloat16.
# Behaviour  the weights are equal, but .to() also rounds the rotary frequencies (a buffer), which
#            loading keeps in float32. The error of an angle grows with the position.
# Seen       weights equal; inv_freq float32 and bfloat16; logits at positions 1800 to 2000 differ by
#            0.12; mean distance from float32's logits 0.0065 loaded, 0.0111 cast
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


config = transformers.LlamaConfig(**SIZES, max_position_embeddings=4096,
                                  rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
random_weights(transformers.LlamaForCausalLM(config)).save_pretrained("model")
load = transformers.LlamaForCausalLM.from_pretrained
wide = load("model").eval()
loaded = load("model", dtype=torch.bfloat16).eval()
cast = load("model").to(torch.bfloat16).eval()
assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), cast.parameters(), strict=True))
kinds = [str(each.model.rotary_emb.inv_freq.dtype) for each in (loaded, cast)]
ids = torch.randint(3, 64, (1, 2000), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    exact, a, b = (each(ids).logits[:, 1800:].float() for each in (wide, loaded, cast))
means = [round(float((each - exact).abs().mean()), 4) for each in (a, b)]
print("inv_freq", kinds, "| differ by", round(largest(a, b), 2), "| mean distance from float32", means)
assert kinds == ["torch.float32", "torch.bfloat16"] and largest(a, b) > 0.05 and means[1] > 1.3 * means[0]
PY
(cd "$home" && "$home/venv/bin/python" run.py)
