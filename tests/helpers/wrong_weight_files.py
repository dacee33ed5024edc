"""Model directories with wrong weight files, built byte by byte (size, header, data).

They are never built by the code under test.
"""

import json
import os
import struct

import torch
from safetensors.torch import save_file

from tests.helpers.weight_files import INDEX, MAP, ONE, SHAPES, SINGLE, TWO, VALUES, sharded


def raw(path, header, data=b"", size=None):
    """A safetensors file with any header, any data and any claim about the header's size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def entry(start, end, shape=(2,), dtype="F32"):
    """A tensor in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def index(directory, content):
    """Correct shards, and an index with this content."""
    sharded(directory)
    (directory / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))


def outside(directory, file):
    """An index that names a correct file outside the folder."""
    sharded(directory)
    (directory / TWO).rename(directory.parent / TWO)
    (directory / INDEX).write_text(
        json.dumps({"weight_map": MAP | {"model.norm.weight": file.format(directory.parent)}})
    )


def single(directory, *args, **kwargs):
    """A directory with one file, made by `raw`."""
    directory.mkdir()
    raw(directory / SINGLE, *args, **kwargs)


def single_with(directory, change):
    """One correct file after a change of its tensors."""
    directory.mkdir()
    save_file(change(dict(VALUES)), directory / SINGLE)


def shards_with(directory, change):
    """Correct shards after a change of the directory."""
    change(sharded(directory))


def twice(first, second):
    """A header with two entries of the same name."""
    return b'{"a":%s,"a":%s}' % (json.dumps(first).encode(), json.dumps(second).encode())


LONG = 10**6
# {kind: (builder, a part of the error message)}
HOSTILE = {
    "nothing": (lambda d: d.mkdir(), f"{SINGLE}: no such file"),
    "no folder": (lambda d: None, f"{SINGLE}: no such file"),
    "pickle only": (
        lambda d: (d.mkdir(), (d / "pytorch_model.bin").write_bytes(b"\x80\x02.")),
        "pytorch_model.bin: .*convert the checkpoint to safetensors",
    ),
    "a folder": (lambda d: (d / SINGLE).mkdir(parents=True), f"{SINGLE}: is a directory"),
    "a pipe": (lambda d: (d.mkdir(), os.mkfifo(d / SINGLE)), f"{SINGLE}: is no regular file"),
    "a broken link": (
        lambda d: (d.mkdir(), (d / SINGLE).symlink_to("gone")),
        f"{SINGLE}: no such file",
    ),
    "empty file": (lambda d: (d.mkdir(), (d / SINGLE).write_bytes(b"")), f"{SINGLE}: not a whole"),
    "seven bytes": (
        lambda d: (d.mkdir(), (d / SINGLE).write_bytes(b"\0" * 7)),
        f"{SINGLE}: not a whole",
    ),
    "header of 2^63 bytes": (lambda d: single(d, {}, size=2**63), f"{SINGLE}: not a whole"),
    "header of 2^64-1 bytes": (lambda d: single(d, {}, size=2**64 - 1), f"{SINGLE}: not a whole"),
    "header of 99 MB in 200 bytes": (
        lambda d: single(d, {"a": entry(0, 8)}, b"\0" * 8, 99_000_000),
        f"{SINGLE}: not a whole",
    ),
    "header garbage": (lambda d: single(d, b"\xff\xfe\x00{}"), f"{SINGLE}: not a whole"),
    "header a list": (lambda d: single(d, b"[]"), f"{SINGLE}: not a whole"),
    "header nested": (
        lambda d: single(d, b'{"a":' * LONG + b"1" + b"}" * LONG),
        f"{SINGLE}: not a whole",
    ),
    "header nested in metadata": (
        lambda d: single(d, b'{"__metadata__":' + b"[" * LONG + b"]" * LONG + b"}"),
        f"{SINGLE}: not a whole",
    ),
    "a number of 5000 digits": (
        lambda d: single(d, b'{"a":' + b"9" * 5000 + b"}"),
        f"{SINGLE}: not a whole",
    ),
    "name twice": (
        lambda d: single(d, twice(entry(0, 8), entry(0, 8)), b"\0" * 8),
        f"{SINGLE}: the key a is given twice",
    ),
    "name twice, other shape": (
        lambda d: single(d, twice(entry(0, 24, (2, 3)), entry(0, 24, (3, 2))), b"\0" * 24),
        "is given twice",
    ),
    "field twice": (
        lambda d: single(
            d, b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
        ),
        SINGLE,
    ),
    "beyond the file": (
        lambda d: single(d, {"a": entry(0, 8)}, b"\0" * 4),
        f"{SINGLE}: not a whole",
    ),
    "data left over": (
        lambda d: single(d, {"a": entry(0, 8)}, b"\0" * 12),
        f"{SINGLE}: not a whole",
    ),
    "overlapping": (
        lambda d: single(d, {"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
        f"{SINGLE}: not a whole",
    ),
    "same bytes for two": (
        lambda d: single(d, {"a": entry(0, 8), "b": entry(0, 8)}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "a hole": (
        lambda d: single(d, {"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20),
        f"{SINGLE}: not a whole",
    ),
    "backwards": (lambda d: single(d, {"a": entry(8, 0)}, b"\0" * 8), f"{SINGLE}: not a whole"),
    "shape is not the bytes": (
        lambda d: single(d, {"a": entry(0, 8, (3,))}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "2^80 numbers": (
        lambda d: single(d, {"a": entry(0, 8, (2**40, 2**40))}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "negative shape": (
        lambda d: single(d, {"a": entry(0, 8, (-2,))}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "unknown dtype": (
        lambda d: single(d, {"a": entry(0, 8, dtype="F31")}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "8-bit floats": (
        lambda d: single(d, {"a": entry(0, 2, dtype="F8_E4M3")}, b"\0" * 2),
        f"{SINGLE}: a is F8_E4M3; expected one of F32",
    ),
    "whole numbers": (
        lambda d: single_with(d, lambda v: v | {"model.norm.weight": torch.arange(4)}),
        "model.norm.weight is I64",
    ),
    "name over lines": (
        lambda d: single(d, {"a\nb\x1b[2J": entry(0, 8)}, b"\0" * 8),
        "unexpected 1: ",
    ),
    "name of a megabyte": (
        lambda d: single(d, {"n" * LONG: entry(0, 8)}, b"\0" * 8),
        "unexpected 1: ",
    ),
    "missing": (
        lambda d: single_with(d, lambda v: {"model.norm.weight": v["model.norm.weight"]}),
        f"{SINGLE}: .*missing 2: lm_head.weight, model.embed_tokens.weight",
    ),
    "extra": (
        lambda d: single_with(d, lambda v: v | {"model.layers.0.x": torch.ones(1)}),
        "unexpected 1: model.layers.0.x",
    ),
    "misshapen": (
        lambda d: single_with(d, lambda v: v | {"model.norm.weight": torch.ones(5)}),
        r"misshapen 1: model.norm.weight is \[5\], expected \[4\]",
    ),
    "two generations of one name": (
        lambda d: single_with(d, lambda v: v | {"model.language_model.norm.weight": torch.ones(4)}),
        "model.language_model.norm.weight",
    ),
    "index garbage": (lambda d: index(d, "{"), f"{INDEX}: not JSON"),
    "index a list": (lambda d: index(d, []), f"{INDEX}: holds list"),
    "index empty": (lambda d: index(d, {}), f"{INDEX}: weight_map is null"),
    "index nested": (lambda d: index(d, "[" * LONG), f"{INDEX}: not JSON"),
    "index key twice": (
        lambda d: index(d, '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'),
        "the key a is given twice",
    ),
    "index of lists": (
        lambda d: index(d, {"weight_map": {"a": [ONE]}}),
        "weight_map names the file",
    ),
    "index map a list": (lambda d: index(d, {"weight_map": ["a"]}), f"{INDEX}: weight_map is"),
    "index map empty": (lambda d: index(d, {"weight_map": {}}), f"{INDEX}: weight_map is"),
    "index a folder": (lambda d: (d / INDEX).mkdir(parents=True), f"{INDEX}: is a directory"),
    "outside, absolute": (
        lambda d: outside(d, "{}/" + TWO),
        "names the file .*expected the plain name",
    ),
    "outside, relative": (
        lambda d: outside(d, "../" + TWO),
        "names the file .*expected the plain name",
    ),
    "outside, backslash": (
        lambda d: outside(d, "..\\" + TWO),
        "names the file .*expected the plain name",
    ),
    "index of pickles": (
        lambda d: index(d, {"weight_map": dict.fromkeys(MAP, "pytorch_model.bin")}),
        "expected the plain name",
    ),
    "name with a zero byte": (
        lambda d: index(d, {"weight_map": dict.fromkeys(MAP, "a\0.safetensors")}),
        "expected the plain name",
    ),
    "shard missing": (
        lambda d: shards_with(d, lambda d: (d / TWO).unlink()),
        f"{TWO}: no such file",
    ),
    "shard truncated": (
        lambda d: shards_with(d, lambda d: (d / TWO).write_bytes((d / TWO).read_bytes()[:-1])),
        f"{TWO}: not a whole",
    ),
    "shard lacks a tensor": (
        lambda d: shards_with(d, lambda d: save_file({}, d / TWO)),
        f"{TWO}: lacks model.norm.weight",
    ),
    "shard holds more": (
        lambda d: sharded(d, {k: v for k, v in MAP.items() if k != "lm_head.weight"}),
        f"{ONE}: holds lm_head.weight",
    ),
    "tensor in two shards, with other values": (
        lambda d: shards_with(
            d,
            lambda d: save_file(
                {n: VALUES[n] + ("lm_head" in n) for n in SHAPES if "embed" not in n}, d / TWO
            ),
        ),
        f"{TWO}: holds lm_head.weight with other values than {ONE}",
    ),
    "tensor in two shards, with another shape": (
        lambda d: shards_with(
            d,
            lambda d: save_file(
                {"lm_head.weight": torch.ones(2), "model.norm.weight": torch.ones(4)}, d / TWO
            ),
        ),
        f"{TWO}: holds lm_head.weight with other values than {ONE}",
    ),
}
