"""Where the results of the frozen model are kept in a run directory, and what they belong to."""

from pathlib import Path

from clear_ref.bench.process import hardware
from clear_ref.common import distributed, run_directory
from clear_ref.loop.kept import Kept, digest, remove_files

from .evaluated import PACKAGE
from .resolve import Inputs
from .settings import Unlearn

FOLDER = "teacher"
# The rooms whose code computes a result.
ROOMS = ("common", "data", "model", "loop")


def kept_results(settings: Unlearn, inputs: Inputs, out: Path, shared: bool = False) -> Kept | None:
    """What the runs in `out` keep; None with --teacher live.

    shared  several runs use it
    """
    if settings.teacher == "live":
        return None
    return Kept(_identity(inputs), out / FOLDER, shared)


def remove_results(out: Path) -> None:
    """Remove what runs in `out` kept, also a run that was resumed with --teacher live."""
    if distributed.is_first():
        remove_files(out / FOLDER)


def _identity(inputs: Inputs) -> str:
    """Digest of code, versions and hardware: a run may be resumed with others."""
    machine = hardware(str(inputs.device))
    code = [
        path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py")) if path.is_file()
    ]
    return digest(
        run_directory.hash_of_all(PACKAGE, code),
        run_directory.versions(),
        machine["cpu"],
        machine["torch_instruction_set"],
        machine.get("gpu", ""),
    )
