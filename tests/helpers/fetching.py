"""data_fetch.py as a module, and hubs with CLEAR or a checkpoint to fetch from."""

import hashlib
import importlib.util
import io
from pathlib import Path

import pytest
from PIL import Image

from clear_ref.data.records import columns
from clear_ref.data.schema import SCHEMA

from .fake_hub import FakeHub

SCRIPT = Path(__file__).parents[2] / "data_fetch.py"
_SPEC = importlib.util.spec_from_file_location("data_fetch", SCRIPT)
data_fetch = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(data_fetch)

OURS = {"pretrain", "holdout10", "tofu/holdout10"}  # configs of the embedded world
CLEAR = sorted(
    name for name in SCHEMA["configs"] if not name.startswith("tofu/") and name not in OURS
)
TOFU = sorted(
    name.removeprefix("tofu/")
    for name in SCHEMA["configs"]
    if name.startswith("tofu/") and name not in OURS
)


def picture(number, form="JPEG"):
    """The bytes of a picture that is different for each number."""
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (number % 256, 7 * number % 256, 80)).save(out, form)
    return out.getvalue()


def rows_for(config, n):
    """n rows with a config's columns.

    The texts have characters that JSON must escape; a mixed config has rows of both kinds.
    """
    rows = []
    for number in range(n):
        row = {}
        for name in columns(config):
            column = name.rstrip("?")
            text = f'{column} {number} of "{config}" — ünï\u2028\n'
            if column == "image":
                row[column] = picture(number)
            elif column in SCHEMA["lists"]:
                row[column] = [text, text + "2"]
            else:
                row[column] = text
        if SCHEMA["configs"][config]["kind"] == "mixed":
            row |= dict.fromkeys(("question", "answer") if number % 2 else ("image", "caption"))
        rows.append(row)
    return rows


def parquet(rows, group=3, **columns_too):
    """The bytes of a parquet file as the datasets library writes it.

    A picture is a struct of bytes and path; a list of texts is list<string>.
    """
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes the parquet files")
    from pyarrow import parquet as pq

    types = {}
    for name in rows[0]:
        types[name] = pa.list_(pa.string()) if name in SCHEMA["lists"] else pa.string()
    if "image" in rows[0]:
        types["image"] = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types |= columns_too
    stored = []
    for row in rows:
        if row.get("image") is not None:
            row = {**row, "image": {"bytes": row["image"], "path": "x.jpg"}}
        stored.append(row)
    table = pa.Table.from_pylist(stored, pa.schema(list(types.items())))
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=group)
    return out.getvalue()


def clear_hub(*faults, configs=("forget10",), n=8, **more):
    """CLEAR, each config in two parquet files; n rows per config."""
    files = {".gitattributes": b"x", "README.md": b"card"}
    for config in configs:
        folder = "data" if config == "default" else config
        # The second shard is listed first: the order of a listing has no meaning.
        files[f"{folder}/train-00001-of-00002.parquet"] = parquet(rows_for(config, n)[5:])
        files[f"{folder}/train-00000-of-00002.parquet"] = parquet(rows_for(config, n)[:5])
    return FakeHub("therem/CLEAR", "dataset", files, faults=faults, **more)


def model_hub(*faults, size=900_000, **more):
    """A checkpoint with one weight file; its bytes are arbitrary."""
    weights = hashlib.shake_128(b"weights").digest(size)
    return FakeHub(
        "org/model",
        "model",
        {"config.json": b'{"a": 1}', "model.safetensors": weights},
        faults=faults,
        **more,
    )


def files_below(directory):
    """{relative path: bytes} of every file below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.glob("**/*")
        if path.is_file()
    }


def failed(done, status, *words):
    """True if stderr is one line with these words and the exit status is `status`."""
    assert done.status == status, done
    assert done.err.count("\n") == 1 and done.err.startswith("data_fetch: "), done.err
    for word in words:
        assert word in done.err, done.err
    return True
