"""A model laid out without values, and what one record costs in it: our own code, run on tensors that only have shapes."""

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from clear_ref.data.qwen_images import DEFAULTS, smart_resize

from . import lora
from .families import family
from .language import rotary

MOST_PIXELS = 12845056  # the published preprocessor_config.json of Qwen2-VL
_aten = torch.ops.aten
ATTENTION = {  # the CPU's fused attention, which torch's counter does not know
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *more, out_shape=None, **named: (
        sdpa_flop_count(q, k, v)
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *more, out_shape=None, **named: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class RecordCosts:
    """Of one record: its tokens, the picture's included; floating-point operations (a multiply-add is two) of a forward without
    adapters, and of forward and backward in training; bytes kept for backward, and with only each layer's input kept."""

    tokens: int
    forward: float
    training: float
    kept: int
    kept_checkpointed: int


@dataclass(frozen=True)
class ModelCosts:
    """Of a model: parameters, those trained, bytes of one token's keys and values, operations of one row of logits, vocabulary,
    a record of text, a record with a picture (None: it sees none)."""

    parameters: int
    trained: int
    cache: int
    head: int
    vocabulary: int
    text: RecordCosts
    picture: RecordCosts | None


def model_costs(config: dict, dtype: torch.dtype, rank: int, n_text: int, side: int) -> ModelCosts:
    """The ModelCosts of a config.json's model, trained through adapters of `rank` (0: every weight).

    n_text  text tokens of a record        side    of its picture, in pixels
    source  torch's counter of operations and its hooks on what backward needs, over our own forward and backward on fake tensors
    raises  UserError as the family's config
    """
    kind, before = family(config, "config.json"), torch.get_default_dtype()
    read = kind.config(config, "config.json")
    text = kind.text(read)
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            model = kind.model(read).requires_grad_(not rank)
            parameters = sum(tensor.numel() for tensor in model.parameters())
            if rank:
                lora.add(model, rank, 32, None, 0)
            trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
            costs = [
                _record(model, read, n_text, picture, dtype)
                for picture in (None, side)[: 1 + kind.sees_pictures]
            ]
    finally:
        torch.set_default_dtype(before)
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * dtype.itemsize
    return ModelCosts(
        parameters,
        trained,
        cache,
        2 * text.hidden_size * text.vocab_size,
        text.vocab_size,
        costs[0],
        costs[1] if len(costs) > 1 else None,
    )


def _record(model, config, n_text: int, side: int | None, dtype: torch.dtype) -> RecordCosts:
    """One record of `n_text` tokens, with a picture of side x side pixels (None: without)."""
    n_image, forward, training, kept = 0, 0, 0, 0
    vision = None if side is None else config.vision
    if vision is not None and hasattr(model, "visual"):
        unit = vision.patch_size * model.merge
        high, wide = (
            n // vision.patch_size
            for n in smart_resize(side, side, unit, DEFAULTS["min_pixels"], MOST_PIXELS)
        )
        n_patches, n_image = high * wide, high * wide // model.merge**2
        pixels = torch.empty(n_patches, model.patch_width, dtype=dtype)
        forward, training, kept = _costs(model, lambda: model.visual(pixels, [(high, wide)]))
    elif vision is not None:
        n_patches, n_image = vision.n_patches + 1, vision.n_patches
        pixels = torch.empty(1, 3, vision.image_size, vision.image_size, dtype=dtype)
        forward, training, kept = _costs(model, lambda: model.image_features(pixels))
    decoder, T = model.decoder, n_text + n_image
    axes = () if decoder.config.mrope_section is None else (3,)
    turns = rotary(torch.arange(T).expand(*axes, 1, T), decoder.config, dtype)
    x = torch.empty(1, T, decoder.config.hidden_size, dtype=dtype, requires_grad=True)
    once = _costs(model, lambda: decoder.layers[0](x, *turns, None)[0])
    n_layers = len(decoder.layers)
    inputs = n_layers * x.numel() + (
        vision.num_hidden_layers * n_patches * vision.hidden_size if vision is not None else 0
    )
    return RecordCosts(
        T,
        forward + n_layers * once[0],
        training + n_layers * once[1],
        kept + n_layers * once[2],
        inputs * dtype.itemsize + once[2],
    )


def _costs(model, compute) -> tuple[float, float, int]:
    """Operations of a forward with the adapters off; operations of forward and backward, and bytes kept between the two."""
    with lora.mode(model, "off"), torch.no_grad(), _counter() as plain:
        compute()
    own, kept = {tensor.untyped_storage()._cdata for tensor in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with _counter() as both:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = compute()
        found.sum().backward()
    return plain.get_total_flops(), both.get_total_flops(), sum(kept.values())


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)
