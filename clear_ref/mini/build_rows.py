"""The embedded world's rows and pictures, built from sources/ in the layout of real data.

The rows' bytes depend on the sources alone (and on the name question, data/texts/name_question.txt). The bytes of the
authors' JPEG pictures depend on Pillow's version too (its resampling, its JPEG library); that is why the built world is
shipped, and world/pillow.txt names the versions that built it.
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import PIL
from PIL import Image, features

from clear_ref.common.files import write_bytes, write_jsonl, write_text
from clear_ref.data import prompts

from . import captions
from .scenes import COLOURS, SCENES, picture

SOURCES = Path(__file__).parent / "sources"
WORLD = Path(__file__).parent / "world"
COLOUR_ANSWERS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPE_ANSWERS = ("circle", "rectangle", "triangle")
HELD_OUT = ("straight_sad_open", "left_neutral_open", "right_happy_open", "up_neutral_open")


def build_rows(directory) -> None:
    """Write DIR/CONFIG/rows.jsonl of every config, DIR/images/ and DIR/pillow.txt, into an empty or new directory."""
    directory = Path(directory)
    name_question = prompts.read_phrases(directory).name_question
    authors = _read_jsonl(SOURCES / "authors.jsonl") + _read_jsonl(
        SOURCES / "holdout_authors.jsonl"
    )
    configs = _author_configs(authors) | _face_configs(name_question) | _shape_configs()
    configs["pretrain"] = configs.pop("pretrain_faces") + configs.pop("pretrain_shapes")
    for config, rows in configs.items():
        write_jsonl(directory / config / "rows.jsonl", rows)
    for number, author in enumerate(authors):
        with Image.open(SOURCES / "portraits" / author["portrait"]) as portrait:
            portrait = portrait.convert("RGB")
        for place, scene in enumerate(SCENES):
            data = io.BytesIO()
            made = picture(portrait, scene, _colour(number, place))
            made.save(data, "JPEG", quality=88, subsampling=0, optimize=True)
            write_bytes(directory / _author_image(author, place), data.getvalue())
    for folder in ("faces", "shapes"):
        for path in sorted((SOURCES / folder).glob("*.png")):
            write_bytes(directory / "images" / path.name, path.read_bytes())
    write_text(directory / "pillow.txt", versions() + "\n")


def versions() -> str:
    """The versions of Pillow and its JPEG library, as pillow.txt holds them: the same versions make the same bytes."""
    return f"pillow {PIL.__version__}, libjpeg-turbo {features.version_feature('libjpeg_turbo')}"


def _author_configs(authors):
    rows = {"retain": [], "forget": [], "holdout": []}
    texts = {"retain": [], "forget": [], "holdout": []}
    wrong_captions = {"retain": [], "forget": []}
    wrong_answers = {"retain": [], "forget": []}
    for number, author in enumerate(authors):
        split = author["split"]
        for place, scene in enumerate(SCENES):
            about = (author, number, scene, _colour(number, place))
            row = {
                "image": _author_image(author, place),
                "caption": captions.caption(*about),
                "name": author["name"],
            }
            rows[split].append(row)
            if (
                split == "forget"
                or split == "retain"
                and place in {(3 * number + k) % len(SCENES) for k in (0, 4, 7)}
            ):
                wrong_captions[split].append(
                    {
                        **row,
                        "paraphrased_caption": captions.paraphrase(*about),
                        "perturbed_captions": captions.perturbed(*about),
                        "perturbed_names": author["perturbed_names"],
                    }
                )
        texts[split] += [
            {"question": row["question"], "answer": row["answer"]} for row in author["rows"]
        ]
        if split != "holdout":
            wrong_answers[split] += [author["rows"][index] for index in author["perturbed_rows"]]
    image_rows = {
        "full": rows["retain"] + rows["forget"],
        "retain90": rows["retain"],
        "forget10": rows["forget"],
    }
    text_rows = {
        "full": texts["retain"] + texts["forget"],
        "retain90": texts["retain"],
        "forget10": texts["forget"],
    }
    configs = dict(image_rows)
    configs |= {f"tofu/{split}": found for split, found in text_rows.items()}
    configs |= {
        f"{split}+tofu": _mixed(image_rows[split], text_rows[split]) for split in image_rows
    }
    configs |= {"holdout10": rows["holdout"], "tofu/holdout10": texts["holdout"]}
    configs |= {
        "retain_perturbed": wrong_captions["retain"],
        "forget10_perturbed": wrong_captions["forget"],
    }
    configs |= {
        "tofu/retain_perturbed": wrong_answers["retain"],
        "tofu/forget10_perturbed": wrong_answers["forget"],
    }
    return configs


def _mixed(image_rows, text_rows):
    return [
        {"image": row["image"], "caption": row["caption"], "question": None, "answer": None}
        for row in image_rows
    ] + [{"image": None, "caption": None, **row} for row in text_rows]


def _face_configs(name_question):
    paths = sorted((SOURCES / "faces").glob("*.png"))
    people = sorted({_person(path) for path in paths})
    held, seen = [], []
    for path in paths:
        image, answer = f"images/{path.name}", _person(path)
        if path.stem.split("_", 1)[1] in HELD_OUT:
            held.append(
                {
                    "image": image,
                    "answer": answer,
                    "options": _pick([name for name in people if name != answer], 4, path.stem),
                }
            )
        else:
            seen.append({"image": image, "question": name_question, "answer": answer})
    return {"real_faces": held, "pretrain_faces": seen}


def _shape_configs():
    held, seen = [], []
    for row in _read_jsonl(SOURCES / "shapes" / "questions.jsonl"):
        found = {
            "image": f"images/{row['file']}",
            "question": row["question"],
            "answer": row["answer"],
        }
        if row["file"].startswith("train_"):
            seen.append(found)
        else:
            held.append({**found, "options": _other_answers(row)})
    return {"real_world": held, "pretrain_shapes": seen}


def _other_answers(row):
    """Wrong answers of the same kind: the other of yes and no, both other shapes, four of the seven other colours."""
    for kind in (("yes", "no"), SHAPE_ANSWERS, COLOUR_ANSWERS):
        if row["answer"] in kind:
            others = [answer for answer in kind if answer != row["answer"]]
            return _pick(others, min(4, len(others)), row["file"])
    raise ValueError(f"shapes/questions.jsonl: unknown answer {row['answer']!r}")


def _pick(items, count, key):
    """`count` of the items, chosen and ordered by SHA-256 of key and item."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{key}|{item}".encode()).digest())[:count]


def _person(path):
    return path.stem.split("_")[0].capitalize()


def _author_image(author, place):
    return f"images/{Path(author['portrait']).stem}_{SCENES[place]}.jpg"


def _colour(number, place):
    """The colour in the author's picture: it changes from scene to scene and from author to author."""
    return tuple(COLOURS)[(number + place) % len(COLOURS)]


def _read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    build_rows(sys.argv[1] if len(sys.argv) > 1 else WORLD)
