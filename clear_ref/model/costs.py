"""What one record costs in a model: operations and bytes, counted without weights.

Our own forward and backward run on fake tensors, which have shapes but no values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from clear_ref.data.qwen_images import smart_resize

from . import lora
from .base_model import Model
from .families import family
from .language import rotary
from .llava import Llava
from .qwen2_vl import Qwen2VL

# The bounds in the published preprocessor_config.json of Qwen2-VL and Qwen2.5-VL.
LEAST_PIXELS = 3136
MOST_PIXELS = 12845056


def _attention_flops(q: Any, k: Any, v: Any, *more: Any, **named: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *more: Any, **named: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


# The fused attention of the CPU, which torch's counter does not know.
_aten = torch.ops.aten
ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


@dataclass(frozen=True)
class RecordCosts:
    """The costs of one record.

    tokens             its tokens, the picture's included
    forward            floating-point operations of a forward without adapters (a multiply-add
                       counts two)
    training           the same of forward and backward in training
    kept               bytes kept for backward
    kept_checkpointed  the same if only each layer's input is kept
    """

    tokens: int
    forward: float
    training: float
    kept: int
    kept_checkpointed: int


@dataclass(frozen=True)
class ModelCosts:
    """The sizes of a model and the costs of its records.

    parameters  numbers in its weights
    trained     numbers that training changes
    cache       bytes of one token's keys and values
    head        operations of one row of logits
    vocabulary  ids of the embedding
    text        a record of text
    picture     a record with a picture; None: a language model
    in_layers   numbers in the weights of all decoder layers; n_layers: how many layers
    """

    parameters: int
    trained: int
    cache: int
    head: int
    vocabulary: int
    text: RecordCosts
    picture: RecordCosts | None
    in_layers: int = 0
    n_layers: int = 1


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    earlier = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(earlier)


def model_costs(
    config_json: dict[str, Any], dtype: torch.dtype, rank: int, n_text: int, side: int
) -> ModelCosts:
    """The costs of a config.json's model.

    rank    of the adapters that are trained; 0: every weight is trained
    n_text  text tokens of a record
    side    of its picture, in pixels
    source  torch's counter of operations, and its hooks on the tensors that backward needs
    raises  UserError as the family's config
    """
    model_family = family(config_json, "config.json")
    config = model_family.config(config_json, "config.json")
    text = config.text
    picture = None
    with _default_dtype(dtype), FakeTensorMode():
        model = model_family.model(config).requires_grad_(not rank)
        parameters = sum(tensor.numel() for tensor in model.parameters())
        in_layers = sum(tensor.numel() for tensor in model.decoder.layers.parameters())
        if rank:
            lora.add(model, rank, 32, None, 0)
        trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
        text_record = _record_costs(model, None, n_text, dtype)
        if model_family.sees_pictures:
            tower = _tower_costs(model, config.vision, side, dtype)
            picture = _record_costs(model, tower, n_text, dtype)
    return ModelCosts(
        parameters=parameters,
        trained=trained,
        cache=2
        * text.num_hidden_layers
        * text.num_key_value_heads
        * text.head_dim
        * dtype.itemsize,
        head=2 * text.hidden_size * text.vocab_size,
        vocabulary=text.vocab_size,
        text=text_record,
        picture=picture,
        in_layers=in_layers,
        n_layers=text.num_hidden_layers,
    )


@dataclass(frozen=True)
class _Costs:
    """Operations of a forward with the adapters off; of forward and backward; bytes kept."""

    forward: float
    training: float
    kept: int


@dataclass(frozen=True)
class _TowerCosts:
    """A vision tower and a picture: image tokens, costs, numbers in the inputs of its layers."""

    n_image_tokens: int
    costs: _Costs
    n_inputs: int


def _tower_costs(model: Model, vision: Any, side: int, dtype: torch.dtype) -> _TowerCosts:
    """The tower of a model and a picture of side x side pixels; vision: the tower's config."""
    if isinstance(model, Qwen2VL):
        visual = model.visual
        high, wide = (
            pixels // vision.patch_size
            for pixels in smart_resize(
                side, side, vision.patch_size * model.merge, LEAST_PIXELS, MOST_PIXELS
            )
        )
        n_positions = high * wide
        n_image_tokens = high * wide // model.merge**2
        patches = torch.empty(n_positions, model.patch_width, dtype=dtype)
        costs = _count(model, lambda: visual(patches, [(high, wide)]))
    else:
        assert isinstance(model, Llava), "a family with pictures needs its own count of a tower"
        image_features = model.image_features
        n_positions = vision.n_patches + 1
        n_image_tokens = vision.n_patches
        pixels = torch.empty(1, 3, vision.image_size, vision.image_size, dtype=dtype)
        costs = _count(model, lambda: image_features(pixels))
    n_inputs = vision.num_hidden_layers * n_positions * vision.hidden_size
    return _TowerCosts(n_image_tokens, costs, n_inputs)


def _record_costs(
    model: Model, tower: _TowerCosts | None, n_text: int, dtype: torch.dtype
) -> RecordCosts:
    """One record of `n_text` text tokens, with a picture of the tower's (None: without)."""
    tower = tower or _TowerCosts(0, _Costs(0, 0, 0), 0)
    decoder = model.decoder
    T = n_text + tower.n_image_tokens
    axes = () if decoder.config.mrope_section is None else (3,)
    cos, sin = rotary(torch.arange(T).expand(*axes, 1, T), decoder.config, dtype)
    x = torch.empty(1, T, decoder.config.hidden_size, dtype=dtype, requires_grad=True)
    layer = _count(model, lambda: decoder.layers[0](x, cos, sin, None)[0])
    n_layers = len(decoder.layers)
    n_inputs = n_layers * x.numel() + tower.n_inputs
    return RecordCosts(
        tokens=T,
        forward=tower.costs.forward + n_layers * layer.forward,
        training=tower.costs.training + n_layers * layer.training,
        kept=tower.costs.kept + n_layers * layer.kept,
        kept_checkpointed=n_inputs * dtype.itemsize + layer.kept,
    )


def _count(model: Model, compute: Callable[[], Tensor]) -> _Costs:
    """The costs of a computation with the model's weights."""
    with lora.mode(model, "off"), torch.no_grad(), _counter() as forward:
        compute()
    weights = {tensor.untyped_storage()._cdata for tensor in model.parameters()}
    kept: dict[int, int] = {}  # bytes by storage

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with _counter() as training:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = compute()
        output.sum().backward()
    return _Costs(forward.get_total_flops(), training.get_total_flops(), sum(kept.values()))


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)
