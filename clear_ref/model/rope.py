"""Rotary positions: the settings of a config.json, and their frequencies.

source  Su et al. 2021; linear: Chen et al. 2023; yarn: Peng et al. 2023; llama3: Llama-3.1's
        published code
equals  transformers 5.23 (modeling_rope_utils.py), in float32 within its rounding
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .config_keys import ROPE
from .config_values import number

COMPUTED = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a decoder.

    theta             base of the frequencies
    kind              default, linear, llama3 or yarn
    factor            divides frequencies: all (linear), or the low ones (llama3, yarn)
    original          llama3, yarn: positions that the model had before scaling
    low, high         llama3: original / low and original / high are the wavelengths between which
                      the two frequencies are mixed; yarn: the same in rotations over `original`
    attention_factor  yarn: cos and sin are multiplied by it
    truncate          yarn: the borders are rounded outwards to whole frequencies
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original: float = 0.0
    low: float = 0.0
    high: float = 0.0
    attention_factor: float = 1.0
    truncate: bool = True


def rope_settings(
    config: dict[str, Any],
    default_theta: float,
    max_positions: Any,
    head_dim: int,
    where: PathName,
    axes: bool = False,
) -> tuple[Rope, dict[str, Any]]:
    """The settings, and the object of config.json that they were read from.

    A rope_scaling that is not null or empty replaces rope_parameters whole: a theta of the latter
    is lost, and the top's rope_theta or the default counts.
    config         the decoder's part of config.json
    default_theta  for a file that names no rope_theta
    max_positions  max_position_embeddings
    axes           True for positions of three axes, where rope_type mrope means default
    raises         UserError for a type that is not computed here, or a wrong number
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    given = config.get(name) or {}
    if not isinstance(given, dict):
        raise UserError(
            f"{where}: {name} is {shown(given)}, rope parameters; expected an object with rope_type"
        )
    place = f"{where}: {name}"
    ROPE.check(given, place)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "mrope" and axes:
        kind = "default"
    if kind not in COMPUTED:
        raise UserError(
            f"{place}: rope_type (or type) is {shown(kind)}; expected {', '.join(COMPUTED)}"
            f"{' or mrope' if axes else ''}, no other rotary scaling is computed here"
        )
    values = {"rope_theta": config.get("rope_theta", default_theta)} | given
    theta = number(values, "rope_theta", where)
    if kind == "default":
        return Rope(theta), given
    _check_whole_head(config, given, head_dim, place)
    if kind == "linear":
        return Rope(theta, kind, _given(given, "factor", place)), given
    original = given.get("original_max_position_embeddings", max_positions)
    original = config.get("original_max_position_embeddings", original)
    length = number(
        {"original_max_position_embeddings": original}, "original_max_position_embeddings", where
    )
    if kind == "llama3":
        factor = _given(given, "factor", place)
        low = _given(given, "low_freq_factor", place)
        high = _given(given, "high_freq_factor", place)
        if high <= low:
            raise UserError(
                f"{place}: high_freq_factor is {high}; expected more than low_freq_factor, {low}"
            )
        return Rope(theta, kind, factor, length, low, high), given
    return _yarn(theta, given, length, max_positions, place), given


def _given(values: dict[str, Any], key: str, where: PathName) -> float:
    """values[key] as a number above 0; UserError if it is absent too."""
    return number({key: values.get(key)}, key, where)


def _check_whole_head(
    config: dict[str, Any], given: dict[str, Any], head_dim: int, where: PathName
) -> None:
    """UserError if partial_rotary_factor leaves a part of each head without rotation."""
    part = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part is None and "partial_rotary_factor" not in given:
        return
    if (
        isinstance(part, bool)
        or not isinstance(part, int | float)
        or int(head_dim * part) != head_dim
    ):
        raise UserError(
            f"{where}: partial_rotary_factor is {shown(part)}; "
            "expected 1.0, the whole head is rotated in these families"
        )


def _yarn(
    theta: float, given: dict[str, Any], original: float, max_positions: Any, where: PathName
) -> Rope:
    """yarn's settings; a null factor is max_position_embeddings / original."""
    if theta <= 1:
        raise UserError(f"{where}: rope_theta is {theta}; expected more than 1 with rope_type yarn")
    if "factor" not in given:
        raise UserError(
            f"{where}: factor is missing; expected a number above 0 with rope_type yarn"
        )
    factor = given["factor"]
    factor = max_positions / original if factor is None else _given(given, "factor", where)
    attention = given.get("attention_factor")
    if attention is None:
        scales = [given.get("mscale"), given.get("mscale_all_dim")]
        if all(scales):
            above, below = (_given(given, key, where) for key in ("mscale", "mscale_all_dim"))
            attention = _magnitude(factor, above) / _magnitude(factor, below)
        else:
            attention = _magnitude(factor)
    return Rope(
        theta,
        "yarn",
        factor,
        original,
        low=number({"beta_slow": given.get("beta_slow") or 1}, "beta_slow", where),
        high=number({"beta_fast": given.get("beta_fast") or 32}, "beta_fast", where),
        attention_factor=number({"attention_factor": attention}, "attention_factor", where),
        truncate=bool(given.get("truncate", True)),
    )


def _magnitude(factor: float, scale: float = 1.0) -> float:
    """How much yarn enlarges cos and sin for a factor."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def frequencies(rope: Rope, head_dim: int, wide: torch.dtype, device: torch.device) -> Tensor:
    """[head_dim / 2]: the angle per position of each rotated pair, largest first.

    wide  float32 or float64; never the dtype of a 16-bit model
    """
    exponent = torch.arange(0, head_dim, 2, dtype=wide, device=device) / head_dim
    plain = 1.0 / rope.theta**exponent
    divided = plain / rope.factor
    if rope.kind == "llama3":
        share = (rope.original * plain / (2 * math.pi) - rope.low) / (rope.high - rope.low)
    elif rope.kind == "yarn":
        share = 1 - _ramp(rope, head_dim, wide, device)
    else:
        return divided
    share = share.clamp(0, 1)
    return (1 - share) * divided + share * plain


def _ramp(rope: Rope, head_dim: int, wide: torch.dtype, device: torch.device) -> Tensor:
    """[head_dim / 2]: 0 for frequencies that yarn keeps, 1 for those that it divides."""
    border = [
        head_dim * math.log(rope.original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))
        for rotations in (rope.high, rope.low)
    ]
    if rope.truncate:
        border = [math.floor(border[0]), math.ceil(border[1])]
    first = max(border[0], 0)
    last = min(border[1], head_dim - 1)
    if first == last:
        last += 0.001
    number_of = torch.arange(head_dim // 2, dtype=wide, device=device)
    return ((number_of - first) / (last - first)).clamp(0, 1)
