"""Directories with a tiny tokenizer of every kind, for both readers: tokenizer files, no weights.

Nothing here is a published file: a few hundred tokens, of the same parts as the published ones.
"""

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ("who", "is", "this", "the", "name", "USER", "ASSISTANT", "system", "user", "assistant")
LLAVA = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nSYSTEM<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN2 = CHATML.replace("SYSTEM", "You are a helpful assistant.")
QWEN2_5 = CHATML.replace(
    "SYSTEM", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
)
SMOLLM2 = CHATML.replace(
    "SYSTEM", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
)
LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = "
    "strftime_now('%d %b %Y') %}{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: ' + date_string + '\n\n<|eot_id|>' }}"
    "{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' "
    "+ m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
MISTRAL_3 = (
    "{{- bos_token }}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{{- '[INST] ' + m['content'] + '[/INST]' }}{%- else %}"
    "{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# {kind: (model_type, tokenizer's kind, tokenizer class, chat template, its file)}
KINDS = {
    "llava": ("llava", "normaliser", "LlamaTokenizer", LLAVA, "chat_template.json"),
    "llama-2": ("llama", "normaliser", "LlamaTokenizer", LLAMA_2, "tokenizer_config.json"),
    "llama-first": ("llama", "first", "PreTrainedTokenizerFast", LLAMA_2, "chat_template.jinja"),
    "llama-3": ("llama", "bytes", "PreTrainedTokenizerFast", LLAMA_3, "tokenizer_config.json"),
    "mistral": ("mistral", "always", "LlamaTokenizer", MISTRAL, "tokenizer_config.json"),
    "mistral-v0.3": ("mistral", "first", "LlamaTokenizer", MISTRAL_3, "chat_template.jinja"),
    "qwen2": ("qwen2", "qwen", "Qwen2Tokenizer", QWEN2_5, "tokenizer_config.json"),
    "smollm2": ("llama", "digits", "GPT2Tokenizer", SMOLLM2, "tokenizer_config.json"),
    "qwen2-vl": ("qwen2_vl", "qwen", "Qwen2Tokenizer", QWEN2, "chat_template.json"),
    "qwen2.5-vl": ("qwen2_5_vl", "qwen", "Qwen2TokenizerFast", QWEN2, "chat_template.jinja"),
}
LLAMA_SPECIAL = ("<unk>", "<s>", "</s>")
QWEN_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> "
    "<|video_pad|>"
).split()
SMOLLM2_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA_3_SPECIAL = (
    "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
).split()


def _merged(vocabulary, words):
    """Merges that make each word one token, from its first letter on; the tokens are added."""
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if pair not in merges:
                merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
    return merges


def sentencepiece_bpe(kind, special):
    """LLaMA's kind: bytes for unknown letters; kind: normaliser, always or first."""
    vocabulary = {token: i for i, token in enumerate(LLAMA_SPECIAL)}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for letter in "▁etaoinshrdlucmfwypvbgkqjxzUSERASITN:?.,[]/":
        vocabulary.setdefault(letter, len(vocabulary))
    merges = _merged(vocabulary, ["▁" + word for word in WORDS] + ["▁▁", "▁[", "▁a"])
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if kind == "normaliser":
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", kind, split=False)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken(t, normalized=False) for t in (*LLAMA_SPECIAL, *special)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


def byte_level_bpe(kind, special):
    """Qwen2's kind (qwen), Llama-3's (bytes) or SmolLM2's (digits): every byte is a letter."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    numbers = ["123"] if kind == "digits" else []
    words = [*WORDS, *("Ġ" + word for word in WORDS), "ĠĠ", "ĊĊ", *numbers]
    merges = _merged(vocabulary, words)
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind == "bytes"))
    digits = r"\p{N}" if kind == "qwen" else r"\p{N}{1,3}"
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+"
        r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if kind == "digits":
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if kind == "qwen":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    if kind == "bytes":
        bos = "<|begin_of_text|>"
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def files_of(name):
    """{file: JSON value or text} of a directory: tokenizer, chat template, config.json, pictures.

    name  of KINDS
    """
    model_type, kind, class_name, template, place = KINDS[name]
    by_bytes = {"qwen": QWEN_SPECIAL, "bytes": LLAMA_3_SPECIAL, "digits": SMOLLM2_SPECIAL}
    if kind in by_bytes:
        special = by_bytes[kind]
        made = byte_level_bpe(kind, special)
        config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
        if kind == "bytes":
            config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        if kind == "digits":
            config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    else:
        special = {"llava": ("<image>", "<pad>"), "mistral-v0.3": ("[INST]", "[/INST]")}
        made = sentencepiece_bpe(kind, special.get(name, ()))
        config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        if name == "llava":
            config |= {"pad_token": "<pad>"}
    config |= {"tokenizer_class": class_name, "model_max_length": 4096}
    files = {
        "tokenizer.json": json.loads(made.to_str()),
        "tokenizer_config.json": config,
        "config.json": {"model_type": model_type},
    }
    if place == "tokenizer_config.json":
        config["chat_template"] = template
    else:
        files[place] = {"chat_template": template} if place.endswith(".json") else template
    files |= picture_files(model_type)
    return files


def picture_files(model_type):
    """preprocessor_config.json of a vision-language model, for pictures of 28 x 28 pixels."""
    if model_type == "llava":
        values = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
        }
        sides = {"patch_size": 14, "vision_feature_select_strategy": "default"}
        processor = {"processor_class": "LlavaProcessor", "num_additional_image_tokens": 1, **sides}
        return {"preprocessor_config.json": values, "processor_config.json": processor}
    if model_type.endswith("_vl"):
        values = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "min_pixels": 784,
            "max_pixels": 3136,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        }
        if model_type == "qwen2_5_vl":
            values["processor_class"] = "Qwen2_5_VLProcessor"
        return {"preprocessor_config.json": values}
    return {}


def write(directory, files):
    """Write the files of a directory; None: the file is left out."""
    for name, value in files.items():
        if value is None:
            continue
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return directory
