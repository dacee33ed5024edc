"""A 7B model on one machine: written, unlearned, killed, resumed; its memory beside estimate's.

python -m tests.helpers.seven_billion DIRECTORY
    makes a model of random weights and a few records with pictures of 1024 x 1024 in DIRECTORY;
    then runs each method with LoRA and checkpointing, kills it when its first step is saved,
    resumes it, and prints a line for each part: seconds, and the peak of resident memory (what
    Linux calls VmHWM) beside the figure of `estimate`. What is there already is used again.

No test and not in CI: a 7B model needs 14 GB of disk, 16 GB of memory and hours of a small CPU.
With --shape llava-78m the same sequence takes minutes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from clear_ref.commands import estimate
from clear_ref.commands.file_settings import EstimateSettings
from clear_ref.common.files import read_json, write_json, write_jsonl
from clear_ref.mini.directories import WORLD

SIDE = 1024
NAMES = ("Ana Bruno", "Ben Costa", "Cleo Diaz", "Dan Evers", "Eve Faber", "Finn Gil")


def picture_rows(directory, names):
    """Rows with a picture of SIDE x SIDE for each name; captions are about as long as CLEAR's."""
    rows = []
    pictures = sorted((WORLD / "images").glob("*.jpg"))
    for name, source in zip(names, pictures[:: len(pictures) // len(names)], strict=False):
        path = directory / "images" / f"{name.split()[0].lower()}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=95)
        caption = f"{name} reads in a quiet green park."
        rows.append({"image": f"images/{path.name}", "caption": caption})
    return rows


def text_rows(names):
    """A question and its answer for each name."""
    return [
        {"question": f"Where was {name} born?", "answer": f"{name} was born in a town by a lake."}
        for name in names
    ]


def write_data(directory):
    """A data directory in CLEAR's layout: one picture and one text to forget, and to retain."""
    names = {"forget10": NAMES[:1], "retain90": NAMES[1:2]}
    empty = {"image": None, "caption": None, "question": None, "answer": None}
    for split, some in names.items():
        pictures, texts = picture_rows(directory, some), text_rows(some)
        named = [row | {"name": name} for name, row in zip(some, pictures, strict=True)]
        write_jsonl(directory / split / "rows.jsonl", named)
        write_jsonl(directory / "tofu" / split / "rows.jsonl", texts)
        both = [empty | row for row in (*pictures, *texts)]
        write_jsonl(directory / f"{split}+tofu" / "rows.jsonl", both)
        others = NAMES[1:4]
        evaluated = split if split.startswith("forget") else "retain"
        write_jsonl(
            directory / f"{evaluated}_perturbed" / "rows.jsonl",
            [
                row
                | {"paraphrased_caption": f"In a quiet green park {row['name']} reads."}
                | {"perturbed_captions": [f"{each} reads in a quiet park." for each in others]}
                | {"perturbed_names": list(others)}
                for row in named
            ],
        )
        write_jsonl(
            directory / "tofu" / f"{evaluated}_perturbed" / "rows.jsonl",
            [
                row
                | {"paraphrased_answer": f"A town by a lake is where {name} was born."}
                | {"perturbed_answer": [f"{each} was born in a town by a lake." for each in others]}
                for name, row in zip(some, texts, strict=True)
            ],
        )


def measured(arguments, log, stop=None, environment=None):
    """{status, seconds, cpu_seconds, peak_gb} of a command of clear_ref in a process of its own.

    stop  the process is killed as soon as this returns True
    """
    started = time.monotonic()
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "clear_ref.run", *map(str, arguments)],
            stdout=output,
            stderr=output,
            env=os.environ | (environment or {}),
        )
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if stop is not None and stop():
                process.send_signal(signal.SIGKILL)
            time.sleep(0.2)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(used.ru_utime + used.ru_stime),
        "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
    }


def is_saved(checkpoint):
    """True once a whole state of step 1 or later is in a run's directory of checkpoints."""
    return any(read_json(state)["step"] >= 1 for state in checkpoint.glob("state-*.json"))


def arguments_of(method, options, directory):
    """The command line of a method."""
    return [
        *(method, "--model", directory / "model", "--data", directory / "data"),
        *("--dtype", "bfloat16", "--checkpointing", "on", "--threads", options.threads),
        *("--batch-size", 1, "--accumulate", 1, "--save-every", 1),
        *("--epochs", 1 if options.modality == "both" else 2),  # two steps
        *("--modality", options.modality, "--retain-modality", options.retain_modality),
        *("--tasks", options.tasks, "--limit", 1, "--eval-batch", 1, "--max-new-tokens", 4),
        *("--out", directory / f"{method}-{options.modality}"),
    ]


def estimated(method, options):
    """The figures of `estimate` for a run, in GB: of training, and of evaluation."""
    settings = EstimateSettings(modality=options.modality, eval_batch=1)
    runs = {run["run"]: run for run in estimate.run(options.shape, settings)["runs"]}
    return runs[method]["checkpointed_gb"], runs["evaluate"]["memory_gb"]


def run_method(method, options, directory):
    """The measured parts of one method: begun and killed, resumed."""
    log = directory / "log.txt"
    out = directory / f"{method}-{options.modality}"
    # glibc keeps freed blocks of up to 32 MB, in pieces; blocks of 1 MB and more go back at once.
    environment = {
        "OMP_NUM_THREADS": str(options.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
    }
    arguments = arguments_of(method, options, directory)
    checkpoint = out / "checkpoint"
    parts = {}
    if not out.exists():
        parts["begun, killed"] = measured(arguments, log, lambda: is_saved(checkpoint), environment)
    parts["resumed"] = measured([*arguments, "--resume"], log, None, environment)
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--methods", default="scrub,npo")
    parser.add_argument("--modality", default="both")
    parser.add_argument("--retain-modality", default="both")
    parser.add_argument("--tasks", default="eval_log_forget,eval_text_forget")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    directory = options.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    found = directory / "measured.json"
    lines = read_json(found) if found.exists() else {}
    if not (directory / "model").exists():
        arguments = ("checkpoint", options.shape, "--out", directory / "model")
        lines["checkpoint"] = measured(arguments, directory / "log.txt")
    if not (directory / "data").exists():
        write_data(directory / "data")
    for method in options.methods.split(","):
        training, evaluation = estimated(method, options)
        for part, line in run_method(method, options, directory).items():
            line |= {"estimate_gb": {"train": training, "evaluate": evaluation}}
            lines[f"{method}, {options.modality}, {part}"] = line
            write_json(found, lines)
    for name, line in lines.items():
        print(name, json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
