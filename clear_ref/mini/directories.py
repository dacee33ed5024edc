"""Directories of the embedded world, and the meaning of "mini" as a model or data directory."""

import re
from pathlib import Path

from clear_ref.common.errors import UserError

MINI = Path(__file__).parent
WORLD = MINI / "world"
BASE = MINI / "base"
GOLD = MINI / "gold"
START = MINI / "start"  # before it was trained on the twenty authors
SOURCES = MINI / "sources"


def data_directory(name: str) -> Path:
    """The directory that --data names."""
    return existing(name, WORLD, "data")


def model_directory(name: str) -> Path:
    """The directory that --model names; for mini, the base model."""
    return existing(name, BASE, "model")


def start_directory(name: str) -> Path:
    """The directory of the model that `finetune` begins with; for mini, START.

    mini-base is BASE: a start for people of one's own.
    """
    if name == "mini-base":
        return BASE
    return existing(name, START, "model")


def gold_directory(gold: str, model: Path) -> Path | None:
    """The directory that --gold names; None if there is no gold model.

    The base model of the embedded world has its own gold, without --gold.
    """
    if gold:
        return existing(gold, GOLD, "gold")
    return GOLD if model.resolve() == BASE.resolve() else None


def existing(name: str, mini: Path, option: str) -> Path:
    """The directory `mini` for the name mini, else the named one; UserError if it is missing."""
    if not name:
        raise UserError(
            f"{option} is ''; expected mini or a directory (. for the working directory)"
        )
    path = mini if name == "mini" else Path(name)
    if not path.is_dir():
        raise UserError(
            f"{option} {name}: no such directory; expected mini or a directory{advice(name)}"
        )
    return path


def advice(name: str) -> str:
    """What to do about a missing directory whose name looks like one of the hub's."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", name) and not name.startswith("."):
        return (
            ". For a model of the hub: python data_fetch.py --help says which it fetches; name the "
            "directory that it writes"
        )
    return ""
