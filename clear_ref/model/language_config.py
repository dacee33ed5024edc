"""A decoder's sizes and habits, from the config.json of any generation of transformers."""

from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

# What transformers' configuration classes take for a key that config.json leaves out (hub files hold what differs from these).
LLAMA = {
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
DEFAULTS = {
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
QKV_BIAS = {"qwen2", "qwen2_vl"}
LARGEST, MOST_LAYERS = 1 << 24, 1000  # far above every model of these families


@dataclass(frozen=True)
class LanguageConfig:
    """windows: for each layer, how many positions a token looks at, itself included; None: all before it.
    rope_factor divides the rotary frequencies (linear scaling); mrope_section shares them out among three axes."""

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


def language_config(config: dict, where, kind: str, tied: bool | None = None) -> LanguageConfig:
    """The decoder that a config (or text_config) describes; what it omits takes the defaults of its kind, a model_type.

    tied    whether the head is the embedding, where the level above says so (a VLM's config.json)
    raises  UserError for a structure that this code does not compute, or numbers that do not go together
    """
    values = DEFAULTS[kind] | {key: value for key, value in config.items() if value is not None}
    for key, expected in (
        ("hidden_act", "silu"),
        ("mlp_bias", False),
        ("attention_bias", kind in QKV_BIAS),
    ):
        if values.get(key, expected) != expected:
            raise UserError(
                f"{where}: {key} is {values[key]!r}; expected {expected!r}, nothing else is computed for {kind}"
            )
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ):
        whole_number(values, key, where)
    width, heads = values["hidden_size"], values["num_attention_heads"]
    groups, dim = values.get("num_key_value_heads", heads), values.get("head_dim", width // heads)
    if "num_key_value_heads" in config and config["num_key_value_heads"] is None:
        groups = heads
    whole_number({"num_key_value_heads": groups}, "num_key_value_heads", where)
    whole_number({"head_dim": dim}, "head_dim", where)
    if heads % groups or dim % 2:
        raise UserError(
            f"{where}: num_attention_heads {heads}, num_key_value_heads {groups} and head_dim {dim} do not go "
            "together; expected heads a multiple of key-value heads, and an even head_dim"
        )
    theta, factor, section = rope(values, where)
    if section is not None and (len(section) != 3 or sum(section) != dim // 2):
        raise UserError(
            f"{where}: mrope_section is {list(section)}; expected three numbers that add up to {dim // 2}"
        )
    return LanguageConfig(
        values["vocab_size"],
        width,
        values["intermediate_size"],
        values["num_hidden_layers"],
        heads,
        groups,
        dim,
        number(values, "rms_norm_eps", where),
        theta,
        windows(config, values, where),
        kind in QKV_BIAS,
        bool(values["tie_word_embeddings"] if tied is None else tied),
        factor,
        section,
    )


def part_of(config: dict, key: str, where) -> dict:
    """config[key], {} where it is absent; UserError unless it is an object."""
    found = config.get(key)
    if not isinstance(found, dict | None):
        raise UserError(f"{where}: {key} is {found!r}; expected an object")
    return found or {}


def number(values: dict, key: str, where) -> float:
    """values[key] as a positive float; UserError for anything else."""
    value = values[key]
    if (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30
    ):  # 10^400 is an int in JSON
        raise UserError(f"{where}: {key} is {one_line(repr(value), 60)}; expected a number above 0")
    return float(value)


def whole_number(values: dict, key: str, where) -> int:
    """values[key], 1 to LARGEST (layers: MOST_LAYERS); UserError for anything else, before anything of that size is made."""
    value, most = values[key], MOST_LAYERS if key in ("num_hidden_layers", "depth") else LARGEST
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"{where}: {key} is {one_line(repr(value), 60)}; expected a whole number above 0, at most {most}"
        )
    return value


def rope(values: dict, where) -> tuple[float, float, tuple[int, ...] | None]:
    """(theta, factor, mrope_section): from rope_theta and rope_scaling, or from rope_parameters, which replaced both."""
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise UserError(
            f"{where}: rope parameters are {scaling!r}; expected an object with rope_type"
        )
    theta = number(
        {"rope_theta": scaling.get("rope_theta") or values["rope_theta"]}, "rope_theta", where
    )
    section = scaling.get("mrope_section", values.get("mrope_section"))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "mrope"):
        raise UserError(
            f"{where}: rotary positions are of type {kind!r}; expected default, linear or mrope"
        )
    factor = (
        number(scaling | {"factor": scaling.get("factor")}, "factor", where)
        if kind == "linear"
        else 1.0
    )
    if section is None:
        return theta, factor, None
    if not isinstance(section, list) or not all(isinstance(n, int) and n > 0 for n in section):
        raise UserError(f"{where}: mrope_section is {section!r}; expected three whole numbers")
    return theta, factor, tuple(section)


def windows(config: dict, values: dict, where) -> tuple[int | None, ...]:
    """For each layer its sliding window or None. An explicit null switches it off; use_sliding_window false too (Qwen2)."""
    n_layers, window = values["num_hidden_layers"], values.get("sliding_window")
    if (
        "sliding_window" in config
        and config["sliding_window"] is None
        or not values.get("use_sliding_window", True)
    ):
        window = None
    if window is not None and (not isinstance(window, int) or window < 1):
        raise UserError(
            f"{where}: sliding_window is {window!r}; expected a whole number above 0, or null"
        )
    types = values.get("layer_types")
    if types is None:
        first = values.get("max_window_layers", 0)
        types = [
            "full_attention" if number < first else "sliding_attention"
            for number in range(n_layers)
        ]
    known = isinstance(types, list) and all(
        kind in ("full_attention", "sliding_attention") for kind in types
    )
    if not known or len(types) != n_layers:
        raise UserError(
            f"{where}: layer_types is {one_line(repr(types), 60)}; expected {n_layers} of full_attention and "
            "sliding_attention"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)
