"""Many runs of methods with the same models and data, shared out over processes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clear_ref.common import distributed
from clear_ref.common.errors import RunFailed
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.common.progress import Progress, only_line
from clear_ref.common.run_lock import remove_left
from clear_ref.evaluation.log_format import Logs

from .finished import finished_run
from .teacher_files import kept_results, remove_results
from .unlearn import ResolvedUnlearn, unlearn


def run_in_processes(
    title: str,
    runs: list[ResolvedUnlearn],
    logs: dict[str, Logs],
    report: Callable[[dict], None],
) -> list[dict[str, Any]]:
    """A line for each run, in order: its metrics, or {"failed": reason}.

    On the CPU, as many runs at a time as torch has threads. Under torchrun all processes do each
    run together, one after the other. A run that is finished is not repeated.

    title   of the progress line
    runs    all with the same inputs
    logs    of base and gold
    report  called with the line of each run
    """
    together = distributed.size() > 1
    n_processes = 1 if together else process_count(runs[0].inputs.device)
    kept = None
    if len(runs) > 1:
        kept = kept_results(runs[0].settings, runs[0].inputs, runs[0].out.parent, shared=True)

    def compute(one: ResolvedUnlearn, bar: Progress) -> dict[str, Any]:
        try:
            done = distributed.from_first(lambda: finished_run(one.out, logs))
            summary = done or unlearn(one, logs, shared=kept)
        except RunFailed as error:
            return {"failed": f"{one.out.name}: {error}"}
        line = line_of(one, summary)
        report(line)
        bar.step(note=one.out.name)
        return line

    try:
        with only_line(title, len(runs[::n_processes]), "run") as bar:
            if together:
                lines = [compute(one, bar) for one in runs]
            else:
                lines = map_in_processes(lambda one: compute(one, bar), runs, n_processes)
        if not any("failed" in line for line in lines):
            remove_results(runs[0].out.parent)
        return lines
    except BaseException:
        if not together:  # forks that were ended with this process left their locks
            for one in runs:
                remove_left(one.out)
        raise


def line_of(run: ResolvedUnlearn, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a run that is finished."""
    return {
        "method": run.settings.method,
        "modality": run.settings.modality,
        "seed": run.settings.seed,
        "metrics": summary["models"]["unlearned"],
        "intervals": summary.get("intervals", {}).get("unlearned", {}),
        "seconds": summary["seconds"],
        "steps": summary["steps"],
        **({"guards": summary["guards"]} if summary.get("guards") else {}),
    }


def failures(lines: list[dict[str, Any]]) -> list[str]:
    """Why runs failed; RunFailed if none was finished."""
    failed = [line["failed"] for line in lines if "failed" in line]
    if len(failed) == len(lines):
        raise RunFailed(f"all of {len(failed)} runs: {failed[0]}")
    return failed


def check_all_finished(lines: list[dict[str, Any]], out: Path) -> None:
    """RunFailed if a run failed; the results of the others are in `out`."""
    failed = failures(lines)
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(lines)} runs, first {failed[0]}; the others are in {out}"
        )
