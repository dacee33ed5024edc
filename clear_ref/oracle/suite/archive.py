"""The suite: golden vectors, their format and a runner as one archive, the same bytes each time.

The archive is a zip file whose members are stored, not deflated: what deflate makes depends on the
version of zlib (zlib-ng makes other bytes), and safetensors files of random numbers shrink little.
The members are in alphabetical order, with the earliest time that zip knows and the permissions
rw-r--r--, so the bytes depend on nothing but the contents.
"""

import hashlib
import io
import zipfile
from pathlib import Path

from clear_ref.common import files
from clear_ref.oracle.vectors import vector_files
from clear_ref.oracle.vectors.vector_set import Vectors

HERE = Path(__file__).parent
DOCUMENTS = ("FORMAT.md", "LICENSE", "read_suite.mjs", "run_suite.py", "schema.json")
FIRST_TIME = (1980, 1, 1, 0, 0, 0)
ON_UNIX = 3
REGULAR_FILE = 0o100644


class WrittenArchive(vector_files.Written):
    """What `vectors --archive` reports: also the SHA-256 of the archive."""

    sha256: str


def archive_of(vectors: Vectors) -> bytes:
    """The bytes of the archive; its files are in one folder, whose name has the version."""
    contents = vector_files.contents_of(vectors)
    for name in DOCUMENTS:
        contents[name] = (HERE / name).read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(contents):
            member = zipfile.ZipInfo(f"{folder(vectors.version)}/{name}", FIRST_TIME)
            member.compress_type = zipfile.ZIP_STORED
            member.create_system = ON_UNIX
            member.external_attr = REGULAR_FILE << 16
            archive.writestr(member, contents[name])
    return buffer.getvalue()


def folder(version: str) -> str:
    """The name of the folder in the archive, and of the archive without .zip."""
    return f"clear_ref-golden-vectors-{version}"


def write(vectors: Vectors, path: str | Path) -> WrittenArchive:
    """Write the archive of vectors."""
    data = archive_of(vectors)
    files.write_bytes(path, data)
    report = vector_files.written(vectors, Path(path), len(data))
    return {**report, "sha256": hashlib.sha256(data).hexdigest()}


def text(report: WrittenArchive) -> str:
    """What `vectors --archive` prints."""
    return f"{vector_files.text(report)}\nSHA-256 {report['sha256']}"
