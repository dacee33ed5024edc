"""What happens to each key of the vision_config of Qwen2-VL and Qwen2.5-VL.

The rest of their config.json is in the tables of config_keys.py.
"""

from clear_ref.common.file_keys import Fate, KeyTable, NoEffect, Only, Used

from .config_keys import TOWER, table

# Keys of Qwen2-VL's and Qwen2.5-VL's towers.
QWEN_TOWER: dict[str, Fate] = {
    "model_type": NoEffect("the family has one kind of tower"),
    "depth": Used("number of layers"),
    "num_hidden_layers": Used("the same, and beats depth"),
    "num_heads": Used("number of heads"),
    "num_attention_heads": Used("the same, and beats num_heads"),
    "in_channels": Used("colours of a picture"),
    "in_chans": NoEffect("transformers 5 reads in_channels alone"),
    "patch_size": Used("side of a patch in pixels", "a list"),
    "spatial_patch_size": NoEffect("transformers 5 reads patch_size alone"),
    "temporal_patch_size": Used("how often a picture is repeated in a patch", "a list"),
    "spatial_merge_size": Used("side of the block of patches that becomes one token"),
    **dict.fromkeys(
        ("rope_parameters", "rope_scaling", "rope_theta"),
        Used("base of the tower's rotary frequencies", "rope_type other than default and axial"),
    ),
    "partial_rotary_factor": NoEffect("the tower's rotary positions do not read it"),
}
QWEN2_VL_VISION = table(
    "vision_config of qwen2_vl",
    "Qwen2VLVisionConfig",
    TOWER,
    QWEN_TOWER,
    {
        "embed_dim": Used("width of the tower"),
        "hidden_size": Used("width of the features, the decoder's"),
        "mlp_ratio": Used("width inside the feed-forward network, divided by embed_dim"),
        "head_dim": Used("nothing", "all but embed_dim / num_heads"),
    },
)
QWEN2_5_VL_VISION = table(
    "vision_config of qwen2_5_vl",
    "Qwen2_5_VLVisionConfig",
    TOWER,
    QWEN_TOWER,
    {
        "hidden_size": Used("width of the tower"),
        "intermediate_size": Used("width inside the feed-forward network"),
        "hidden_act": Only(("silu", "swish"), "no other function is computed here"),
        "head_dim": Used("nothing", "all but hidden_size / num_heads"),
        "out_hidden_size": Used("width of the features, the decoder's"),
        "window_size": Used("side of a window in pixels"),
        "fullatt_block_indexes": Used("the layers that attend to the whole picture"),
        "tokens_per_second": NoEffect("for videos"),
    },
)
TABLES: tuple[KeyTable, ...] = (QWEN2_VL_VISION, QWEN2_5_VL_VISION)
