"""A small Qwen2-VL and a small Qwen2.5-VL with random weights, in float64, and random pictures."""

import torch

from clear_ref.data.torch_draws import torch_generator
from clear_ref.model.qwen2_5_vl import Qwen25VL, Qwen25VLConfig
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
# Windows of 2 x 2 tokens, which are 4 x 4 patches; block 1 of 3 attends to the whole picture.
QWEN2_5_VL_CONFIG = {
    **QWEN2_VL_CONFIG,
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 20,
        "depth": 3,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 2,
        "window_size": 8,
        "fullatt_block_indexes": [1],
    },
}
IMAGE_TOKEN = 30


def random_qwen2_vl() -> Qwen2VL:
    """The model; every weight depends on its name, and vectors are near 1."""
    return _with_random_weights(Qwen2VL(Qwen2VLConfig.from_json(QWEN2_VL_CONFIG, "config.json")))


def random_qwen2_5_vl(**vision) -> Qwen25VL:
    """The same of Qwen2.5-VL; `vision`: changed keys of vision_config."""
    tower = {**QWEN2_5_VL_CONFIG["vision_config"], **vision}
    config = {**QWEN2_5_VL_CONFIG, "vision_config": tower}
    return _with_random_weights(Qwen25VL(Qwen25VLConfig.from_json(config, "config.json")))


def _with_random_weights(model):
    model = model.double().eval()
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
