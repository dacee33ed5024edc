"""checkpoint SHAPE: write a model directory of random weights in the shape of a real model."""

from argparse import Namespace
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.model.shapes import WrittenCheckpoint, write_checkpoint

from .file_settings import CheckpointSettings
from .given import settings_from
from .output import Output

BYTES_PER_GB = 1e9


def command(arguments: Namespace) -> Output:
    """What `checkpoint` prints."""
    return Output(run(arguments.shape, settings_from(arguments, CheckpointSettings)), text)


def run(shape: str, settings: CheckpointSettings) -> WrittenCheckpoint:
    """What was written to --out; see `write_checkpoint`.

    raises  UserError before anything is written: a shape, dtype, size or directory is not usable
    """
    if not settings.out:
        raise UserError("checkpoint needs --out: the directory to write")
    if not 0 < settings.shard_gb < 1e6:
        raise UserError(f"--shard-gb is {settings.shard_gb}; expected a number above 0")
    return write_checkpoint(
        shape,
        Path(settings.out),
        dtype=settings.dtype,
        layers=settings.layers,
        seed=settings.seed,
        shard_bytes=int(settings.shard_gb * BYTES_PER_GB),
    )


def text(written: WrittenCheckpoint) -> str:
    """The result in one line."""
    files = f"{written['files']} file{'s' if written['files'] > 1 else ''}"
    return (
        f"{written['shape']}: {written['parameters']:,} random parameters, "
        f"{written['bytes'] / BYTES_PER_GB:.2f} GB in {files}, {written['seconds']:.0f} s; "
        f"written to {written['out']}"
    )
