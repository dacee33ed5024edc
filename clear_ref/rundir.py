"""A run directory: claimed once, described by settings.json, never mixed with another run."""

import platform
from importlib import metadata
from pathlib import Path

from .errors import UserError
from .files import read_json, sha256, write_json

SETTINGS = "settings.json"
FREE = {"out", "limit", "max_new_tokens"}  # settings that a resumed run may change: they do not touch training
PACKAGES = ("clear_ref", "torch", "safetensors", "pillow", "numpy", "tokenizers")


def versions() -> dict[str, str]:
    """Python's version and that of every run-time package."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def hashes(paths) -> dict[str, str]:
    """SHA-256 by path, of the files that exist."""
    return {str(path): sha256(path) for path in paths if Path(path).exists()}


def free_directory(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on if that is taken."""
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def claim(out, default_name: str, settings: dict, resume: bool) -> Path:
    """The run directory, with settings.json written; `settings` is {"settings": {name: {value, source}}, ...}.

    raises  UserError if `out` holds another run (without resume: any run), or files that are no run's
    """
    if resume and not out:
        raise UserError("--resume needs --out: the directory of the run to go on with")
    path = Path(out) if out else free_directory(default_name)
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path}: is a file; expected a directory to write into")
    if (path / SETTINGS).exists():
        if not resume:
            raise UserError(f"--out {path}: holds another run; choose another directory, or --resume to go on with it")
        before = read_json(path / SETTINGS)
        for name, entry in settings["settings"].items():
            old = before["settings"].get(name, {}).get("value")
            if name not in FREE and old != entry["value"]:
                raise UserError(f"--out {path}: was run with {name} = {old!r}, now it is {entry['value']!r}; "
                                "resume with the settings it began with, or choose another directory")
        if before["inputs"] != settings["inputs"]:
            changed = sorted(key for key in before["inputs"] | settings["inputs"]
                             if before["inputs"].get(key) != settings["inputs"].get(key))
            raise UserError(f"--out {path}: its inputs have changed since ({', '.join(changed[:3])}); start a new run")
    elif path.exists() and any(path.iterdir()):
        raise UserError(f"--out {path}: holds files that are no run; choose another directory")
    elif resume:
        raise UserError(f"--out {path}: there is no run to resume; leave --resume out to start one")
    write_json(path / SETTINGS, settings)
    return path
