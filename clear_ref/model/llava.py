"""LLaVA-1.5: the features of a CLIP vision tower, projected, take the place of the image tokens.

The projector has two layers with a GELU between; the language model is a Llama decoder.
source  Liu et al. 2023; structure, names and numbers of transformers'
        LlavaForConditionalGeneration
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.files import PathName

from .base_model import CausalLM, Model, place_features
from .language import Decoder
from .language_config import LanguageConfig, language_config, part_of
from .lora import Linear
from .vision import VisionConfig, VisionTower, vision_config


@dataclass(frozen=True)
class LlavaConfig:
    """vision_feature_layer: the tower's hidden states that are used (-2: before the last layer)."""

    text: LanguageConfig
    vision: VisionConfig
    image_token_id: int
    vision_feature_layer: int

    @classmethod
    def from_json(cls, config: dict[str, Any], where: PathName) -> "LlavaConfig":
        """From a config.json; omitted keys have the defaults of transformers' LlavaConfig.

        raises  UserError for a structure that is not computed here
        """
        text = part_of(config, "text_config", where)
        vision = part_of(config, "vision_config", where)
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
        n_layers = tower.num_hidden_layers
        if not isinstance(layer, int) or not -n_layers - 1 <= layer <= n_layers:
            raise UserError(
                f"{where}: vision_feature_layer is {layer!r}; "
                "expected one whole number that names a tower layer"
            )
        image_token = config.get("image_token_index", config.get("image_token_id", 32000))
        if not isinstance(image_token, int) or not 0 <= image_token < language.vocab_size:
            raise UserError(
                f"{where}: image_token_index is {image_token!r}; "
                f"expected an id in [0, {language.vocab_size})"
            )
        return cls(language, tower, image_token, layer)


class Projector(nn.Module):
    """Patch features of the tower's width to embeddings of the decoder's width."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.linear_1 = Linear(config.vision.hidden_size, config.text.hidden_size)
        self.linear_2 = Linear(config.text.hidden_size, config.text.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))


class Llava(Model):
    """A CLIP tower, a projector and a language model, under the names of checkpoints."""

    image_token_id: int

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.image_token_id = config.image_token_id
        self.feature_layer = config.vision_feature_layer
        self.n_image_tokens = config.vision.n_patches
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = CausalLM(config.text)

    @property
    def decoder(self) -> Decoder:
        """The decoder of the language model."""
        return self.language_model.model

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., D]."""
        return self.language_model.head(hidden)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[N, P, D] of pictures [N, 3, H, W]: projected patch tokens of the feature layer.

        The class token is dropped.
        """
        hidden = self.vision_tower.vision_model(pixels, self.feature_layer)
        return self.multi_modal_projector(hidden[:, 1:])

    def embed(
        self, input_ids: Tensor, pixels: Tensor | None = None, grid: Tensor | None = None
    ) -> Tensor:
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens, in order.

        raises  ShapeError if the numbers of image tokens and features differ, or a grid is given
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
