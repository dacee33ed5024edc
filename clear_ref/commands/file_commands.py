"""Options of commands on models, data and pages: ask, report, mini, bench, checkpoint, estimate,
check-data, make-data.
"""

from clear_ref.bench.settings import (
    KINDS,
    BenchHeadSettings,
    BenchLikelihoodSettings,
    BenchSettings,
    BenchStepSettings,
)

from .file_settings import (
    CHECK_DATA_HELP,
    REPORT_HELP,
    Ask,
    CheckpointSettings,
    EstimateSettings,
    MakeData,
    people_columns,
)
from .options import Parser, add_settings, add_shape, add_shared
from .settings import Report

WHAT_BENCH = (
    "kernel: token terms; head: the same from hidden states and a frozen output layer, with "
    "--rows (default 4096), --vocabulary, --width, --dtype (default float32), --threads and "
    "--rounds (default 3); step: a training step, generation and likelihoods beside the way of the "
    "released code, with --threads, --rounds (default 3), --shape and --tasks; likelihood: "
    "candidate answers with shared prompts beside plain forward passes, with --threads, --rounds "
    "(default 3) and --records (default: kernel)"
)


def add_ask(one: Parser) -> None:
    """ask."""
    add_shared(one, "ask", Ask, skip={"model"}, computes_terms=False)
    one.add_argument(
        "model",
        metavar="MODEL",
        help="model directory in HF format, or mini: the base model of the embedded world",
    )
    one.add_argument("picture", metavar="PICTURE", help="a picture file, or -: no picture")
    one.add_argument("question", metavar="QUESTION", help="the question, in quotes")


def add_report(one: Parser) -> None:
    """report."""
    add_shared(one, "report", Report, epilog=REPORT_HELP, computes_terms=False)
    one.add_argument(
        "run",
        metavar="DIR",
        nargs="+",
        help="directory of a METHOD, evaluate or visual run, or one that `all` wrote: METHOD and "
        "evaluate runs with one base, one gold and one set of questions; or directories of "
        "METHOD --sequence alone",
    )


def add_mini(one: Parser) -> None:
    """mini."""
    add_shared(one, "mini")
    one.add_argument(
        "--rebuild",
        metavar="DIR",
        help="build rows, tokenizer, base and gold again from the sources, in DIR",
    )
    one.add_argument("--seed", type=int, default=0, help="key of every random choice (default: 0)")


def add_bench(one: Parser) -> None:
    """bench."""
    add_shared(one, "bench", BenchSettings)
    one.add_argument("--what", choices=KINDS, default="kernel", help=WHAT_BENCH)
    shared = {"threads", "rounds", "rows", "vocabulary", "dtype"}
    for kind in (BenchStepSettings, BenchLikelihoodSettings, BenchHeadSettings):
        add_settings(one, kind, skip=shared)


def add_checkpoint(one: Parser) -> None:
    """checkpoint."""
    add_shared(one, "checkpoint", CheckpointSettings, computes_terms=False)
    add_shape(one)


def add_estimate(one: Parser) -> None:
    """estimate."""
    add_shared(one, "estimate", EstimateSettings, computes_terms=False)
    add_shape(one, "visual: the visual-only track")


def add_check_data(one: Parser) -> None:
    """check-data."""
    add_shared(one, "check_data", epilog=CHECK_DATA_HELP, computes_terms=False)
    one.add_argument(
        "directory", metavar="DIR", help="data directory (CONFIG/rows.jsonl, images/), or mini"
    )


def add_make_data(one: Parser) -> None:
    """make-data."""
    add_shared(one, "make_data", MakeData, epilog=people_columns(), computes_terms=False)
    one.add_argument(
        "people", metavar="PEOPLE", nargs="?", help="a .csv or .jsonl file; its columns are below"
    )


ADD = {
    "ask": add_ask,
    "report": add_report,
    "mini": add_mini,
    "bench": add_bench,
    "checkpoint": add_checkpoint,
    "estimate": add_estimate,
    "check-data": add_check_data,
    "make-data": add_make_data,
}
