"""Fixtures of all tests: the tiny model, two threads, the progress display on, no kept logs."""

from pathlib import Path
from uuid import uuid4

import pytest
import torch

from clear_ref import load
from clear_ref.common import run_directory
from clear_ref.common.progress import Progress
from clear_ref.model.vlm import VLM
from tests.helpers.tiny_model import write_tiny

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def torch_has_two_threads() -> None:
    """Each test begins with two threads, whatever an earlier one left."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown, even if an earlier test ran a command with --quiet."""
    monkeypatch.setattr(Progress, "quiet", False)


@pytest.fixture(autouse=True)
def no_logs_are_kept_from_other_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each test begins without logs of base and gold models of an earlier test or run."""
    monkeypatch.setattr(run_directory, "EVALUATED", tmp_path_factory.getbasetemp() / uuid4().hex)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny(tiny_directory: Path) -> VLM:
    """The tiny model in float64, a new one for each test."""
    return load(tiny_directory, "float64")
