"""The command `diff`: compares another implementation's step with ours, stage by stage.

It prints the first stage that differs, where, by how much, and which known mistake explains it.
"""

from argparse import Namespace
from pathlib import Path

import torch

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import read_text
from clear_ref.mini.directories import model_directory
from clear_ref.model.vlm import VLM, load
from clear_ref.oracle.diff import dump_file
from clear_ref.oracle.diff.dump_file import Dump
from clear_ref.oracle.diff.report import DiffReport, compare_dump
from clear_ref.oracle.diff.terminal import text, title
from clear_ref.visual.method_names import check_not_visual

from .examine_settings import DiffSettings
from .given import settings_from
from .output import Output
from .resolve import check_adapter

HELPER = Path(dump_file.__file__).with_name("dump_helper.py")


def command(arguments: Namespace) -> Output:
    """What `diff` prints; it fails if a stage differs."""
    if arguments.helper:
        return Output({"helper": helper()}, lambda found: found["helper"])
    return Output(run(arguments.dump, settings_from(arguments, DiffSettings)), text, check)


def run(path: str | None, settings: DiffSettings) -> DiffReport:
    """The comparison of the dump in a file; raises UserError for input that is wrong."""
    if path is None:
        raise UserError(
            "diff: no DUMP is named; expected a file (diff --helper prints what writes one)"
        )
    check_not_visual([settings.method], "visual-oracle diff --methods")
    check_pictures(settings)
    dump = dump_file.read(path, settings.method, settings.semantics, settings.pictures)
    return compare_dump(dump, load_model(settings, dump))


def check_pictures(settings: DiffSettings) -> None:
    """Raises UserError if --pictures names no directory, or if no picture would be read."""
    if settings.pictures and not settings.model:
        raise UserError(f"--pictures {settings.pictures}: needs --model")
    if settings.pictures and not Path(settings.pictures).is_dir():
        raise UserError(
            f"--pictures {settings.pictures}: no such directory; expected the folder of the "
            "pictures that the dump's records name"
        )


def load_model(settings: DiffSettings, dump: Dump) -> VLM | None:
    """The model of the settings, or None; in float64 if a tensor of the dump is."""
    if not settings.model:
        if settings.adapter:
            raise UserError(f"--adapter {settings.adapter}: needs --model")
        return None
    check_adapter(settings.adapter)
    dtypes = {tensor.dtype for tensors in dump.batches.values() for tensor in tensors.values()}
    return load(
        model_directory(settings.model),
        "float64" if torch.float64 in dtypes else "float32",
        settings.device,
        settings.template,
        settings.adapter,
    )


def helper() -> str:
    """The source of the helper that writes dumps."""
    return read_text(HELPER).rstrip("\n")


def check(report: DiffReport) -> None:
    """RunFailed if a stage differs, UserError if nothing could be compared."""
    if not report["stages"]:
        raise UserError(
            f"{report['dump']}: nothing in it can be compared: {'; '.join(report['not_compared'])}"
        )
    if report["first"] is not None:
        raise RunFailed(f"{report['dump']} differs first at {title(report['first'])}")
