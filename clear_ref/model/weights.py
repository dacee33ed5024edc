"""Weights in and out of safetensors files, exactly: a missing, extra or misshapen tensor is an error that names it.

A model directory holds model.safetensors, or model.safetensors.index.json and the shards it names. One tensor at a time is in
memory beside the model, when reading and when writing.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clear_ref.common.errors import UserError
from clear_ref.common.files import atomic_file, one_line, parse_json, read_json

from .names import COMPUTED, ours

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CODES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}  # in a file's header
SHARD_BYTES = 5_000_000_000


class Stored(NamedTuple):
    """Where a tensor is and what its file's header says of it."""

    path: Path
    name: str
    shape: tuple[int, ...]


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(one_line(name, 180) for name in names[:3]) + (
        ", ..." if len(names) > 3 else ""
    )


def read_header(path) -> dict[str, dict]:
    """{tensor: {"dtype", "shape", "data_offsets"}} of a safetensors file, checked against its size; no tensor is read.

    raises  UserError if the file is missing, truncated, or its header is not whole, true and without repeats
    """
    path = Path(path)
    if not path.is_file():  # nor a pipe, which would keep us waiting
        raise UserError(f"{path}: no such file; expected the weights in safetensors form")
    try:
        with safe_open(str(path), framework="pt"), open(path, "rb") as file:
            # By now the library has held sizes, offsets, shapes and dtypes against the file. It keeps the last of two entries
            # of one name and says nothing, other readers may keep the first: so the header is read once more.
            header = parse_json(file.read(int.from_bytes(file.read(8), "little")), path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({one_line(error)}); fetch or write it again"
        ) from None
    header.pop("__metadata__", None)
    return header


def read_tensors(path) -> dict[str, torch.Tensor]:
    """Every tensor of one safetensors file; UserError as `read_header`."""
    header = read_header(path)
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in header}


def weights_of(path) -> dict[str, Stored]:
    """The weights that one file holds, by stored name; UserError as `read_header`, and for a dtype that weights do not have."""
    header = read_header(path)
    for name, entry in header.items():
        if entry["dtype"] not in CODES and not COMPUTED.search(name):
            raise UserError(
                f"{path}: {one_line(name, 100)} is {entry['dtype']}; expected one of {', '.join(CODES)}, "
                "convert the checkpoint first"
            )
    return {name: Stored(Path(path), name, tuple(entry["shape"])) for name, entry in header.items()}


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(
            f"{index}: weight_map is {one_line(json.dumps(found), 60)}; expected an object of tensor and file names"
        )
    for file in found.values():
        # A plain name only, so nothing leads out of the folder. A plain name may be a link: the hub's cache is made of them.
        if (
            not isinstance(file, str)
            or not file.endswith(".safetensors")
            or set(file) & set("/\\\0")
        ):
            raise UserError(
                f"{index}: weight_map names the file {one_line(json.dumps(file), 100)}; "
                "expected the plain name of a .safetensors file in the same folder"
            )
    return found


def stored_weights(directory) -> tuple[Path, dict[str, Stored]]:
    """What a model directory holds, by stored name, from the headers alone; before it the file that says so (weights or index).

    raises  UserError naming the file at fault; also for no weights, both forms at once, index and shards that disagree
    """
    directory = Path(directory)
    single, index = directory / SINGLE, directory / INDEX
    if single.exists() and index.exists():
        raise UserError(
            f"{directory}: holds {SINGLE} and {INDEX}; expected one of the two, remove the one that is not meant"
        )
    if single.exists():
        return single, weights_of(single)
    if not index.exists():
        old = sorted(path.name for path in directory.glob("*.bin")) if directory.is_dir() else []
        if old:
            raise UserError(
                f"{directory / old[0]}: weights in pickle form, which can run code and is never opened here; "
                f"expected {SINGLE}, convert the checkpoint to safetensors first"
            )
        raise UserError(
            f"{single}: no such file, nor {INDEX}; expected the model's weights in safetensors form"
        )
    placed, found = _weight_map(index), {}
    for file in sorted(set(placed.values())):
        shard = weights_of(directory / file)
        listed = {name for name, where in placed.items() if where == file}
        if listed - set(shard):
            raise UserError(
                f"{directory / file}: lacks {_some(listed - set(shard))}, which {INDEX} places there; "
                "fetch both again"
            )
        if set(shard) - listed:
            raise UserError(
                f"{directory / file}: holds {_some(set(shard) - listed)}, which {INDEX} does not place there; "
                "fetch both again"
            )
        found |= shard
    return index, found


def check_fit(expected: dict[str, tuple], found: dict[str, tuple], where) -> None:
    """UserError that lists the first missing, extra and misshapen names unless both have the same names and shapes."""
    shapes = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in set(expected) & set(found)
        if tuple(found[name]) != tuple(expected[name])
    ]
    faults = [
        f"{kind} {len(names)}: {_some(names)}"
        for kind, names in (
            ("missing", set(expected) - set(found)),
            ("unexpected", set(found) - set(expected)),
            ("misshapen", shapes),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"{where}: tensors do not fit the model: {'; '.join(faults)}; is this the directory of that model?"
        )


def fill(target: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], where) -> None:
    """Copy `tensors` into `target` name by name, converting the dtype; nothing is copied unless everything fits.

    raises  UserError that lists the first missing, extra and misshapen names
    """
    check_fit(
        {name: tensor.shape for name, tensor in target.items()},
        {name: t.shape for name, t in tensors.items()},
        where,
    )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(tensors[name])


def load_weights(
    target: dict[str, torch.Tensor], directory, family: str, tied: dict[str, str] | None = None
) -> None:
    """Fill `target` (our name -> parameter) from a model directory, in the target's dtypes and on its devices.

    family, tied, raises  as `fitting_weights`; where it raises, nothing has been filled
    memory  beside the target one tensor at a time, mapped from its file and let go (a conversion on the CPU needs no copy)
    """
    found = fitting_weights(target, directory, family, tied)
    with torch.no_grad():
        for name, tensor in found.items():
            if name in target:
                target[name].copy_(_read(tensor))


def fitting_weights(
    target: dict[str, torch.Tensor], directory, family: str, tied: dict[str, str] | None = None
) -> dict[str, Stored]:
    """What a model directory holds, by our names, once it is certain that it fills `target`; only shapes of `target` are used.

    family  config.json's model_type: it decides which stored name is which of ours (names.py)
    tied    {name: name in target}: what is no parameter of its own; a file may lack it, or hold an equal copy
    raises  UserError as `stored_weights`; for tensors that do not fit
    """
    where, stored = stored_weights(directory)
    found = {}
    for name, tensor in stored.items():
        if COMPUTED.search(name):
            continue
        if ours(name, family) in found:
            raise UserError(
                f"{where}: {_some([name, found[ours(name, family)].name])} are two names of one tensor; expected one"
            )
        found[ours(name, family)] = tensor
    copies = {name: of for name, of in (tied or {}).items() if name in found}
    check_fit(
        {name: tensor.shape for name, tensor in target.items()}
        | {name: target[of].shape for name, of in copies.items()},
        {name: tensor.shape for name, tensor in found.items()},
        where,
    )
    for name, of in copies.items():
        one, other = _read(found[name]), _read(found[of])
        wide = torch.promote_types(one.dtype, other.dtype)
        if not torch.equal(one.to(wide), other.to(wide)):
            raise UserError(
                f"{found[name].path}: {found[name].name} differs from {found[of].name}, and config.json ties them; "
                "expected equal tensors, or tie_word_embeddings false"
            )
    return found


def _read(tensor: Stored) -> torch.Tensor:
    # The file is opened for each tensor: an open map keeps all that was read through it in resident memory.
    try:
        with safe_open(str(tensor.path), framework="pt") as file:
            return file.get_tensor(tensor.name)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{tensor.path}: changed while it was read ({one_line(error)}); fetch or write it again"
        ) from None


def write_tensors(path, tensors: dict[str, torch.Tensor]) -> None:
    """Write one safetensors file, names sorted, whole or not at all."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with atomic_file(path) as temporary:
        save_file(ready, temporary, metadata={"format": "pt"})


def shards_of(shapes: dict[str, tuple], dtype: torch.dtype, shard_bytes: int) -> list[list[str]]:
    """The names of each shard: in the order given, a new shard where the next tensor would pass `shard_bytes`."""
    shards, size = [[]], 0
    for name, shape in shapes.items():
        needed = torch.Size(shape).numel() * dtype.itemsize
        if shards[-1] and size + needed > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += needed
    return shards


def _write_shard(path, names: list[str], shapes, dtype, tensor_of) -> None:
    """A file of the format's published layout: header size, JSON header padded to 8 bytes, data in the header's order."""
    code, header, end = (
        next(code for code, known in CODES.items() if known == dtype),
        {"__metadata__": {"format": "pt"}},
        0,
    )
    for name in names:
        start, end = end, end + torch.Size(shapes[name]).numel() * dtype.itemsize
        header[name] = {"dtype": code, "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = tensor_of(name).detach()
            if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shapes[name]):
                raise UserError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)}; expected {dtype} {list(shapes[name])}"
                )
            file.write(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())


def write_weights(
    directory,
    shapes: dict[str, tuple],
    dtype: torch.dtype,
    tensor_of: Callable[[str], torch.Tensor],
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Write a model directory's weights, whole or not at all; returns the file names. Earlier weights there are replaced.

    tensor_of    gives a tensor when its turn comes, so one at a time is in memory
    shard_bytes  above this the weights become shards and an index, which appears last
    """
    directory = Path(directory)
    shapes = {name: shapes[name] for name in sorted(shapes)}
    shards = shards_of(shapes, dtype, shard_bytes)
    total = len(shards)
    files = (
        [SINGLE]
        if total == 1
        else [f"model-{n:05d}-of-{total:05d}.safetensors" for n in range(1, total + 1)]
    )
    with ExitStack() as renames:  # the first entered is renamed last: the index
        if total > 1:
            size = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
            index = {
                "metadata": {"total_size": size},
                "weight_map": {n: f for f, names in zip(files, shards) for n in names},
            }
            renames.enter_context(atomic_file(directory / INDEX)).write_text(
                json.dumps(index, indent=2) + "\n", encoding="utf-8"
            )
        for file, names in zip(files, shards):
            _write_shard(
                renames.enter_context(atomic_file(directory / file)),
                names,
                shapes,
                dtype,
                tensor_of,
            )
        if (
            total > 1
        ):  # shards of an earlier save are about to be replaced one by one: nothing may point at a mixture
            (directory / INDEX).unlink(missing_ok=True)
    for path in [
        directory / (SINGLE if total > 1 else INDEX),
        *directory.glob("model-?????-of-?????.safetensors"),
    ]:
        if path.name not in files:
            path.unlink(missing_ok=True)
    return files
