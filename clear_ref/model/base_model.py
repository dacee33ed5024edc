"""The base class of every model, and the plain language model.

Every family computes the same stages: token embeddings merged with picture features (`embed`),
rotary positions (`positions`), hidden states (`decoder`, `hidden`), logits (`head`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from clear_ref.common.errors import ShapeError

from . import products
from .language import Decoder, positions_from_mask
from .language_config import LanguageConfig
from .lora import Linear


class Model(nn.Module, ABC):
    """The base class of every family's model.

    A subclass provides `decoder` and `head`; a family with pictures also `embed`, `positions` and
    image_token_id.
    image_token_id  the token id that a picture's features replace; None: no pictures
    kept_tower      gives the vision tower's output for pictures instead of it (loop/tower.py):
                    called with a function that computes it, and all that it depends on
    """

    image_token_id: int | None = None
    kept_tower: Callable[..., Tensor] | None = None

    @property
    def vision(self) -> nn.Module | None:
        """The vision tower; None for a language model."""
        return None

    def tower_output(self, compute: Callable[[], Tensor], *inputs: object) -> Tensor:
        """compute(), what the vision tower gives for these inputs; or the same bits, kept."""
        return compute() if self.kept_tower is None else self.kept_tower(compute, *inputs)

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """The decoder, which computes hidden states from embeddings."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., D]."""

    @abstractmethod
    def output_layer(self) -> Linear | nn.Embedding:
        """The layer whose weight [V, D] gives the logits; a tied head's is the embedding."""

    def embed(
        self, input_ids: Tensor, pixels: Tensor | None = None, grid: Tensor | None = None
    ) -> Tensor:
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens.

        raises  ShapeError if input_ids and pictures disagree
        """
        if pixels is not None:
            raise ShapeError("pixel_values are given; this is a language model, expected none")
        return self.decoder.embed_tokens(input_ids)

    def positions(
        self, input_ids: Tensor, attention_mask: Tensor, grid: Tensor | None = None
    ) -> Tensor:
        """[B, T] or [3, B, T]: the rotary position of every token."""
        return positions_from_mask(attention_mask)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixels: Tensor | None = None,
        grid: Tensor | None = None,
        layer: int | None = None,
        start: int = 0,
    ) -> Tensor:
        """[B, T - start, D]: normed hidden states from position `start` on.

        layer  a decoder layer (0-based): its output instead, without the final norm
        """
        embeddings = self.embed(input_ids, pixels, grid)
        positions = self.positions(input_ids, attention_mask, grid)
        return self.decoder(
            embeddings, attention_mask, positions, layer=layer, start=start, keep_cache=False
        )[0]


class CausalLM(Model):
    """A plain language model under the names of checkpoints; also the language model of a VLM."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def decoder(self) -> Decoder:
        """The decoder, which computes hidden states from embeddings."""
        return self.model

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., D]; a tied head uses the embedding."""
        if self.lm_head is None:
            return products.linear(hidden, self.model.embed_tokens.weight, None)
        return self.lm_head(hidden)

    def output_layer(self) -> Linear | nn.Embedding:
        """The layer whose weight [V, D] gives the logits; a tied head's is the embedding."""
        return self.model.embed_tokens if self.lm_head is None else self.lm_head


def place_features(
    embeddings: Tensor, is_image: Tensor, features: Tensor | None, expected: str
) -> Tensor:
    """Embeddings [B, T, D] with the features [n, D] at the n image tokens, in order.

    is_image  [B, T], True at image tokens
    expected  how many tokens a picture has, in words, for the error message
    raises    ShapeError unless there are as many image tokens as features
    """
    n_tokens = int(is_image.sum())
    n_features = 0 if features is None else len(features)
    if n_tokens != n_features:
        raise ShapeError(
            f"input_ids hold {n_tokens} image tokens, the pictures give {n_features} features; "
            f"expected {expected}"
        )
    if features is None or not n_features:
        return embeddings
    return embeddings.masked_scatter(
        is_image[..., None].expand_as(embeddings), features.to(embeddings.dtype)
    )
