"""Evaluation of one model on the tasks: one log for each task.

A log holds what `score` needs, and nothing that depends on how it was computed. Records are
computed in groups of neighbours in their task: the prompts of a group are computed once, and from
there the likelihoods of all candidates and the greedy text. The composition of a group depends on
the group size alone, so the same weights give the same logs (a limit cuts the last group). Another
group size changes the numbers by rounding.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from clear_ref.common import distributed
from clear_ref.common.errors import RunFailed
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.common.progress import Progress
from clear_ref.data.prompts import Phrases
from clear_ref.model.vlm import VLM

from . import rouge
from .kept_files import all_have, read_kept, write_kept
from .leakage import Asked, asked_records
from .likelihood import NllSum, candidate_nll, plain_nll
from .log_format import LOG_FORMAT, Logs, RecordLog
from .metrics import tofu_truth_ratio
from .tasks import Item, Task

# A task, and neighbouring records of it.
Group = tuple[Task, list[Item]]


@dataclass(frozen=True)
class EvaluationSettings:
    """How logs are computed.

    limit   evaluate the first `limit` records of each task; None: all
    batch   number of records in a group
    plain   compute likelihoods by one forward of prompt and answer for each candidate (a check)
    """

    limit: int | None = None
    batch: int = 8
    plain: bool = False


def run_tasks(
    vlm: VLM,
    directory: str | Path,
    phrases: Phrases,
    tasks: list[Task],
    settings: EvaluationSettings = EvaluationSettings(),
    label: str = "evaluate",
    kept: Path | None = None,
) -> Logs:
    """{task name: its log}; see `record_log` for the columns.

    On the CPU the groups are computed by as many processes as torch has threads, under torchrun by
    its processes; the logs are the same.

    directory  data directory
    label      text of the progress line
    kept       directory to which each finished group is written, and from which it is read instead
               of computed again, so that a stopped evaluation resumes. It belongs to one model and
               one data directory
    """
    asked = {task.name: asked_records(task, directory, phrases, settings.limit) for task in tasks}
    groups = _groups_of(tasks, asked, settings)
    known = distributed.from_first(
        lambda: [_read_group(kept, task, records, settings) for task, records in groups]
    )
    missing = [group for group, found in zip(groups, known, strict=True) if found is None]
    computed = iter(_compute_groups(vlm, missing, settings, label, kept, len(groups)))
    logs: dict[str, dict] = {task.name: _header(task, asked[task.name]) for task in tasks}
    for (task, records), found in zip(groups, known, strict=True):
        record_logs = next(computed) if found is None else found
        for record, columns in zip(records, record_logs, strict=True):
            for column, value in columns.items():
                logs[task.name].setdefault(column, {})[str(record.index)] = value
    return cast(Logs, logs)


def _groups_of(
    tasks: list[Task], asked: dict[str, Asked], settings: EvaluationSettings
) -> list[Group]:
    """The tasks' records in groups of settings.batch."""
    groups = []
    for task in tasks:
        records = asked[task.name].items
        for first in range(0, len(records), settings.batch):
            groups.append((task, records[first : first + settings.batch]))
    return groups


def _compute_groups(
    vlm: VLM,
    groups: list[Group],
    settings: EvaluationSettings,
    label: str,
    kept: Path | None,
    n_groups: int,
) -> list[list[RecordLog]]:
    """The record logs of each group; n_groups: number of all groups, those of `kept` included."""
    n_processes = process_count(vlm.device, vlm.is_shared_out)
    bar = Progress(label, n_groups, "group", done=n_groups - len(groups))

    def compute(group: Group) -> list[RecordLog]:
        task, records = group
        record_logs = group_logs(vlm, records, task.max_new_tokens, settings.plain)
        bar.step(min(n_processes, n_groups - bar.done), note=task.name)
        return record_logs

    def keep(group: Group, record_logs: list[RecordLog]) -> None:
        task, records = group
        if kept is not None:
            content = {"of": _description(task, records, settings), "records": record_logs}
            write_kept(_group_file(kept, task, records), content)

    with torch.no_grad():
        results = map_in_processes(compute, groups, n_processes, keep)
    bar.close()
    return results


def _header(task: Task, asked: Asked) -> dict:
    """A log without the columns that are computed."""
    header: dict = {
        "format": LOG_FORMAT,
        "task": task.name,
        "set": task.set_name,
        "config": task.config,
    }
    if task.probe:
        header |= {"probe": task.probe, "not_asked": asked.not_asked}
    if asked.picture:
        header |= {"picture": asked.picture, "person": asked.person}
    return header


def _group_file(kept: Path, task: Task, records: list[Item]) -> Path:
    return kept / f"{task.name}-{records[0].index}.json"


def _description(task: Task, records: list[Item], settings: EvaluationSettings) -> dict:
    """What a kept group was computed from. A group with another description is computed again."""
    return {
        "task": asdict(task),
        "records": [record.index for record in records],
        "plain": settings.plain,
    }


def _read_group(
    kept: Path | None, task: Task, records: list[Item], settings: EvaluationSettings
) -> list[RecordLog] | None:
    """The record logs of a kept group; None if there is none with this description.

    raises  UserError for a file that is not what was written there
    """
    if kept is None:
        return None
    of = _description(task, records, settings)
    columns = set(RecordLog.__annotations__)

    def fits(content: Any) -> bool:
        return all_have([content], 1, {"of", "records"}) and (
            content["of"] != of or all_have(content["records"], len(records), columns)
        )

    content = read_kept(_group_file(kept, task, records), fits)
    return content["records"] if content and content["of"] == of else None


def group_logs(
    vlm: VLM, records: list[Item], max_new_tokens: int, plain: bool = False
) -> list[RecordLog]:
    """`record_log` of a few records of one task, computed together."""
    candidates = [
        list(dict.fromkeys((record.answer, record.paraphrased, *record.perturbed)))
        for record in records
    ]
    prompts = vlm.encode([record.prompt for record in records])
    prefilled = vlm.prefill(prompts)
    if plain:
        sums = [
            plain_nll(vlm, record.prompt, texts)
            for record, texts in zip(records, candidates, strict=True)
        ]
    else:
        sums = candidate_nll(vlm, prompts, candidates, prefilled)
    # Generation is last because it appends to the cache of `prefilled`.
    generated = vlm.generate(prompts, max_new_tokens, prefilled)
    return [
        record_log(vlm, record, dict(zip(texts, sums_of_record, strict=True)), text)
        for record, texts, sums_of_record, text in zip(
            records, candidates, sums, generated, strict=True
        )
    ]


def record_log(vlm: VLM, record: Item, sums: dict[str, NllSum], generated: str) -> RecordLog:
    """The columns of one record.

    sums     {candidate: (summed nll in nats, number of tokens)}
    source   the columns of TOFU's and the released eval_log_aggregated.json; truth_ratio is
             TOFU's, exp(paraphrased - mean perturbed)
    raises   RunFailed if an nll is not finite
    """
    if not all(math.isfinite(total) for total, _ in sums.values()):
        raise RunFailed(
            f"record {record.index}, {record.answer!r}: the nll of an answer is not finite; the "
            "model has diverged, lower --lr"
        )
    answer_sum, n_answer = sums[record.answer]
    paraphrased_sum, n_paraphrased = sums[record.paraphrased]
    perturbed = [sums[text] for text in record.perturbed]
    perturbed_means = [total / n for total, n in perturbed]
    rouge_scores = rouge.scores(record.answer, generated)
    prompt_text = vlm.template.prompt(record.prompt.question, record.prompt.image is not None)
    return {
        "gt_loss": answer_sum,
        "num_token_gt": n_answer,
        "avg_gt_loss": answer_sum / n_answer,
        "paraphrased_loss": paraphrased_sum,
        "num_token_paraphrased": n_paraphrased,
        "avg_paraphrased_loss": paraphrased_sum / n_paraphrased,
        "perturb_loss": [total for total, _ in perturbed],
        "num_token_perturb": [n for _, n in perturbed],
        "average_perturb_loss": perturbed_means,
        "truth_ratio": tofu_truth_ratio(paraphrased_sum / n_paraphrased, perturbed_means),
        "rouge1_recall": rouge_scores["rouge1"].recall,
        "rougeL_recall": rouge_scores["rougeL"].recall,
        "generated_text": [prompt_text, generated, record.answer],
        "candidates": {
            "answer": record.answer,
            "paraphrased": record.paraphrased,
            "perturbed": list(record.perturbed),
        },
    }
