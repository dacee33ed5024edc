"""Ten pictures of an author, all made from one portrait with Pillow alone."""

from PIL import Image

SIZE = 64
SCENES = ("plain", "close", "warm", "cold", "dark", "bright", "grey", "framed", "tilted", "distant")
COLOURS = {
    "red": (200, 30, 40),
    "blue": (35, 70, 190),
    "green": (30, 140, 60),
    "yellow": (235, 200, 40),
}

_BICUBIC = Image.Resampling.BICUBIC


def picture(portrait: Image.Image, scene: str, colour: str) -> Image.Image:
    """The scene's picture, RGB of SIZE x SIZE.

    portrait  RGB, square, at least SIZE wide
    colour    of the frame (framed), the wall (distant) and the table (tilted); a key of COLOURS
    """
    plain = portrait.resize((SIZE, SIZE), _BICUBIC)
    side = portrait.width
    if scene == "plain":
        return plain
    if scene == "close":
        box = (side * 22 // 100, side * 22 // 100, side * 78 // 100, side * 78 // 100)
        return portrait.crop(box).resize((SIZE, SIZE), _BICUBIC)
    if scene == "warm":
        return _scaled(plain, (125, 88, 45))
    if scene == "cold":
        return _scaled(plain, (50, 85, 135), lift=12)
    if scene == "dark":
        return _scaled(plain, (42, 39, 46))
    if scene == "bright":
        return _scaled(plain, (58, 58, 56), lift=112)
    if scene == "grey":
        # Contrast doubled: a portrait with little colour in it would otherwise look the same as plain.
        doubled_contrast = [max(0, min(255, 2 * value - 128)) for value in range(256)]
        return plain.convert("L").point(doubled_contrast).convert("RGB")
    if scene == "framed":
        return _pasted(portrait, 48, COLOURS[colour], (8, 8))
    if scene == "tilted":
        return plain.rotate(32, _BICUBIC, fillcolor=COLOURS[colour])
    if scene == "distant":
        return _pasted(portrait, 32, COLOURS[colour], (16, 28))
    raise ValueError(f"unknown scene {scene!r}; expected one of {', '.join(SCENES)}")


def _scaled(image, percent, lift=0):
    """Each channel times its percentage plus `lift`, in integers, cut at 255."""
    table = [min(255, value * factor // 100 + lift) for factor in percent for value in range(256)]
    return image.point(table)


def _pasted(portrait, size, background, corner):
    canvas = Image.new("RGB", (SIZE, SIZE), background)
    canvas.paste(portrait.resize((size, size), _BICUBIC), corner)
    return canvas
