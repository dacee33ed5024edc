"""What `visual` reads: rows with names and pictures, who is forgotten, the start network."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line, read_text, sha256
from clear_ref.common.run_directory import RunRecord, hashes
from clear_ref.data.records import Row, has_config, read_rows
from clear_ref.mini.directories import data_directory
from clear_ref.visual import world
from clear_ref.visual.clear_people import LISTS
from clear_ref.visual.names import Classes, check_classes, classes_of
from clear_ref.visual.network import ResNet18, read_network
from clear_ref.visual.pictures import SIZE
from clear_ref.visual.splits import People

from .visual_settings import Visual

CONFIGS = ("default", "full")  # the first that is there is read; in CLEAR they are equal
N_SPLITS = 128
ROWS, PICTURES = ": rows", ": pictures"  # end the keys of their hashes; before it: the directory
FILES = ("network", "forget_names", "holdout_names")  # settings that name a file


@dataclass(frozen=True)
class VisualInputs:
    """Everything that is read but the pictures' pixels.

    captions  of each row, for the released lookup of targets
    hashes    {what: SHA-256} of rows, pictures, network and lists
    """

    is_mini: bool
    rows: list[Row]
    classes: Classes
    people: People
    captions: list[str]
    start: ResNet18
    size: int
    n_splits: int
    hashes: dict[str, str]


def inputs_of(settings: Visual) -> VisualInputs:
    """The inputs, checked.

    raises  UserError for rows, names, lists or a network that cannot be used
    """
    is_mini = settings.data == "mini"
    for name in ("splits", "size", "processes"):
        if getattr(settings, name) < 0:
            raise UserError(f"--{name} is {getattr(settings, name)}; expected 0 or more")
    rows = world.world_rows() if is_mini else data_rows(data_directory(settings.data))
    classes = classes_of([row.values["name"] for row in rows])
    check_classes(classes)
    people = people_of(settings, is_mini)
    check_shown(settings, people, classes)
    start = start_network(settings, is_mini)
    return VisualInputs(
        is_mini=is_mini,
        rows=rows,
        classes=classes,
        people=people,
        captions=[row.values["caption"] for row in rows],
        start=start,
        size=settings.size or (world.SIZE if is_mini else SIZE),
        n_splits=settings.splits or (world.N_SPLITS if is_mini else N_SPLITS),
        hashes=input_hashes(settings, rows),
    )


def data_rows(directory: Path) -> list[Row]:
    """The rows of the first config of CONFIGS that is there."""
    for config in CONFIGS:
        if has_config(directory, config):
            return read_rows(directory, config)
    raise UserError(
        f"{directory}: holds neither default/rows.jsonl nor full/rows.jsonl; expected rows with "
        "image, caption and name. python data_fetch.py clear fetches default"
    )


def people_of(settings: Visual, is_mini: bool) -> People:
    """Who is forgotten and held out: the lists of files, else those of CLEAR or of the world."""
    named = [settings.forget_names, settings.holdout_names]
    if bool(named[0]) != bool(named[1]):
        missing = "--holdout-names" if named[0] else "--forget-names"
        raise UserError(
            f"{missing} is not given; expected both lists: each is forgotten in one half of the "
            "splits, and held out in the other"
        )
    if named[0]:
        forget, holdout = (read_names(path) for path in named)
        return People(forget, holdout, forget, holdout)
    if is_mini:
        if settings.forget != 10:
            raise UserError(
                f"--forget is {settings.forget}; expected 10 in the embedded world, which has one "
                "list, or --forget-names and --holdout-names"
            )
        return world.PEOPLE
    forget, holdout = LISTS[settings.forget]
    return People(forget, holdout, *LISTS[10])


def check_shown(settings: Visual, people: People, classes: Classes) -> None:
    """UserError for a name of a list that no row has; it says where the list is from."""
    for option, file, whose, names in (
        ("--forget-names", settings.forget_names, "forgotten", people.forget_group),
        ("--holdout-names", settings.holdout_names, "held-out", people.holdout_group),
    ):
        missing = next((name for name in names if name not in classes.names), None)
        if missing is None:
            continue
        quoted, expected = one_line(repr(missing), 60), classes.expected(missing)
        if file:
            raise UserError(f"{option} {file}: no picture shows {quoted}; {expected}")
        raise UserError(
            f"{settings.data}: no picture shows {quoted}, who is in CLEAR's list of {whose} "
            f"people; this list is used because {option} is not given, and --forget-names and "
            f"--holdout-names name files with other ones; {expected}"
        )


def read_names(path: PathName) -> tuple[str, ...]:
    """The names of a file with one a line; empty lines are left out. Only \\n ends a line, and
    blanks at the ends of a name do not count, as in the rows.
    """
    lines = (line.strip() for line in read_text(path).removeprefix("\ufeff").split("\n"))
    return tuple(line for line in lines if line)


def start_network(settings: Visual, is_mini: bool) -> ResNet18:
    """The network that base and gold begin with."""
    if settings.network:
        return read_network(settings.network)
    if not is_mini:
        raise UserError(
            "--network is not given; expected a safetensors file of a ResNet-18 that tells faces "
            "apart, under torchvision's names: the authors' own is not published"
        )
    return world.start_network(settings.seed)


def input_hashes(settings: Visual, rows: list[Row]) -> dict[str, str]:
    """{what: SHA-256} of everything that is read."""
    values = "".join(json.dumps(row.values, sort_keys=True) + "\n" for row in rows)
    pictures = "".join(f"{sha256(row.image)}\n" for row in rows if row.image is not None)
    found = {
        f"{settings.data}{ROWS}": hashlib.sha256(values.encode()).hexdigest(),
        f"{settings.data}{PICTURES}": hashlib.sha256(pictures.encode()).hexdigest(),
    }
    named = (getattr(settings, name) for name in FILES)
    return found | hashes(path for path in named if path)


def hashes_by_option(record: RunRecord) -> dict[str, str]:
    """{what: SHA-256} of the inputs of a run: the same wherever the files are."""
    named = {
        name: record["settings"].get(name, {"value": ""})["value"] for name in ("data", *FILES)
    }
    places = {str(named[name]): name for name in FILES}
    places |= {f"{named['data']}{each}": each for each in (ROWS, PICTURES)}
    return {places.get(path, path): value for path, value in record["inputs"].items()}
