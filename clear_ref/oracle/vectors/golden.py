"""Golden vectors: inputs, right answers and known wrong ones, as safetensors and JSON; format: tests/vectors/golden/FORMAT.md."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clear_ref.common import files
from clear_ref.common.errors import UserError
from clear_ref.methods import METHODS
from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import Sheet
from clear_ref.oracle.reference.cases import cases
from clear_ref.oracle.reference.inputs import inputs
from clear_ref.oracle.reference.rows import IGNORE, KINDS
from clear_ref.oracle.reference.shapes import ALL_SHAPES, COMPACT, FLAGS, FULL

from .case_check import fault

FORMAT = 1
COLUMNS = (
    "nll",
    "entropy",
    "teacher_nll",
    "teacher_entropy",
    "kl_teacher_student",
    "kl_student_teacher",
)
GONE_WRONG = (
    1e-4  # of the scale: a wrong number nearer than this to the right one is not written as one
)


@dataclass
class Vectors:
    """entries: the cases as the JSON files hold them; arrays: {"inputs" or method: {key: array}}."""

    entries: list[dict] = field(default_factory=list)
    arrays: dict[str, dict[str, np.ndarray]] = field(
        default_factory=lambda: {name: {} for name in ("inputs", *METHODS)}
    )
    kept: dict = field(default_factory=dict)

    def batches(self, entry) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a case, by batch: what an implementation is given."""
        found = {
            name: {key: self.arrays["inputs"][f"{entry['shape']}/{name}/{key}"] for key in keys}
            for name, keys in entry["batches"].items()
        }
        if "control" in entry:
            found["forget"]["control"] = self.arrays[entry["method"]][entry["control"]]
        return found

    def gradients(self, entry) -> dict[str, np.ndarray]:
        """d loss / d logits (rmu: hidden) of a case, by batch; of an invalid one nothing where its loss alone gives it away."""
        return {name: self.arrays[entry["method"]][key] for name, key in entry["gradients"].items()}

    def add(self, method, key, array) -> str:
        """The key under which an array of a method is kept: an equal one's, or its own."""
        same = self.kept.setdefault((method, array.shape, array.tobytes()), key)
        self.arrays[method].setdefault(same, array)
        return same


def build(full=False) -> Vectors:
    """All vectors: of the shapes in COMPACT, or of those in FULL."""
    vectors = Vectors()
    for shape in FULL if full else COMPACT:
        for name, batch in inputs(shape).items():
            kept = {
                **batch,
                **{f"terms/{column}": terms for column, terms in token_terms(name, batch).items()},
            }
            if name.startswith(("idk", "random")):  # hidden states of these are read by no method
                kept = {key: array for key, array in kept.items() if "hidden" not in key}
            vectors.arrays["inputs"] |= {
                f"{shape}/{name}/{key}": array for key, array in kept.items()
            }
    for case in cases(full):
        answer = formulas.reference_loss(case.method, case.semantics, case.options, case.batches)
        if np.isfinite(answer.loss):
            vectors.entries.append(right(vectors, case, answer))
            if case.shape in ("plain", "near"):
                vectors.entries += rejected(vectors, case, answer)
    return vectors


def right(vectors, case, answer) -> dict:
    """The entry of a case: valid (a meaning of the paper or of the original), or acceptable (one of the released code)."""
    batches = case.batches
    entry = {
        "id": case.id,
        "method": case.method,
        "semantics": case.semantics,
        "options": case.options,
        "shape": case.shape,
        "flags": case.flags,
        "result": "acceptable" if case.semantics.startswith("released") else "valid",
        "batches": {
            name: [key for key in batch if key != "control"] for name, batch in batches.items()
        },
        "loss": answer.loss,
        "terms": answer.terms,
        "scale": answer.scale,
        "weight": answer.weight,
        "gradients": {
            name: vectors.add(case.method, f"{case.id}/{name}", gradient)
            for name, gradient in answer.gradients.items()
        },
    }
    if case.method == "rmu":
        entry["control"] = vectors.add("rmu", f"{case.id}/control", batches["forget"]["control"])
    return {**entry, "sha256": digest(batches, answer.gradients)}


def rejected(vectors, case, answer) -> list[dict]:
    """The entries of what the known mistakes give on a case: a wrong loss, or a wrong gradient of the right loss."""
    found = []
    for mistake in MISTAKES:
        given = loss_with_mistake(
            mistake,
            case.method,
            case.semantics,
            case.options,
            with_forget(case.batches, case.shape),
        )
        if given is None or not np.isfinite(given.loss):
            continue
        entry = {
            "id": f"{case.id}!{mistake.name}",
            "method": case.method,
            "of": case.id,
            "mistake": mistake.name,
            "result": "invalid",
            "loss": given.loss,
            "gradients": {},
        }
        if abs(given.loss - answer.loss) <= GONE_WRONG * answer.scale:
            size = max(np.abs(gradient).max() for gradient in answer.gradients.values())
            away = max(
                np.abs(given.gradients[name] - gradient).max()
                for name, gradient in answer.gradients.items()
            )
            if away <= GONE_WRONG * size:
                continue
            entry["gradients"] = {
                name: vectors.add(case.method, f"{entry['id']}/{name}", given.gradients[name])
                for name in answer.gradients
            }
        wrong_gradients = {name: given.gradients[name] for name in entry["gradients"]}
        found.append({**entry, "sha256": digest(case.batches, wrong_gradients)})
    return found


def with_forget(batches, shape) -> dict:
    """The batches of a case and, for a mistake about the idk batch, the forget answers that it confuses with the refusals."""
    return (
        {**batches, "forget": inputs(shape)["forget"]}
        if "idk" in batches and "forget" not in batches
        else batches
    )


def token_terms(name, batch) -> dict[str, np.ndarray]:
    """{column: [B, T]}: every token term at every position, padding included; both nll are 0 where nothing is to be predicted."""
    sheet = Sheet({name: batch})
    found = {column: np.zeros(batch["labels"].shape) for column in COLUMNS}
    for row in sheet.rows(name, "all"):
        for column in COLUMNS:
            found[column][row.b, row.t] = sheet.cell(row, column)[0]
    return found


def digest(batches, gradients) -> str:
    """SHA-256 over the inputs and gradients of a case, in the order of their names: name, dtype, shape and bytes of each."""
    arrays = {
        f"{name}/{key}": array for name, batch in batches.items() for key, array in batch.items()
    }
    arrays |= {f"{name}/gradient": array for name, array in gradients.items()}
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}\n{arrays[name].dtype}\n{arrays[name].shape}\n".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def write(vectors, directory) -> dict:
    """Write vectors into a directory; {"directory", "cases", "valid", "acceptable", "invalid", "bytes"}."""
    directory, size = Path(directory), 0
    shapes = dict.fromkeys(key.split("/")[0] for key in vectors.arrays["inputs"])
    heads = {
        "inputs": {
            "kinds": KINDS,
            "ignore": IGNORE,
            "terms": COLUMNS,
            "flags": FLAGS,
            "shapes": {name: ALL_SHAPES[name].flags for name in shapes},
            "mistakes": {
                m.name: {"what": m.what, "seen": m.seen, "methods": m.methods} for m in MISTAKES
            },
        }
    }
    for method in METHODS:
        entries = [entry for entry in vectors.entries if entry["method"] == method]
        heads[method] = {"method": method, "count": len(entries), "cases": entries}
    for name, head in heads.items():
        data = save(
            {key: np.ascontiguousarray(array) for key, array in vectors.arrays[name].items()}
        )
        arrays = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
        text = as_json({"format": FORMAT, "arrays": arrays, **head})
        files.write_bytes(directory / f"{name}.safetensors", data)
        files.write_text(directory / f"{name}.json", text)
        size += len(data) + len(text.encode())
    results = [entry["result"] for entry in vectors.entries]
    return {
        "directory": str(directory),
        "cases": len(results),
        "bytes": size,
        **{kind: results.count(kind) for kind in ("valid", "acceptable", "invalid")},
    }


def as_json(head) -> str:
    """JSON with one case a line."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items() if key != "cases"
    ]
    if "cases" in head:
        lines.append(
            '"cases": [\n' + ",\n".join(json.dumps(case) for case in head["cases"]) + "\n]"
        )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(directory) -> Vectors:
    """The vectors of a directory; UserError where a file lacks or is no vector file, or its arrays are not the ones it names."""
    vectors, directory = Vectors(), Path(directory)
    for name in vectors.arrays:  # inputs first: cases name them
        path = directory / f"{name}.json"
        head = files.read_json(path)
        arrays, cases_here = head.get("arrays"), head.get("cases", [] if name == "inputs" else None)
        if head.get("format") != FORMAT:
            raise UserError(
                f"{path}: format is {files.one_line(repr(head.get('format')), 60)}; expected {FORMAT}: write them "
                "again"
            )
        if not isinstance(arrays, dict) or not isinstance(arrays.get("sha256"), str):
            raise UserError(
                f"{path}: arrays is {files.one_line(repr(arrays), 60)}; expected an object with file and sha256: "
                "write the vectors again"
            )
        if not isinstance(cases_here, list):
            raise UserError(
                f"{path}: cases is {files.one_line(repr(cases_here), 60)}; expected a list: write the vectors again"
            )
        data = files.read_bytes(directory / f"{name}.safetensors")
        if hashlib.sha256(data).hexdigest() != arrays["sha256"]:
            raise UserError(
                f"{directory / name}.safetensors: its bytes are not those that {name}.json names (SHA-256 "
                f"{files.one_line(arrays['sha256'], 12)}); write the vectors again"
            )
        try:
            vectors.arrays[name] = load(data)
        except SafetensorError as error:
            raise UserError(
                f"{directory / name}.safetensors: not safetensors ({files.one_line(error)}); write the vectors "
                "again"
            ) from None
        for number, entry in enumerate(cases_here):
            found = fault(vectors, name, entry)
            if found:
                shown = (
                    repr(entry["id"])
                    if isinstance(entry, dict) and "id" in entry
                    else f"number {number}"
                )
                raise UserError(
                    f"{path}: case {files.one_line(shown, 100)} {found}: write the vectors again"
                )
        vectors.entries += cases_here
    return vectors


def text(found) -> str:
    """What `vectors` prints."""
    return (
        f"{found['cases']} cases ({found['valid']} valid, {found['acceptable']} acceptable, {found['invalid']} invalid), "
        f"{found['bytes'] / 1e6:.1f} MB, written to {found['directory']}"
    )
