"""Every reader of files that a user gives, as an entry of the fuzz: valid files and who reads them.

An entry's reader raises UserError or RunFailed for a wrong file, and returns for a right one.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from clear_ref import run
from clear_ref.commands.parser import Parser, parser
from clear_ref.common.files import read_json
from clear_ref.common.run_directory import choose
from clear_ref.data.check import check
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import open_image
from clear_ref.data.make_data import split_people
from clear_ref.data.people import read_people
from clear_ref.data.qwen_images import Qwen2VLImages
from clear_ref.data.records import read_rows
from clear_ref.data.schema import SCHEMA
from clear_ref.loop.checkpoint import Checkpoints
from clear_ref.loop.curve import Curve
from clear_ref.loop.history import read_history
from clear_ref.loop.points import read_points
from clear_ref.loop.sharding import rows_of
from clear_ref.loop.trace import Trace
from clear_ref.model import peft_format
from clear_ref.model.directory_problems import directory_problems
from clear_ref.model.families import family
from clear_ref.model.vlm import load_without_weights
from clear_ref.model.weights import load_weights
from clear_ref.oracle.vectors import vector_files
from tests.helpers import fuzz_folders, weight_files


@dataclass(frozen=True)
class Entry:
    """One reader.

    write    writes valid files into a folder
    targets  (file, kind of change) of those that are changed, one in each case
    read     reads the folder
    short    how many cases the short run of CI has
    """

    write: Callable[[Path], object]
    targets: tuple[tuple[str, str], ...]
    read: Callable[[Path], object]
    short: int


def both(*names: str, kind: str = "json") -> tuple[tuple[str, str], ...]:
    """Files that are changed as `kind` and, less often, as bytes."""
    return tuple((name, how) for name in names for how in (kind, kind, kind, "bytes"))


@functools.cache
def _parser() -> Parser:
    return parser()


def command(*arguments: str) -> Callable[[Path], object]:
    """Runs a command in the folder, without `main`, which would turn every error into a line."""

    def read(folder: Path) -> None:
        words = [argument.replace("FOLDER", str(folder)) for argument in arguments]
        run.do(_parser().parse_args([*words, "--quiet"]))

    return read


def read_weights(folder: Path) -> None:
    """Both layouts, whole."""
    for name in ("single", "sharded"):
        load_weights(weight_files.target(), folder / name, "llama")


def read_config(name: str) -> Callable[[Path], object]:
    """The configuration alone: no tensor of its sizes is made."""

    def read(folder: Path) -> None:
        where = folder / "config.json"
        config = read_json(where)
        family(config, where).config(config, where)

    def write(folder: Path) -> None:
        fuzz_folders.write_json(folder / "config.json", fuzz_folders.CONFIGS[name])

    read.write = write  # type: ignore[attr-defined]
    return read


def config_entry(name: str) -> Entry:
    """config.json of one family."""
    read = read_config(name)
    return Entry(read.write, both("config.json"), read, 60)  # type: ignore[attr-defined]


def read_model(name: str) -> Callable[[Path], object]:
    """A model directory: every problem of it, then the model without weights."""

    def read(folder: Path) -> None:
        problems, _ = directory_problems(folder / name, fuzz_folders.TEMPLATE[name])
        for problem in problems:
            check_line(problem)

    return read


def check_line(line: str) -> None:
    """RuntimeError unless a message is one short line; the runner reports it."""
    if not line.isprintable() or len(line) > LONGEST_LINE:
        raise LongLine(f"{len(line)} characters: {line[:200]!r}")


LONGEST_LINE = 1000


class LongLine(Exception):
    """A message that is long or over several lines."""


def read_template(folder: Path) -> None:
    """The template is found by rendering the directory's own one."""
    for problem in directory_problems(folder / "base")[0]:
        check_line(problem)


def read_adapter(folder: Path) -> None:
    """An adapter attached to a model without values."""
    vlm = load_without_weights(folder / "llama", template="inst")
    peft_format.load(vlm.model, "llama", folder / "adapter")


def read_data(folder: Path) -> None:
    """Rows of every config that the directory holds, with their pictures opened."""
    for config in SCHEMA["configs"]:
        if (folder / "data" / config).is_dir():
            for row in read_rows(folder / "data", config):
                if row.image is not None:
                    open_image(row.image, row.where)


def read_all_data(folder: Path) -> None:
    """check-data: every problem of the directory is a line."""
    found = check(folder / "data")
    for line in (*found["problems"], *found["notes"], *found["known"]):
        check_line(line)


def read_pictures(folder: Path) -> None:
    """Every picture, then both ways of making it a model's input."""
    clip = ClipImages.from_directory(folder / "llava", 28, 4)
    qwen = Qwen2VLImages.from_directory(folder / "qwen2_vl")
    for path in sorted(folder.glob("*.*")):
        picture = open_image(path)
        clip(picture)
        qwen(picture)


def write_pictures(folder: Path) -> None:
    """Pictures and the picture settings of two models."""
    fuzz_folders.pictures(folder)
    _write_settings(folder)


def _write_settings(folder: Path) -> None:
    for name, values in (
        ("llava", fuzz_folders.CLIP | fuzz_folders.CLIP_SIZES),
        ("qwen2_vl", fuzz_folders.QWEN2_VL),
    ):
        (folder / name).mkdir()
        fuzz_folders.write_json(folder / name / "preprocessor_config.json", values)


def read_picture_settings(folder: Path) -> None:
    """Both settings on pictures of three shapes."""
    for size in ((40, 30), (30, 300), (1, 7)):
        for make in (
            lambda: ClipImages.from_directory(folder / "llava", 28, 4),
            lambda: Qwen2VLImages.from_directory(folder / "qwen2_vl"),
        ):
            make()(Image.new("RGB", size, (9, 200, 3)))


def read_state(folder: Path) -> None:
    """What a resumed training reads."""
    tensors = {"parameter/a": torch.ones(3, 2), "step/a": torch.tensor(2.0)}
    checkpoints = Checkpoints(folder / "checkpoint", "npo", [2, 4, 6])
    state = checkpoints.newest()
    if state is not None:
        checkpoints.restore(state, rows_of(tensors, {}))
    trace = Trace(folder, "npo")
    trace.keep(2, state and state["trace_bytes"])
    trace.write()
    Curve(folder, "epoch", lambda vlm, step: {})
    read_history(folder)


def read_stopped(folder: Path) -> None:
    """settings.json of a run to resume: what the run was told, and whether it is the same run."""
    arguments = _parser().parse_args(["scrub", "--resume", "--out", str(folder / "stopped")])
    run.take_settings(arguments)
    record = read_json(folder / "same.json")
    choose(str(folder / "stopped"), "x", record, True)


def read_points_file(folder: Path) -> None:
    """Settings of methods in a CSV file."""
    read_points(folder / "points.csv", "paper")


def write_adapter(folder: Path) -> None:
    """A model and its adapter."""
    fuzz_folders.model(folder, "llama")
    fuzz_folders.adapter(folder)


def model_entry(name: str, short: int, *pictures: str) -> Entry:
    """A model directory of one family: every file but the weights' values."""
    files = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    targets = both(*(f"{name}/{file}" for file in (*files, *pictures)))
    targets += ((f"{name}/model.safetensors", "header"),)
    return Entry(lambda folder: fuzz_folders.model(folder, name), targets, read_model(name), short)


RUN = ("run/settings.json", "run/metrics.json", "evaluated/settings.json", "evaluated/metrics.json")
LOGS = ("run/logs/eval_log_forget.json", "run/logs/base/eval_log.json")
PREPROCESSOR = "preprocessor_config.json"
ENTRIES: dict[str, Entry] = {
    "weights": Entry(
        fuzz_folders.weights,
        (
            ("single/" + weight_files.SINGLE, "header"),
            ("sharded/" + weight_files.ONE, "header"),
            *both("sharded/" + weight_files.INDEX),
        ),
        read_weights,
        300,
    ),
    **{f"config {name}": config_entry(name) for name in fuzz_folders.CONFIGS},
    "model llava": model_entry("llava", 80, PREPROCESSOR, "processor_config.json"),
    "model qwen2_vl": model_entry("qwen2_vl", 60, PREPROCESSOR),
    "model qwen2": model_entry("qwen2", 60),
    "template": Entry(
        fuzz_folders.text_files,
        (
            ("base/chat_template.jinja", "text"),
            ("base/chat_template.jinja", "text"),
            *both("base/tokenizer_config.json"),
        ),
        read_template,
        20,
    ),
    "adapter": Entry(
        write_adapter,
        (*both("adapter/adapter_config.json"), ("adapter/adapter_model.safetensors", "header")),
        read_adapter,
        150,
    ),
    "rows": Entry(
        fuzz_folders.data,
        (
            *both("data/forget10/rows.jsonl", "data/real_faces/rows.jsonl", kind="lines"),
            *both("data/forget10_perturbed/rows.jsonl", kind="lines"),
            ("data/forget10+tofu/rows.jsonl", "lines"),
        ),
        read_data,
        200,
    ),
    "check-data": Entry(
        fuzz_folders.data,
        (
            *both("data/forget10/rows.jsonl", "data/real_faces/rows.jsonl", kind="lines"),
            *both("data/forget10_perturbed/rows.jsonl", kind="lines"),
            ("data/refusals.txt", "text"),
            ("data/images/0.png", "bytes"),
        ),
        read_all_data,
        100,
    ),
    "people.csv": Entry(
        fuzz_folders.people,
        (("people.csv", "text"),),
        lambda folder: split_people(read_people(folder / "people.csv"), "", 0.4, "", 0),
        60,
    ),
    "people.jsonl": Entry(
        fuzz_folders.people,
        both("people.jsonl", kind="lines"),
        lambda folder: split_people(read_people(folder / "people.jsonl"), "", 0.4, "", 0),
        60,
    ),
    "pictures": Entry(
        write_pictures,
        tuple(
            (name, "bytes")
            for name in (
                "a.png",
                "a.jpg",
                "a.gif",
                "a.bmp",
                "a.webp",
                "a.tiff",
                "p.png",
                "rgba.png",
            )
        ),
        read_pictures,
        200,
    ),
    "picture settings": Entry(
        _write_settings,
        both(f"llava/{PREPROCESSOR}", f"qwen2_vl/{PREPROCESSOR}"),
        read_picture_settings,
        200,
    ),
    **{
        f"log {name}": Entry(
            fuzz_folders.logs,
            both(name) if name.endswith("json") else ((name, "gzip"),),
            command("score", f"FOLDER/{name}", "--metrics", "all"),
            40,
        )
        for name in ("released.json", "tofu.json", "tofu.json.gz", "open.json")
    },
    "logs": Entry(
        fuzz_folders.logs,
        both("logs/eval_log_forget.json", "gold/eval_log_forget.json"),
        command("score", "FOLDER/logs", "--gold", "FOLDER/gold", "--metrics", "all"),
        40,
    ),
    "report": Entry(
        fuzz_folders.runs,
        (
            *both(*RUN, *LOGS),
            *both("run/trace.jsonl", "run/curve.jsonl", kind="lines"),
        ),
        command("report", "FOLDER/run", "FOLDER/evaluated", "--out", "FOLDER/page.html"),
        20,
    ),
    "dump": Entry(
        fuzz_folders.dump,
        (("dump.safetensors", "header"),),
        command("diff", "FOLDER/dump.safetensors"),
        60,
    ),
    "vectors": Entry(
        fuzz_folders.vectors,
        both("golden/inputs.json", "golden/manifest.json", "golden/rmu.json", "golden/dpo.json"),
        lambda folder: vector_files.read(folder / "golden"),
        60,
    ),
    "state": Entry(
        fuzz_folders.state,
        (
            *both("checkpoint/state-npo-000002.json"),
            ("checkpoint/state-npo-000002.safetensors", "header"),
            *both("trace.jsonl", "curve.jsonl", kind="lines"),
            *both("training_history.json"),
        ),
        read_state,
        200,
    ),
    "stopped run": Entry(
        fuzz_folders.stopped_run, both("stopped/settings.json"), read_stopped, 200
    ),
    "points": Entry(fuzz_folders.points, (("points.csv", "text"),), read_points_file, 200),
}
