"""A run directory: chosen once, described by settings.json, never mixed with another run."""

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from .errors import UserError
from .files import read_json, sha256

SETTINGS = "settings.json"
# Settings that a resumed run may change: they do not touch training.
FREE = {"out", "limit", "max_new_tokens", "metrics", "tasks", "eval_batch", "plain"}
PACKAGES = ("clear_ref", "torch", "safetensors", "pillow", "numpy", "tokenizers")


def versions() -> dict[str, str]:
    """Python's version and that of every run-time package."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }


def hashes(paths) -> dict[str, str]:
    """SHA-256 by path."""
    return {str(path): sha256(path) for path in paths}


def hash_of_all(directory: Path, paths) -> str:
    """One SHA-256 of many files: of their names below `directory` and their own hashes, a line each."""
    lines = "".join(f"{sha256(path)}  {path.relative_to(directory)}\n" for path in paths)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def free_directory(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on if that is taken."""
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def changes(before: dict, after: dict):
    """(name, value before, value after) of each setting or method option that differs between two settings.json."""
    for group in ("settings", "options"):
        for name, entry in after.get(group, {}).items():
            old = before.get(group, {}).get(name, {}).get("value")
            if old != entry["value"]:
                yield name, old, entry["value"]


def check_empty(path: Path, option: str) -> None:
    """UserError unless the path is free or an empty directory, and none of its parents is a file."""
    for parent in (path, *path.parents):
        if parent.exists() and not parent.is_dir():
            raise UserError(
                f"{option} {path}: {parent} is a file; expected a directory to write into"
            )
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{option} {path}: is not empty; choose another directory")


def choose(
    out: str, default_name: str, settings: dict, resume: bool, free: set[str] = FREE
) -> Path:
    """The directory of a run that will write `settings` as its settings.json; nothing is written here.

    free    settings that may have changed since
    raises  UserError if `out` holds another run (without resume: any run), or files that are no run's
    """
    if resume and not out:
        raise UserError("--resume needs --out: the directory of the run to go on with")
    path = Path(out) if out else free_directory(default_name)
    if not (path / SETTINGS).exists():
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"--out {path}: holds files that are no run; choose another directory")
        check_empty(path, "--out")
        if resume:
            raise UserError(
                f"--out {path}: there is no run to resume; leave --resume out to start one"
            )
        return path
    if not resume:
        raise UserError(
            f"--out {path}: holds another run; choose another directory, or --resume to go on with it"
        )
    before = read_json(path / SETTINGS)
    if before.get("format") != settings["format"] or before.get("command") != settings["command"]:
        raise UserError(f"--out {path}: is no run of {settings['command']}; start a new one")
    differing = list(changes(before, settings))
    if before.get("impl") != settings.get(
        "impl"
    ):  # what auto means may have changed, and the settings then have not
        differing.append(("impl", before.get("impl"), settings.get("impl")))
    for name, old, new in differing:
        if name not in free:
            raise UserError(
                f"--out {path}: was run with {name} = {old!r}, now it is {new!r}; "
                "resume with the settings it began with, or choose another directory"
            )
    if before["inputs"] != settings["inputs"]:
        changed = sorted(
            key
            for key in before["inputs"] | settings["inputs"]
            if before["inputs"].get(key) != settings["inputs"].get(key)
        )
        raise UserError(
            f"--out {path}: its inputs have changed since ({', '.join(changed[:3])}); start a new run"
        )
    return path
