#!/usr/bin/env bash
# Padding on the left adds a loss term per padded text although every padding label is -100.
#
# Versions   transformers 5.23.0, torch 2.13.0 (CPU)
# Situation  two texts of 5 and 8 words, put together by DataCollatorForLanguageModeling, which sets the
#            labels of padding to -100 and the attention mask to 0; Llama, so positions are relative.
# Guess      the loss is that of the texts alone, for padding on either side and either attention.
# Behaviour  the label of a text's first word counts when a padding position stands before it: 12 terms
#            instead of 11. The term's value depends on attn_implementation: with eager the padding
#            position also sees the words that follow, so it changes with the last word of the text.
# Seen       eager: loss alone 4.363, right 4.363, left 4.342; added term 4.111, with another end 3.475
#            sdpa:  loss alone 4.363, right 4.363, left 4.334; added term 4.016, with another end 4.016
#            left, with the first word's label at -100 too: 4.363
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
from tokenizers import Tokenizer, models, pre_tokenizers

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1)
WORDS = Tokenizer(models.WordLevel({"pad": 0, **{f"w{n}": n for n in range(1, 64)}}, unk_token="w1"))
WORDS.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


def random_weights(model):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
    return model.eval()


def batch(side, *texts):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=WORDS, pad_token="pad", padding_side=side)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return collator([tokenizer(text, return_token_type_ids=False) for text in texts])


short, other_end, long = "w3 w4 w5 w6 w7", "w3 w4 w5 w6 w9", "w8 w9 w10 w11 w12 w13 w14 w15"
seen = {}
for attention in ("eager", "sdpa"):
    config = transformers.LlamaConfig(**SIZES, attn_implementation=attention)
    model = random_weights(transformers.LlamaForCausalLM(config))
    with torch.no_grad():
        alone = (4 * model(**batch("left", short)).loss + 7 * model(**batch("left", long)).loss) / 11
        right, left = (model(**batch(side, short, long)).loss for side in ("right", "left"))
        without_first = batch("left", short, long)
        without_first["labels"][0, 3] = -100
        masked = model(**without_first).loss
        term, changed = (-model(**batch("left", text, long)).logits[0, 2].log_softmax(-1)[3]
                         for text in (short, other_end))
    seen[attention] = [float(each) for each in (alone, right, left, masked, term, changed)]
    print(attention, "| loss alone %.3f, right %.3f, left %.3f, left without the first word's label %.3f"
          " | added term %.3f, with another last word %.3f" % tuple(seen[attention]))
for alone, right, left, masked, term, _ in seen.values():
    assert max(abs(right - alone), abs(masked - alone)) < 1e-5 < 0.01 < abs(left - alone)
    assert abs(left - (11 * alone + term) / 12) < 1e-5
eager, sdpa = seen["eager"], seen["sdpa"]
assert abs(eager[2] - sdpa[2]) > 0.005 and abs(eager[4] - eager[5]) > 0.1 and sdpa[4] == sdpa[5]
PY
(cd "$home" && "$home/venv/bin/python" run.py)
