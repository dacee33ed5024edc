"""Qwen2-VL: a vision tower for pictures of any size and a decoder with three-axis positions.

The tower's features take the place of the image tokens.
source  Wang et al. 2024 (Qwen2-VL); structure, hub names and numbers of transformers'
        Qwen2VLForConditionalGeneration
differs the released code's transformers (4.45) computes plain one-axis positions in training,
        where it is given no position_ids; here positions have three axes in training too
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .base_model import CausalLM, place_features
from .config_keys import QWEN2_VL, QWEN2_VL_FLAT, QWEN2_VL_FROM_TOP
from .config_values import flag, part_of, token_id
from .language_config import LanguageConfig, language_config
from .qwen2_vision import Qwen2VisionConfig, Qwen2VisionTower, vision_config

# The values that transformers' Qwen2VLConfig uses for a key that config.json omits.
DEFAULTS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
}


@dataclass(frozen=True)
class Qwen2VLConfig:
    """The decoder's config, the tower's, and the ids of special tokens."""

    text: LanguageConfig
    vision: Qwen2VisionConfig
    image_token_id: int
    video_token_id: int

    @classmethod
    def from_json(cls, config: dict[str, Any], where: PathName) -> "Qwen2VLConfig":
        """From a config.json; the decoder's keys are in text_config, or at the top level.

        raises  UserError for a structure that this code does not compute
        """
        text, tokens = language_part(config, where, "qwen2_vl")
        tower = vision_config(part_of(config, "vision_config", where), where)
        check_widths("hidden_size", tower, text, where)
        return cls(text=text, vision=tower, **tokens)


def language_part(
    config: dict[str, Any], where: PathName, kind: str
) -> tuple[LanguageConfig, dict[str, int]]:
    """The decoder's config and the ids of the special tokens.

    Without a text_config the keys that its class declares are read at the top level.
    kind  the model_type
    """
    if config.get("text_config") is None:
        QWEN2_VL_FLAT.check(config, where)
        text = {key: value for key, value in config.items() if key in QWEN2_VL_FROM_TOP}
    else:
        QWEN2_VL.check(config, where)
        text = part_of(config, "text_config", where)
    untied = {"tie_word_embeddings": False}
    # A true of either place ties the head.
    tied = flag(untied | text, "tie_word_embeddings", f"{where}: text_config")
    tied = flag(untied | config, "tie_word_embeddings", where) or tied
    language = language_config(text, where, kind, tied)
    tokens = DEFAULTS | config
    video = tokens["video_token_id"]
    if type(video) is not int:
        raise UserError(f"{where}: video_token_id is {shown(video)}; expected a token id")
    image = token_id(tokens, "image_token_id", language.vocab_size, where)
    return language, {"image_token_id": image, "video_token_id": video}


def check_widths(key: str, tower: Qwen2VisionConfig, text: LanguageConfig, where: PathName) -> None:
    """UserError unless the tower's features, whose width is vision_config's `key`, fit."""
    if tower.output_size != text.hidden_size:
        raise UserError(
            f"{where}: vision_config's {key} is {tower.output_size}; "
            f"expected the decoder's, {text.hidden_size}"
        )


class Qwen2VL(CausalLM):
    """A language model with a vision tower.

    `model`, `lm_head` and `visual` are the names that the hub's checkpoints use.
    tower  the class of the vision tower
    """

    image_token_id: int
    tower: Callable[[Any], nn.Module] = Qwen2VisionTower

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config.text)
        self.image_token_id = config.image_token_id
        self.video_token_id = config.video_token_id
        self.merge = config.vision.spatial_merge_size
        self.patch_width = config.vision.patch_width
        self.visual = self.tower(config.vision)

    @property
    def vision(self) -> nn.Module:
        """The vision tower, merged to the decoder's width."""
        return self.visual

    def embed(
        self, input_ids: Tensor, pixels: Tensor | None = None, grid: Tensor | None = None
    ) -> Tensor:
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens, in order.

        pixels  [patches, patch width] of the batch's pictures; None without pictures
        grid    int64 [N, 3] of the same pictures; None without pictures
        raises  ShapeError if patches, grid and image tokens disagree; UserError for a video token
        """
        if bool((input_ids == self.video_token_id).any()):
            raise UserError(
                f"input_ids hold the video token {self.video_token_id}; "
                "expected pictures only, send frames as pictures"
            )
        sizes = self.picture_sizes(grid)
        shape = [0, self.patch_width] if pixels is None else list(pixels.shape)
        expected = [sum(h * w for h, w in sizes), self.patch_width]
        if shape != expected:
            raise ShapeError(
                f"pixel_values are {shape}; "
                f"expected {expected}, the patches that image_grid_thw counts"
            )
        return place_features(
            self.model.embed_tokens(input_ids),
            input_ids == self.image_token_id,
            self.tower_output(lambda: self.visual(pixels, sizes), pixels, sizes) if sizes else None,
            f"h * w / {self.merge**2} tokens for each picture of h * w patches",
        )

    def positions(
        self, input_ids: Tensor, attention_mask: Tensor, grid: Tensor | None = None
    ) -> Tensor:
        """[3, B, T]: the position of every token in time, row and column; 0 at padding.

        A text token is one further than the token before it, on all three axes. The tokens of a
        picture that starts at s have the positions (s, s + row, s + column), and the text after it
        continues at s + max(rows, columns).
        raises  ShapeError if image tokens and pictures disagree
        """
        pictures = iter([(h // self.merge, w // self.merge) for h, w in self.picture_sizes(grid)])
        positions = torch.zeros(3, *input_ids.shape, dtype=torch.long)
        is_image = (input_ids == self.image_token_id).cpu()
        is_real = attention_mask.bool().cpu()
        for row in range(len(input_ids)):
            real = is_real[row]
            positions[:, row, real] = row_positions(is_image[row][real], pictures, row)
        if next(pictures, None) is not None:
            raise ShapeError(
                "image_grid_thw names more pictures than input_ids hold; "
                "expected one entry for each picture"
            )
        return positions.to(input_ids.device)

    def picture_sizes(self, grid: Tensor | None) -> list[tuple[int, int]]:
        """(h, w) in patches of every picture of image_grid_thw [N, 3] (None: no picture).

        raises  ShapeError for another shape, a time other than 1, or a side that is not a multiple
                of the merge size
        """
        if grid is None:
            return []
        if grid.dim() != 2 or grid.shape[1] != 3:
            raise ShapeError(f"image_grid_thw is {list(grid.shape)}; expected [pictures, 3]")
        for t, h, w in grid.tolist():
            if t != 1 or h < 1 or w < 1 or h % self.merge or w % self.merge:
                raise ShapeError(
                    f"image_grid_thw holds {[t, h, w]}; expected 1 and two multiples of "
                    f"{self.merge}"
                )
        return [(h, w) for _, h, w in grid.tolist()]


def row_positions(is_image: Tensor, pictures: Iterator[tuple[int, int]], row: int) -> Tensor:
    """[3, T] positions of one row's tokens without padding.

    is_image  [T], True at image tokens
    pictures  (rows, columns) in tokens of the batch's pictures; this row's pictures are taken
              from the iterator
    raises    ShapeError that names `row` and the token, if a picture's tokens are not
              rows * columns consecutive image tokens
    """
    parts: list[Tensor] = []
    n_done = 0  # tokens of the row that have positions
    position = 0  # of the next token
    image_tokens = is_image.nonzero().flatten().tolist()
    while image_tokens:
        first = image_tokens[0]
        high, wide = next(pictures, (0, 0))
        n = high * wide
        if not n or image_tokens[:n] != list(range(first, first + n)):
            raise ShapeError(
                f"row {row}: the picture at token {first} should be {n} consecutive image tokens "
                "by image_grid_thw; expected pictures in the order of their tokens, row after row"
            )
        start = position + first - n_done
        parts.append(torch.arange(position, start).expand(3, -1))
        row_and_column = torch.cartesian_prod(torch.arange(high), torch.arange(wide)).T
        time = torch.zeros(1, n, dtype=torch.long)
        parts.append(start + torch.cat((time, row_and_column)))
        position = start + max(high, wide)
        n_done = first + n
        image_tokens = image_tokens[n:]
    n_rest = len(is_image) - n_done
    parts.append(torch.arange(position, position + n_rest).expand(3, -1))
    return torch.cat(parts, 1)
