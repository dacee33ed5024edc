"""Valid changes of tokenizer files: for each key, other values that the reference accepts.

A change is (files of a directory, random) -> the value; it edits the files. Its name is FILE/KEY,
or FILE/WORD,WORD where a refusal may name one of several words.
"""

from tests.helpers.tiny_tokenizers import (
    LLAMA_2,
    LLAVA,
    MISTRAL,
    MISTRAL_3,
    QWEN2,
    QWEN2_5,
)

CONFIG = "tokenizer_config.json"
DELETE = object()
TEMPLATES = (LLAVA, QWEN2, QWEN2_5, MISTRAL, MISTRAL_3, LLAMA_2, "{{ messages[0].role }}")


def added(text, **flags):
    """A token as tokenizer_config.json writes it."""
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": text, **token, **flags}


def special_of(files):
    """Texts of tokens: special ones, plain ones and new ones."""
    known = [token["content"] for token in files["tokenizer.json"]["added_tokens"]]
    return [*known, "who", "a", "<new>"]


def _in_config(key, values):
    """A change of one key of tokenizer_config.json."""

    def change(files, rng):
        value = rng.choice(values(files) if callable(values) else values)
        if value is DELETE:
            files[CONFIG].pop(key, None)
            return "deleted"
        files[CONFIG][key] = value
        return value

    return change


def _token_values(files):
    texts = special_of(files)
    flags = ({}, {"lstrip": True}, {"rstrip": True}, {"normalized": True}, {"special": True})
    return [DELETE, None, *texts, *(added(texts[i % len(texts)], **f) for i, f in enumerate(flags))]


def _decoder_values(files):
    """added_tokens_decoder as it is saved, and with a token that tokenizer.json has not."""
    listed = {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"}
        for token in files["tokenizer.json"]["added_tokens"]
    }
    size = max(files["tokenizer.json"]["model"]["vocab"].values()) + 1
    plain = {k: v for k, v in added("<new>").items() if k != "__type"}
    more = {**listed, str(size + 9): plain}
    stripped = {k: {**v, "rstrip": True} for k, v in listed.items()}
    not_special = {k: {**v, "special": False} for k, v in listed.items()}
    return [listed, more, stripped, not_special, {}]


def _of_tokenizer(key, values):
    """A change of one key of tokenizer.json."""

    def change(files, rng):
        value = rng.choice(values(files) if callable(values) else values)
        files["tokenizer.json"][key] = value
        return value

    return change


def _truncation(n):
    return {"direction": "Right", "max_length": n, "strategy": "LongestFirst", "stride": 0}


def _paddings(files):
    token = files["tokenizer.json"]["added_tokens"][0]
    padding = {
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": token["id"],
        "pad_type_id": 0,
        "pad_token": token["content"],
    }
    return [
        {"strategy": "BatchLongest", **padding},
        {"strategy": {"Fixed": 12}, **padding},
        {"strategy": {"Fixed": 4000}, **padding, "pad_token": "<new>"},
    ]


def _post_processors(files):
    first, second = files["tokenizer.json"]["added_tokens"][1:3]

    def around(*parts):
        words = {first["content"]: first["id"], second["content"]: second["id"]}
        return {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}}
                if part == "A"
                else {"SpecialToken": {"id": part, "type_id": 0}}
                for part in parts
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                word: {"id": word, "ids": [number], "tokens": [word]}
                for word, number in words.items()
            },
        }

    one, other = first["content"], second["content"]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    return [None, byte_level, around(one, "A"), around(one, "A", other), around("A")]


def _added_tokens(files, rng):
    """Flags of one added token, or one more."""
    tokens = files["tokenizer.json"]["added_tokens"]
    token = rng.choice(tokens)
    how = rng.choice(("special", "lstrip", "rstrip", "normalized", "single_word", "more"))
    if how == "more":
        vocabulary = files["tokenizer.json"]["model"]["vocab"]
        text = rng.choice(("who", "<boi>"))
        number = vocabulary.get(text, max(*vocabulary.values(), *(t["id"] for t in tokens)) + 1)
        plain = {**tokens[0], "special": False, "id": number, "content": text}
        if number not in [t["id"] for t in tokens]:
            tokens.append(plain)
            tokens.sort(key=lambda each: each["id"])
    else:
        token[how] = not token[how]
    return f"{how} {token['content']}"


def _added_tokens_file(files, rng):
    vocabulary = files["tokenizer.json"]["model"]["vocab"]
    size = len(files["tokenizer.json"]["added_tokens"]) + max(vocabulary.values()) + 1
    value = rng.choice(
        (
            {"<new>": size},
            {"who": vocabulary["who"]} if "who" in vocabulary else {},
            {"<boi>": 5000},
        )
    )
    files["added_tokens.json"] = value
    return value


def _special_tokens_map(files, rng):
    texts = special_of(files)
    token = {k: v for k, v in added(rng.choice(texts), rstrip=True).items() if k != "__type"}
    value = rng.choice(
        (
            {"eos_token": rng.choice(texts), "bos_token": token},
            {"pad_token": token},
            {"additional_special_tokens": [rng.choice(texts), "<boi>"]},
            {"extra_special_tokens": ["<boi>", token]},
            {"extra_special_tokens": {"boi_token": "<boi>"}},
            {"image_token": "<image>", "boi_token": "<boi>"},
        )
    )
    files["special_tokens_map.json"] = value
    return value


def _template_file(name):
    """A chat template in another file."""

    def change(files, rng):
        text = rng.choice(TEMPLATES)
        if name.endswith(".jinja"):
            files[name] = text
        else:
            values = (text, {"default": text}, {"default": text, "tools": "x"})
            value = rng.choice(values)
            files[name] = {**(files.get(name) or {}), "chat_template": value}
        return text[:40]

    return change


def _no_template(files, rng):
    files[CONFIG].pop("chat_template", None)
    for name in ("chat_template.jinja", "chat_template.json"):
        files.pop(name, None)
    return ""


def _several_templates(files, rng):
    text = rng.choice(TEMPLATES)
    value = rng.choice(
        (
            [{"name": "default", "template": text}, {"name": "tool_use", "template": "x"}],
            {"default": text, "rag": "x"},
            text,
        )
    )
    files[CONFIG]["chat_template"] = value
    return text[:40]


def _config_class(files, rng):
    value = rng.choice(("LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", None))
    files["config.json"]["tokenizer_class"] = value
    if rng.random() < 0.7:
        files[CONFIG].pop("tokenizer_class", None)
    return value


CLASSES = (
    DELETE,
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "PreTrainedTokenizer",
    "TokenizersBackend",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
)
SWITCH = (True, False, None)
VALUES = {
    "tokenizer_class": CLASSES,
    "bos_token": _token_values,
    "eos_token": _token_values,
    "unk_token": _token_values,
    "pad_token": _token_values,
    "mask_token": _token_values,
    "sep_token": _token_values,
    "boi_token": ("<boi>", "who", added("<boi>"), None, True),
    "image_token": ("<image>", "<|image_pad|>", "who"),
    "extra_special_tokens": (
        ["<boi>", "who"],
        [],
        None,
        {"boi_token": "<boi>"},
        [added("<boi>", rstrip=True), "a"],
        {"image_token": "<image>"},
    ),
    "additional_special_tokens": (["<boi>", "who"], [], [added("who", lstrip=True)]),
    "added_tokens_decoder": _decoder_values,
    "add_prefix_space": SWITCH,
    "legacy": SWITCH,
    "split_special_tokens": SWITCH,
    "clean_up_tokenization_spaces": SWITCH,
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": SWITCH,
    "add_bos_token": SWITCH,
    "add_eos_token": SWITCH,
    "model_max_length": (4, 512, 1e30),
    "padding_side": ("left", "right"),
    "truncation_side": ("left", "right"),
    "truncation_strategy": ("longest_first",),
    "pad_token_type_id": (0, 1),
    "max_length": (5, 500, None),
    "stride": (0, 2),
    "pad_to_multiple_of": (None, 8),
    "truncation": (True, False, None),
    "padding": (True, False, "max_length"),
    "model_input_names": (["input_ids"], ["input_ids", "token_type_ids", "attention_mask"]),
    "use_default_system_prompt": SWITCH,
    "sp_model_kwargs": ({}, {"nbest_size": 2}),
    "spaces_between_special_tokens": SWITCH,
    "errors": ("replace", "ignore"),
    "processor_class": ("LlavaProcessor", "Other", None),
    "fix_mistral_regex": SWITCH,
    "return_token_type_ids": SWITCH,
    "return_attention_mask": SWITCH,
    "is_split_into_words": SWITCH,
    "return_overflowing_tokens": SWITCH,
    "verbose": SWITCH,
    "response_template": ("x", None),
    "response_schema": ({}, None),
    "unk_id": (0, 5),
    "from_slow": SWITCH,
    "use_fast": SWITCH,
    "some_key": (1, "x", [2]),
    "auto_map": (None,),
    "do_resize": (False,),
    "size": ({"shortest_edge": 56},),
    "max_pixels": (784,),
    "image_mean": ([0.1, 0.1, 0.1],),
    "_json_truncation": (None,),
    "backend": ("tokenizers", "other"),
    "init_inputs": ([],),
    "vocab_file": ("nothing.model",),
    "name_or_path": ("x/y",),
}
TEMPLATE_WORDS = "template"
CHANGES = {f"{CONFIG}/{key}": _in_config(key, values) for key, values in VALUES.items()} | {
    "tokenizer.json/truncation": _of_tokenizer(
        "truncation", (_truncation(6), _truncation(300), _truncation(4000))
    ),
    "tokenizer.json/padding,truncation": _of_tokenizer("padding", _paddings),
    "tokenizer.json/post_processor,BOS token": _of_tokenizer("post_processor", _post_processors),
    "tokenizer.json/normalizer": _of_tokenizer(
        "normalizer", (None, {"type": "Lowercase"}, {"type": "NFKC"})
    ),
    "tokenizer.json/pre_tokenizer": _of_tokenizer(
        "pre_tokenizer",
        (
            None,
            {"type": "Whitespace"},
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
        ),
    ),
    "tokenizer.json/decoder": _of_tokenizer("decoder", (None, {"type": "Fuse"})),
    "tokenizer.json/added_tokens,added token": _added_tokens,
    "added_tokens.json/added_tokens": _added_tokens_file,
    "special_tokens_map.json/special_tokens_map,_token": _special_tokens_map,
    f"processor_config.json/{TEMPLATE_WORDS}": _template_file("processor_config.json"),
    f"chat_template.json/{TEMPLATE_WORDS}": _template_file("chat_template.json"),
    f"chat_template.jinja/{TEMPLATE_WORDS}": _template_file("chat_template.jinja"),
    f"default.jinja/{TEMPLATE_WORDS}": _template_file("additional_chat_templates/default.jinja"),
    f"tool_use.jinja/{TEMPLATE_WORDS}": _template_file("additional_chat_templates/tool_use.jinja"),
    f"file.jinja/{TEMPLATE_WORDS}": _template_file("additional_chat_templates/file.jinja"),
    f"no/{TEMPLATE_WORDS}": _no_template,
    f"several/{TEMPLATE_WORDS}": _several_templates,
    "config.json/tokenizer_class": _config_class,
}
