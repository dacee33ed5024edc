"""doctor: what is installed, built and active; with --model, what is wrong with a directory."""

import os
import shutil
from argparse import Namespace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from clear_ref.common import run_directory
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.losses import native
from clear_ref.losses.implementation import choose_implementation
from clear_ref.mini import directories
from clear_ref.mini.directories import model_directory
from clear_ref.model.directory_problems import directory_problems
from clear_ref.model.vlm import load

from .examine_settings import DoctorSettings
from .given import settings_from
from .output import Output


def command(arguments: Namespace) -> Output:
    """What `doctor` prints."""
    settings = settings_from(arguments, DoctorSettings)
    if settings.model:
        return Output(examine_model(settings), text_of_model, check_model)
    return Output(examine(), text)


def examine_model(settings: DoctorSettings) -> dict[str, Any]:
    """Whether a model directory can be loaded; every problem, or what it is."""
    directory = model_directory(settings.model)
    problems, vlm = directory_problems(directory, settings.template)
    found: dict[str, Any] = {"model": str(directory), "problems": problems}
    if vlm is not None:
        found["family"] = vlm.family.name
        found["parameters"] = sum(tensor.numel() for tensor in vlm.weights().values())
        found["template"] = vlm.template.name
    return found


def text_of_model(found: dict[str, Any]) -> str:
    """The findings about a model directory."""
    if found["problems"]:
        lines = [f"{found['model']}: cannot be loaded", *found["problems"]]
        lines.append("clear_ref/model/keys/README.md says what happens to every key")
        return "\n".join(lines)
    return (
        f"{found['model']}: loads as {found['family']}, {found['parameters']:,} parameters, "
        f"chat template {found['template']}"
    )


def check_model(found: dict[str, Any]) -> None:
    """RunFailed if the directory has a problem."""
    n = len(found["problems"])
    if n:
        raise RunFailed(f"{found['model']}: {n} problem{'s' if n > 1 else ''}")


def examine() -> dict[str, Any]:
    """Versions, devices, impl of the token terms, optional tools, whether mini loads."""
    return {
        "versions": run_directory.versions(),
        "token_terms": choose_implementation(),
        "kernel": native.description(),
        "devices": ["cpu"]
        + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())],
        "cpu": {
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
        },
        "compiler": {name: shutil.which(name) is not None for name in ("c++", "nvcc")},
        "extras": {
            name: installed(name)
            for name in ("transformers", "peft", "scipy", "rouge-score", "pytest")
        },
        "embedded_world": {
            name: checkpoint(path)
            for name, path in (("base", directories.BASE), ("gold", directories.GOLD))
        },
    }


def kernel(found: dict) -> str:
    """What is built of the compiled kernel, in words."""
    if not found["built"]:
        return (
            f"not built in {Path(native.__file__).parent}: plain PyTorch is used; in a clone, "
            "pip install -e . builds it if there is a C++ compiler"
        )
    cuda = (
        "CUDA for sm_" + ", sm_".join(found["cuda"])
        if found["cuda"]
        else "no CUDA part (built without nvcc)"
    )
    return f"built; CPU with {found['instruction_set']}; {cuda}"


def installed(package: str) -> str | None:
    """The version of an optional package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def checkpoint(path: Path) -> dict[str, Any]:
    """Whether a checkpoint loads, and how large it is."""
    try:
        return {"loads": True, "parameters": sum(p.numel() for p in load(path).model.parameters())}
    except UserError as error:
        return {"loads": False, "error": str(error)}


def text(found: dict) -> str:
    """The findings, one on each line."""
    lines = [
        "versions     "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        f"token terms  {found['token_terms']}",
        f"kernel       {kernel(found['kernel'])}",
        "devices      " + ", ".join(found["devices"]),
        f"cpu          {found['cpu']['cores']} cores, "
        f"{found['cpu']['torch_threads']} torch threads, {found['cpu']['instruction_set']}",
        "compilers    "
        + ", ".join(
            f"{name} {'found' if there else 'absent'}" for name, there in found["compiler"].items()
        ),
        "extras       "
        + ", ".join(f"{name} {version or 'absent'}" for name, version in found["extras"].items()),
    ]
    for name, state in found["embedded_world"].items():
        about = f"loads, {state['parameters']:,} parameters" if state["loads"] else state["error"]
        lines.append(f"{name + ' model':12} {about}")
    return "\n".join(lines)
