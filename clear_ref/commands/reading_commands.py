"""Options of commands that evaluate, read logs or look at the machine: evaluate, score, doctor."""

import argparse

from .examine_settings import DoctorSettings
from .options import Parser, add_fresh, add_resume, add_settings_file, add_shared
from .settings import Evaluate, Score


def add_evaluate(one: Parser) -> None:
    """evaluate."""
    add_shared(one, "evaluate", Evaluate, skip={"model"})
    one.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=argparse.SUPPRESS,
        help="model directory in HF format, or mini: the base model of the embedded world",
    )
    add_settings_file(one)
    add_resume(one)
    add_fresh(one)


def add_score(one: Parser) -> None:
    """score."""
    add_shared(one, "score", Score, computes_terms=False)
    one.add_argument(
        "log",
        metavar="LOG",
        nargs="+",
        help="run directory, its logs folder, or a log file (.json, .json.gz)",
    )


def add_doctor(one: Parser) -> None:
    """doctor."""
    add_shared(one, "doctor", DoctorSettings)


ADD = {"evaluate": add_evaluate, "score": add_score, "doctor": add_doctor}
