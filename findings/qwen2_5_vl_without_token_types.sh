#!/usr/bin/env bash
# Without mm_token_type_ids, Qwen2.5-VL computes plain positions in silence; Qwen2-VL raises an error.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  a training loop that passes input_ids, attention_mask, pixel_values and image_grid_thw, as
#            loops written for transformers 4 do.
# Guess      the picture's place is known from input_ids and the grid, as before; or both models refuse.
# Behaviour  Qwen2-VL: ValueError that asks for mm_token_type_ids. Qwen2.5-VL: no error, and every token
#            has a one-axis position, as if the picture were text.
# Seen       qwen2_vl ValueError; qwen2_5_vl logits differ by 1.2 (largest logit 2.6)
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


def qwen(name, vision):
    text = {**SIZES, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    ids = dict(image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8)
    config = getattr(transformers, name + "Config")(text_config=text, vision_config=vision, **ids)
    return random_weights(getattr(transformers, name + "ForConditionalGeneration")(config))


QWEN2 = dict(depth=2, embed_dim=32, num_heads=2, hidden_size=32)
QWEN2_5 = dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32)


ids = torch.tensor([[9, 10, 7] + [5] * 6 + [8, 11, 12, 13]])
inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), image_grid_thw=torch.tensor([[1, 4, 6]]),
              pixel_values=torch.randn(24, 1176, generator=torch.Generator().manual_seed(0)))
types = (ids == 5).long()
with torch.no_grad():
    model = qwen("Qwen2VL", QWEN2)
    model(**inputs, mm_token_type_ids=types)
    try:
        model(**inputs)
        raised = None
    except ValueError as error:
        raised = str(error)
    right = qwen("Qwen2_5_VL", QWEN2_5)(**inputs, mm_token_type_ids=types).logits
    plain = qwen("Qwen2_5_VL", QWEN2_5)(**inputs).logits
print("qwen2_vl:", raised)
print("qwen2_5_vl: differ by", round(largest(right, plain), 1), "| largest logit", round(float(right.abs().max()), 1))
assert raised and "mm_token_type_ids" in raised and largest(right, plain) > 0.3
PY
(cd "$home" && "$home/venv/bin/python" run.py)
