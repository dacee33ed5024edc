"""The embedded world's rows and pictures, built from sources/ in the layout of real data.

The bytes of the rows depend on the sources alone (and on the name question,
data/texts/name_question.txt). The bytes of the authors' JPEG pictures also depend on the version
of Pillow (its resampling, its JPEG library). For this reason the built world is shipped;
world/pillow.txt names the versions that built it.
"""

import hashlib
import io
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import PIL
from PIL import Image, features

from clear_ref.common.files import PathName, write_bytes, write_jsonl, write_text
from clear_ref.data import prompts
from clear_ref.data.paraphrases import FILE
from clear_ref.data.split_configs import Configs, DataRow, split_configs

from . import captions
from .authors import Author, read_authors, read_jsonl
from .directories import SOURCES, WORLD
from .scenes import COLOURS, SCENES, picture

COLOUR_ANSWERS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPE_ANSWERS = ("circle", "rectangle", "triangle")
# Poses of the people that no model is trained on; they are the rows of real_faces.
HELD_OUT_POSES = (
    "straight_sad_open",
    "left_neutral_open",
    "right_happy_open",
    "up_neutral_open",
)
# A retained author has perturbed rows for three scenes; these are their distances.
PERTURBED_SCENES = (0, 4, 7)


def build_rows(directory: PathName) -> None:
    """Write every config's rows.jsonl, images/ and pillow.txt into an empty or new directory."""
    directory = Path(directory)
    name_question = prompts.read_phrases(directory).name_question
    authors = read_authors()
    faces, faces_of_training = face_rows(name_question)
    shapes, shapes_of_training = shape_rows()
    configs = author_configs(authors)
    configs["real_faces"] = faces
    configs["real_world"] = shapes
    configs["pretrain"] = faces_of_training + shapes_of_training
    for config, rows in configs.items():
        write_jsonl(directory / config / "rows.jsonl", rows)
    write_author_pictures(directory, authors)
    for folder in ("faces", "shapes"):
        for path in sorted((SOURCES / folder).glob("*.png")):
            write_bytes(directory / "images" / path.name, path.read_bytes())
    paraphrases = (SOURCES / FILE).read_bytes()
    write_bytes(directory / FILE, paraphrases)
    write_text(directory / "pillow.txt", versions() + "\n")


def versions() -> str:
    """The versions of Pillow and its JPEG library, as in pillow.txt.

    The same versions write the same bytes.
    """
    return f"pillow {PIL.__version__}, libjpeg-turbo {features.version_feature('libjpeg_turbo')}"


def write_author_pictures(directory: Path, authors: Sequence[Author]) -> None:
    """Write ten JPEG pictures of every author."""
    for number, author in enumerate(authors):
        with Image.open(SOURCES / "portraits" / author["portrait"]) as opened:
            portrait = opened.convert("RGB")
        for place, scene in enumerate(SCENES):
            data = io.BytesIO()
            made = picture(portrait, scene, _colour(number, place))
            made.save(data, "JPEG", quality=88, subsampling=0, optimize=True)
            write_bytes(directory / _author_image(author, place), data.getvalue())


def author_configs(authors: Sequence[Author]) -> Configs:
    """The configs about the authors: pictures, text, both, and their perturbed rows."""
    # {split: rows}, the splits being retain, forget and holdout
    pictures: Configs = defaultdict(list)
    texts: Configs = defaultdict(list)
    perturbed_pictures: Configs = defaultdict(list)
    perturbed_texts: Configs = defaultdict(list)
    for number, author in enumerate(authors):
        split = author["split"]
        for place in range(len(SCENES)):
            row = picture_row(author, number, place)
            pictures[split].append(row)
            if has_perturbed_row(split, number, place):
                perturbed_pictures[split].append(perturbed_row(row, author, number, place))
        for question in author["rows"]:
            texts[split].append({"question": question["question"], "answer": question["answer"]})
        if split != "holdout":
            perturbed_texts[split] += [author["rows"][index] for index in author["perturbed_rows"]]

    configs = split_configs(pictures, texts)
    configs["retain_perturbed"] = perturbed_pictures["retain"]
    configs["forget10_perturbed"] = perturbed_pictures["forget"]
    configs["tofu/retain_perturbed"] = perturbed_texts["retain"]
    configs["tofu/forget10_perturbed"] = perturbed_texts["forget"]
    return configs


def picture_row(author: Author, number: int, place: int) -> DataRow:
    """The row of one picture of an author; `place` is the number of the scene."""
    colour = _colour(number, place)
    return {
        "image": _author_image(author, place),
        "caption": captions.caption(author, number, SCENES[place], colour),
        "name": author["name"],
    }


def has_perturbed_row(split: str, number: int, place: int) -> bool:
    """True for every picture of Forget and for three pictures of each author of Retain."""
    if split == "retain":
        return place in {(3 * number + k) % len(SCENES) for k in PERTURBED_SCENES}
    return split == "forget"


def perturbed_row(row: DataRow, author: Author, number: int, place: int) -> DataRow:
    """A picture's row with its paraphrase, wrong captions and wrong names."""
    colour = _colour(number, place)
    return {
        **row,
        "paraphrased_caption": captions.paraphrase(author, number, SCENES[place], colour),
        "perturbed_captions": captions.perturbed(author, number, SCENES[place], colour),
        "perturbed_names": author["perturbed_names"],
    }


def face_rows(name_question: str) -> tuple[list[DataRow], list[DataRow]]:
    """(rows of real_faces, rows of pre-training) of the real people."""
    paths = sorted((SOURCES / "faces").glob("*.png"))
    people = sorted({_person(path) for path in paths})
    held_out: list[DataRow] = []
    training: list[DataRow] = []
    for path in paths:
        image = f"images/{path.name}"
        answer = _person(path)
        pose = path.stem.split("_", 1)[1]
        if pose in HELD_OUT_POSES:
            others = [name for name in people if name != answer]
            options = _pick(others, 4, path.stem)
            held_out.append({"image": image, "answer": answer, "options": options})
        else:
            training.append({"image": image, "question": name_question, "answer": answer})
    return held_out, training


def shape_rows() -> tuple[list[DataRow], list[DataRow]]:
    """(rows of real_world, rows of pre-training) of the coloured shapes."""
    held_out: list[DataRow] = []
    training: list[DataRow] = []
    for source in read_jsonl(SOURCES / "shapes" / "questions.jsonl"):
        row = {
            "image": f"images/{source['file']}",
            "question": source["question"],
            "answer": source["answer"],
        }
        if source["file"].startswith("train_"):
            training.append(row)
        else:
            held_out.append({**row, "options": _other_answers(source)})
    return held_out, training


def _other_answers(row: DataRow) -> list[str]:
    """Wrong answers of the same kind.

    The other one of yes and no, both other shapes, or four of the seven other colours.
    """
    for kind in (("yes", "no"), SHAPE_ANSWERS, COLOUR_ANSWERS):
        if row["answer"] in kind:
            others = [answer for answer in kind if answer != row["answer"]]
            return _pick(others, min(4, len(others)), row["file"])
    raise ValueError(f"shapes/questions.jsonl: unknown answer {row['answer']!r}")


def _pick(items: Sequence[str], count: int, key: str) -> list[str]:
    """`count` of the items, chosen and ordered by the SHA-256 of key and item."""

    def digest(item: str) -> bytes:
        return hashlib.sha256(f"{key}|{item}".encode()).digest()

    return sorted(items, key=digest)[:count]


def _person(path: Path) -> str:
    """The first name that a face picture's file name begins with."""
    return path.stem.split("_")[0].capitalize()


def _author_image(author: Author, place: int) -> str:
    """The path of an author's picture, relative to the world."""
    return f"images/{Path(author['portrait']).stem}_{SCENES[place]}.jpg"


def _colour(number: int, place: int) -> str:
    """The colour in an author's picture; it differs from scene to scene and author to author."""
    return tuple(COLOURS)[(number + place) % len(COLOURS)]


if __name__ == "__main__":
    build_rows(sys.argv[1] if len(sys.argv) > 1 else WORLD)
