"""Qwen2-VL: a tower for pictures of any size, whose features stand at the image tokens of a decoder with three-axis positions.

source  Wang et al. 2024 (Qwen2-VL); structure, hub names and numbers of transformers' Qwen2VLForConditionalGeneration
not     the plain positions that the released code's transformers (4.45) has in training, where it is given no position_ids
"""

from dataclasses import dataclass

import torch

from clear_ref.common.errors import ShapeError, UserError

from .language import CausalLM, place_features
from .language_config import LanguageConfig, language_config, part_of
from .qwen2_vision import Qwen2VisionConfig, Qwen2VisionTower, vision_config

# What transformers' Qwen2VLConfig takes for a key that config.json leaves out.
DEFAULTS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


@dataclass(frozen=True)
class Qwen2VLConfig:
    text: LanguageConfig
    vision: Qwen2VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @classmethod
    def from_json(cls, config: dict, where) -> "Qwen2VLConfig":
        """From a config.json, the decoder's keys in text_config or, as the hub has them, at the top.

        raises  UserError for a structure that this code does not compute
        """
        text = part_of(config, "text_config", where) or config
        tied = config.get("tie_word_embeddings") or text.get("tie_word_embeddings") or False
        language = language_config(text, where, "qwen2_vl", tied)
        tower = vision_config(part_of(config, "vision_config", where), where)
        if tower.output_size != language.hidden_size:
            raise UserError(
                f"{where}: vision_config's hidden_size is {tower.output_size}; expected the decoder's, "
                f"{language.hidden_size}"
            )
        tokens = [config.get(key, default) for key, default in DEFAULTS.items()]
        if (
            not all(isinstance(token, int) and token >= 0 for token in tokens)
            or tokens[0] >= language.vocab_size
        ):
            raise UserError(
                f"{where}: {', '.join(DEFAULTS)} are {tokens}; expected token ids, that of a picture in "
                f"[0, {language.vocab_size})"
            )
        return cls(language, tower, *tokens)


class Qwen2VL(CausalLM):
    """A language model with a tower beside it: `model`, `lm_head` and `visual`, the names that the hub's checkpoints use."""

    def __init__(self, config: Qwen2VLConfig):
        super().__init__(config.text)
        self.image_token_id, self.video_token_id = config.image_token_id, config.video_token_id
        self.merge, self.patch_width = config.vision.spatial_merge_size, config.vision.patch_width
        self.visual = Qwen2VisionTower(config.vision)

    def embed(self, input_ids, pixels=None, grid=None):
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens, in order.

        pixels, grid  [patches, patch width] and int64 [N, 3] of the batch's pictures, or None without any
        raises        ShapeError if patches, grid and image tokens disagree; UserError for a video token
        """
        if bool((input_ids == self.video_token_id).any()):
            raise UserError(
                f"input_ids hold the video token {self.video_token_id}; expected pictures alone, send frames as such"
            )
        sizes = self.picture_sizes(grid)
        found = [0, self.patch_width] if pixels is None else list(pixels.shape)
        expected = [sum(h * w for h, w in sizes), self.patch_width]
        if found != expected:
            raise ShapeError(
                f"pixel_values are {found}; expected {expected}, the patches that image_grid_thw counts"
            )
        return place_features(
            self.model.embed_tokens(input_ids),
            input_ids == self.image_token_id,
            self.visual(pixels, sizes) if sizes else None,
            f"h * w / {self.merge**2} tokens for each picture of h * w patches",
        )

    def positions(self, input_ids, attention_mask, grid=None):
        """[3, B, T]: the position of every token in time, row and column; 0 at padding.

        Text counts on by one on all three. The tokens of a picture that starts at s stand at (s, s + row, s + column), and what
        follows goes on at s + max(rows, columns).
        raises  ShapeError where image tokens and pictures disagree
        """
        pictures = iter([(h // self.merge, w // self.merge) for h, w in self.picture_sizes(grid)])
        found = torch.zeros(3, *input_ids.shape, dtype=torch.long)
        image, real = (input_ids == self.image_token_id).cpu(), attention_mask.bool().cpu()
        for row in range(len(input_ids)):
            found[:, row, real[row]] = row_positions(image[row][real[row]], pictures, row)
        if next(pictures, None) is not None:
            raise ShapeError(
                "image_grid_thw names more pictures than input_ids hold; expected one entry a picture"
            )
        return found.to(input_ids.device)

    def picture_sizes(self, grid) -> list[tuple[int, int]]:
        """(h, w) in patches of every picture of image_grid_thw [N, 3] (None: no picture).

        raises  ShapeError for another shape, a time other than 1 or a side that the merge size does not divide
        """
        if grid is None:
            return []
        if grid.dim() != 2 or grid.shape[1] != 3:
            raise ShapeError(f"image_grid_thw is {list(grid.shape)}; expected [pictures, 3]")
        for t, h, w in grid.tolist():
            if t != 1 or h < 1 or w < 1 or h % self.merge or w % self.merge:
                raise ShapeError(
                    f"image_grid_thw holds {[t, h, w]}; expected 1 and two multiples of {self.merge}"
                )
        return [(h, w) for _, h, w in grid.tolist()]


def row_positions(image, pictures, row: int):
    """[3, T] positions of one row's tokens, padding left out.

    image     [T], True at image tokens
    pictures  iterator over the (rows, columns) of tokens of the batch's pictures, of which this row takes its own
    raises    ShapeError, which names `row` and the token, where a picture's tokens are not rows * columns on end
    """
    parts, done, position = [], 0, 0
    tokens = image.nonzero().flatten().tolist()
    while tokens:
        first = tokens[0]
        high, wide = next(pictures, (0, 0))
        n = high * wide
        if not n or tokens[:n] != list(range(first, first + n)):
            raise ShapeError(
                f"row {row}: the picture at token {first} should be {n} image tokens on end by image_grid_thw; "
                "expected pictures in the order of their tokens, row after row"
            )
        n_text = first - done
        start = position + n_text
        parts.append(torch.arange(position, start).expand(3, -1))
        inside = torch.cartesian_prod(torch.arange(high), torch.arange(wide)).T
        parts.append(start + torch.cat((torch.zeros(1, n, dtype=torch.long), inside)))
        position, done, tokens = start + max(high, wide), first + n, tokens[n:]
    return torch.cat(
        (*parts, torch.arange(position, position + len(image) - done).expand(3, -1)), 1
    )
