"""LLaVA-1.5: a CLIP tower's patch features through a two-layer GELU projector, in the place of the image tokens of a decoder.

source  Liu et al. 2023; structure, names and numbers of transformers' LlavaForConditionalGeneration
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from clear_ref.common.errors import ShapeError, UserError

from .language import CausalLM, Model, place_features
from .language_config import LanguageConfig, language_config, part_of
from .lora import Linear
from .vision import VisionConfig, VisionTower, vision_config


@dataclass(frozen=True)
class LlavaConfig:
    text: LanguageConfig
    vision: VisionConfig
    image_token_id: int
    vision_feature_layer: int

    @classmethod
    def from_json(cls, config: dict, where) -> "LlavaConfig":
        """From a config.json; what it omits is as in transformers' LlavaConfig. UserError for a structure not computed here."""
        text, vision = (part_of(config, key, where) for key in ("text_config", "vision_config"))
        for part, key, expected in (
            (config, "vision_feature_select_strategy", "default"),
            (config, "projector_hidden_act", "gelu"),
            (config, "multimodal_projector_bias", True),
            (text, "model_type", "llama"),
            (vision, "model_type", "clip_vision_model"),
        ):
            if part.get(key, expected) != expected:
                raise UserError(f"{where}: {key} is {part[key]!r}; expected {expected!r}")
        language = language_config(text, where, "llama", config.get("tie_word_embeddings", False))
        tower = vision_config(vision, where)
        layer = config.get("vision_feature_layer", -2)
        if (
            not isinstance(layer, int)
            or not -tower.num_hidden_layers - 1 <= layer <= tower.num_hidden_layers
        ):
            raise UserError(
                f"{where}: vision_feature_layer is {layer!r}; expected one whole number that names a tower layer"
            )
        image_token = config.get("image_token_index", config.get("image_token_id", 32000))
        if not isinstance(image_token, int) or not 0 <= image_token < language.vocab_size:
            raise UserError(
                f"{where}: image_token_index is {image_token!r}; expected an id in [0, {language.vocab_size})"
            )
        return cls(language, tower, image_token, layer)


class Projector(nn.Module):
    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.linear_1 = Linear(config.vision.hidden_size, config.text.hidden_size)
        self.linear_2 = Linear(config.text.hidden_size, config.text.hidden_size)

    def forward(self, features):
        return self.linear_2(F.gelu(self.linear_1(features)))


class Llava(Model):
    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.image_token_id = config.image_token_id
        self.feature_layer, self.n_image_tokens = (
            config.vision_feature_layer,
            config.vision.n_patches,
        )
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = CausalLM(config.text)

    @property
    def decoder(self):
        """The language model's decoder."""
        return self.language_model.model

    def head(self, hidden):
        """Logits [..., V] of normed hidden states [..., D]."""
        return self.language_model.head(hidden)

    def image_features(self, pixels):
        """[N, P, D] of pictures [N, 3, H, W]: the patch tokens of the feature layer, projected; the class token dropped."""
        hidden = self.vision_tower.vision_model(pixels, self.feature_layer)
        return self.multi_modal_projector(hidden[:, 1:])

    def embed(self, input_ids, pixels=None, grid=None):
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens, in order.

        raises  ShapeError if the number of image tokens is not that of the features, or a grid is given
        """
        if grid is not None:
            raise ShapeError(
                "image_grid_thw is given; LLaVA's pictures have one size, expected None"
            )
        features = None if pixels is None else self.image_features(pixels).flatten(0, 1)
        return place_features(
            self.decoder.embed_tokens(input_ids),
            input_ids == self.image_token_id,
            features,
            f"{self.n_image_tokens} tokens for each picture",
        )
