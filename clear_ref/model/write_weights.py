"""Weights written to safetensors files, completely or not at all.

Writing keeps one tensor at a time in memory beside the model.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from clear_ref.common import distributed
from clear_ref.common.atomic import UNFINISHED, PathName, atomic_file
from clear_ref.common.errors import UserError

from .weights import CODES, INDEX, SINGLE, Shape

SHARD_BYTES = 5_000_000_000


def write_tensors(
    path: PathName, tensors: Mapping[str, Tensor], by_all: bool = False, synced: bool = True
) -> None:
    """Write one safetensors file, names sorted, completely or not at all.

    by_all, synced  as in common.atomic.atomic_file
    """
    if not by_all and not distributed.is_first():
        return
    path = Path(path)
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    n_bytes = sum(tensor.nbytes for tensor in ready.values())
    with atomic_file(path, n_bytes, by_all, synced) as temporary:
        # save_file makes a file .tmp... beside its target, which a kill would leave for ever, with
        # mode 0600. So it writes in a folder that the next run removes.
        folder = temporary.with_name(f"{temporary.name}.folder{UNFINISHED}")
        folder.mkdir()
        try:
            save_file(ready, folder / path.name, metadata={"format": "pt"})
            os.chmod(folder / path.name, temporary.stat().st_mode)
            os.replace(folder / path.name, temporary)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _n_bytes(shape: Shape, dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def shards_of(shapes: Mapping[str, Shape], dtype: torch.dtype, shard_bytes: int) -> list[list[str]]:
    """The names in each shard, in the order given.

    A new shard begins where the next tensor would make the shard larger than `shard_bytes`.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        needed = _n_bytes(shape, dtype)
        if shards[-1] and size + needed > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += needed
    return shards


class Output(Protocol):
    """What bytes are written to: an open file, or one that also computes their hash."""

    def write(self, data: Any, /) -> object:
        """Write these bytes."""


def write_stream(
    file: Output, kinds: Mapping[str, tuple[torch.dtype, Shape]], tensor_of: Callable[[str], Tensor]
) -> None:
    """Write tensors in the published safetensors format.

    The size of the header in 8 bytes, the JSON header padded to a multiple of 8 bytes, then the
    data in the header's order.
    kinds      {name: (dtype, shape)}, in the order of the file
    tensor_of  returns the tensor of a name when it is written
    """
    codes = {dtype: code for code, dtype in CODES.items()}
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in kinds.items():
        start, end = end, end + _n_bytes(shape, dtype)
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, (dtype, shape) in kinds.items():
        tensor = tensor_of(name).detach()
        if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise UserError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}; expected {dtype} {list(shape)}"
            )
        file.write(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def write_weights(
    directory: PathName,
    shapes: Mapping[str, Shape],
    dtype: torch.dtype,
    tensor_of: Callable[[str], Tensor],
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Write a model directory's weights, completely or not at all; returns the file names.

    Earlier weights in the directory are replaced.
    tensor_of    returns the tensor of a name when it is written, so one at a time is in memory
    shard_bytes  larger weights are written as shards and an index, which appears last
    """
    directory = Path(directory)
    shapes = {name: shapes[name] for name in sorted(shapes)}
    shards = shards_of(shapes, dtype, shard_bytes)
    total = len(shards)
    if total == 1:
        files = [SINGLE]
    else:
        files = [f"model-{n:05d}-of-{total:05d}.safetensors" for n in range(1, total + 1)]
    with ExitStack() as renames:  # the file entered first is renamed last: the index
        if total > 1:
            weight_map = {
                name: file for file, names in zip(files, shards, strict=True) for name in names
            }
            size = sum(_n_bytes(shape, dtype) for shape in shapes.values())
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            renames.enter_context(atomic_file(directory / INDEX)).write_text(
                json.dumps(index, indent=2) + "\n", encoding="utf-8"
            )
        for file, names in zip(files, shards, strict=True):
            size = sum(_n_bytes(shapes[name], dtype) for name in names)
            path = renames.enter_context(atomic_file(directory / file, size))
            with open(path, "wb") as stream:
                write_stream(stream, {name: (dtype, shapes[name]) for name in names}, tensor_of)
        if total > 1:
            # The shards of an earlier save are now replaced one by one. Without the old index no
            # reader takes a mixture of old and new shards.
            (directory / INDEX).unlink(missing_ok=True)
    obsolete = [directory / (SINGLE if total > 1 else INDEX)]
    obsolete += directory.glob("model-?????-of-?????.safetensors")
    for path in obsolete:
        if path.name not in files:
            path.unlink(missing_ok=True)
    return files
