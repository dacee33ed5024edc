"""Small decoders with random weights, in float64, and prompts for them."""

from types import SimpleNamespace

import torch

from clear_ref.data.batches import Batch
from clear_ref.data.torch_draws import torch_generator

TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
DECODERS = {
    "llama": ("llama", {}),
    "mistral, window 4": ("mistral", {"sliding_window": 4}),
    "qwen2, one layer of window 3": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
}


def drawn(model):
    """The model in float64, every weight drawn by its name."""
    with torch.no_grad():
        for name, tensor in model.double().eval().requires_grad_(False).named_parameters():
            tensor.copy_(
                0.3 * torch.randn(tensor.shape, generator=torch_generator(7, name))
                + (tensor.dim() == 1)
            )
    return SimpleNamespace(
        model=model, head=model.head, tokenizer=SimpleNamespace(pad=0), device=torch.device("cpu")
    )


def text_prompts():
    """Three prompts of 7, 4 and 2 tokens, padded on the left."""
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 9, 8, 7], [0, 0, 0, 0, 0, 1, 30]])
    return Batch(ids, (ids != 0).long(), ids, None)
