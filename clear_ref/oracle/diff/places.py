"""The place of a number in a tensor of a dump, in words.

A number of a picture is at a picture, row, column and channel, also where the tensor holds the
patches of Qwen2-VL; a number of a text is at a record and a position.
"""

import torch

from clear_ref.model.llava import Llava
from clear_ref.model.qwen2_vision import patch_places
from clear_ref.model.qwen2_vl import Qwen2VL
from clear_ref.model.vlm import VLM

from .dump_tensors import Tensors

CHANNELS = ("red", "green", "blue")
AXES = ("time", "height", "width")


def place(tensors: Tensors, vlm: VLM | None, stage: str, where: tuple[int, ...]) -> str:
    """The place in words; "" for no place.

    tensors  of the batch; vlm: gives the sizes of patches, None if unknown
    where    the indices
    """
    if not where:
        return ""
    if stage == "pixel_values":
        return _pixel(tensors, vlm, where)
    if stage == "image_grid_thw":
        return f"picture {where[0]}, {('time', 'rows', 'columns')[where[1]]}"
    if stage == "features":
        return f"{_token_of_picture(tensors, vlm, where[0])}, entry {where[1]}"
    words = [f"{axis} {i}" for axis, i in zip(("record", "position"), where, strict=False)]
    if len(where) > 2:
        entry = f"entry {where[2]}"
        words.append(f"axis {AXES[where[2]]}" if stage == "position_ids" else entry)
    number = _number_of_image_token(tensors, vlm, where)
    if number is not None and stage in ("embeddings", "position_ids", "hidden", "layer_hidden"):
        words.append(_token_of_picture(tensors, vlm, number))
    return ", ".join(words)


def _channel(number: int) -> str:
    return f"channel {number} ({CHANNELS[number]})" if number < 3 else f"channel {number}"


def _pixel(tensors: Tensors, vlm: VLM | None, where: tuple[int, ...]) -> str:
    """Of pixels [N, C, H, W], or of patches [P, C * time * patch * patch]."""
    if len(where) == 4:
        picture, channel, row, column = where
        return f"picture {picture}, row {row}, column {column}, {_channel(channel)}"
    patch, value = where
    found = _patch(tensors, vlm, patch, 1)
    if found is None or vlm is None:
        return f"patch {patch}, value {value}"
    picture, patch_row, patch_column = found
    side = vlm.config.vision.patch_size
    channel, rest = divmod(value, vlm.config.vision.temporal_patch_size * side**2)
    frame, rest = divmod(rest, side**2)
    row = patch_row * side + rest // side
    column = patch_column * side + rest % side
    return f"picture {picture}, row {row}, column {column}, {_channel(channel)}, frame {frame}"


def _patch(
    tensors: Tensors, vlm: VLM | None, number: int, tokens: int
) -> tuple[int, int, int] | None:
    """(picture, row, column) of a patch of Qwen2-VL, or of a token of the decoder.

    tokens  1: number counts patches in stored order; merge size: it counts tokens row by row
    returns  None without a grid, or outside of it
    """
    grid = tensors.get("image_grid_thw")
    if vlm is None or grid is None or not isinstance(vlm.model, Qwen2VL) or grid.shape[-1] != 3:
        return None
    for picture, (_, h, w) in enumerate(grid.tolist()):
        rows, columns = h // tokens, w // tokens
        if number < rows * columns:
            if tokens > 1:
                return picture, number // columns, number % columns
            row, column = patch_places([(h, w)], vlm.model.merge)[number].tolist()
            return picture, row, column
        number -= rows * columns
    return None


def _token_of_picture(tensors: Tensors, vlm: VLM | None, number: int) -> str:
    """The place of an image token among all image tokens of the batch."""
    found = None
    if vlm is not None and isinstance(vlm.model, Llava):
        picture, rest = divmod(number, vlm.model.n_image_tokens)
        side = vlm.config.vision.image_size // vlm.config.vision.patch_size
        found = picture, rest // side, rest % side
    elif vlm is not None and isinstance(vlm.model, Qwen2VL):
        found = _patch(tensors, vlm, number, vlm.model.merge)
    if found is None:
        return f"feature {number}"
    return f"picture {found[0]}, token row {found[1]}, token column {found[2]}"


def _number_of_image_token(tensors: Tensors, vlm: VLM | None, where: tuple[int, ...]) -> int | None:
    """How many image tokens of the batch are before the one at (record, position); None: none."""
    ids = tensors.get("input_ids")
    if vlm is None or ids is None or vlm.model.image_token_id is None or len(where) < 2:
        return None
    is_image = (ids == vlm.model.image_token_id).flatten()
    flat = where[0] * ids.shape[1] + where[1]
    if flat >= len(is_image) or not bool(is_image[flat]):
        return None
    return int(torch.count_nonzero(is_image[:flat]))
