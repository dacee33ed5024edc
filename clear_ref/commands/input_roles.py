"""Which file of a record's inputs belongs to which model, and which to the data.

The same files in another place, or read from another working directory, have the same names here.
"""

from collections.abc import Mapping
from pathlib import Path

from clear_ref.common.files import PathName
from clear_ref.common.run_directory import RunRecord
from clear_ref.data.chat_templates import FOLDER

PICTURES = ", pictures"  # ends the key of the one hash of all pictures; before it: the directory
WEIGHT_SUFFIX = ".safetensors"
DATA_SUFFIXES = (".jsonl", ".txt")


def by_option(record: RunRecord) -> dict[str, dict[str, str]]:
    """{option that names a directory: {file name: SHA-256}} of the inputs of a run."""
    hashes = record["inputs"]
    directories = models(hashes)
    adapter = record["settings"].get("adapter")
    has_adapter = adapter is not None and adapter["value"] != ""
    names = ["model", *(["adapter"] if has_adapter and len(directories) == 2 else ["gold"])]
    found = {"data": data_hashes(hashes)}
    for name, directory in zip([*names, "adapter"], directories, strict=False):
        found[name] = model_hashes(hashes, directory)
    return found


def data_hashes(hashes: Mapping[str, str]) -> dict[str, str]:
    """{name below the data directory: SHA-256} of rows, phrases and (as "pictures") all pictures.

    hashes  {path: SHA-256}, see resolve.input_hashes
    """
    place = next((key.removesuffix(PICTURES) for key in hashes if key.endswith(PICTURES)), "")
    found = {}
    for key, value in hashes.items():
        path = Path(key)
        if key.endswith(PICTURES):
            found["pictures"] = value
        elif path.suffix in DATA_SUFFIXES:
            below = path.is_relative_to(place)
            found[path.relative_to(place).as_posix() if below else path.name] = value
    return found


def models(hashes: Mapping[str, str]) -> list[str]:
    """The directories of the models (and of the adapter), in the order of the record."""
    return list(dict.fromkeys(str(_model_of(key)) for key in hashes if _is_model_file(key)))


def model_hashes(hashes: Mapping[str, str], directory: PathName) -> dict[str, str]:
    """{name below the directory: SHA-256} of the files of one model directory."""
    return {
        Path(key).relative_to(directory).as_posix(): value
        for key, value in hashes.items()
        if _is_model_file(key) and _model_of(key) == Path(directory)
    }


def weight_hashes(hashes: Mapping[str, str], directory: PathName) -> dict[str, str]:
    """{name: SHA-256} of the weight files of one model directory."""
    return {
        name: value
        for name, value in model_hashes(hashes, directory).items()
        if name.endswith(WEIGHT_SUFFIX)
    }


def _model_of(key: str) -> Path:
    """The model directory that a file is of: the one it is in, or that of its template folder."""
    parent = Path(key).parent
    return parent.parent if parent.name == FOLDER else parent


def _is_model_file(key: str) -> bool:
    return not key.endswith(PICTURES) and Path(key).suffix not in DATA_SUFFIXES
