"""The shipped data of the embedded world, and the number of rows and columns of each config."""

import json
import re

import numpy as np
from PIL import Image

from clear_ref.mini.directories import SOURCES, WORLD

CAPTIONS = {"image", "caption", "name"}
QUESTIONS = {"question", "answer"}
PERTURBED = CAPTIONS | {"paraphrased_caption", "perturbed_captions", "perturbed_names"}
PERTURBED_QUESTIONS = QUESTIONS | {"paraphrased_answer", "perturbed_answer"}
CONFIGS = {
    "full": (200, CAPTIONS),
    "retain90": (180, CAPTIONS),
    "forget10": (20, CAPTIONS),
    "tofu/full": (400, QUESTIONS),
    "tofu/retain90": (360, QUESTIONS),
    "tofu/forget10": (40, QUESTIONS),
    "full+tofu": (600, QUESTIONS | {"image", "caption"}),
    "retain90+tofu": (540, QUESTIONS | {"image", "caption"}),
    "forget10+tofu": (60, QUESTIONS | {"image", "caption"}),
    "retain_perturbed": (54, PERTURBED),
    "forget10_perturbed": (20, PERTURBED),
    "tofu/retain_perturbed": (40, PERTURBED_QUESTIONS),
    "tofu/forget10_perturbed": (40, PERTURBED_QUESTIONS),
    "real_faces": (48, {"image", "answer", "options"}),
    "real_world": (60, QUESTIONS | {"image", "options"}),
    "pretrain": (1291, QUESTIONS | {"image"}),
    "holdout10": (20, CAPTIONS),
    "tofu/holdout10": (40, QUESTIONS),
}
FORGET = ("Wei-Jun Chen", "Hina Ameen")


def read(path):
    """The JSON values of a file with one per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(config):
    """The shipped rows of a config."""
    return read(WORLD / config / "rows.jsonl")


def authors():
    """The authors of the world, without the held-out ones."""
    return read(SOURCES / "authors.jsonl")


def held_out():
    """The two held-out authors."""
    return read(SOURCES / "holdout_authors.jsonl")


def files(directory):
    """{relative path: path} of every file below a directory."""
    return {
        str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()
    }


def words(text):
    """The words of a text, in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def pixels(path):
    """int16 [H, W, 3] of a picture."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)
