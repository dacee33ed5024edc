"""The configuration of a decoder, read from the config.json of any generation of transformers."""

from dataclasses import dataclass
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line

# The values that transformers' configuration classes use for a key that config.json omits. The
# files on the hub hold only the values that differ from these.
LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": LLAMA
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": LLAMA
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
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
    "mrope_section": [16, 24, 24],
}
DEFAULTS["qwen2_5_vl"] = DEFAULTS["qwen2_vl"]
QKV_BIAS = {"qwen2", "qwen2_vl", "qwen2_5_vl"}
# Upper bounds far above every model of these families.
LARGEST = 1 << 24
MOST_LAYERS = 1000


@dataclass(frozen=True)
class LanguageConfig:
    """The sizes and options of a decoder.

    windows        for each layer, how many positions a token attends to, itself included; None: to
                   all before it
    rope_factor    divides the rotary frequencies (linear scaling)
    mrope_section  how many rotary frequencies belong to each of three axes; None: one axis
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    tie_word_embeddings: bool = False
    rope_factor: float = 1.0
    mrope_section: tuple[int, ...] | None = None

    @property
    def text(self) -> "LanguageConfig":
        """The decoder's config, which every family's config has under this name: this one."""
        return self


def language_config(
    config: dict[str, Any], where: PathName, kind: str, tied: bool | None = None
) -> LanguageConfig:
    """The decoder that a config.json or its text_config describes.

    where   the file, for error messages
    kind    the model_type whose defaults apply to omitted keys
    tied    whether the head is the embedding, if a VLM's config.json says so at its top level
    raises  UserError for a structure that this code does not compute, or inconsistent numbers
    """
    given = {key: value for key, value in config.items() if value is not None}
    values = DEFAULTS[kind] | given
    _check_structure(values, kind, where)
    heads, key_value_heads, head_dim = _head_sizes(config, values, where)
    rope = rope_settings(values, where)
    section = rope.mrope_section
    if section is not None and (len(section) != 3 or sum(section) != head_dim // 2):
        raise UserError(
            f"{where}: mrope_section is {list(section)}; "
            f"expected three numbers that add up to {head_dim // 2}"
        )
    return LanguageConfig(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=number(values, "rms_norm_eps", where),
        rope_theta=rope.theta,
        windows=windows(config, values, where),
        qkv_bias=kind in QKV_BIAS,
        tie_word_embeddings=bool(values["tie_word_embeddings"] if tied is None else tied),
        rope_factor=rope.factor,
        mrope_section=section,
    )


def _check_structure(values: dict[str, Any], kind: str, where: PathName) -> None:
    """UserError for an option that is not computed here, or a size that is not a size."""
    for key, expected in (
        ("hidden_act", "silu"),
        ("mlp_bias", False),
        ("attention_bias", kind in QKV_BIAS),
    ):
        if values.get(key, expected) != expected:
            raise UserError(
                f"{where}: {key} is {values[key]!r}; expected {expected!r}, "
                f"nothing else is computed for {kind}"
            )
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ):
        whole_number(values, key, where)


def _head_sizes(
    config: dict[str, Any], values: dict[str, Any], where: PathName
) -> tuple[int, int, int]:
    """(num_attention_heads, num_key_value_heads, head_dim), checked.

    An explicit null for num_key_value_heads means as many as attention heads.
    """
    heads = values["num_attention_heads"]
    key_value_heads = values.get("num_key_value_heads", heads)
    if "num_key_value_heads" in config and config["num_key_value_heads"] is None:
        key_value_heads = heads
    head_dim = values.get("head_dim", values["hidden_size"] // heads)
    whole_number({"num_key_value_heads": key_value_heads}, "num_key_value_heads", where)
    whole_number({"head_dim": head_dim}, "head_dim", where)
    if heads % key_value_heads or head_dim % 2:
        raise UserError(
            f"{where}: num_attention_heads {heads}, num_key_value_heads {key_value_heads} and "
            f"head_dim {head_dim} do not go together; expected heads a multiple of key-value "
            "heads, and an even head_dim"
        )
    return heads, key_value_heads, head_dim


def part_of(config: dict[str, Any], key: str, where: PathName) -> dict[str, Any]:
    """config[key], or {} if it is absent or null; UserError unless it is an object."""
    part = config.get(key)
    if not isinstance(part, dict | None):
        raise UserError(f"{where}: {key} is {part!r}; expected an object")
    return part or {}


def number(values: dict[str, Any], key: str, where: PathName) -> float:
    """values[key] as a positive float; UserError for anything else."""
    value = values[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The upper bound excludes integers that no float holds: JSON has 10^400.
    if not is_number or not 0 < value < 1e30:
        raise UserError(f"{where}: {key} is {one_line(repr(value), 60)}; expected a number above 0")
    return float(value)


def whole_number(values: dict[str, Any], key: str, where: PathName) -> int:
    """values[key], 1 to LARGEST (layers: MOST_LAYERS); UserError for anything else.

    Checked before any tensor of that size is made.
    """
    value = values[key]
    most = MOST_LAYERS if key in ("num_hidden_layers", "depth") else LARGEST
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"{where}: {key} is {one_line(repr(value), 60)}; "
            f"expected a whole number above 0, at most {most}"
        )
    return value


@dataclass(frozen=True)
class RopeSettings:
    """theta: base of the rotary frequencies; factor, mrope_section: see LanguageConfig."""

    theta: float
    factor: float
    mrope_section: tuple[int, ...] | None


def rope_settings(values: dict[str, Any], where: PathName) -> RopeSettings:
    """From rope_theta and rope_scaling, or from rope_parameters, which replaced both."""
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise UserError(
            f"{where}: rope parameters are {scaling!r}; expected an object with rope_type"
        )
    theta = scaling.get("rope_theta") or values["rope_theta"]
    theta = number({"rope_theta": theta}, "rope_theta", where)
    section = scaling.get("mrope_section", values.get("mrope_section"))
    rope_type = scaling.get("rope_type", scaling.get("type", "default"))
    if rope_type not in ("default", "linear", "mrope"):
        raise UserError(
            f"{where}: rotary positions are of type {rope_type!r}; "
            "expected default, linear or mrope"
        )
    factor = 1.0
    if rope_type == "linear":
        factor = number({"factor": scaling.get("factor")}, "factor", where)
    if section is None:
        return RopeSettings(theta, factor, None)
    if not isinstance(section, list) or not all(isinstance(n, int) and n > 0 for n in section):
        raise UserError(f"{where}: mrope_section is {section!r}; expected three whole numbers")
    return RopeSettings(theta, factor, tuple(section))


def windows(
    config: dict[str, Any], values: dict[str, Any], where: PathName
) -> tuple[int | None, ...]:
    """The sliding window of each layer, or None.

    An explicit null for sliding_window switches all windows off; so does use_sliding_window false
    (Qwen2).
    config  as given; values: the same with the defaults of omitted keys
    """
    window = values.get("sliding_window")
    explicit_null = "sliding_window" in config and config["sliding_window"] is None
    if explicit_null or not values.get("use_sliding_window", True):
        window = None
    if window is not None and (not isinstance(window, int) or window < 1):
        raise UserError(
            f"{where}: sliding_window is {window!r}; expected a whole number above 0, or null"
        )
    n_layers = values["num_hidden_layers"]
    types = values.get("layer_types")
    if types is None:
        n_full = values.get("max_window_layers", 0)
        types = [
            "full_attention" if number < n_full else "sliding_attention"
            for number in range(n_layers)
        ]
    known = ("full_attention", "sliding_attention")
    is_list = isinstance(types, list) and all(each in known for each in types)
    if not is_list or len(types) != n_layers:
        raise UserError(
            f"{where}: layer_types is {one_line(repr(types), 60)}; "
            f"expected {n_layers} of full_attention and sliding_attention"
        )
    return tuple(window if each == "sliding_attention" else None for each in types)
