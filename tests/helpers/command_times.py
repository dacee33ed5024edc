"""CPU time of the main command in two checkouts, in turns, and of its stages.

python -m tests.helpers.command_times OTHER_CHECKOUT ROUNDS [OPTION ...]
runs `scrub` in the embedded world, in one thread, twice in each checkout: in an empty directory,
and again where the logs of base and gold are kept. It prints medians, ratios and the stages of this
checkout. Adapter and logs must have the same bytes in both. OPTION: further options of `scrub`,
such as --epochs 2.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = ("first", "second")  # the logs of base and gold are kept in the second
STAGES = (  # (module, function, stage)
    ("clear_ref.commands.unlearn", "resolve", "settings, hashes, checks"),
    ("clear_ref.commands.unlearn", "load_model", "load"),
    ("clear_ref.commands.evaluated", "load_model", "load"),
    ("clear_ref.commands.evaluated", "evaluate_model", "evaluate base, gold"),
    ("clear_ref.commands.unlearn", "evaluate_model", "evaluate unlearned"),
    ("clear_ref.loop.unlearn", "unlearn", "train"),
    ("clear_ref.commands.unlearn", "write_results", "metrics, intervals"),
    ("clear_ref.commands.report", "of_run", "page"),
)


def worker(target, arguments):
    """Runs the command; writes {stage: CPU seconds} to a file."""
    from importlib import import_module

    seconds = {"imports": 0.0, **dict.fromkeys((stage for *_, stage in STAGES), 0.0)}

    def timed(function, stage):
        def call(*given, **named):
            began = time.process_time()
            try:
                return function(*given, **named)
            finally:
                seconds[stage] += time.process_time() - began

        return call

    for module, name, stage in STAGES:
        owner = import_module(module)
        setattr(owner, name, timed(getattr(owner, name), stage))
    from clear_ref import run

    seconds["imports"] = time.process_time()
    status = run.main(arguments)
    seconds["rest"] = time.process_time() - sum(seconds.values())
    Path(target).write_text(json.dumps(seconds), encoding="utf-8")
    sys.exit(status)


def contents(directory):
    """{name: bytes} of a run's adapter and logs."""
    files = [*directory.glob("adapter/*.safetensors"), *directory.glob("logs/**/*.json")]
    assert files
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def measured(checkout, name, directory, options):
    """(CPU seconds of all processes, {stage: CPU seconds}, contents) of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    stages = directory / f"{name}.json"
    command = [sys.executable, __file__, "--worker", str(stages)]
    command += ["scrub", "--quiet", "--threads", "1", "--out", name, *options]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    where = {"env": environment, "cwd": directory, "stdout": subprocess.DEVNULL}
    subprocess.run(command, check=True, **where)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, json.loads(stages.read_text(encoding="utf-8")), contents(directory / name)


def main(other, rounds, *options):
    """Prints a line for each run, and one for each stage of this checkout."""
    checkouts = {"before": Path(other), "now": Path(__file__).parents[2]}
    seconds = {(which, name): [] for which in checkouts for name in RUNS}
    stages = {name: [] for name in RUNS}
    for _ in range(int(rounds)):
        files = {}
        for which, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as directory:
                for name in RUNS:
                    found = measured(checkout, name, Path(directory), options)
                    seconds[which, name].append(found[0])
                    files[which, name] = found[2]
                    if which == "now":
                        stages[name].append(found[1])
        for name in RUNS:
            assert files["before", name] == files["now", name]
    for name in RUNS:
        before, now = (statistics.median(seconds[which, name]) for which in checkouts)
        whole = statistics.median(seconds["before", "first"])
        print(
            f"{name:7} {before:7.1f} s {now:7.1f} s  ratio {now / before:.2f}, to the first run "
            f"before {now / whole:.2f}; equal bytes"
        )
    for stage in stages["first"][0]:
        medians = [statistics.median(each[stage] for each in stages[name]) for name in RUNS]
        print(f"{stage:26}" + "".join(f"{value:9.2f} s" for value in medians))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        worker(sys.argv[2], sys.argv[3:])
    else:
        main(*sys.argv[1:])
