"""The embedded world of faces: the authors' portraits and the real people of mini, at 48 pixels.

34 people: the twenty authors of mini and its two held-out ones in ten scenes each, and twelve real
people in up to twelve pictures each (four poses, three expressions, eyes open). The rows are
grouped by name. Two authors and two real people are forgotten, as many are held out; 13 of the
other 26 people are members of each split.

The start network has initial values and a sixteenth of the real one's width.
"""

from dataclasses import replace

from clear_ref.data.records import Row, read_rows
from clear_ref.mini.directories import WORLD

from .network import ResNet18, new_network
from .splits import People

SIZE = 48
WIDTH = 8
N_SPLITS = 32
EXPRESSIONS = ("neutral", "happy", "angry")
FORGET = ("Wei-Jun Chen", "Hina Ameen", "Alex", "Bob")
HOLDOUT = ("Luis Marcelo Garcia", "Elliot Patrick Benson", "Emma", "Fred")
PEOPLE = People(FORGET, HOLDOUT, FORGET, HOLDOUT)


def world_rows() -> list[Row]:
    """The rows: the authors, the held-out authors, the real people; each has an image and a name.

    The caption of a real person's row is the name of its file.
    """
    authors = [*read_rows(WORLD, "full"), *read_rows(WORLD, "holdout10")]
    people: dict[str, list[Row]] = {}
    for row in [*read_rows(WORLD, "pretrain"), *read_rows(WORLD, "real_faces")]:
        if row.image is None:
            continue
        parts = row.image.stem.split("_")
        if len(parts) == 4 and parts[2] in EXPRESSIONS and parts[3] == "open":
            values = {"caption": row.image.stem, "name": row.values["answer"]}
            people.setdefault(row.values["answer"], []).append(replace(row, values=values))
    of_people = [
        row
        for name in sorted(people)
        for row in sorted(people[name], key=lambda each: str(each.image))
    ]
    return [replace(row, index=place) for place, row in enumerate([*authors, *of_people])]


def start_network(seed: int) -> ResNet18:
    """The network from which base and gold are trained."""
    return new_network(WIDTH, seed)
