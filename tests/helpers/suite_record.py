"""The record of the golden vectors' versions: which bytes and which cases each has.

    python -m tests.helpers.suite_record            after a change: writes the stored vectors,
                                                    raises the version as FORMAT.md says, records it
    python -m tests.helpers.suite_record --again    records the last version again; only for a
                                                    version that was never published

tests/vectors/suite_versions.json: {version: {"archive": SHA-256 of the archive, "contents": {file:
a hash of each case or array}}}. The contents are kept of the last two versions.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

from clear_ref.oracle.suite import archive
from clear_ref.oracle.vectors import golden, vector_files, vector_set

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "vectors" / "suite_versions.json"
STORED = ROOT / "tests" / "vectors" / "golden"
SUITE = ROOT / "clear_ref" / "oracle" / "suite"
VERSION_FILES = (
    ROOT / "clear_ref" / "oracle" / "vectors" / "vector_set.py",
    SUITE / "FORMAT.md",
    SUITE / "schema.json",
)
CONTENT = (
    *("id", "method", "semantics", "options", "shape", "batches", "result", "loss", "terms"),
    *("scale", "weight", "roundings", "sha256", "of", "mistake"),
)


def hash_of(*parts):
    """Eight hexadecimal digits."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:8]


def contents(vectors):
    """{file: the hashes of its cases, or of its arrays for the inputs, in a text with blanks}."""
    found = {}
    for key, array in vectors.arrays["inputs"].items():
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        found.setdefault("inputs", []).append(hash_of(key, array.dtype, array.shape, digest))
    for entry in vectors.entries:
        content = json.dumps([entry.get(key) for key in CONTENT], sort_keys=True)
        found.setdefault(entry["method"], []).append(hash_of(content))
    return {name: " ".join(sorted(hashes)) for name, hashes in found.items()}


def record_of(vectors):
    """The record of a version: what RECORD has under it."""
    data = archive.archive_of(vectors)
    return {"archive": hashlib.sha256(data).hexdigest(), "contents": contents(vectors)}


def place_of_change(old, new):
    """Which number of the version a change raises: 0, 1 or 2, by the rules of FORMAT.md; None."""
    if old["archive"] == new["archive"]:
        return None
    before, after = (
        {f"{name} {one}" for name, text in record["contents"].items() for one in text.split()}
        for record in (old, new)
    )
    if before - after:
        return 0
    return 1 if after - before else 2


def raised(version, place):
    """The version with the number at a place raised, and 0 after it."""
    numbers = [int(number) for number in version.split(".")]
    return ".".join(map(str, [*numbers[:place], numbers[place] + 1, *[0] * (2 - place)]))


def problem(records, version, new):
    """What is wrong with the version of vectors with the record `new`; None if nothing is."""
    last = list(records)[-1]
    place = place_of_change(records[last], new)
    if place is None and version != last:
        return f"the version is {version}, the bytes are those of {last}"
    if place is not None and version == last:
        return (
            f"the archive changed without a new version; expected {raised(last, place)}: run "
            "python -m tests.helpers.suite_record"
        )
    if place is not None and version != raised(last, place):
        return f"the version is {version}; expected {raised(last, place)} after {last}"
    return None


def read():
    """{version: record}, the last version last."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def write(records):
    """Write RECORD, the contents of the last two versions only."""
    old = list(records)[:-2]
    kept = {name: {**one} for name, one in records.items()}
    for version in old:
        kept[version].pop("contents", None)
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def set_version(old, new):
    """Write a version where the last one is named: the package, FORMAT.md, schema.json."""
    for path in VERSION_FILES:
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(rf"\b{re.escape(old)}\b", new, text), encoding="utf-8")


def main(again):
    """Builds and writes the stored vectors, and records their version."""
    vectors = golden.build()
    records = read()
    last = list(records)[-1]
    place = place_of_change(records[last], record_of(vectors))
    if place is not None and not again:
        version = raised(last, place)
        if place == 0 and vector_set.VERSION != version:
            sys.exit(
                f"a stored case or array is gone or has other numbers: that is version {version}, "
                "another format; set both by hand, or use --again if nobody has the last version"
            )
        set_version(vector_set.VERSION, version)
        vectors.version = version
    vector_files.write(vectors, STORED)
    records[vectors.version] = record_of(vectors)
    write(records)
    print(f"recorded {vectors.version}")


if __name__ == "__main__":
    main("--again" in sys.argv[1:])
