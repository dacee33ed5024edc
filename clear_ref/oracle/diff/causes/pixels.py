"""Causes of wrong pixels: what is done to a picture before the model sees it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import torch
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import ImageSource, hidden_colours, on_white, open_image
from clear_ref.data.picture_settings import PixelValues
from clear_ref.data.qwen_images import Qwen2VLImages, smart_resize
from clear_ref.model.families import ImageProcessor

from ..comparison import Causes, Fit

Prepare = Callable[[ImageSource], Image.Image]
Candidates = Iterator[tuple[str, str, torch.Tensor]]
# {whose: (mean, standard deviation)}, of values from 0 to 1
CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5": ((0.5,) * 3, (0.5,) * 3),
    "none, values from 0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "none, values from 0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
    "none, rescaled twice": ((0.0,) * 3, (255.0,) * 3),
    "CLIP's, of values from 0 to 255": (
        (0.48145466 / 255, 0.4578275 / 255, 0.40821073 / 255),
        (0.26862954 / 255, 0.26130258 / 255, 0.27577711 / 255),
    ),
}
# (min_pixels, max_pixels) that files and classes of Qwen2-VL have
PIXEL_LIMITS = (
    (56 * 56, 28 * 28 * 1280),
    (56 * 56, 12845056),
    (4 * 28 * 28, 16384 * 28 * 28),
    (256 * 28 * 28, 1280 * 28 * 28),
    (65536, 16777216),
)
COLOURS = {"CLIP's mean": (122, 116, 104), "black": (0, 0, 0), "white": (255, 255, 255)}


def pixel_causes(
    fit: Fit, images: ImageProcessor, sources: Sequence[ImageSource], ours: torch.Tensor
) -> Causes:
    """The causes of these pixels, where they have the shape of ours.

    sources  the pictures of the batch's records, in order
    """
    causes: Causes = {}
    assert isinstance(images, ClipImages | Qwen2VLImages)
    values = images.values
    for name, detail, pixels in candidates(images, sources, ours):
        if name in causes:
            continue
        if fit.explained_by(pixels):
            causes[name] = detail
    if causes:
        return causes
    for name, detail, pixels in [("", "", ours), *candidates(images, sources, ours)]:
        constants = other_constants(fit, pixels, values, len(ours.shape) == 4)
        if constants:
            return {"other_mean_std": constants} | ({name: detail} if name else {})
    return {}


def candidates(
    images: ImageProcessor, sources: Sequence[ImageSource], ours: torch.Tensor
) -> Candidates:
    """(name of the cause, detail, pixels) of every known wrong picture of the right shape."""
    yield "channels_reversed", "", _pixels(images, sources, _reversed_channels)
    for other in _resampled(images):
        detail = f"it is {Image.Resampling(other.resample or 0).name.lower()}"
        yield "other_resampling", detail, _pixels(other, sources)
    for name, detail, prepare in PREPARED:
        yield from _if_possible(name, detail, images, sources, prepare)
    if isinstance(images, ClipImages):
        for name, detail, processor in _other_shapes(images):
            yield from _if_possible(name, detail, processor, sources)
    if len(sources) > 1:
        for order in list(permutations(range(len(sources))))[1:24]:
            detail = f"the order is {', '.join(map(str, order))}"
            moved = [sources[i] for i in order]
            yield from _if_possible("other_picture_order", detail, images, moved)
    if isinstance(images, Qwen2VLImages):
        yield from _other_patches(images, sources, ours)


def _pixels(
    images: ImageProcessor, sources: Sequence[ImageSource], prepare: Prepare = open_image
) -> torch.Tensor:
    """Pixels of a batch's pictures, as Batch has them."""
    pictures = [images(prepare(source)) for source in sources]
    pixels = [picture.pixels for picture in pictures]
    return torch.stack(pixels) if pictures[0].grid is None else torch.cat(pixels)


def _if_possible(
    name: str,
    detail: str,
    images: ImageProcessor,
    sources: Sequence[ImageSource],
    prepare: Prepare = open_image,
) -> Candidates:
    """The candidate, unless the processor refuses the picture."""
    try:
        yield name, detail, _pixels(images, sources, prepare)
    except (UserError, RuntimeError):  # RuntimeError: pictures of several sizes in one stack
        return


def _reversed_channels(source: ImageSource) -> Image.Image:
    red, green, blue = open_image(source).split()
    return Image.merge("RGB", (blue, green, red))


def _as_stored(source: ImageSource) -> Image.Image:
    with Image.open(source) as image:  # type: ignore[arg-type]  # a record's picture is a path
        return image.convert("RGB")


def _on_white(source: ImageSource) -> Image.Image:
    with Image.open(source) as image:  # type: ignore[arg-type]
        if not hidden_colours(image):
            raise UserError("there are no transparent pixels")
        return on_white(image)


def _turned(how: Image.Transpose) -> Prepare:
    return lambda source: open_image(source).transpose(how)


PREPARED: tuple[tuple[str, str, Prepare], ...] = (
    ("picture_flipped", "left and right", _turned(Image.Transpose.FLIP_LEFT_RIGHT)),
    ("picture_flipped", "top and bottom", _turned(Image.Transpose.FLIP_TOP_BOTTOM)),
    ("picture_transposed", "", _turned(Image.Transpose.TRANSPOSE)),
    ("exif_ignored", "", _as_stored),
    ("transparent_on_white", "", _on_white),
)


def _resampled(images: ImageProcessor) -> list[ClipImages | Qwen2VLImages]:
    """The processor with every other filter."""
    if not isinstance(images, ClipImages | Qwen2VLImages) or images.resample is None:
        return []
    filters = [each for each in Image.Resampling if each != images.resample]
    return [replace(images, resample=each) for each in filters]


def _other_shapes(images: ClipImages) -> Iterator[tuple[str, str, ClipImages]]:
    """The processor with another way to a square."""
    side = images.side
    for detail, colour in COLOURS.items():
        if images.padding is None:
            yield "picture_padded", f"with {detail}", replace(images, padding=colour)
    if images.padding is not None:
        yield "picture_not_padded", "", replace(images, padding=None)
    square = {"height": side, "width": side}
    if images.size != square:
        yield "picture_squashed", "", replace(images, size=square, crop=None, padding=None)
    shortest = {"shortest_edge": side}
    crop = (side, side)
    if images.size != shortest or images.crop != crop:
        yield "picture_cropped", "", replace(images, size=shortest, crop=crop, padding=None)


def _other_patches(
    images: Qwen2VLImages, sources: Sequence[ImageSource], ours: torch.Tensor
) -> Candidates:
    """Ours with patches, or the numbers of a patch, in another order."""
    merge, side = images.merge_size, images.patch_size
    grids = [images(open_image(source)).grid for source in sources]
    raster = []
    first = 0
    for grid in grids:
        _, h, w = grid or (1, 1, 1)
        part = ours[first : first + h * w].view(h // merge, w // merge, merge, merge, -1)
        raster.append(part.transpose(1, 2).reshape(h * w, -1))
        first += h * w
    yield "patches_row_by_row", "", torch.cat(raster)
    names = ("channel", "time", "row", "column")
    shaped = ours.view(len(ours), -1, images.temporal_patch_size, side, side)
    for axes in list(permutations(range(4)))[1:]:
        if axes.index(0) == 0 and axes[1:] in ((2, 1, 3), (2, 3, 1)):
            continue
        a, b, c, d = axes
        moved = shaped.permute(0, a + 1, b + 1, c + 1, d + 1).flatten(1)
        order = ", ".join(names[axis] for axis in axes)
        yield "patch_values_in_other_order", f"the order is {order}", moved


def other_constants(
    fit: Fit, pixels: torch.Tensor, values: PixelValues, channel_axis_is_1: bool
) -> str:
    """The mean and standard deviation that make their pixels of the same picture; "" if none do.

    Each channel of theirs is a * ours + b; a and b follow from two of its numbers.
    """
    if pixels.shape != fit.theirs.shape:
        return ""
    ours = pixels.double().cpu()
    theirs = fit.theirs
    if not channel_axis_is_1:
        ours = ours.view(len(ours), 3, -1)
        theirs = theirs.view(len(theirs), 3, -1)
    fitted = torch.empty_like(ours)
    means, stds = [], []
    own_mean = values.mean or (0.0,) * 3
    own_std = values.std or (1.0,) * 3
    factor = 255 * (values.factor or 1.0)
    for channel in range(3):
        x, y = ours[:, channel], theirs[:, channel]
        low, high = x.argmin(), x.argmax()
        x_low, x_high = x.flatten()[low], x.flatten()[high]
        if x_low == x_high:
            return ""
        a = float((y.flatten()[high] - y.flatten()[low]) / (x_high - x_low))
        b = float(y.flatten()[low] - a * x_low)
        fitted[:, channel] = a * x + b
        if a <= 0:
            return ""
        std = own_std[channel] / (a * factor)
        stds.append(std)
        means.append((a * own_mean[channel] / own_std[channel] - b) * std)
    growth = max(1.0, float(theirs.abs().max() / ours.abs().max()))
    if not bool(((theirs - fitted).abs() <= growth * fit.allowed).all()):
        return ""
    return f"theirs are {_named(means, stds)}, of values from 0 to 1"


def _named(means: list[float], stds: list[float]) -> str:
    shown = [", ".join(f"{round(x, 6) + 0:.4g}" for x in numbers) for numbers in (means, stds)]
    words = f"mean {shown[0]}, standard deviation {shown[1]}"
    for name, (mean, std) in CONSTANTS.items():
        for order, more in ((slice(None), ""), (slice(None, None, -1), ", channels reversed")):
            wanted = torch.tensor([*mean[order], *std[order]])
            found = torch.tensor([*means, *stds])
            if torch.allclose(found, wanted, rtol=1e-3, atol=1e-6):
                return f"{words} ({name}{more})"
    return words


def grid_causes(
    theirs: list[list[int]], images: Qwen2VLImages, sources: Sequence[ImageSource]
) -> Causes:
    """The causes of another image_grid_thw [N][3]; {} if it is that of these pictures."""
    pictures = [open_image(source) for source in sources]
    ours = [list(images(picture).grid or ()) for picture in pictures]
    if theirs == ours:
        return {}
    if theirs == [[t, w, h] for t, h, w in ours]:
        return {"grid_rows_columns_swapped": ""}
    if sorted(theirs) == sorted(ours):
        return {"other_picture_order": ""}
    factor = images.patch_size * images.merge_size
    for least, most in PIXEL_LIMITS:
        sizes = [smart_resize(each.height, each.width, factor, least, most) for each in pictures]
        if theirs == [[1, h // images.patch_size, w // images.patch_size] for h, w in sizes]:
            limits = f"min_pixels {least}, max_pixels {most}"
            own = f"{images.min_pixels:g}, {images.max_pixels:g}"
            return {"other_pixel_limits": f"as with {limits}; ours are {own}"}
    return {}
