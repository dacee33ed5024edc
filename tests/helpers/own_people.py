"""A file of a few people with pictures, and the data directory that `make-data` makes of them."""

from PIL import Image

from clear_ref.data.make_data import make_data, split_people
from clear_ref.data.people import read_people
from clear_ref.mini.directories import WORLD

NAMES = ("Ada Lind", "Bo Costa", "Cy Novak")
HEADER = "name,picture,caption,question,answer\n"


def write_people(directory, names=NAMES, rows=()):
    """people.csv with a picture and a question of each person, and `rows`; pictures/ beside it."""
    (directory / "pictures").mkdir(parents=True, exist_ok=True)
    lines = [HEADER]
    for number, name in enumerate(names):
        image = Image.new("RGB", (8, 8), (20 * number, 90, 10))
        image.putpixel((0, 0), (255, 255, 255))
        image.save(directory / "pictures" / f"{number}.png")
        lines.append(
            f"{name},{number}.png,{name} smiles.,Where is {name}?,{name} is in {number}.\n"
        )
    path = directory / "people.csv"
    path.write_text("".join([*lines, *(f"{row}\n" for row in rows)]), encoding="utf-8")
    return path


def small_data(directory, names=NAMES, n_forget=1, real_rows=1):
    """A data directory; the first n_forget people are forgotten. real_rows: of each Real set."""
    people = read_people(write_people(directory / "source", names))
    split = split_people(people, ",".join(names[:n_forget]), 0.1, "", 0)
    out = directory / "own"
    make_data(split, directory / "source" / "pictures", out, 0, WORLD)
    for config in ("real_faces", "real_world"):
        path = out / config / "rows.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:real_rows]), encoding="utf-8")
    return out
