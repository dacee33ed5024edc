"""Settings and help of commands on models, data and pages: ask, checkpoint, estimate, check-data,
make-data, report.
"""

from dataclasses import dataclass

from clear_ref.common.settings import DTYPES, setting
from clear_ref.data import people as people_file
from clear_ref.loop.modalities import MODALITIES
from clear_ref.methods.table import SEMANTICS

from .released_code import released_code_setting
from .settings import (
    device_setting,
    dtype_setting,
    forget_setting,
    model_setting,
    seed_setting,
    shard_setting,
    template_setting,
)

SHARD_GB = 5.0  # transformers' default
CHECK_DATA_HELP = """\
check-data: what a data directory holds, what is wrong with it, and which commands can use it.

Exit status 1 if what is there is wrong, or if no command can run with it; 0 if some configs are not
there and other commands can run.
"""
REPORT_HELP = """\
report DIR...: one page of any number of finished runs, and its table in CSV, LaTeX and Markdown.

Each DIR is the directory of a METHOD, evaluate or `visual` run, one that `all` wrote, or of a
sequence of requests (METHOD --sequence; then all are sequences). Every number of METHOD and
evaluate runs is computed again from the logs, by the definitions asked for. There is one panel for
each modality; runs that differ in their seed only are one line, with mean and standard deviation.

report.html       a verdict in words with its intervals, sortable tables, Forget against Retain,
                  truth ratios, learning curves, answers of the models, settings, hashes
leaderboard.csv   a line for base, gold and every run, every setting, numbers in full, each with
                  its definition; not written for visual runs alone
leaderboard.tex   the tables of the page as plain tabular
leaderboard.md    the same for Markdown
visual.csv        of visual runs: a line for each stage of every run, every setting, numbers in full
sequence.csv      of sequences, which have no leaderboard: a line for each number of every state
sequence.md       of sequences: their table for Markdown

bold   the best of its column among unlearned models
†      Retain, of pictures or of texts, is less than half of base's: such a run has a low Forget for
       free and is never marked as best
‡      a harmonic mean that is 0 because some of its parts are 0; the legend names them

METHOD and evaluate runs must have one base, one gold, one forget split, the same questions and the
same answer lengths; sequences must have the same requests, base and gold. No run of any kind may be
given twice. Else the first difference is named, nothing is written, and the exit status is 2.
Models of several bases need several reports.

  python -m clear_ref.run report runs/all-paper runs/all-released   two leaderboards in one table
  python -m clear_ref.run report runs/all-paper --metrics all       three sets of definitions
  python -m clear_ref.run report runs/all-paper runs/visual-all   also the visual-only track
  python -m clear_ref.run report runs/npo-seq-0 runs/npo-seq-1   two seeds of one sequence
"""


@dataclass(frozen=True)
class Ask:
    """ask MODEL PICTURE QUESTION."""

    model: str = model_setting()
    adapter: str = setting(
        "", "PEFT directory: the answers without and with its adapters, side by side"
    )
    template: str = template_setting()
    device: str = device_setting()
    dtype: str = dtype_setting()
    max_new_tokens: int = setting(64, "longest answer, in tokens")
    tokens: int = setting(5, "how many first tokens of the answer are shown with probabilities")
    candidates: int = setting(3, "how many likely tokens are shown at each place")


@dataclass(frozen=True)
class CheckpointSettings:
    """checkpoint SHAPE: a model directory of random weights."""

    out: str = setting("", "directory to write, new or empty")
    dtype: str = setting("bfloat16", "dtype of the weights", choices=list(DTYPES))
    layers: int = setting(0, "decoder layers; 0: as many as the real model has")
    seed: int = setting(0, "key of every random weight")
    shard_gb: float = setting(
        SHARD_GB,
        "largest file of weights, in gigabytes (10^9 bytes)",
        "transformers' default",
    )


@dataclass(frozen=True)
class EstimateSettings:
    """estimate SHAPE: what is run, and on what device."""

    semantics: str = setting("paper", "whose definition of the methods", choices=SEMANTICS)
    released_code: str = released_code_setting()
    modality: str = setting(
        "both",
        "records of the forget set that are trained on",
        "paper Sec. 5.4",
        choices=list(MODALITIES),
    )
    forget: int = forget_setting()
    dtype: str = setting(
        "bfloat16", "dtype of the weights and of the computation", choices=list(DTYPES)
    )
    lora_rank: int = setting(8, "rank of the LoRA adapters; 0: full fine-tuning", "paper App. H")
    epochs: int = setting(5, "passes over the forget set", "paper App. H")
    eval_batch: int = setting(
        8, "records evaluated together", "released code (config/mm/eval.yaml)"
    )
    leakage: bool = setting(False, "evaluate also asks the forget set otherwise, as --leakage does")
    sequence: str = setting("", "also what METHOD --sequence of these sizes costs, such as 1,5,10")
    side: int = setting(
        1024, "side of a picture in pixels", "CLEAR's pictures; LLaVA resizes all to one size"
    )
    processes: int = setting(
        1, "processes that torchrun starts, each with a device of its own; memory is that of one"
    )
    shard: str = shard_setting()
    tflops: float = setting(
        200.0,
        "10^12 operations per second that the device sustains",
        "an assumption, not measured; 20% of an H100's nominal bfloat16 rate",
    )
    gb_per_s: float = setting(
        2000.0,
        "10^9 bytes per second that the device reads",
        "an assumption, not measured; 60% of an H100's nominal rate",
    )


@dataclass(frozen=True)
class MakeData:
    """make-data PEOPLE: a data directory from people of one's own."""

    pictures: str = setting("", "directory that the pictures of PEOPLE are in")
    out: str = setting("", "data directory to write; absent or empty")
    forget: str = setting(
        "", "names of the people to forget, with commas; default: a share of the people, drawn"
    )
    forget_share: float = setting(
        0.1,
        "share of the people to forget, drawn by the seed, at least one person",
        "forget10 of CLEAR",
    )
    holdout: str = setting(
        "",
        "names of people that no model is trained on, with commas: holdout10, for the membership "
        "scores of evaluate --robustness",
    )
    real: str = setting(
        "mini",
        "data directory whose Real sets are copied (mini: those of the embedded world, which fit "
        "its models), or none: then evaluations need --tasks without them",
    )
    seed: int = seed_setting("key of every draw: people to forget, wrong names and texts")
    example: str = setting(
        "", "only write an example into this directory: people.csv and pictures/ of five people"
    )


def people_columns() -> str:
    """The columns of PEOPLE, for --help."""
    lines = [
        "columns of PEOPLE, a line for a picture with caption, a question with answer, or both:"
    ]
    lines += [f"  {column:20} {meaning}" for column, meaning in people_file.COLUMNS.items()]
    lines.append("clear_ref/data/own_people.md has an example, and says what is drawn and how")
    return "\n".join(lines)
