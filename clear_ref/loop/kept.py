"""Results of frozen weights that are computed once and used again, in memory and in files.

A result has a name made of all that its bits depend on (frozen_weights.py), so a kept result is bit
for bit the one that would be computed, or it is not found. Several processes can use one folder: a
file appears whole or not at all, and equal names have equal bytes.
"""

import hashlib
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from clear_ref.common.atomic import remove_unfinished
from clear_ref.common.errors import Notice, RunFailed, UserError
from clear_ref.model.weights import read_tensors
from clear_ref.model.write_weights import write_tensors

# The kinds of results.
HIDDEN = "hidden states"  # of the frozen model
TOWER = "tower"  # what a vision tower gives for pictures, before the projector
LOGITS = "logits"  # of the frozen model; in memory alone

MEMORY_BYTES = {HIDDEN: 1 << 30, TOWER: 1 << 29, LOGITS: 1 << 29}
FILE_BYTES = 16 << 30
FREE_BYTES = 4 << 30  # of the disk, which a kept result leaves to the run
NAME_DIGITS, ENDING = 64, ".safetensors"  # of a file
VALUE, CHECKSUM = "value", "sha256"  # the tensors of a file


@dataclass(frozen=True)
class Name:
    """The name of a result.

    here     in this process
    of_file  -> the name of its file, made if a file is read or written
    """

    kind: str
    here: str
    of_file: Callable[[], str]


class Kept:
    """Kept results.

    identity      what the results depend on beside the arguments of `digest`: code, versions and
                  hardware; part of every name
    folder        for results that do not fit into memory; None: these are not kept
    shared        several runs use the folder: every result but logits is written
    memory_bytes  of results in memory, of each kind, in each process
    file_bytes    of results that a process writes. What fits into neither is not kept
    found         {kind: how many results were asked for and known}; computed: and not known
    """

    def __init__(
        self,
        identity: str = "",
        folder: Path | None = None,
        shared: bool = False,
        memory_bytes: int | None = None,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self.identity = identity
        self.folder = folder
        self.shared = shared
        self.memory_left = dict(MEMORY_BYTES)
        if memory_bytes is not None:
            self.memory_left = dict.fromkeys(MEMORY_BYTES, memory_bytes)
        self.file_left = file_bytes
        self.found: Counter[str] = Counter()
        self.computed: Counter[str] = Counter()
        self._in_memory: dict[str, Tensor] = {}

    def get(self, name: Name, device: torch.device) -> Tensor | None:
        """The result of that name on a device, or None."""
        value = self._in_memory.get(name.here)
        if value is None and name.kind != LOGITS:
            value = self._read(name)
        if value is None:
            self.computed[name.kind] += 1
            return None
        self.found[name.kind] += 1
        return value.to(device)

    def put(self, name: Name, value: Tensor) -> None:
        """Keep a result, if there is room; nobody may change it in place afterwards."""
        value = value.detach().cpu().contiguous()
        if name.kind == LOGITS:
            self._remember(name, value)
        elif not self._remember(name, value) or self.shared:
            self._write(name, value)

    def hits(self) -> str:
        """How many results were found of those asked for, in words; "" if none was asked for."""
        asked = self.found + self.computed
        return ", ".join(f"{kind} {self.found[kind]} of {asked[kind]}" for kind in sorted(asked))

    def _remember(self, name: Name, value: Tensor) -> bool:
        if value.nbytes > self.memory_left[name.kind]:
            return False
        self.memory_left[name.kind] -= value.nbytes
        self._in_memory[name.here] = value
        return True

    def _write(self, name: Name, value: Tensor) -> None:
        if self.folder is None or value.nbytes > self.file_left:
            return
        checksum = torch.tensor(list(hashlib.sha256(bytes_of(value)).digest()), dtype=torch.uint8)
        path = self._path(self.folder, name.of_file())
        try:
            check_space(self.folder.parent, value.nbytes)
            write_tensors(path, {VALUE: value, CHECKSUM: checksum}, by_all=True, synced=False)
            self.file_left -= value.nbytes
        except (UserError, RunFailed) as error:
            self.file_left = 0
            _notice(f"results of frozen weights are kept in memory alone from here on: {error}")

    def _read(self, name: Name) -> Tensor | None:
        if self.folder is None or not self.folder.is_dir():
            return None
        path = self._path(self.folder, name.of_file())
        if not path.exists():
            return None
        try:
            stored = read_tensors(path)
            value = stored[VALUE].clone()  # aligned as torch aligns a tensor: sums have equal bits
            checksum = bytes(stored[CHECKSUM].tolist())
        except (UserError, SafetensorError, OSError, KeyError, ValueError, TypeError):
            checksum = b""
        if not checksum or checksum != hashlib.sha256(bytes_of(value)).digest():
            _notice(f"{path}: is not the file that was written there; it is computed again")
            path.unlink(missing_ok=True)
            return None
        self._remember(name, value)
        return value

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}{ENDING}"


def remove_files(folder: Path) -> None:
    """Remove the kept results of a folder, and the folder if nothing else is in it."""
    remove_unfinished(folder)
    for path in folder.glob(f"*{ENDING}"):
        if len(path.name) == len(ENDING) + NAME_DIGITS:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def check_space(directory: Path, n_bytes: int) -> None:
    """RunFailed unless the disk has room for n_bytes and for what the run itself writes."""
    free = shutil.disk_usage(directory).free
    if free < n_bytes + FREE_BYTES:
        raise RunFailed(
            f"{directory}: {free / 1e9:.1f} GB of the disk are free; expected "
            f"{FREE_BYTES / 1e9:.1f} GB, which are left to the run; free some"
        )


def digest(*parts: object) -> str:
    """SHA-256 of tensors (dtype, shape and bytes) and of other values by their repr."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {list(part.shape)} ".encode())
            found.update(bytes_of(part))
        else:
            found.update(repr(part).encode())
        found.update(b"\x1f")
    return found.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return flat.numpy().data


def _notice(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=2)
