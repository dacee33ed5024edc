"""Weights on disk: every layout and name that checkpoints have loads exactly; a directory that is wrong gets one line.

Hostile files are built byte by byte here (size, header, data), never by the code under test.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from clear_ref import load
from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json
from clear_ref.model import names
from clear_ref.model.random_weights import random_weight, write_random
from clear_ref.model.weights import load_weights, read_tensors, write_tensors, write_weights

SHAPES = {"lm_head.weight": (6, 4), "model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,)}
VALUES = {
    name: torch.arange(float(torch.Size(shape).numel())).reshape(shape) - number
    for number, (name, shape) in enumerate(SHAPES.items())
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"lm_head.weight": ONE, "model.embed_tokens.weight": ONE, "model.norm.weight": TWO}


def target(dtype=torch.float32, without=()):
    return {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape in SHAPES.items()
        if name not in without
    }


def sharded(directory, placed=MAP, values=VALUES):
    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted(set(MAP.values())):
        save_file(
            {name: values[name] for name in MAP if MAP[name] == file and name in values},
            directory / file,
        )
    (directory / INDEX).write_text(
        json.dumps({"metadata": {"total_size": 208}, "weight_map": placed})
    )
    return directory


def raw(path, header, data=b"", size=None):
    """A safetensors file with any header, any data and any claim about the header's size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def entry(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


# ---------------------------------------------------------------------------------------------------------- what loads


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_file_and_shards_hold_the_same_model(tmp_path, stored, wanted):
    """Small whole numbers are exact in every dtype."""
    values = {name: tensor.to(stored) for name, tensor in VALUES.items()}
    (tmp_path / "one").mkdir()
    save_file(values, tmp_path / "one" / SINGLE)
    sharded(tmp_path / "many", values=values)
    for directory in ("one", "many"):
        found = target(wanted)
        load_weights(found, tmp_path / directory, "llama")
        assert all(torch.equal(found[name], VALUES[name].to(wanted)) for name in SHAPES)


def test_a_snapshot_of_the_hub_cache_loads_although_its_files_are_links(tmp_path):
    blobs, snapshot = sharded(tmp_path / "blobs"), tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for number, file in enumerate((ONE, TWO, INDEX)):
        (blobs / file).rename(blobs / f"{number:064x}")
        (snapshot / file).symlink_to(Path("..") / ".." / "blobs" / f"{number:064x}")
    found = target()
    load_weights(found, snapshot, "llama")
    assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)


TIED = {"lm_head.weight": "model.embed_tokens.weight"}


def test_a_tied_head_may_be_absent_or_an_equal_copy_but_not_different(tmp_path):
    embedding = VALUES["model.embed_tokens.weight"]
    for kind, head in {
        "absent": {},
        "equal": {"lm_head.weight": embedding.clone()},
        "wider": {"lm_head.weight": embedding.double()},
        "different": {"lm_head.weight": embedding + 1},
    }.items():
        (tmp_path / kind).mkdir()
        save_file(
            {name: VALUES[name] for name in SHAPES if name != "lm_head.weight"} | head,
            tmp_path / kind / SINGLE,
        )
    for kind in ("absent", "equal", "wider"):
        found = target(without=TIED)
        load_weights(found, tmp_path / kind, "llama", TIED)
        assert torch.equal(found["model.embed_tokens.weight"], embedding)
    found = target(without=TIED)
    with pytest.raises(
        UserError,
        match="lm_head.weight differs from model.embed_tokens.weight.*tie_word_embeddings",
    ):
        load_weights(found, tmp_path / "different", "llama", TIED)
    assert not any(tensor.any() for tensor in found.values())
    with pytest.raises(UserError, match="missing 1: lm_head.weight"):
        load_weights(target(), tmp_path / "absent", "llama")


def test_buffers_that_old_saves_hold_are_passed_over_and_nothing_else_is(tmp_path):
    """Llama before 4.32 stored inv_freq in every layer, CLIP before 4.31 its position ids (int64)."""
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(3)[None],
    }
    save_file(VALUES | extra, tmp_path / SINGLE)
    found = target()
    load_weights(found, tmp_path, "llama")
    assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)
    save_file(
        VALUES | {"model.layers.0.self_attn.rotary_emb.freq": torch.ones(2)}, tmp_path / SINGLE
    )
    with pytest.raises(UserError, match="unexpected 1: model.layers.0.self_attn.rotary_emb.freq"):
        load_weights(target(), tmp_path, "llama")


# family, ours, then the name in transformers 4.45, 4.52, 5 (modules), 5 (files)
KNOWN = [
    (
        "llava",
        "language_model.model.layers.3.mlp.up_proj",
        "language_model.model.layers.3.mlp.up_proj",
        "model.language_model.layers.3.mlp.up_proj",
        "model.language_model.layers.3.mlp.up_proj",
        "language_model.model.layers.3.mlp.up_proj",
    ),
    (
        "llava",
        "language_model.lm_head",
        "language_model.lm_head",
        "lm_head",
        "lm_head",
        "language_model.lm_head",
    ),
    (
        "llava",
        "vision_tower.vision_model.pre_layrnorm.bias",
        "vision_tower.vision_model.pre_layrnorm.bias",
        "model.vision_tower.vision_model.pre_layrnorm.bias",
        "model.vision_tower.pre_layrnorm.bias",
        "vision_tower.pre_layrnorm.bias",
    ),
    (
        "llava",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_1.weight",
    ),
    (
        "qwen2_vl",
        "visual.merger.mlp.2.bias",
        "visual.merger.mlp.2.bias",
        "model.visual.merger.mlp.2.bias",
        "model.visual.merger.mlp.2.bias",
        "visual.merger.mlp.2.bias",
    ),
    (
        "qwen2_vl",
        "model.norm.weight",
        "model.norm.weight",
        "model.language_model.norm.weight",
        "model.language_model.norm.weight",
        "model.norm.weight",
    ),
    ("qwen2_vl", "lm_head.weight", *["lm_head.weight"] * 4),
    *(
        (family, name, *[name] * 4)
        for family in ("llama", "mistral", "qwen2")
        for name in ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight")
    ),
]


@pytest.mark.parametrize("family, ours, stored", [(row[0], row[1], row[2:]) for row in KNOWN])
def test_every_generation_of_names_is_read_and_written(family, ours, stored):
    assert [names.our_name(name, family) for name in stored] == [ours] * 4
    assert [names.name_in_generation(ours, family, generation) for generation in names.GENERATIONS] == list(
        stored
    )


def hub_name(family, name):
    """Our name of a parameter of transformers 5, worked out by hand."""
    if family == "llava":
        for today, hub in (
            ("lm_head", "language_model.lm_head"),
            ("model.language_model", "language_model.model"),
            ("model.vision_tower", "vision_tower.vision_model"),
            ("model.multi_modal_projector", "multi_modal_projector"),
        ):
            if name.startswith(today):
                return hub + name.removeprefix(today)
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def theirs(family, tied=False):
    """A tiny random model of transformers, its linear biases and norms not left at 0 and 1."""
    T = pytest.importorskip("transformers", reason="the parity extra is not installed")
    text = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": tied,
    }
    if family == "llava":
        vision = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        config = T.LlavaConfig(
            text_config=T.LlamaConfig(**text),
            vision_config=T.CLIPVisionConfig(**vision),
            image_token_index=5,
            tie_word_embeddings=tied,
        )
        model = T.LlavaForConditionalGeneration(config)
    elif family == "qwen2_vl":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        config = T.Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope},
            tie_word_embeddings=tied,
            vision_config={
                "embed_dim": 16,
                "depth": 2,
                "num_heads": 2,
                "hidden_size": 16,
                "patch_size": 14,
            },
        )
        model = T.Qwen2VLForConditionalGeneration(config)
    else:
        kind = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[family]
        model = getattr(T, kind + "ForCausalLM")(getattr(T, kind + "Config")(**text))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(number))
    return model


@pytest.mark.parametrize(
    "family, tied",
    [
        ("llava", False),
        ("qwen2_vl", False),
        ("qwen2_vl", True),
        ("llama", False),
        ("llama", True),
        ("mistral", False),
        ("qwen2", False),
        ("qwen2", True),
    ],
)
@pytest.mark.parametrize("layout", ["one file", "shards", "modules' own names"])
def test_what_transformers_writes_loads_exactly_and_the_other_way_round(
    tmp_path, family, tied, layout
):
    model = theirs(family, tied)
    model.save_pretrained(
        tmp_path / "theirs", max_shard_size="8KB" if layout == "shards" else "5GB"
    )
    assert (tmp_path / "theirs" / INDEX).exists() == (layout == "shards")
    if layout == "modules' own names":
        save_file(
            {name: tensor.contiguous() for name, tensor in model.named_parameters()},
            tmp_path / "theirs" / SINGLE,
        )
    expected = {
        hub_name(family, name): tensor.detach() for name, tensor in model.named_parameters()
    }
    found = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    assert ("lm_head.weight" in found) == (not tied and family != "llava")
    load_weights(found, tmp_path / "theirs", family, TIED if tied else None)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    files = write_weights(
        tmp_path / "theirs",
        {name: tensor.shape for name, tensor in found.items()},
        torch.float32,
        found.__getitem__,
        8_000 if layout == "shards" else 5_000_000_000,
    )
    assert (len(files) > 2) == (layout == "shards")
    again, info = type(model).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(
        torch.equal(tensor, expected[hub_name(family, name)])
        for name, tensor in again.named_parameters()
    )


# ------------------------------------------------------------------------------------------------------- what is refused


def index(directory, content):
    sharded(directory)
    (directory / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))


def outside(directory, file):
    """An index whose file is there, whole and right, but not in the folder."""
    sharded(directory)
    (directory / TWO).rename(directory.parent / TWO)
    (directory / INDEX).write_text(
        json.dumps({"weight_map": MAP | {"model.norm.weight": file.format(directory.parent)}})
    )


def one(directory, *args, **kwargs):
    directory.mkdir()
    raw(directory / SINGLE, *args, **kwargs)


def good_but(directory, change):
    directory.mkdir()
    save_file(change(dict(VALUES)), directory / SINGLE)


def shard_but(directory, change):
    change(sharded(directory))


def twice(first, second):
    return b'{"a":%s,"a":%s}' % (json.dumps(first).encode(), json.dumps(second).encode())


LONG = 10**6
# kind: (builder, what the line says)
HOSTILE = {
    "nothing": (lambda d: d.mkdir(), f"{SINGLE}: no such file"),
    "no folder": (lambda d: None, f"{SINGLE}: no such file"),
    "pickle only": (
        lambda d: (d.mkdir(), (d / "pytorch_model.bin").write_bytes(b"\x80\x02.")),
        "pytorch_model.bin: .*convert the checkpoint to safetensors",
    ),
    "both layouts": (
        lambda d: (sharded(d), save_file(VALUES, d / SINGLE)),
        "expected one of the two",
    ),
    "a folder": (lambda d: (d / SINGLE).mkdir(parents=True), f"{SINGLE}: no such file"),
    "a pipe": (lambda d: (d.mkdir(), os.mkfifo(d / SINGLE)), f"{SINGLE}: no such file"),
    "a broken link": (
        lambda d: (d.mkdir(), (d / SINGLE).symlink_to("gone")),
        f"{SINGLE}: no such file",
    ),
    "empty file": (lambda d: (d.mkdir(), (d / SINGLE).write_bytes(b"")), f"{SINGLE}: not a whole"),
    "seven bytes": (
        lambda d: (d.mkdir(), (d / SINGLE).write_bytes(b"\0" * 7)),
        f"{SINGLE}: not a whole",
    ),
    "header of 2^63 bytes": (lambda d: one(d, {}, size=2**63), f"{SINGLE}: not a whole"),
    "header of 2^64-1 bytes": (lambda d: one(d, {}, size=2**64 - 1), f"{SINGLE}: not a whole"),
    "header of 99 MB in 200 bytes": (
        lambda d: one(d, {"a": entry(0, 8)}, b"\0" * 8, 99_000_000),
        f"{SINGLE}: not a whole",
    ),
    "header garbage": (lambda d: one(d, b"\xff\xfe\x00{}"), f"{SINGLE}: not a whole"),
    "header a list": (lambda d: one(d, b"[]"), f"{SINGLE}: not a whole"),
    "header nested": (
        lambda d: one(d, b'{"a":' * LONG + b"1" + b"}" * LONG),
        f"{SINGLE}: not a whole",
    ),
    "header nested in metadata": (
        lambda d: one(d, b'{"__metadata__":' + b"[" * LONG + b"]" * LONG + b"}"),
        f"{SINGLE}: not a whole",
    ),
    "a number of 5000 digits": (
        lambda d: one(d, b'{"a":' + b"9" * 5000 + b"}"),
        f"{SINGLE}: not a whole",
    ),
    "name twice": (
        lambda d: one(d, twice(entry(0, 8), entry(0, 8)), b"\0" * 8),
        f"{SINGLE}: the key a is given twice",
    ),
    "name twice, other shape": (
        lambda d: one(d, twice(entry(0, 24, (2, 3)), entry(0, 24, (3, 2))), b"\0" * 24),
        "is given twice",
    ),
    "field twice": (
        lambda d: one(
            d, b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
        ),
        SINGLE,
    ),
    "beyond the file": (lambda d: one(d, {"a": entry(0, 8)}, b"\0" * 4), f"{SINGLE}: not a whole"),
    "data left over": (lambda d: one(d, {"a": entry(0, 8)}, b"\0" * 12), f"{SINGLE}: not a whole"),
    "overlapping": (
        lambda d: one(d, {"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
        f"{SINGLE}: not a whole",
    ),
    "same bytes for two": (
        lambda d: one(d, {"a": entry(0, 8), "b": entry(0, 8)}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "a hole": (
        lambda d: one(d, {"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20),
        f"{SINGLE}: not a whole",
    ),
    "backwards": (lambda d: one(d, {"a": entry(8, 0)}, b"\0" * 8), f"{SINGLE}: not a whole"),
    "shape is not the bytes": (
        lambda d: one(d, {"a": entry(0, 8, (3,))}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "2^80 numbers": (
        lambda d: one(d, {"a": entry(0, 8, (2**40, 2**40))}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "negative shape": (
        lambda d: one(d, {"a": entry(0, 8, (-2,))}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "unknown dtype": (
        lambda d: one(d, {"a": entry(0, 8, dtype="F31")}, b"\0" * 8),
        f"{SINGLE}: not a whole",
    ),
    "8-bit floats": (
        lambda d: one(d, {"a": entry(0, 2, dtype="F8_E4M3")}, b"\0" * 2),
        f"{SINGLE}: a is F8_E4M3; expected one of F32",
    ),
    "whole numbers": (
        lambda d: good_but(d, lambda v: v | {"model.norm.weight": torch.arange(4)}),
        "model.norm.weight is I64",
    ),
    "name over lines": (
        lambda d: one(d, {"a\nb\x1b[2J": entry(0, 8)}, b"\0" * 8),
        "unexpected 1: ",
    ),
    "name of a megabyte": (
        lambda d: one(d, {"n" * LONG: entry(0, 8)}, b"\0" * 8),
        "unexpected 1: ",
    ),
    "missing": (
        lambda d: good_but(d, lambda v: {"model.norm.weight": v["model.norm.weight"]}),
        f"{SINGLE}: .*missing 2: lm_head.weight, model.embed_tokens.weight",
    ),
    "extra": (
        lambda d: good_but(d, lambda v: v | {"model.layers.0.x": torch.ones(1)}),
        "unexpected 1: model.layers.0.x",
    ),
    "misshapen": (
        lambda d: good_but(d, lambda v: v | {"model.norm.weight": torch.ones(5)}),
        r"misshapen 1: model.norm.weight is \[5\], expected \[4\]",
    ),
    "two generations of one name": (
        lambda d: good_but(d, lambda v: v | {"model.language_model.norm.weight": torch.ones(4)}),
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
    "index a folder": (lambda d: (d / INDEX).mkdir(parents=True), f"{INDEX}: no such file"),
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
    "shard missing": (lambda d: shard_but(d, lambda d: (d / TWO).unlink()), f"{TWO}: no such file"),
    "shard truncated": (
        lambda d: shard_but(d, lambda d: (d / TWO).write_bytes((d / TWO).read_bytes()[:-1])),
        f"{TWO}: not a whole",
    ),
    "shard lacks a tensor": (
        lambda d: shard_but(d, lambda d: save_file({}, d / TWO)),
        f"{TWO}: lacks model.norm.weight",
    ),
    "shard holds more": (
        lambda d: sharded(d, {k: v for k, v in MAP.items() if k != "lm_head.weight"}),
        f"{ONE}: holds lm_head.weight",
    ),
    "tensor in two shards": (
        lambda d: shard_but(
            d, lambda d: save_file({n: VALUES[n] for n in SHAPES if "embed" not in n}, d / TWO)
        ),
        f"{TWO}: holds lm_head.weight",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_wrong_directory_gets_one_line_and_fills_nothing(tmp_path, kind):
    build, expected = HOSTILE[kind]
    build(tmp_path / "model")
    found = target()
    family = "qwen2_vl" if "generations" in kind else "llama"
    with pytest.raises(UserError, match=expected) as caught:
        load_weights(found, tmp_path / "model", family)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 800 and str(tmp_path / "model") in line
    assert not any(tensor.any() for tensor in found.values())


CHILD = """
import contextlib, re, resource, sys, torch
from pathlib import Path
from clear_ref.common.errors import UserError
from clear_ref.model.weights import load_weights
status = lambda key: int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
"""


def child(code, *args, timeout=120):
    done = subprocess.run(
        [sys.executable, "-c", CHILD + code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="address space is read from /proc"
)
def test_a_wrong_directory_costs_no_more_memory_than_its_size_justifies(tmp_path):
    """All of them once more in a process that may map 96 MB beyond what it has: the largest file here has 6 MB, a JSON text in
    memory is a few times its bytes, and the header that claims 99 MB would not fit. None hangs: a minute is plenty."""
    kinds = list(HOSTILE)
    for number, kind in enumerate(kinds):
        (tmp_path / f"{number:03d}").mkdir()
        HOSTILE[kind][0](tmp_path / f"{number:03d}" / "model")
    outcome = child(
        """
import json
shapes = json.loads(sys.argv[2])
load = lambda d: load_weights({n: torch.zeros(s) for n, s in shapes.items()}, d, "llama")
def attempt(directory):
    try:
        load(directory)
        return "loaded"
    except UserError as error:
        return "refused"
    except BaseException as error:
        return type(error).__name__
attempt(Path(sys.argv[1]) / "000" / "model")
most = status("VmSize") + 96 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(json.dumps([attempt(d / "model") for d in sorted(Path(sys.argv[1]).iterdir())]))
""",
        tmp_path,
        json.dumps(SHAPES),
        timeout=60,
    )
    assert dict(zip(kinds, outcome)) == dict.fromkeys(kinds, "refused")


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="resident memory is read from /proc"
)
@pytest.mark.parametrize("megabytes, dtype", [(600, "bfloat16"), (200, "float32")])
def test_loading_takes_at_most_1_15_of_the_weights(tmp_path, megabytes, dtype):
    """Peak resident memory (VmHWM: our own pages and mapped file pages alike) over what the process had before; bfloat16 on disk,
    20 MB a tensor, three shards or more. The parameters are made on the meta device and materialised within the measured time."""
    shapes = {f"model.{n:03d}.weight": (1024, 10240) for n in range(megabytes // 20)}
    files = write_random(tmp_path, shapes, torch.bfloat16, 0, megabytes * 2**20 // 3)
    assert len(files) >= 3
    peak, weights, ok = child(
        """
import json
directory, dtype = sys.argv[1], getattr(torch, sys.argv[3])
shapes = json.loads(sys.argv[2])
def model(shapes):
    with torch.device("meta"):
        target = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    return {name: torch.empty_like(tensor, device="cpu") for name, tensor in target.items()}
first = model(dict(list(shapes.items())[:1]))  # what the first use of anything imports is no part of loading
try:
    load_weights(first, directory, "llama")
except UserError:
    first[min(shapes)].fill_(1)
del first
before = status("VmRSS")
with contextlib.suppress(OSError):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, where the kernel lets it
target = model(shapes)
load_weights(target, directory, "llama")
peak = status("VmHWM")
spread = [float(t.float().std()) * 10240 ** 0.5 for t in target.values()]
print(json.dumps([peak - before, sum(t.nbytes for t in target.values()), all(0.99 < s < 1.01 for s in spread)]))
""",
        tmp_path,
        json.dumps(shapes),
        dtype,
    )
    print(f"peak {peak / 1e6:.0f} MB over {weights / 1e6:.0f} MB of weights: {peak / weights:.3f}")
    assert ok and weights > megabytes * 1e6 and peak < 1.15 * weights


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_single_file_has_the_bytes_that_the_library_writes(tmp_path, dtype):
    values = {name: tensor.to(dtype) for name, tensor in VALUES.items()} | {
        "model.scale": torch.tensor(2.0, dtype=dtype)
    }
    assert write_weights(
        tmp_path, {name: t.shape for name, t in values.items()}, dtype, values.__getitem__
    ) == [SINGLE]
    assert (tmp_path / SINGLE).read_bytes() == save(values, metadata={"format": "pt"})
    write_tensors(tmp_path / "other.safetensors", values)
    assert (tmp_path / "other.safetensors").read_bytes() == (tmp_path / SINGLE).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [SINGLE, "other.safetensors"]


def test_shards_begin_where_the_next_tensor_would_pass_the_limit(tmp_path):
    """96, 96 and 16 bytes with a limit of 112: one shard of the first, one of the other two. A tensor above it has its own."""
    shapes = {name: tensor.shape for name, tensor in VALUES.items()}
    assert write_weights(tmp_path, shapes, torch.float32, VALUES.__getitem__, 112) == [ONE, TWO]
    assert (
        list(load_file(tmp_path / ONE)) == ["lm_head.weight"]
        and len(load_file(tmp_path / TWO)) == 2
    )
    assert read_json(tmp_path / INDEX) == {
        "metadata": {"total_size": 208},
        "weight_map": {
            "lm_head.weight": ONE,
            "model.embed_tokens.weight": TWO,
            "model.norm.weight": TWO,
        },
    }
    assert len(write_weights(tmp_path, shapes, torch.float32, VALUES.__getitem__, 1)) == 3


def test_one_tensor_at_a_time_is_alive_while_shards_are_written(tmp_path):
    import weakref

    alive, most = weakref.WeakSet(), 0

    def make(name):
        nonlocal most
        most = max(most, len(alive))
        tensor = torch.zeros(4, 2)
        alive.add(tensor.untyped_storage())
        return tensor

    write_weights(tmp_path, {f"t{n}": (4, 2) for n in range(9)}, torch.float32, make, 100)
    assert most <= 1


def test_a_save_that_fails_leaves_the_earlier_weights_and_no_rest(tmp_path):
    sharded(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def make(name):
        if name == "model.norm.weight":
            raise RuntimeError("disk full")
        return VALUES[name]

    for limit in (100, 5_000_000_000):
        with pytest.raises(RuntimeError, match="disk full"):
            write_weights(tmp_path, SHAPES, torch.float32, make, limit)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("limit", [112, 5_000_000_000])
@pytest.mark.parametrize("renamed", range(4))
def test_a_save_cut_at_any_rename_never_leaves_a_mixture_that_loads(
    tmp_path, monkeypatch, renamed, limit
):
    """Old and new shards have the same names here. What is left is the old model, the new one, or a directory that is refused."""
    write_weights(tmp_path, SHAPES, torch.float32, VALUES.__getitem__, 112)
    calls, replace = [], os.replace

    def cut(*args):
        calls.append(args)
        if len(calls) > renamed:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, "replace", cut)
    try:
        write_weights(tmp_path, SHAPES, torch.float32, lambda name: VALUES[name] + 100, limit)
        assert len(calls) <= renamed
    except KeyboardInterrupt:
        pass
    found = target()
    try:
        load_weights(found, tmp_path, "llama")
    except UserError:
        assert calls
        return
    shifts = {float((found[name] - VALUES[name]).unique()) for name in SHAPES}
    assert shifts in ({0.0}, {100.0})
    assert shifts == {100.0} or len(calls) > renamed


def test_a_save_over_another_layout_replaces_it(tmp_path):
    sharded(tmp_path)
    for limit, files in ((5_000_000_000, 1), (1, 4), (112, 3), (5_000_000_000, 1)):
        write_weights(tmp_path, SHAPES, torch.float32, VALUES.__getitem__, limit)
        assert len(list(tmp_path.iterdir())) == files
        found = target()
        load_weights(found, tmp_path, "llama")
        assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)


def test_a_model_saved_from_shards_leaves_no_index_behind(tiny_directory, tmp_path):
    import shutil

    shutil.copytree(tiny_directory, tmp_path / "shards")
    one = load(tiny_directory)
    files = write_weights(
        tmp_path / "shards",
        {n: t.shape for n, t in one.weights().items()},
        torch.float32,
        one.weights().__getitem__,
        100_000,
    )
    assert len(files) > 1
    many = load(tmp_path / "shards")
    assert all(torch.equal(tensor, many.weights()[name]) for name, tensor in one.weights().items())
    many.save(tmp_path / "again")
    assert (tmp_path / "again" / SINGLE).read_bytes() == (tiny_directory / SINGLE).read_bytes()
    assert not (tmp_path / "again" / INDEX).exists()


# -------------------------------------------------------------------------------------------------------- random weights


def test_random_weights_depend_on_their_name_and_seed_not_on_shards(tmp_path):
    shapes = {
        "model.a.weight": (64, 256),
        "model.b.weight": (64, 256),
        "model.norm.weight": (64,),
        "model.a.bias": (64,),
        "vision_tower.class_embedding": (4096,),
        "patch.weight": (64, 4, 8, 8),
    }
    write_random(tmp_path / "one", shapes, torch.float32, seed=3)
    files = write_random(tmp_path / "many", shapes, torch.float32, seed=3, shard_bytes=70_000)
    one, many = read_tensors(tmp_path / "one" / SINGLE), {}
    for file in files:
        many |= read_tensors(tmp_path / "many" / file)
    assert len(files) > 2 and all(torch.equal(one[name], many[name]) for name in shapes)
    assert torch.equal(one["model.norm.weight"], torch.ones(64)) and torch.equal(
        one["model.a.bias"], torch.zeros(64)
    )
    assert not torch.equal(one["model.a.weight"], one["model.b.weight"])
    assert not torch.equal(
        one["model.a.weight"], random_weight("model.a.weight", (64, 256), torch.float32, 4)
    )
    for name, spread in (
        ("model.a.weight", 1 / 16),
        ("patch.weight", 1 / 16),
        ("vision_tower.class_embedding", 1 / 64),
    ):
        # Of n normal numbers the sample's spread is off by 1/sqrt(2n) of itself, under 1.2% here: 5% is four of those.
        assert float(one[name].std()) == pytest.approx(spread, rel=0.05)
