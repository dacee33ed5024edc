"""CPU time of short commands in two checkouts, in turns: what starting costs.

python -m tests.helpers.start_times OTHER_CHECKOUT RUN_DIRECTORY ROUNDS
prints the medians of user and system time. RUN_DIRECTORY: of a finished run, for `score`; it is
copied. It says whether both print the same bytes: a table of later checkouts may have more lines.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = (
    ("--help",),
    ("scrub", "--help"),
    ("nonsense",),
    ("scrub", "--lrr", "3"),
    ("explain", "scrub"),
    ("explain", "--mistakes"),
    ("score", "run"),
    ("doctor",),
)


def measured(checkout, words, directory):
    """(CPU seconds, what was printed) of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "clear_ref.run", *words],
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        cwd=directory,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stdout + done.stderr


def main(other, run_directory, rounds):
    """Prints a line for each command."""
    checkouts = (Path(other), Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(run_directory, Path(directory) / "run")
        for words in COMMANDS:
            seconds = ([], [])
            same = True
            for _ in range(int(rounds)):
                results = [measured(checkout, words, directory) for checkout in checkouts]
                for each, (found, _) in zip(seconds, results, strict=True):
                    each.append(found)
                same = same and results[0][1] == results[1][1]
            before, now = map(statistics.median, seconds)
            texts = "equal" if same else "other"
            print(
                f"{' '.join(words):20} {before:6.2f} {now:6.2f} {now / before:6.2f}  {texts} bytes"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
