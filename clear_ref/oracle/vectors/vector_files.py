"""Golden vectors on disk: JSON and safetensors files; format: ../suite/FORMAT.md."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clear_ref.common import files
from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.methods import LOSSES
from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.reference.rows import IGNORE, KINDS
from clear_ref.oracle.reference.shapes import ALL_SHAPES, FLAGS

from .case_check import problem_of_case
from .golden import TERM_COLUMNS
from .vector_set import VERSION, Vectors

FORMAT = int(VERSION.split(".")[0])
MANIFEST = "manifest.json"
NAME = "clear_ref golden vectors"


class Counts(TypedDict):
    """The number of cases with each result."""

    valid: int
    acceptable: int
    invalid: int


class Written(Counts):
    """What `vectors` reports: where to, the version, the number of cases, the bytes written."""

    written: str
    version: str
    cases: int
    bytes: int


def write(vectors: Vectors, directory: str | Path) -> Written:
    """Write vectors into a directory."""
    directory = Path(directory)
    contents = contents_of(vectors)
    for name, data in contents.items():
        files.write_bytes(directory / name, data)
    return written(vectors, directory, sum(map(len, contents.values())))


def written(vectors: Vectors, to: Path, n_bytes: int) -> Written:
    """The report of vectors that were written to a directory or a file."""
    return {
        "written": str(to),
        "version": vectors.version,
        "cases": len(vectors.entries),
        "bytes": n_bytes,
        **_counts(vectors),
    }


def _counts(vectors: Vectors) -> Counts:
    results = [entry["result"] for entry in vectors.entries]
    return {
        "valid": results.count("valid"),
        "acceptable": results.count("acceptable"),
        "invalid": results.count("invalid"),
    }


def contents_of(vectors: Vectors) -> dict[str, bytes]:
    """{file name: bytes} of the vectors, the manifest last."""
    contents: dict[str, bytes] = {}
    heads = {"inputs": _head_of_inputs(vectors)}
    for method in LOSSES:
        entries = [entry for entry in vectors.entries if entry["method"] == method]
        heads[method] = {"method": method, "count": len(entries), "cases": entries}
    for name, head in heads.items():
        arrays = vectors.arrays[name]
        data = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        named = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
        json_text = as_json({"format": FORMAT, "arrays": named, **head})
        contents[f"{name}.json"] = json_text.encode()
        contents[f"{name}.safetensors"] = data
    listed = {}
    for name, data in contents.items():
        listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        "name": NAME,
        "version": vectors.version,
        "format": FORMAT,
        "set": vectors.set,
        "cases": _counts(vectors),
        "files": listed,
    }
    contents[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return contents


def _head_of_inputs(vectors: Vectors) -> dict[str, Any]:
    used = {key.split("/")[0] for key in vectors.arrays["inputs"]}
    mistakes = {}
    for mistake in MISTAKES:
        mistakes[mistake.name] = {
            "what": mistake.what,
            "seen": mistake.seen,
            "methods": mistake.methods,
        }
    return {
        "kinds": KINDS,
        "ignore": IGNORE,
        "terms": TERM_COLUMNS,
        "flags": FLAGS,
        "shapes": {name: shape.flags for name, shape in ALL_SHAPES.items() if name in used},
        "mistakes": mistakes,
    }


def as_json(head: Mapping[str, Any]) -> str:
    """JSON with one key on each line, and one case on each line."""
    lines = []
    for key, value in head.items():
        if key == "cases":
            cases = ",\n".join(json.dumps(case) for case in value)
            lines.append(f'"cases": [\n{cases}\n]')
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(directory: str | Path) -> Vectors:
    """The vectors of a directory.

    raises  UserError if a file is missing or is no vector file, if the arrays are not those that
            the JSON file names, if a case is damaged (case_check.py), or if a file is not the one
            that the manifest names
    """
    directory = Path(directory)
    manifest = _read_manifest(directory / MANIFEST)
    vectors = Vectors(version=manifest["version"], set=str(manifest.get("set")))
    for name in vectors.arrays:  # "inputs" is first, because cases name its arrays
        path = directory / f"{name}.json"
        head = files.read_json(path)
        cases = head.get("cases", [] if name == "inputs" else None)
        if head.get("format") != FORMAT:
            raise UserError(
                f"{path}: format is {_short(head.get('format'))}; expected {FORMAT}: write the "
                "vectors again"
            )
        if not isinstance(cases, list):
            raise UserError(
                f"{path}: cases is {_short(cases)}; expected a list: write the vectors again"
            )
        vectors.arrays[name] = _read_arrays(directory, name, head)
        for number, entry in enumerate(cases):
            problem = problem_of_case(vectors, name, entry)
            if problem:
                has_id = isinstance(entry, dict) and "id" in entry
                shown = repr(entry["id"]) if has_id else f"number {number}"
                raise UserError(
                    f"{path}: case {one_line(shown, 100)} {problem}: write the vectors again"
                )
        vectors.entries += cases
        _check_listed(directory / f"{name}.json", manifest)
    return vectors


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a directory; its version and format are those of this package's format."""
    manifest = files.read_json(path)
    version = manifest.get("version")
    if not isinstance(version, str) or not re.fullmatch(rf"{FORMAT}\.\d+\.\d+", version):
        raise UserError(
            f"{path}: version is {_short(version)}; expected {FORMAT}.x.y: write the vectors again"
        )
    return manifest


def _check_listed(path: Path, manifest: Mapping[str, Any]) -> None:
    """UserError if a file is not the one that the manifest names."""
    listed = manifest.get("files")
    entry = listed.get(path.name) if isinstance(listed, dict) else None
    if not isinstance(entry, dict) or entry.get("sha256") != files.sha256(path):
        raise UserError(
            f"{path}: its bytes are not those that {MANIFEST} names; write the vectors again"
        )


def _read_arrays(directory: Path, name: str, head: Mapping[str, Any]) -> dict[str, np.ndarray]:
    named = head.get("arrays")
    if not isinstance(named, dict) or not isinstance(named.get("sha256"), str):
        raise UserError(
            f"{directory / name}.json: arrays is {_short(named)}; expected an object with file and "
            "sha256: write the vectors again"
        )
    data = files.read_bytes(directory / f"{name}.safetensors")
    if hashlib.sha256(data).hexdigest() != named["sha256"]:
        raise UserError(
            f"{directory / name}.safetensors: its bytes are not those that {name}.json names "
            f"(SHA-256 {one_line(named['sha256'], 12)}); write the vectors again"
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise UserError(
            f"{directory / name}.safetensors: not safetensors ({one_line(error)}); write the "
            "vectors again"
        ) from None


def _short(value: object) -> str:
    return one_line(repr(value), 60)


def text(report: Written) -> str:
    """What `vectors` prints."""
    return (
        f"{report['cases']} cases ({report['valid']} valid, {report['acceptable']} acceptable, "
        f"{report['invalid']} invalid), version {report['version']}, "
        f"{report['bytes'] / 1e6:.1f} MB, written to {report['written']}"
    )
