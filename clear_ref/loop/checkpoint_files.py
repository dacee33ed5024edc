"""The tensor files of a checkpoint: safetensors, hashed while they are written, read by rows."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from clear_ref.common.atomic import atomic_file
from clear_ref.common.files import no_file, sha256
from clear_ref.model.weights import Shape, check_fit, read_header
from clear_ref.model.write_weights import write_stream

from .checkpoint_index import Ranges, State


class Rows(NamedTuple):
    """The rows of a tensor that this process has.

    local  their values; first: the number of the first one
    shape  of the whole tensor
    """

    local: Tensor
    first: int
    shape: Shape


class _Hashed:
    """An open file that also computes the SHA-256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.hash.update(data)
        self.file.write(data)


def write_file(path: Path, tensors: Mapping[str, Tensor], by_all: bool = False) -> str:
    """Write a safetensors file, completely or not at all; returns its SHA-256.

    by_all  as atomic.atomic_file
    """
    # The wider dtypes are first, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    kinds = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in names}
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with atomic_file(path, n_bytes, by_all) as temporary, open(temporary, "wb") as file:
        hashed = _Hashed(file)
        write_stream(hashed, kinds, tensors.__getitem__)
        return hashed.hash.hexdigest()


def file_problem(path: Path, expected: str) -> str:
    """Why a tensor file is not the one that was written; "" if it is."""
    if not path.is_file():
        return f"{path}: {no_file(path)}"
    try:
        found = sha256(path)
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return "" if found == expected else f"{path}: was changed after it was written (SHA-256)"


def fill_rows(directory: Path, state: State, wanted: Mapping[str, Rows]) -> None:
    """Copy the checkpoint's values into these rows.

    raises  UserError if the files do not hold these tensors; then nothing has been copied
    """
    paths = [directory / name for name in state["files"]]
    headers = [read_header(path) for path in paths]
    check_fit(
        {name: rows.shape for name, rows in wanted.items()},
        _stored_shapes(headers, state["ranges"]),
        paths[0],
    )
    with torch.no_grad():
        for number, path in enumerate(paths):
            with safe_open(str(path), framework="pt") as file:
                for name, rows in wanted.items():
                    _fill(file, name, rows, _range_in(state["ranges"], name, rows, number))


def _stored_shapes(headers: list[dict[str, dict[str, Any]]], ranges: Ranges) -> dict[str, Shape]:
    """{name: shape} of the tensors in all files; -1 rows where files and ranges disagree."""
    found: dict[str, Shape] = {}
    for number, header in enumerate(headers):
        for name, entry in header.items():
            shape = tuple(entry["shape"])
            if name not in ranges:
                found[name] = shape if number == 0 else (-1, *shape)
                continue
            begin, end = ranges[name][number]
            agrees = bool(shape) and shape[0] == end - begin and found.get(name, shape)[0] >= 0
            found[name] = (ranges[name][-1][1] if agrees else -1, *shape[1:])
    return found


def _range_in(ranges: Ranges, name: str, rows: Rows, number: int) -> list[int] | None:
    """The rows [first, after the last] of a tensor in a file; None for one without rows there."""
    if name in ranges:
        return ranges[name][number]
    return [0, rows.shape[0] if rows.shape else 0] if number == 0 else None


def _fill(file: Any, name: str, rows: Rows, stored: list[int] | None) -> None:
    """Copy what a file has of these rows."""
    if stored is None:
        return
    if not rows.shape:
        rows.local.copy_(file.get_tensor(name))
        return
    begin = max(stored[0], rows.first)
    end = min(stored[1], rows.first + len(rows.local))
    if begin < end:
        values = file.get_slice(name)[begin - stored[0] : end - stored[0]]
        rows.local[begin - rows.first : end - rows.first].copy_(values)


def in_all_files(
    state: State, directory: Path, problems: Callable[[Callable[[Any], Any], list[Any]], list[Any]]
) -> str:
    """The first problem of a checkpoint's files; "" if all are whole.

    problems  computes a function of each item, as distributed.shared_out
    """

    def problem(item: list[str]) -> str:
        return file_problem(directory / item[0], item[1])

    found = problems(problem, [list(item) for item in state["files"].items()])
    return next(filter(None, found), "")
