"""Small data directories, written by hand."""

import json

from PIL import Image


def write(directory, config, rows):
    """Write a config's rows.jsonl."""
    (directory / config).mkdir(parents=True, exist_ok=True)
    (directory / config / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )


def colour(directory, number, size=(8, 8)):
    """A picture of its own colour with a black corner; its path in rows."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (number % 256, number // 256, 90))
    image.putpixel((size[0] - 1, size[1] - 1), (0, 0, 0))
    image.save(directory / "images" / f"{number}.png")
    return f"images/{number}.png"


def caption(directory, number, name=None, **more):
    """A row of the kind captions, with its picture."""
    name = name or f"Person {number}"
    return {"image": colour(directory, number), "caption": f"{name} smiles.", "name": name, **more}


def perturbed(row, *names):
    """A row with a paraphrase, wrong captions and wrong names."""
    return {
        **row,
        "paraphrased_caption": "A smile.",
        "perturbed_captions": ["Q smiles."],
        "perturbed_names": [*names] or ["Q"],
    }
