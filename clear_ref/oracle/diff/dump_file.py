"""Reads a dump (its form: dump_format.py), checked, into a `Dump`."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from clear_ref.common.errors import UserError
from clear_ref.common.files import is_file, no_file, one_line, parse_json
from clear_ref.methods import table

from . import dump_tensors
from .dump_format import FORMAT
from .dump_tensors import Tensors


@dataclass(frozen=True)
class Dump:
    """The contents of a dump file, checked.

    method    "" if none is named; options: of the class of the method's variant, None without one
    records   {batch name: JSON value}: checked where they are used
    batches   {batch name: {tensor name: tensor}}
    terms     {term name: tensor with one element}; loss: the same, or None
    folders   those whose pictures the records may name
    """

    path: str
    method: str
    semantics: str
    options: object
    records: dict[str, object]
    batches: dict[str, Tensors]
    terms: Tensors
    loss: torch.Tensor | None
    folders: tuple[str, ...] = ()

    def picture(self, name: str) -> str:
        """The absolute path of a picture that the records name, without "..".

        raises  UserError if it is below none of the folders. Links inside of these may lead out
        """
        path = os.path.abspath(name)
        if "\0" not in name and any(_is_below(path, folder) for folder in self.folders):
            return path
        raise UserError(
            f"{self.path}: metadata records name the picture {one_line(name, 200)}, which is "
            f"outside of {' and '.join(self.folders)}; expected one inside, or --pictures DIR with "
            "the folder that holds it"
        )


def read(
    path: str | Path, method: str = "", semantics: str = "", pictures: str | Path = ""
) -> Dump:
    """The dump in a file.

    method, semantics  replace those that the file names, unless they are ""
    pictures           a folder beside the dump's own whose pictures the records may name, or ""
    raises  UserError for a file that is not a dump, an unknown name, a tensor of another dtype or
            with numbers that are not finite; ShapeError
    """
    metadata, tensors = _read_file(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: metadata format is {one_line(repr(metadata.get('format')), 60)}; "
            f"expected {FORMAT!r} (diff --helper writes it)"
        )
    method = method or metadata.get("method", "")
    semantics = semantics or metadata.get("semantics") or table.DEFAULT_SEMANTICS
    given_options = _json_object(path, metadata, "options")
    records = _json_object(path, metadata, "records")
    options = None
    if method:
        options = table.make_options(method, given_options, semantics)
    loss = tensors.pop("loss", None)
    if loss is not None:
        dump_tensors.check_scalar(path, "loss", loss)
    terms: Tensors = {}
    batches: dict[str, Tensors] = {}
    for name, tensor in sorted(tensors.items()):
        batch, _, last_name = name.rpartition("/")
        if batch == "term":
            dump_tensors.check_scalar(path, name, tensor)
            terms[last_name] = tensor
            continue
        dump_tensors.check_name(path, name)
        if method:
            _check_batch(path, batch, method, semantics, options)
        dump_tensors.check_values(path, name, tensor)
        if last_name in dump_tensors.INTEGER_TENSORS:
            tensor = tensor.long()
        batches.setdefault(batch, {})[last_name] = tensor
    for batch, tensors_of_batch in batches.items():
        dump_tensors.check_shapes(path, batch, tensors_of_batch)
    if not batches:
        raise UserError(f"{path}: holds no batch; expected tensors such as forget/logits")
    folders = tuple(map(str, (Path(path).absolute().parent, *([pictures] if pictures else []))))
    return Dump(str(path), method, semantics, options, records, batches, terms, loss, folders)


def _is_below(path: str, folder: str) -> bool:
    """Whether a path leads into a folder, as it is written or with all links followed."""
    try:
        pairs = (path, os.path.abspath(folder)), (os.path.realpath(path), os.path.realpath(folder))
    except ValueError:  # signs that no path can have
        return False
    return any(Path(inner).is_relative_to(outer) for inner, outer in pairs)


def _read_file(path: str | Path) -> tuple[dict[str, str], Tensors]:
    """(metadata, {name: tensor}) of a safetensors file."""
    if not is_file(path):
        expected = "a dump (diff --helper prints what writes one)"
        raise UserError(f"{path}: {no_file(path, expected)}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({one_line(error)}); write it again"
        ) from None
    return metadata, tensors


def _json_object(path: str | Path, metadata: dict[str, str], key: str) -> dict[str, object]:
    """The JSON object of one metadata entry; {} if the entry is missing."""
    return parse_json((metadata.get(key) or "{}").encode("utf-8"), f"{path}: metadata {key}")


def _check_batch(
    path: str | Path, batch: str, method: str, semantics: str, options: object
) -> None:
    """UserError unless the method has this batch."""
    known = list(table.needs(method, semantics, options))
    if batch not in known:
        raise UserError(
            f"{path}: holds batch {batch!r}; {method} ({semantics}) has {', '.join(known)}"
        )
