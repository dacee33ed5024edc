#!/usr/bin/env bash
# With rope_type dynamic, the logits of a text depend on the longest text that the model saw before.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  a forward without a cache, of 80 tokens, where max_position_embeddings is 64; before it a
#            forward of another text, of 400 tokens.
# Guess      a forward without a cache is a function of its input: the frequencies are those of 80 tokens.
# Behaviour  the frequencies of the longest input so far stay, until an input shorter than
#            max_position_embeddings resets them. So logits depend on the order of a data set.
# Seen       logits differ by 2.5 after the longer text (largest logit 3.6), by 0.0 after a short one
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


rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
config = transformers.LlamaConfig(**SIZES, max_position_embeddings=64, rope_parameters=rope)
model = random_weights(transformers.LlamaForCausalLM(config))
text, longer = (torch.randint(3, 64, (1, n), generator=torch.Generator().manual_seed(n)) for n in (80, 400))
with torch.no_grad():
    first = model(text, use_cache=False).logits
    model(longer, use_cache=False)
    second = model(text, use_cache=False).logits
    model(text[:, :30], use_cache=False)
    third = model(text, use_cache=False).logits
print("after a longer text", round(largest(first, second), 1), "| after a short one",
      largest(first, third), "| largest logit", round(float(first.abs().max()), 1))
assert largest(first, second) > 0.5 and largest(first, third) == 0
PY
(cd "$home" && "$home/venv/bin/python" run.py)
