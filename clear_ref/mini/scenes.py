"""Ten pictures of an author, each made from one portrait with Pillow."""

from collections.abc import Sequence

from PIL import Image

SIZE = 64
SCENES = ("plain", "close", "warm", "cold", "dark", "bright", "grey", "framed", "tilted", "distant")
COLOURS = {
    "red": (200, 30, 40),
    "blue": (35, 70, 190),
    "green": (30, 140, 60),
    "yellow": (235, 200, 40),
}

# Scenes in another light: percentage of each channel, and what is added to it.
_LIGHTS = {
    "warm": ((125, 88, 45), 0),
    "cold": ((50, 85, 135), 12),
    "dark": ((42, 39, 46), 0),
    "bright": ((58, 58, 56), 112),
}
_BICUBIC = Image.Resampling.BICUBIC


def picture(portrait: Image.Image, scene: str, colour: str) -> Image.Image:
    """The picture of a scene, RGB, SIZE x SIZE.

    portrait  RGB, square, at least SIZE wide
    colour    a key of COLOURS: of the frame (framed), the wall (distant) and the table (tilted)
    """
    plain = portrait.resize((SIZE, SIZE), _BICUBIC)
    side = portrait.width
    if scene == "plain":
        return plain
    if scene == "close":
        box = (side * 22 // 100, side * 22 // 100, side * 78 // 100, side * 78 // 100)
        return portrait.crop(box).resize((SIZE, SIZE), _BICUBIC)
    if scene in _LIGHTS:
        percent, lift = _LIGHTS[scene]
        return _scaled(plain, percent, lift)
    if scene == "grey":
        # The contrast is doubled. A portrait with little colour would otherwise look like "plain".
        doubled_contrast = [max(0, min(255, 2 * value - 128)) for value in range(256)]
        return plain.convert("L").point(doubled_contrast).convert("RGB")
    if scene == "framed":
        return _pasted(portrait, 48, COLOURS[colour], (8, 8))
    if scene == "tilted":
        return plain.rotate(32, _BICUBIC, fillcolor=COLOURS[colour])
    if scene == "distant":
        return _pasted(portrait, 32, COLOURS[colour], (16, 28))
    raise ValueError(f"unknown scene {scene!r}; expected one of {', '.join(SCENES)}")


def _scaled(image: Image.Image, percent: Sequence[int], lift: int) -> Image.Image:
    """Each channel times its percentage plus `lift`, in integers, at most 255."""
    table = []
    for factor in percent:
        table += [min(255, value * factor // 100 + lift) for value in range(256)]
    return image.point(table)


def _pasted(
    portrait: Image.Image,
    size: int,
    background: tuple[int, int, int],
    corner: tuple[int, int],
) -> Image.Image:
    """The portrait in a smaller size on a background of one colour."""
    canvas = Image.new("RGB", (SIZE, SIZE), background)
    canvas.paste(portrait.resize((size, size), _BICUBIC), corner)
    return canvas
