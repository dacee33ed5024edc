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
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .base_model import CausalLM, Model, place_features
from .config_keys import LLAVA
from .config_values import flag, one_of, part_of, token_id
from .language import Decoder
from .language_config import LanguageConfig, language_config
from .lora import Linear
from .vision import LLAVA as LLAVA_TOWER
from .vision import VisionConfig, VisionTower, vision_config

# The values that transformers' LlavaConfig uses for a key that config.json omits.
DEFAULTS: dict[str, Any] = {
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}
GELU = ("gelu", "gelu_python")  # two names of one function


@dataclass(frozen=True)
class LlavaConfig:
    """The configs of the two models, and how they are connected.

    vision_feature_layer  the tower's hidden states that are used (-2: before the last layer)
    """

    text: LanguageConfig
    vision: VisionConfig
    image_token_id: int
    vision_feature_layer: int
    projector_bias: bool = True

    @classmethod
    def from_json(cls, config: dict[str, Any], where: PathName) -> "LlavaConfig":
        """From a config.json; omitted keys have the defaults of transformers' LlavaConfig.

        raises  UserError for a structure that is not computed here
        """
        LLAVA.check(config, where)
        text_place = f"{where}: text_config"
        text = part_of(config, "text_config", where)
        one_of({"model_type": "llama"} | text, "model_type", ("llama",), text_place)
        values = DEFAULTS | config
        # A true of either place ties the head.
        tied = flag(values, "tie_word_embeddings", where)
        tied = flag({"tie_word_embeddings": False} | text, "tie_word_embeddings", where) or tied
        language = language_config(text, text_place, "llama", tied)
        given = config.get("vision_config")
        tower = vision_config(LLAVA_TOWER if given is None else given, where)
        one_of(values, "projector_hidden_act", GELU, where)
        feature_layer = _feature_layer(values, tower.num_hidden_layers, where)
        token_key = "image_token_id" if "image_token_id" in config else "image_token_index"
        return cls(
            text=language,
            vision=tower,
            image_token_id=token_id(values, token_key, language.vocab_size, where),
            vision_feature_layer=feature_layer,
            projector_bias=flag(values, "multimodal_projector_bias", where),
        )


def _feature_layer(values: dict[str, Any], n_layers: int, where: PathName) -> int:
    """vision_feature_layer: a number, or a list of one number."""
    given = values["vision_feature_layer"]
    layer = given[0] if isinstance(given, list) and len(given) == 1 else given
    if type(layer) is not int or not -n_layers - 1 <= layer <= n_layers:
        raise UserError(
            f"{where}: vision_feature_layer is {shown(given)}; "
            "expected one whole number that names a tower layer"
        )
    return layer


class Projector(nn.Module):
    """Patch features of the tower's width to embeddings of the decoder's width."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        width = config.text.hidden_size
        self.linear_1 = Linear(config.vision.hidden_size, width, config.projector_bias)
        self.linear_2 = Linear(width, width, config.projector_bias)

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

    @property
    def vision(self) -> nn.Module:
        """The vision tower, without the projector."""
        return self.vision_tower

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., D]."""
        return self.language_model.head(hidden)

    def output_layer(self) -> Linear | nn.Embedding:
        """The layer whose weight [V, D] gives the logits."""
        return self.language_model.output_layer()

    def image_features(self, pixels: Tensor) -> Tensor:
        """[N, P, D] of pictures [N, 3, H, W]: projected patch tokens of the feature layer.

        The class token is dropped.
        """
        hidden = self.tower_output(
            lambda: self.vision_tower.vision_model(pixels, self.feature_layer), pixels
        )
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
