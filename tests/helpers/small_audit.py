"""A data directory and a model so small that `metrics-audit` takes seconds."""

import shutil

from clear_ref.mini.directories import START, WORLD
from tests.helpers.tiny_model import write_tiny

# {config: numbers of the rows that stay}; of other configs the first ROWS
KEPT = {
    "full": (0, 1, 180, 181),
    "full+tofu": (0, 180, 200, 560),
    "retain90": (0, 1),
    "retain90+tofu": (0, 180),
    "forget10+tofu": (0, 1, 20),
}
ROWS = 2


def write_world(directory):
    """The embedded world with two to four rows of every config."""
    shutil.copytree(WORLD, directory)
    for path in directory.glob("**/rows.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        config = str(path.parent.relative_to(directory))
        kept = KEPT.get(config, range(ROWS))
        path.write_text("".join(lines[number] for number in kept), encoding="utf-8")
    return directory


def write_start(directory):
    """The tiny model, with the training history of the embedded world's start."""
    write_tiny(directory)
    shutil.copyfile(START / "training_history.json", directory / "training_history.json")
    return directory


def arguments(data, model, out, *more, models=2):
    """The command line of a small audit; models: of each kind."""
    sizes = ("--epochs=1", "--max-new-tokens=4", "--relearn-steps=1", "--relearn-records=1")
    found = ["metrics-audit", f"--data={data}", f"--model={model}", f"--out={out}", "--quiet"]
    return [*found, f"--models={models}", "--round-bits=4", *sizes, *more]
