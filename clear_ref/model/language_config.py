"""The configuration of a decoder, read from the config.json of any generation of transformers."""

from dataclasses import dataclass
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .config_keys import DECODERS
from .config_values import flag, number, one_of, whole_number
from .rope import Rope, rope_settings

# The values that transformers' configuration classes use for a key that config.json omits. The
# files on the hub hold only the values that differ from these.
LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "layer_types": None,
    "head_dim": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": LLAMA
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
}
DEFAULTS["qwen2_vl"] = DEFAULTS["qwen2"] | {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_window_layers": 80,
}
DEFAULTS["qwen2_5_vl"] = DEFAULTS["qwen2_vl"]
# The decoders that transformers' Qwen2 classes compute: biases on q, k, v, a window in some layers.
QWEN2_KINDS = {"qwen2", "qwen2_vl", "qwen2_5_vl"}
# The decoders whose positions have three axes, and the axes' default shares of the frequencies.
THREE_AXES = {"qwen2_vl", "qwen2_5_vl"}
MROPE_SECTION = [16, 24, 24]
FULL = "full_attention"
SLIDING = "sliding_attention"
SILU = ("silu", "swish")  # two names of one function
# Keys for which null is a value; for every other key of DEFAULTS transformers refuses it.
NULLABLE = {"num_key_value_heads", "head_dim", "sliding_window", "layer_types", "rope_theta"}


@dataclass(frozen=True)
class LanguageConfig:
    """The sizes and options of a decoder.

    rope           the rotary frequencies
    windows        for each layer, how many positions a token attends to, itself included; None: to
                   all before it
    mrope_section  how many rotary frequencies belong to each axis in turn (time, height, width,
                   and again); None: one axis
    longest_text   the most tokens that may be generated from, prompt included; None: any number
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    mrope_section: tuple[int, ...] | None = None
    longest_text: int | None = None

    @property
    def text(self) -> "LanguageConfig":
        """The decoder's config, which every family's config has under this name: this one."""
        return self


def language_config(
    config: dict[str, Any], where: PathName, kind: str, tied: bool | None = None
) -> LanguageConfig:
    """The decoder that a config.json or its text_config describes.

    where   the file, for error messages
    kind    the model_type whose table and defaults apply
    tied    whether the head is the embedding, if it is known from the top level of a VLM's config
    raises  UserError for a structure that this code does not compute, or inconsistent numbers
    """
    DECODERS[kind].check(config, where)
    values = DEFAULTS[kind] | config
    _check_nulls(config, kind, where)
    one_of(values, "hidden_act", SILU, where)
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ):
        whole_number(values, key, where)
    heads, key_value_heads, head_dim = _head_sizes(values, kind, where)
    rope, rotary = rope_settings(
        config,
        DEFAULTS[kind]["rope_theta"],
        values["max_position_embeddings"],
        head_dim,
        where,
        kind in THREE_AXES,
    )
    is_llama = kind == "llama"
    return LanguageConfig(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=number(values, "rms_norm_eps", where),
        rope=rope,
        windows=windows(values, kind, where),
        qkv_bias=kind in QWEN2_KINDS or (is_llama and flag(values, "attention_bias", where)),
        o_bias=is_llama and flag(values, "attention_bias", where),
        mlp_bias=is_llama and flag(values, "mlp_bias", where),
        tie_word_embeddings=flag(values, "tie_word_embeddings", where) if tied is None else tied,
        mrope_section=_mrope_section(rotary, head_dim, where) if kind in THREE_AXES else None,
        longest_text=_window(values, where) if is_llama else None,
    )


def _check_nulls(config: dict[str, Any], kind: str, where: PathName) -> None:
    """UserError for a null that transformers refuses too."""
    nullable = NULLABLE - ({"num_key_value_heads"} if kind == "mistral" else set())
    if kind != "llama":
        nullable |= {"attention_bias", "mlp_bias"}
    if kind in THREE_AXES:
        nullable |= {"use_sliding_window", "max_window_layers"}
    for key, value in config.items():
        if value is None and key in DEFAULTS[kind] and key not in nullable:
            raise UserError(f"{where}: {key} is null; expected a value, or leave the key out")


def _head_sizes(values: dict[str, Any], kind: str, where: PathName) -> tuple[int, int, int]:
    """(num_attention_heads, num_key_value_heads, head_dim), checked.

    A null for num_key_value_heads means as many as attention heads.
    """
    heads = values["num_attention_heads"]
    key_value_heads = values["num_key_value_heads"]
    if key_value_heads is None:
        key_value_heads = heads
    equal_parts = values["hidden_size"] // heads
    head_dim = values["head_dim"]
    if head_dim is None:
        head_dim = equal_parts
    whole_number({"num_key_value_heads": key_value_heads}, "num_key_value_heads", where)
    whole_number({"head_dim": head_dim}, "head_dim", where)
    if kind in THREE_AXES and head_dim != equal_parts:
        raise UserError(
            f"{where}: head_dim is {head_dim}; expected {equal_parts}, "
            "hidden_size / num_attention_heads"
        )
    if heads % key_value_heads or head_dim % 2:
        raise UserError(
            f"{where}: num_attention_heads {heads}, num_key_value_heads {key_value_heads} and "
            f"head_dim {head_dim} do not go together; expected heads a multiple of key-value "
            "heads, and an even head_dim"
        )
    return heads, key_value_heads, head_dim


def _mrope_section(rotary: dict[str, Any], head_dim: int, where: PathName) -> tuple[int, ...]:
    """mrope_section of the rotary settings; UserError unless it adds up to the frequencies."""
    section = rotary.get("mrope_section", MROPE_SECTION)
    is_list = isinstance(section, list) and all(type(n) is int and n >= 0 for n in section)
    if not is_list or sum(section) != head_dim // 2:
        raise UserError(
            f"{where}: mrope_section is {shown(section)}; "
            f"expected three numbers that add up to {head_dim // 2}"
        )
    return tuple(section)


def _window(values: dict[str, Any], where: PathName) -> int | None:
    """sliding_window; UserError unless it is a whole number above 0 or null."""
    window = values["sliding_window"]
    if window is not None and (type(window) is not int or window < 1):
        raise UserError(
            f"{where}: sliding_window is {shown(window)}; expected a whole number above 0, or null"
        )
    return window


def windows(values: dict[str, Any], kind: str, where: PathName) -> tuple[int | None, ...]:
    """The sliding window of each layer, or None.

    Llama has none, whatever sliding_window says. Mistral has sliding_window in every layer. Qwen2
    has it only with use_sliding_window true: in the layers that layer_types names, or without
    layer_types in those from number max_window_layers on.
    values  with the defaults of omitted keys
    """
    n_layers = values["num_hidden_layers"]
    is_qwen2 = kind in QWEN2_KINDS
    window = _window(values, where)
    if kind == "llama" or (is_qwen2 and not _uses_windows(values, where)):
        window = None
    types = values["layer_types"]
    if types is not None:
        known = (FULL,) if window is None else (FULL, SLIDING) if is_qwen2 else (SLIDING,)
        types = _layer_types(types, n_layers, known, where)
    if window is None or not is_qwen2:
        return (window,) * n_layers
    if types is None:
        n_full = values["max_window_layers"]
        if type(n_full) is not int:
            raise UserError(
                f"{where}: max_window_layers is {shown(n_full)}; expected a whole number"
            )
        return tuple(None if number < n_full else window for number in range(n_layers))
    return tuple(window if each == SLIDING else None for each in types)


def _uses_windows(values: dict[str, Any], where: PathName) -> bool:
    """use_sliding_window; null means false."""
    if values["use_sliding_window"] is None:
        return False
    return flag(values, "use_sliding_window", where)


def _layer_types(types: Any, n_layers: int, known: tuple[str, ...], where: PathName) -> list[str]:
    """layer_types in today's words; UserError for a kind of layer that is not in `known`."""
    is_list = isinstance(types, list) and all(isinstance(each, str) for each in types)
    given = [FULL if each == "attention" else each for each in types] if is_list else []
    if len(given) != n_layers or not set(given) <= set(known):
        raise UserError(
            f"{where}: layer_types is {shown(types)}; expected {n_layers} of {' and '.join(known)}"
            ", as sliding_window is"
        )
    return given
