"""Pictures from files and from Pillow images, as RGB, with the colours that the reference reads.

A picture has two routes into the reference, and they differ:

a path      turned upright by its EXIF tag; an alpha channel is dropped, so that the colours under
            it are seen
an object   (a Pillow image) not turned; transparent pixels are laid on white

On both routes a single transparent colour (as in a PNG without alpha channel) is laid on white.
Data rows name files: their pictures have the route of a path.

source  transformers 5.23: image_utils.load_image (a path alone), then
        image_transforms.convert_to_rgb (both)
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps

from clear_ref.common.errors import Notice, UserError
from clear_ref.common.files import note_read, one_line

ImageSource = str | os.PathLike[str] | Image.Image

# Of a picture that is made: Pillow's limit for a picture that is opened, 268 MB as RGB.
MOST_PIXELS = 89_478_485
# A file may say that it has many more pixels than it has bytes for: of a picture with more than
# FREE_PIXELS (8 megapixels), at most so many for each byte. A photograph has 1 to 30.
FREE_PIXELS = 2**23
PIXELS_PER_BYTE = 512
_noted: list[str] = []  # the first picture of one colour that this process has read
_counted: list[str] | None = None


@contextmanager
def counting_one_colour() -> Iterator[list[str]]:
    """The pictures of one colour that are read inside the block; nothing is said of them."""
    global _counted
    found: list[str] = []
    _counted = found
    try:
        yield found
    finally:
        _counted = None
        _noted.extend(found[:1])


def open_image(source: ImageSource, where: str = "picture") -> Image.Image:
    """An RGB picture, as the reference reads a path or an object; see above.

    source  a path or a Pillow image
    raises  UserError that names `where` if the file is missing, is no regular file or no picture,
            has more pixels than Pillow's limit or than its bytes can hold, has several frames,
            has 16 or 32 bits for each grey value, or has several colours that become one
    """
    if isinstance(source, Image.Image):
        try:
            return seen(source, f"{where}: the Pillow image")
        except (UserError, MemoryError):
            raise
        except Exception as error:  # see below
            raise UserError(
                f"{where}: the Pillow image cannot be read ({one_line(error)}); replace its file"
            ) from None
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(
            f"{where}: the picture is of type {type(source).__name__}; expected a path or a Pillow "
            "image (PIL.Image.fromarray makes one of an array)"
        )
    if not os.path.isfile(source):
        raise UserError(
            f"{where}: there is no picture {one_line(source)}; add the file or remove the row"
        )
    note_read(source)
    try:
        with warnings.catch_warnings():
            # Without this line Pillow only warns up to twice its limit of pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                check_pixels(image.size, os.path.getsize(source), f"{where}: {source}")
                n_frames = getattr(image, "n_frames", 1)
                # MPO: a camera's JPEG file with a second picture after the main one.
                if n_frames == 1 or image.format == "MPO":
                    return seen(image, f"{where}: {source}", a_path=True)
    except (UserError, MemoryError):
        raise
    # For a broken file Pillow's readers raise nearly every kind of error: also TypeError, KeyError.
    except Exception as error:
        raise UserError(
            f"{where}: {source} is no readable picture ({one_line(error)}); replace the file"
        ) from None
    raise UserError(
        f"{where}: {source} has {n_frames} frames; expected one picture: save one frame as a file"
    )


def seen(image: Image.Image, name: str, a_path: bool = False) -> Image.Image:
    """RGB, as the reference sees a picture.

    name    the picture, for error messages
    a_path  by the route of a path, not of an object
    raises  UserError for grey values of 16 or 32 bits, and if several colours become one
    """
    check_mode(image, name)
    found = image
    if a_path:
        found = ImageOps.exif_transpose(image).convert("RGB")
    found = on_white(found)
    if one_colour(found) and not one_colour(image):
        raise UserError(
            f"{name}, a picture of mode {image.mode} with several values, is one colour as RGB "
            f"{found.getpixel((0, 0))}; expected a picture that can be seen: lay it on a "
            "background and save it as RGB"
        )
    if not a_path or not one_colour(found):
        return found
    if _counted is not None:
        _counted.append(name)
    elif not _noted:
        _noted.append(name)
        warnings.warn(
            f"{name} is one colour, RGB {found.getpixel((0, 0))}, on which nothing can be seen; "
            "check-data counts such pictures (this is said once)",
            Notice,
            stacklevel=2,
        )
    return found


def check_pixels(size: tuple[int, int], n_bytes: int, name: str) -> None:
    """UserError if a picture says that it has many pixels and its file has few bytes.

    Checked before its pixels are read. 355 bytes of GIF took 613 MB.
    """
    most = max(FREE_PIXELS, PIXELS_PER_BYTE * n_bytes)
    if size[0] * size[1] > most:
        raise UserError(
            f"{name} has {n_bytes} bytes and says that it is {size[0]} x {size[1]} pixels; "
            f"expected at most {most}: replace the file, or make the picture smaller"
        )


def check_size(old: tuple[int, int], new: tuple[int, int], most: int = MOST_PIXELS) -> None:
    """UserError if a resize would make a picture of more than `most` pixels, on the way too.

    Pillow first changes the width, then the height. Checked before any memory is taken.
    old, new  (width, height) before and after
    """
    if max(new[0] * new[1], new[0] * old[1]) > most:
        raise UserError(
            f"picture is {old[0]} x {old[1]} pixels, and the picture settings make it {new[0]} x "
            f"{new[1]}; expected at most {most} pixels: crop the picture, or lower the size in the "
            "settings"
        )


def check_mode(image: Image.Image, name: str) -> None:
    """UserError for grey values of 16 or 32 bits: RGB clips them at 255, most become white."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise UserError(
            f"{name} has grey values of 16 or 32 bits (Pillow mode {image.mode}), of which RGB "
            "keeps 0 to 255; expected 8 bits: convert it, for 16-bit values with "
            "Image.fromarray((numpy.asarray(image) // 256).astype('uint8'))"
        )


def on_white(image: Image.Image) -> Image.Image:
    """RGB, with transparent pixels laid on white; source: convert_to_rgb of transformers 5.23."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def one_colour(image: Image.Image) -> bool:
    """True if all pixels of a picture are equal."""
    if image.mode in ("P", "PA"):
        # Different numbers may mean the same colour.
        image = image.convert("RGBA")
    # getcolors is None as soon as there are more colours than its argument.
    return image.getcolors(1) is not None


def hidden_colours(image: Image.Image) -> bool:
    """True if a picture has an alpha channel with pixels that are not opaque.

    By the route of a path the reference shows the colours under them.
    """
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    if "A" not in image.getbands():
        return False
    least_opaque: Any = image.getchannel("A").getextrema()[0]
    return bool(least_opaque < 255)


@dataclass(frozen=True)
class Picture:
    """A picture as a model reads it.

    pixels    float32 [3, H, W], or [patches, patch width] for families with a grid
    grid      number of patches in time, height and width; None for families without a grid
    n_tokens  number of image tokens that the picture takes in the text
    """

    pixels: torch.Tensor
    grid: tuple[int, int, int] | None
    n_tokens: int
