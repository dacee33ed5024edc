"""Golden vectors on disk: JSON and safetensors files; format: tests/vectors/golden/FORMAT.md."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clear_ref.common import files
from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.methods import METHODS
from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.reference.rows import IGNORE, KINDS
from clear_ref.oracle.reference.shapes import ALL_SHAPES, FLAGS

from .case_check import problem_of_case
from .golden import TERM_COLUMNS
from .vector_set import Vectors

FORMAT = 1


class Written(TypedDict):
    """What `write` reports: the directory, the numbers of cases, the bytes of all files."""

    directory: str
    cases: int
    bytes: int
    valid: int
    acceptable: int
    invalid: int


def write(vectors: Vectors, directory: str | Path) -> Written:
    """Write vectors into a directory."""
    directory = Path(directory)
    n_bytes = 0
    heads = {"inputs": _head_of_inputs(vectors)}
    for method in METHODS:
        entries = [entry for entry in vectors.entries if entry["method"] == method]
        heads[method] = {"method": method, "count": len(entries), "cases": entries}
    for name, head in heads.items():
        arrays = vectors.arrays[name]
        data = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        named = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
        json_text = as_json({"format": FORMAT, "arrays": named, **head})
        files.write_bytes(directory / f"{name}.safetensors", data)
        files.write_text(directory / f"{name}.json", json_text)
        n_bytes += len(data) + len(json_text.encode())
    results = [entry["result"] for entry in vectors.entries]
    return {
        "directory": str(directory),
        "cases": len(results),
        "bytes": n_bytes,
        "valid": results.count("valid"),
        "acceptable": results.count("acceptable"),
        "invalid": results.count("invalid"),
    }


def _head_of_inputs(vectors: Vectors) -> dict[str, Any]:
    shapes = dict.fromkeys(key.split("/")[0] for key in vectors.arrays["inputs"])
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
        "shapes": {name: ALL_SHAPES[name].flags for name in shapes},
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
            the JSON file names, or if a case is damaged (case_check.py)
    """
    vectors = Vectors()
    directory = Path(directory)
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
    return vectors


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


def text(written: Written) -> str:
    """What `vectors` prints."""
    return (
        f"{written['cases']} cases ({written['valid']} valid, {written['acceptable']} acceptable, "
        f"{written['invalid']} invalid), {written['bytes'] / 1e6:.1f} MB, written to "
        f"{written['directory']}"
    )
