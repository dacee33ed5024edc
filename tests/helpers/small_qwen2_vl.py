"""A small Qwen2-VL with random weights, in float64, and random pictures for it."""

import torch

from clear_ref.data.draws import torch_generator
from clear_ref.model.qwen2_vl import Qwen2VL, Qwen2VLConfig

QWEN2_VL_CONFIG = {
    "model_type": "qwen2_vl",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "image_token_id": 30,
    "video_token_id": 31,
    "vision_start_token_id": 32,
    "vision_end_token_id": 33,
    "tie_word_embeddings": True,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": 32,
        "patch_size": 2,
    },
}
IMAGE_TOKEN = 30


def random_qwen2_vl() -> Qwen2VL:
    """The model; every weight depends on its name, and vectors are near 1."""
    model = Qwen2VL(Qwen2VLConfig.from_json(QWEN2_VL_CONFIG, "config.json")).double().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=torch_generator(7, name))
            tensor.copy_(0.3 * noise + (tensor.dim() == 1))
    return model


def noise_patches(*sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random patches of pictures of (h, w) patches, and their image_grid_thw."""
    patches = torch.randn(
        sum(h * w for h, w in sizes),
        3 * 2 * 2 * 2,
        generator=torch_generator(1, "pixels"),
        dtype=torch.float64,
    )
    return patches, torch.tensor([(1, h, w) for h, w in sizes])
