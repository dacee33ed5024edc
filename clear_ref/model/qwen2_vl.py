"""Qwen2-VL: a tower for pictures of any size, whose features stand at the image tokens of a decoder with three-axis positions.

source  Wang et al. 2024 (Qwen2-VL); structure, hub names and numbers of transformers' Qwen2VLForConditionalGeneration
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ShapeError, UserError
from .language import Decoder, LanguageConfig
from .lora import Linear
from .qwen2_vision import ROPE_THETA, Qwen2VisionConfig, Qwen2VisionTower
from .weights import config_value

# What a sparse config.json leaves out (transformers' Qwen2VLConfig: the 72B decoder with the tower that all sizes share).
DEFAULTS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653}
TEXT_DEFAULTS = {"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
                 "num_attention_heads": 64, "rms_norm_eps": 1e-5}
KEY_VALUE_HEADS, THETA, SECTION, WINDOW_FROM = 8, 1000000.0, (16, 24, 24), 80
VISION_DEFAULTS = {"embed_dim": 1280, "mlp_ratio": 4, "depth": 32, "num_heads": 16, "in_channels": 3, "patch_size": 14,
                   "temporal_patch_size": 2, "spatial_merge_size": 2, "hidden_size": 3584}


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
        if config.get("model_type") != "qwen2_vl":
            raise UserError(f"{where}: model_type is {config.get('model_type')!r}; expected 'qwen2_vl'")
        text, vision = config.get("text_config") or config, config.get("vision_config") or {}
        tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))
        language, tower = language_config(text, tied, where), vision_config(vision, where)
        if tower.output_size != language.hidden_size:
            raise UserError(f"{where}: vision_config's hidden_size is {tower.output_size}; "
                            f"expected the decoder's, {language.hidden_size}")
        return cls(language, tower, *(config_value(config, key, where, default) for key, default in DEFAULTS.items()))


def language_config(text: dict, tied: bool, where) -> LanguageConfig:
    """The decoder's settings; UserError for what is not computed."""
    if text.get("hidden_act", "silu") != "silu":
        raise UserError(f"{where}: hidden_act is {text['hidden_act']!r}; expected 'silu'")
    vocabulary, width, inner, layers, heads, eps = (
        config_value(text, key, where, default) for key, default in TEXT_DEFAULTS.items())
    head_dim, key_value_heads = width // heads, text.get("num_key_value_heads", KEY_VALUE_HEADS) or heads
    if head_dim * heads != width or heads % key_value_heads or text.get("head_dim") not in (None, head_dim):
        raise UserError(f"{where}: hidden_size {width}, {heads} heads, {key_value_heads} key-value heads and head_dim "
                        f"{text.get('head_dim')} disagree; expected heads that divide the width, key-value heads that divide them")
    windowed = bool(text.get("use_sliding_window")) and text.get("max_window_layers", WINDOW_FROM) < layers
    if set(text.get("layer_types") or (["sliding_attention"] if windowed else [])) - {"full_attention"}:
        raise UserError(f"{where}: some of the decoder's layers have a sliding window; expected full attention in all")
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    kind, section = rope.get("rope_type") or rope.get("type") or "default", tuple(rope.get("mrope_section") or SECTION)
    if kind not in ("default", "mrope") or len(section) != 3 or 2 * sum(section) != head_dim:
        raise UserError(f"{where}: rope is {kind!r} with mrope_section {list(section)}; expected 'mrope' or 'default' with three "
                        f"parts that sum to {head_dim // 2}, half of a head")
    theta = float(rope.get("rope_theta") or text.get("rope_theta") or THETA)
    return LanguageConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_value_heads, head_dim=head_dim, rms_norm_eps=eps, rope_theta=theta, qkv_bias=True,
        mrope_section=section, sliding_window=None, tie_word_embeddings=tied)


def vision_config(vision: dict, where) -> Qwen2VisionConfig:
    """The tower's settings; UserError for what is not computed."""
    if vision.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise UserError(f"{where}: vision hidden_act is {vision['hidden_act']!r}; expected 'quick_gelu'")
    if (vision.get("rope_parameters") or {}).get("rope_theta", ROPE_THETA) != ROPE_THETA:
        raise UserError(f"{where}: the tower's rope_theta is {vision['rope_parameters']['rope_theta']}; expected {ROPE_THETA}")
    vision = {"in_channels": vision.get("in_chans"), **vision}  # the hub's name for it
    width, ratio, layers, heads, *rest = (
        config_value(vision, key, where, default) for key, default in VISION_DEFAULTS.items())
    if width % (4 * heads) or not all(isinstance(number, int) for number in rest):
        raise UserError(f"{where}: the tower has width {width}, {heads} heads, in_channels, patch sizes, merge size and hidden_size "
                        f"{rest}; expected a width of 4 times the heads' number or a multiple, and whole numbers")
    return Qwen2VisionConfig(width, int(width * ratio), layers, heads, *rest)


class Qwen2VL(nn.Module):
    """The model under the names that the hub's checkpoints use."""

    def __init__(self, config: Qwen2VLConfig):
        super().__init__()
        self.config = config
        self.visual = Qwen2VisionTower(config.vision)
        self.model = Decoder(config.text)
        self.lm_head = Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    @property
    def decoder(self) -> Decoder:
        """The language model without its head."""
        return self.model

    @property
    def head(self) -> Linear:
        """The layer that makes logits of hidden states."""
        return self.lm_head

    @property
    def image_token_id(self) -> int:
        """The id that stands at a picture's positions."""
        return self.config.image_token_id

    def embed(self, input_ids, pixels=None, grid=None):
        """[B, T, D]: token embeddings, with the pictures' features at the image tokens, in order.

        pixels, grid  [patches, width] and [N, 3] of the batch's pictures, or None without any
        raises        ShapeError if patches, grid and image tokens disagree; UserError for a video token
        """
        if bool((input_ids == self.config.video_token_id).any()):
            raise UserError(f"input_ids hold the video token {self.config.video_token_id}; expected text and pictures, send frames "
                            "as pictures")
        embeddings = self.model.embed_tokens(input_ids)
        image = input_ids == self.image_token_id
        merge = self.config.vision.spatial_merge_size
        sizes = picture_sizes(grid, merge)
        n_patches, n_places = sum(h * w for h, w in sizes), int(image.sum())
        found = [0, self.config.vision.patch_width] if pixels is None else list(pixels.shape)
        if found != [n_patches, self.config.vision.patch_width]:
            raise ShapeError(f"pixel_values are {found}; expected {[n_patches, self.config.vision.patch_width]}, the patches of "
                             f"image_grid_thw's {len(sizes)} pictures")
        if n_places * merge ** 2 != n_patches:
            raise ShapeError(f"input_ids hold {n_places} image tokens, the pictures give {n_patches // merge ** 2} features; "
                             f"expected h * w / {merge ** 2} tokens for each picture")
        if sizes:
            features = self.visual(pixels, sizes).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter(image[..., None].expand_as(embeddings), features)
        return embeddings

    def positions(self, input_ids, attention_mask, grid=None):
        """[3, B, T]: the position of every token on the axes time, row and column; 0 at padding.

        Text counts on by one on all three. The tokens of a picture that starts at s stand at (s, s + row, s + column), and what
        follows goes on at s + max(rows, columns).
        raises  ShapeError where image tokens and pictures disagree
        """
        sizes = iter(picture_sizes(grid, self.config.vision.spatial_merge_size))
        found = torch.zeros(3, *input_ids.shape, dtype=torch.long)
        image, real = (input_ids == self.image_token_id).cpu(), attention_mask.bool().cpu()
        for row in range(len(input_ids)):
            found[:, row, real[row]] = self._row_positions(image[row][real[row]], sizes, row)
        if next(sizes, None) is not None:
            raise ShapeError("image_grid_thw names more pictures than input_ids hold; expected one entry a picture")
        return found.to(input_ids.device)

    def _row_positions(self, image, sizes, row):
        """[3, T] of one row without padding; `image` marks its image tokens, `sizes` gives its pictures' next."""
        merge = self.config.vision.spatial_merge_size
        parts, done, position, tokens = [], 0, 0, image.nonzero().flatten().tolist()
        while tokens:
            first = tokens[0]
            h, w = next(sizes, (0, 0))
            n = h * w // merge ** 2
            if not n or tokens[:n] != list(range(first, first + n)):
                raise ShapeError(f"row {row}: the picture at token {first} should take {n} image tokens in a row; "
                                 "expected h * w / merge^2 of them for each picture of image_grid_thw")
            position += first - done
            parts.append(torch.arange(position - (first - done), position).expand(3, -1))
            inside = torch.cartesian_prod(torch.arange(h // merge), torch.arange(w // merge)).T
            parts.append(position + torch.cat((torch.zeros(1, n, dtype=torch.long), inside)))
            position += max(h, w) // merge
            done, tokens = first + n, tokens[n:]
        return torch.cat((*parts, torch.arange(position, position + len(image) - done).expand(3, -1)), 1)

    def hidden(self, input_ids, attention_mask, pixels=None, grid=None, layer=None):
        """[B, T, D]: normed hidden states, or the output of decoder layer `layer` (0-based)."""
        embeddings = self.embed(input_ids, pixels, grid)
        positions = self.positions(input_ids, attention_mask, grid)
        return self.model(embeddings, attention_mask, layer=layer, positions=positions)[0]


def picture_sizes(grid, merge: int) -> list[tuple[int, int]]:
    """(h, w) in patches of every picture of image_grid_thw [N, 3] (None: no picture).

    raises  ShapeError for another shape, a time other than 1 or a side that the merge size does not divide
    """
    if grid is None:
        return []
    if grid.dim() != 2 or grid.shape[1] != 3:
        raise ShapeError(f"image_grid_thw is {list(grid.shape)}; expected [pictures, 3]")
    for t, h, w in grid.tolist():
        if t != 1 or h < 1 or w < 1 or h % merge or w % merge:
            raise ShapeError(f"image_grid_thw holds {[t, h, w]}; expected 1 and two multiples of {merge}")
    return [(h, w) for _, h, w in grid.tolist()]
