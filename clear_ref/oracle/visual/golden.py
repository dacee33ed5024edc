"""Visual golden vectors: right losses and gradients, and what known mistakes give; as files.

visual.json has the cases, visual.safetensors the arrays. Both are made from reference.py alone, the
same bytes each time, and have a version of their own: they are no part of the golden vectors of the
eleven methods.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from clear_ref.common import files
from clear_ref.common.errors import UserError
from clear_ref.visual.methods import table

from .cases import SHAPES, Case, all_cases, inputs_of
from .mistakes import MISTAKES, OVERFLOW, OVERFLOW_MEANING, mistakes_of
from .reference import Given, gradients_of, rules_of, terms_of

NAME = "clear_ref visual golden vectors"
VERSION = "1.0.1"
FORMAT = int(VERSION.split(".")[0])
CASES, ARRAYS = "visual.json", "visual.safetensors"
# A wrong loss is stored where it differs from the right one by more than this part of its terms.
VISIBLE = 1e-6

Arrays = dict[str, np.ndarray]


def build() -> tuple[dict[str, Any], Arrays]:
    """(the object of visual.json without its hash, the arrays)."""
    entries: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for case in all_cases():
        given = inputs_of(case)
        where = f"{case.shape}/{table.variant(case.method, case.semantics).sampling}"
        arrays.update({f"{where}/{name}": each for name, each in stored(given).items()})
        found = terms_of(case.method, case.semantics, given, case.options)
        gradients = gradients_of(case.method, case.semantics, given, case.options)
        for name, gradient in gradients.items():
            if gradient.any():
                arrays[f"{case.id}/{name}"] = gradient
        entries.append(
            {
                "id": case.id,
                "method": case.method,
                "semantics": case.semantics,
                "shape": case.shape,
                "options": case.options,
                "result": "valid",
                "inputs": where,
                "done": given.done,
                "loss": sum(found.values()),
                "terms": found,
                "gradients": [name for name, each in gradients.items() if each.any()],
            }
        )
        entries += wrong_entries(case, given, found)
    about = {
        "name": NAME,
        "version": VERSION,
        "mistakes": {
            **{name: each.meaning for name, each in MISTAKES.items()},
            OVERFLOW: OVERFLOW_MEANING,
        },
        "shapes": list(SHAPES),
        "cases": entries,
    }
    return about, arrays


def wrong_entries(case: Case, given: Given, right: Mapping[str, float]) -> list[dict[str, Any]]:
    """The wrong losses of a case that differ visibly."""
    entries = []
    size = max(1.0, sum(abs(value) for value in right.values()))
    for name, mistake in mistakes_of(case.method, case.semantics).items():
        rules = mistake.change(rules_of(case.semantics))
        wrong = terms_of(case.method, case.semantics, given, case.options, rules)
        if abs(sum(wrong.values()) - sum(right.values())) > VISIBLE * size:
            entries.append(
                {
                    "id": f"{case.id}!{name}",
                    "of": case.id,
                    "result": "invalid",
                    "mistake": name,
                    "loss": sum(wrong.values()),
                }
            )
    return entries


def stored(given: Given) -> Arrays:
    """{name: array} of inputs, as they are stored."""
    found = {
        f"{batch}/{name}": array
        for batch, each in given.batches.items()
        for name, array in each.items()
    }
    found |= {"weight": given.weight, "base_weight": given.base_weight}
    return {**found, **{f"parameter{k}": each for k, each in enumerate(given.parameters)}}


def contents() -> dict[str, bytes]:
    """{file name: bytes}."""
    about, arrays = build()
    data = save(dict(sorted(arrays.items())))
    about["sha256"] = hashlib.sha256(data).hexdigest()
    head = {name: value for name, value in about.items() if name != "cases"}
    lines = ",\n".join(json.dumps(each) for each in about["cases"])
    text = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + lines + "\n]}\n"
    return {ARRAYS: data, CASES: text.encode()}


def write(directory: str | Path) -> dict[str, Any]:
    """Write both files; returns what was written."""
    made = contents()
    for name, data in made.items():
        files.write_bytes(Path(directory) / name, data)
    cases = json.loads(made[CASES])["cases"]
    valid = sum(each["result"] == "valid" for each in cases)
    return {
        "written": str(directory),
        "version": VERSION,
        "valid": valid,
        "invalid": len(cases) - valid,
        "bytes": sum(map(len, made.values())),
    }


def text(written: Mapping[str, Any]) -> str:
    """What was written, in a line."""
    return (
        f"{written['written']}: {NAME} {written['version']}: {written['valid']} right, "
        f"{written['invalid']} wrong losses, {written['bytes']} bytes"
    )


def read(directory: str | Path) -> tuple[dict[str, Any], Arrays]:
    """(the object of visual.json, the arrays), checked.

    raises  UserError for files that are missing, of another format, or whose hash does not fit
    """
    path = Path(directory) / CASES
    about = files.read_json(path)
    version = str(about.get("version", ""))
    if about.get("name") != NAME or version.split(".")[0] != str(FORMAT):
        raise UserError(
            f"{path}: holds {about.get('name')!r} {version!r}; expected {NAME} {FORMAT}.x"
        )
    data = files.read_bytes(Path(directory) / ARRAYS)
    found = hashlib.sha256(data).hexdigest()
    if found != about.get("sha256"):
        raise UserError(
            f"{Path(directory) / ARRAYS}: has SHA-256 {found}; expected {about.get('sha256')}, as "
            f"{CASES} says: fetch or write both again"
        )
    return about, load(data)
