"""Small random models of transformers, and our names of their parameters."""

import pytest
import torch


def hub_name(family, name):
    """Our name of a parameter of transformers 5, worked out by hand."""
    if family == "llava":
        for today, hub in (
            ("lm_head", "language_model.lm_head"),
            ("model.language_model", "language_model.model"),
            ("model.vision_tower", "vision_tower.vision_model"),
            ("model.multi_modal_projector", "multi_modal_projector"),
        ):
            if name.startswith(today):
                return hub + name.removeprefix(today)
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def transformers_model(family, tied=False):
    """A tiny random model of transformers, its linear biases and norms not left at 0 and 1."""
    T = pytest.importorskip("transformers", reason="the parity extra is not installed")
    text = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": tied,
    }
    if family == "llava":
        vision = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        config = T.LlavaConfig(
            text_config=T.LlamaConfig(**text),
            vision_config=T.CLIPVisionConfig(**vision),
            image_token_index=5,
            tie_word_embeddings=tied,
        )
        model = T.LlavaForConditionalGeneration(config)
    elif family == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        config = T.Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            tie_word_embeddings=tied,
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 20,
                "depth": 2,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
        )
        model = T.Qwen2_5_VLForConditionalGeneration(config)
    elif family == "qwen2_vl":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        config = T.Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope},
            tie_word_embeddings=tied,
            vision_config={
                "embed_dim": 16,
                "depth": 2,
                "num_heads": 2,
                "hidden_size": 16,
                "patch_size": 14,
            },
        )
        model = T.Qwen2VLForConditionalGeneration(config)
    else:
        kind = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[family]
        model = getattr(T, kind + "ForCausalLM")(getattr(T, kind + "Config")(**text))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(number))
    return model
