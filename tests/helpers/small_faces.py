"""A data directory of faces that are not faces: people of one colour each, and a small network."""

import json

import numpy as np
from PIL import Image

from clear_ref.visual.network import new_network, write_network

SIZE = 32
N_PICTURES = 6
NAMES = ("Ann", "Ben", "Cem", "Dua", "Eva", "Fay")


def rows_of(names=NAMES, n_pictures=N_PICTURES):
    """The rows, grouped by name."""
    return [
        {"image": f"images/{name}{number}.png", "caption": f"{name} {number}", "name": name}
        for name in names
        for number in range(n_pictures)
    ]


def write_faces(directory, rows=None, config="default"):
    """The data directory: rows, and their pictures, whose colour is the person's with noise."""
    rows = rows_of() if rows is None else rows
    (directory / "images").mkdir(parents=True)
    (directory / config).mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / config / "rows.jsonl").write_text(text)
    for number, row in enumerate(rows):
        colour = np.random.RandomState(sum(map(ord, row["name"]))).randint(40, 216, 3)
        noise = np.random.RandomState(number).randint(-40, 40, (SIZE, SIZE, 3))
        picture = Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))
        picture.save(directory / row["image"])
    return directory


def write_lists(directory):
    """The options of a forget and a holdout list of one person each."""
    (directory / "forget.txt").write_text("Ann\n")
    (directory / "holdout.txt").write_text("Ben\n")
    lists = [f"--{each}-names={directory / each}.txt" for each in ("forget", "holdout")]
    return lists


def write_start(directory):
    """The option of a start network of two channels."""
    write_network(directory / "start.safetensors", new_network(2, 0))
    return f"--network={directory / 'start.safetensors'}"


def short_recipes(method, more):
    """Options: two epochs of small batches for base, gold and the method, but for the values that
    `more` has options of.
    """
    values = [
        f"--train={stage}.{value}"
        for stage in ("base", "gold", method)
        for value in ("epochs=2", "batch_size=6")
    ]
    values += [f"--train={stage}.warmup_steps=2" for stage in ("base", "gold")]
    named = tuple(each.rpartition("=")[0] + "=" for each in more if each.count("=") == 2)
    return [each for each in values if not each.startswith(named)]


def arguments(directory, out, method="retain_ft", *more):
    """The arguments of a run on `directory`, which write_faces has written; `more` wins."""
    own = [f"--data={directory}", f"--out={out}", "--splits=4", "--size=32"]
    own += [write_start(directory), *write_lists(directory)]
    given = {word.split("=")[0] for word in more} - {"--train", "--set"}
    kept = [word for word in own if word.split("=")[0] not in given]
    return ["visual", method, "--quiet", *kept, *short_recipes(method, more), *more]
