"""Weights read from safetensors files, exactly.

A missing, extra or misshapen tensor is an error that names it. A model directory holds
model.safetensors, or model.safetensors.index.json and the shards that it names. Reading
keeps one tensor at a time in memory beside the model.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clear_ref.common.errors import UserError
from clear_ref.common.files import (
    PathName,
    is_file,
    no_file,
    note_read,
    one_line,
    parse_json,
    read_json,
)

from .finite import finite_checks
from .names import COMPUTED, UNREAD, our_name
from .sharded import own_part

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The dtypes of weights by their code in a file's header.
CODES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}

Shape = tuple[int, ...]  # torch.Size is one


class StoredTensor(NamedTuple):
    """A tensor in a file: the file, the tensor's name there, and its shape in the file's header."""

    path: Path
    name: str
    shape: Shape


def _first_names(names: Iterable[str]) -> str:
    """The first three names, for an error message."""
    names = sorted(names)
    shown = ", ".join(one_line(name, 180) for name in names[:3])
    return shown + (", ..." if len(names) > 3 else "")


def read_header(path: PathName) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file, checked against its size; no tensor is read.

    returns  {tensor: {"dtype", "shape", "data_offsets"}}
    raises   UserError if the file is missing or truncated, or its header is incomplete, false or
             names a tensor twice
    """
    path = Path(path)
    note_read(path)
    if not is_file(path):  # this also excludes FIFOs, on which open() would block
        raise UserError(f"{path}: {no_file(path, 'a safetensors file')}")
    try:
        with safe_open(str(path), framework="pt"), open(path, "rb") as file:
            # safe_open has checked sizes, offsets, shapes and dtypes against the file. Of two
            # entries with the same name it silently keeps the last, and other readers may keep
            # the first. So the header is read again: parse_json rejects a key given twice.
            n_bytes = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(n_bytes), path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({one_line(error)}); fetch or write it again"
        ) from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not isinstance(entry, dict):  # safe_open takes a list of the three values too
            raise UserError(
                f"{path}: the header's entry of {one_line(name, 100)} is "
                f"{one_line(repr(entry), 60)}; expected an object with dtype, shape and "
                "data_offsets: write the file again"
            )
    return header


def read_tensors(path: PathName) -> dict[str, Tensor]:
    """Every tensor of one safetensors file; UserError as in `read_header`."""
    header = read_header(path)
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in header}


def weights_of(path: PathName) -> dict[str, StoredTensor]:
    """The weights in one file, by stored name.

    raises  UserError as `read_header`, and for a dtype that weights do not have
    """
    header = read_header(path)
    for name, entry in header.items():
        if entry["dtype"] not in CODES and not COMPUTED.search(name):
            raise UserError(
                f"{path}: {one_line(name, 100)} is {entry['dtype']}; "
                f"expected one of {', '.join(CODES)}, convert the checkpoint first"
            )
    return {
        name: StoredTensor(Path(path), name, tuple(entry["shape"]))
        for name, entry in header.items()
    }


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: file name} of an index file, every file name checked."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f"{index}: weight_map is {one_line(json.dumps(weight_map), 60)}; "
            "expected an object of tensor and file names"
        )
    for file in weight_map.values():
        # A name without path separators, so that no file outside the folder is read. The name may
        # be a symbolic link: the hub's cache consists of links.
        is_plain = (
            isinstance(file, str)
            and file.endswith(".safetensors")
            and not set(file) & set("/\\\0")
            and len(file) < 256
        )
        if not is_plain:
            raise UserError(
                f"{index}: weight_map names the file {one_line(json.dumps(file), 100)}; "
                "expected the plain name of a .safetensors file in the same folder"
            )
    return weight_map


def stored_weights(directory: PathName) -> tuple[Path, dict[str, StoredTensor]]:
    """The weights of a model directory, read from the headers only.

    One whole file is taken before an index, as transformers does.
    returns  the file that lists them (weights or index), and {stored name: tensor}
    raises   UserError that names the file: no weights, index and shards that disagree
    """
    directory = Path(directory)
    single = directory / SINGLE
    index = directory / INDEX
    if single.is_file() or (single.exists() and not index.exists()):
        return single, weights_of(single)
    if index.exists():
        return index, _weights_of_shards(directory, _weight_map(index))
    pickles = sorted(path.name for path in directory.glob("*.bin")) if directory.is_dir() else []
    if pickles:
        raise UserError(
            f"{directory / pickles[0]}: weights in pickle form, which can run code and is never "
            f"opened here; expected {SINGLE}, convert the checkpoint to safetensors first"
        )
    raise UserError(
        f"{single}: no such file, nor {INDEX}; expected the model's weights in safetensors form"
    )


def _weights_of_shards(directory: Path, weight_map: dict[str, str]) -> dict[str, StoredTensor]:
    """The weights of all shards; UserError if a shard and the index disagree.

    A shard may hold a tensor that the index places in another one, if both are equal.
    """
    weights: dict[str, StoredTensor] = {}
    copies: list[StoredTensor] = []
    for file in sorted(set(weight_map.values())):
        shard = weights_of(directory / file)
        listed = {name for name, place in weight_map.items() if place == file}
        if listed - set(shard):
            raise UserError(
                f"{directory / file}: lacks {_first_names(listed - set(shard))}, which {INDEX} "
                "places there; fetch both again"
            )
        if set(shard) - set(weight_map):
            raise UserError(
                f"{directory / file}: holds {_first_names(set(shard) - set(weight_map))}, which "
                f"{INDEX} does not list; fetch both again"
            )
        copies += [shard[name] for name in sorted(set(shard) - listed)]
        weights |= {name: shard[name] for name in listed}
    for copy in copies:
        if not _equal(copy, weights[copy.name]):
            raise UserError(
                f"{copy.path}: holds {_first_names([copy.name])} with other values than "
                f"{weights[copy.name].path.name}, where {INDEX} places it; fetch both again"
            )
    return weights


def check_fit(expected: Mapping[str, Shape], actual: Mapping[str, Shape], where: PathName) -> None:
    """UserError unless both have the same names and shapes.

    The message lists the first missing, unexpected and misshapen names.
    """
    misshapen = [
        f"{name} is {list(actual[name])}, expected {list(expected[name])}"
        for name in set(expected) & set(actual)
        if tuple(actual[name]) != tuple(expected[name])
    ]
    problems = [
        f"{kind} {len(names)}: {_first_names(names)}"
        for kind, names in (
            ("missing", list(set(expected) - set(actual))),
            ("unexpected", list(set(actual) - set(expected))),
            ("misshapen", misshapen),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{where}: tensors do not fit the model: {'; '.join(problems)}; "
            "is this the directory of that model?"
        )


def fill(target: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: PathName) -> None:
    """Copy `tensors` into `target` name by name, converting the dtype.

    raises  UserError as `check_fit`; then nothing has been copied
    """
    check_fit(
        {name: tensor.shape for name, tensor in target.items()},
        {name: tensor.shape for name, tensor in tensors.items()},
        where,
    )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(tensors[name])


def load_weights(
    target: Mapping[str, Tensor],
    directory: PathName,
    family: str,
    tied: Mapping[str, str] | None = None,
) -> None:
    """Fill `target` (our name -> parameter) from a model directory.

    family, tied, raises  as `fitting_weights`; if it raises, nothing has been filled
    otherwise             as `read_weights`
    """
    read_weights(target, fitting_weights(target, directory, family, tied))


def read_weights(target: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> None:
    """Fill `target` (our name -> parameter) with stored weights that fit it.

    The target's dtypes and devices are kept. A norm that no computation reads and that the file
    omits becomes the identity, as in the reference.
    raises  UserError for a weight with inf or NaN, in the file or in the target's dtype
    stored  what `fitting_weights` returned for this target
    memory  beside the target one tensor at a time, memory-mapped from its file and then released
            (a conversion on the CPU needs no copy); of a weight that is shared out over processes
            only the own part is read
    """
    with torch.no_grad(), finite_checks() as checks:
        for name, tensor in stored.items():
            if name in target:
                own, rows = own_part(target[name])
                checks.add(tensor.path, tensor.name, own.copy_(_read(tensor, rows)))
        for name in set(target) - set(stored):  # UNREAD ones
            target[name].fill_(float(name.endswith("weight")))


def fitting_weights(
    target: Mapping[str, Tensor],
    directory: PathName,
    family: str,
    tied: Mapping[str, str] | None = None,
) -> dict[str, StoredTensor]:
    """The weights of a model directory by our names, checked to fit `target`.

    target  only its shapes are used; a file may omit what `UNREAD` names
    family  config.json's model_type, which decides the names (names.py)
    tied    {name: name in target} of a tensor that is no parameter of its own; a file may omit it,
            or hold an equal copy, or hold it alone
    raises  UserError as `stored_weights`, and for tensors that do not fit
    """
    where, stored = stored_weights(directory)
    weights: dict[str, StoredTensor] = {}
    for stored_name, tensor in stored.items():
        if COMPUTED.search(stored_name):
            continue
        name = our_name(stored_name, family)
        if name in weights:
            raise UserError(
                f"{where}: {_first_names([stored_name, weights[name].name])} are two names of one "
                "tensor; expected one"
            )
        weights[name] = tensor
    copies: dict[str, str] = {}
    for name, source in (tied or {}).items():
        if name in weights and source not in weights:
            weights[source] = weights.pop(name)
        elif name in weights:
            copies[name] = source
    expected: dict[str, Shape] = {
        name: tensor.shape
        for name, tensor in target.items()
        if name in weights or not UNREAD.fullmatch(name)
    }
    expected |= {name: target[source].shape for name, source in copies.items()}
    check_fit(expected, {name: tensor.shape for name, tensor in weights.items()}, where)
    for name, source in copies.items():
        if not _equal(weights[name], weights[source]):
            raise UserError(
                f"{weights[name].path}: {weights[name].name} differs from {weights[source].name}, "
                "and config.json ties them; expected equal tensors, or tie_word_embeddings false"
            )
    return weights


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    """True if two stored tensors have the same shape and values, whatever their dtypes."""
    if one.shape != other.shape:
        return False
    first = _read(one)
    second = _read(other)
    wide = torch.promote_types(first.dtype, second.dtype)
    return torch.equal(first.to(wide), second.to(wide))


def _read(tensor: StoredTensor, rows: slice = slice(None)) -> Tensor:  # noqa: B008
    """The values of one tensor, or some of its rows.

    The file is opened for each tensor, because an open memory map keeps everything that was read
    through it in resident memory.
    """
    try:
        with safe_open(str(tensor.path), framework="pt") as file:
            if rows == slice(None):
                return file.get_tensor(tensor.name)
            return file.get_slice(tensor.name)[rows]
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{tensor.path}: changed while it was read ({one_line(error)}); fetch or write it again"
        ) from None
