"""Where the embedded world lies, and what "mini" means for a model or a data directory."""

from pathlib import Path

from clear_ref.common.errors import UserError

MINI = Path(__file__).parent
WORLD, BASE, GOLD = MINI / "world", MINI / "base", MINI / "gold"


def data_directory(name: str) -> Path:
    """The directory of --data."""
    return existing(name, WORLD, "data")


def model_directory(name: str) -> Path:
    """The directory of --model: for mini, the base."""
    return existing(name, BASE, "model")


def gold_directory(gold: str, model: str) -> Path | None:
    """The directory of --gold; for the embedded base its own gold, None where there is none."""
    if gold in ("", "mini"):
        return GOLD if model == "mini" or gold == "mini" else None
    return existing(gold, GOLD, "gold")


def existing(name: str, mini: Path, option: str) -> Path:
    """mini's directory or the named one; UserError if that does not exist."""
    if not name:
        raise UserError(
            f"{option} is ''; expected mini or a directory (. for the working directory)"
        )
    path = mini if name == "mini" else Path(name)
    if not path.is_dir():
        raise UserError(f"{option} {name}: no such directory; expected mini or a directory")
    return path
