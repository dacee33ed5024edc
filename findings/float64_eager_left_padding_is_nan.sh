#!/usr/bin/env bash
# In float64 with eager attention, every logit of a text with padding on the left is NaN.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  a float64 copy of a model, to check a loss or gradient more precisely; two texts, the shorter
#            padded on the left, its padding and first word without label.
# Guess      float64 only adds digits: the loss is that of float32, and eager and sdpa agree.
# Behaviour  Llama and Qwen2-VL return NaN; float32, sdpa, padding on the right and GPT-2 do not. Masked
#            scores are the smallest float64, but these models compute the softmax in float32, where that
#            is minus infinity: the row of a padding position becomes NaN, and in the next layer
#            NaN x weight 0 reaches the words. With an own mask of float32's smallest value it is right.
# Seen       llama: NaN in 8 of 8 positions and in the loss; float32 4.6017, float64 with sdpa 4.6017,
#            float64 with the own mask 4.6017; qwen2_vl: NaN, else 4.8632; gpt2: 4.4602 in all four
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
cat > "$home/run.py" <<'PY'
import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import torch
import transformers

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1)


def random_weights(model):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
    return model.eval()


def llama(**kind):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **kind))


def gpt2(**kind):
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, **kind))


def qwen2_vl(**kind):
    text = {**SIZES, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    vision = dict(depth=2, embed_dim=32, num_heads=2, hidden_size=32)
    ids = dict(image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8)
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **ids, **kind)
    return transformers.Qwen2VLForConditionalGeneration(config)


ids = torch.arange(9, 25).reshape(2, 8)
mask = torch.ones_like(ids)
mask[0, :3] = 0
labels = ids.clone()
labels[0, :4] = -100


def loss(family, attention, dtype, given=mask):
    model = random_weights(family(attn_implementation=attention)).to(dtype)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=given, labels=labels)
    return float(out.loss), int(out.logits[0].isnan().any(-1).sum())


for family in (llama, qwen2_vl, gpt2):
    seen = {(attention, dtype): loss(family, attention, dtype)
            for dtype in (torch.float32, torch.float64) for attention in ("sdpa", "eager")}
    for (attention, dtype), (value, rows) in seen.items():
        print(f"{family.__name__} {attention} {str(dtype)[6:]}: loss {value:.4f}, positions with NaN {rows} of 8")
    right, broken = seen["sdpa", torch.float64], seen["eager", torch.float64]
    assert abs(seen["eager", torch.float32][0] - right[0]) < 1e-4 and right[1] == 0
    assert (broken[1] == 8 and broken[0] != broken[0]) if family is not gpt2 else abs(broken[0] - right[0]) < 1e-4
sees = mask[:, None, None, :].bool() & torch.ones(8, 8).tril().bool()
own = torch.zeros(2, 1, 8, 8, dtype=torch.float64).masked_fill(~sees, torch.finfo(torch.float32).min)
value, rows = loss(llama, "eager", torch.float64, own)
print(f"llama eager float64, mask of float32's smallest value: loss {value:.4f}, positions with NaN {rows} of 8")
assert rows == 0 and abs(value - loss(llama, "sdpa", torch.float64)[0]) < 1e-5
PY
(cd "$home" && "$home/venv/bin/python" run.py)
