"""estimate --sequence: what METHOD --sequence costs beside the runs of the table."""

from collections.abc import Sequence
from typing import Any, TypedDict

from clear_ref.common.errors import UserError
from clear_ref.loop.requests import check_sizes


class SequenceCost(TypedDict):
    """The cost of one sequence.

    requests     sizes of the forget sets, in percent
    evaluations  of base, of gold and after each request
    minutes      {method: training and evaluations}: each forget record is trained on in one request
                 alone, so the trainings together take as long as one on the last set
    disk_gb      the models that all requests but the last write, in 10^9 bytes
    """

    requests: list[int]
    evaluations: int
    minutes: dict[str, float]
    disk_gb: float


def sequence_cost(
    text: str, forget: int, itemsize: int, parameters: int, runs: Sequence[Any]
) -> SequenceCost:
    """The SequenceCost of --sequence SIZES.

    forget   --forget, which is the last size
    runs     the rows of the table: finetune, each method, evaluate
    raises   UserError for names, whose rows no shape tells; for another --forget; for 16 bits
    """
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UserError(
            f"--sequence is {text!r}; estimate reads no data, so expected sizes such as 1,5,10"
        )
    sizes = check_sizes(text)
    if forget != sizes[-1]:
        raise UserError(
            f"--forget is {forget}; expected {sizes[-1]}, the last of --sequence {text}"
        )
    if itemsize < 4:
        raise UserError(
            "--sequence adds each request's adapters to the weights; expected --dtype float32"
        )
    evaluate = next(run["minutes"] for run in runs if run["run"] == "evaluate")
    n = len(sizes) + 2
    return {
        "requests": list(sizes),
        "evaluations": n,
        "minutes": {
            run["run"]: run["minutes"] + n * evaluate
            for run in runs
            if run["run"] not in ("finetune", "evaluate")
        },
        "disk_gb": (len(sizes) - 1) * parameters * itemsize / 1e9,
    }


def sequence_text(found: SequenceCost | None) -> list[str]:
    """The lines about it; [] without --sequence."""
    if found is None:
        return []
    minutes = ", ".join(f"{method} {value:.0f}" for method, value in found["minutes"].items())
    return [
        f"--sequence {','.join(map(str, found['requests']))}: trainings that together are as long "
        f"as one of the table, {found['evaluations']} evaluations, {found['disk_gb']:.1f} GB of "
        f"models on disk; minutes: {minutes}",
    ]
