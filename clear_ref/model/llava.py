"""LLaVA-1.5: a CLIP tower's patch features through a two-layer GELU projector, in the place of the image tokens of a decoder.

source  Liu et al. 2023; structure, names and numbers of transformers' LlavaForConditionalGeneration
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from ..errors import ShapeError, UserError
from .language import CausalLM, LanguageConfig
from .lora import Linear
from .vision import VisionConfig, VisionTower
from .weights import config_value


@dataclass(frozen=True)
class LlavaConfig:
    text: LanguageConfig
    vision: VisionConfig
    image_token_id: int
    vision_feature_layer: int

    @classmethod
    def from_json(cls, config: dict, where) -> "LlavaConfig":
        """From a config.json; UserError for a structure that this code does not compute."""
        kind = config.get("model_type")
        if kind != "llava":
            raise UserError(f"{where}: model_type is {kind!r}; expected 'llava'")
        text, vision = (config_value(config, key, where) for key in ("text_config", "vision_config"))
        for part, key, expected in ((config, "vision_feature_select_strategy", "default"), (text, "hidden_act", "silu"),
                                    (config, "projector_hidden_act", "gelu"), (vision, "hidden_act", "quick_gelu"),
                                    (text, "model_type", "llama"), (vision, "model_type", "clip_vision_model")):
            if part.get(key, expected) != expected:
                raise UserError(f"{where}: {key} is {part[key]!r}; expected {expected!r}")
        rope = text.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default" or text.get("rope_scaling"):
            raise UserError(f"{where}: rope is {text.get('rope_scaling') or rope}; expected plain rotary positions")
        heads, width = config_value(text, "num_attention_heads", where), config_value(text, "hidden_size", where)
        language = LanguageConfig(
            config_value(text, "vocab_size", where), width, config_value(text, "intermediate_size", where),
            config_value(text, "num_hidden_layers", where), heads, config_value(text, "num_key_value_heads", where, heads),
            config_value(text, "head_dim", where, width // heads), config_value(text, "rms_norm_eps", where, 1e-6),
            float(rope.get("rope_theta") or text.get("rope_theta") or 10000.0))
        tower = VisionConfig(
            *(config_value(vision, key, where) for key in ("hidden_size", "intermediate_size", "num_hidden_layers",
                                                           "num_attention_heads", "image_size", "patch_size")),
            config_value(vision, "layer_norm_eps", where, 1e-5))
        image_token = config.get("image_token_index", config.get("image_token_id"))
        if image_token is None:
            raise UserError(f"{where}: has no image_token_index; expected the id of <image>")
        layer = config.get("vision_feature_layer", -2)
        if not isinstance(layer, int) or not -tower.num_hidden_layers - 1 <= layer <= tower.num_hidden_layers:
            raise UserError(f"{where}: vision_feature_layer is {layer!r}; expected one whole number that names a tower layer")
        return cls(language, tower, image_token, layer)


class Projector(nn.Module):
    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.linear_1 = Linear(config.vision.hidden_size, config.text.hidden_size)
        self.linear_2 = Linear(config.text.hidden_size, config.text.hidden_size)

    def forward(self, features):
        return self.linear_2(F.gelu(self.linear_1(features)))


class Llava(nn.Module):
    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = CausalLM(config.text)

    @property
    def n_image_tokens(self) -> int:
        """How many positions one picture takes."""
        return self.config.vision.n_patches

    def image_features(self, pixels):
        """[N, P, D] of pictures [N, 3, H, W]: the patch tokens of the feature layer, projected; the class token dropped."""
        hidden = self.vision_tower.vision_model(pixels, self.config.vision_feature_layer)
        return self.multi_modal_projector(hidden[:, 1:])

    def embed(self, input_ids, pixels=None):
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens, in order.

        raises  ShapeError if the number of image tokens is not that of the features
        """
        embeddings = self.language_model.model.embed_tokens(input_ids)
        places = input_ids == self.config.image_token_id
        n_places, n_features = int(places.sum()), 0 if pixels is None else len(pixels) * self.n_image_tokens
        if n_places != n_features:
            raise ShapeError(f"input_ids hold {n_places} image tokens, the pictures give {n_features} features; "
                             f"expected {self.n_image_tokens} tokens for each picture")
        if n_features:
            features = self.image_features(pixels).flatten(0, 1).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter(places[..., None].expand_as(embeddings), features)
        return embeddings

    def hidden(self, input_ids, attention_mask, pixels=None, layer=None):
        """[B, T, D]: normed hidden states, or the output of decoder layer `layer` (0-based)."""
        return self.language_model.model(self.embed(input_ids, pixels), attention_mask, layer=layer)[0]
