"""One model over the tasks: logs. A log holds what `score` needs and nothing that depends on how it was computed.

Records are computed in groups, consecutive in their task: a group's prompts are run once, the likelihoods of all candidates and
the greedy text go on from there. A group's composition is fixed by its size, so the same weights give the same logs (a limit
cuts the last group); another size moves them by rounding.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from clear_ref.common.errors import RunFailed
from clear_ref.common.files import read_json, write_json
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.common.progress import Progress
from clear_ref.data.prompts import Phrases
from clear_ref.model.vlm import VLM

from . import rouge
from .likelihood import candidate_nll, plain_nll
from .log_format import Logs
from .metrics import tofu_truth_ratio
from .tasks import Item, Task, items


@dataclass(frozen=True)
class EvaluationSettings:
    """How logs are computed: the first `limit` records of each task (None: all), `batch` of them together; plain: one forward of
    prompt and answer for each candidate (for checking)."""

    limit: int | None = None
    batch: int = 8
    plain: bool = False


def run_tasks(
    vlm: VLM,
    directory,
    phrases: Phrases,
    chosen: list[Task],
    how: EvaluationSettings = EvaluationSettings(),
    what: str = "evaluate",
    kept: Path | None = None,
) -> Logs:
    """{task name: log} of the chosen tasks; see `record_log` for a record's columns.

    On the CPU, groups of records are shared among as many processes as torch has threads.
    kept    directory where each finished group is written, and read instead of computed: an evaluation that was stopped goes on.
            It belongs to one model and one data directory
    """
    work = [(task, items(task, directory, phrases, how.limit)) for task in chosen]
    groups = [
        (task, found[first : first + how.batch])
        for task, found in work
        for first in range(0, len(found), how.batch)
    ]
    n_processes = process_count(vlm.device)
    known = [None if kept is None else _read_group(kept, *group, how) for group in groups]
    missing = [group for group, found in zip(groups, known, strict=True) if found is None]
    bar = Progress(what, len(groups), "group", done=len(groups) - len(missing))

    def compute(group):
        task, records = group
        found = group_logs(vlm, records, task.max_new_tokens, how.plain)
        if kept is not None:
            write_json(_group_file(kept, *group), {"of": _described(*group, how), "records": found})
        bar.step(min(n_processes, len(groups) - bar.done), note=task.name)
        return found

    with torch.no_grad():
        computed = iter(map_in_processes(compute, missing, n_processes))
    bar.close()
    logs = {
        task.name: {
            "format": "clear_ref.log/1",
            "task": task.name,
            "set": task.set_name,
            "config": task.config,
        }
        for task in chosen
    }
    for (task, records), found in zip(groups, known, strict=True):
        for item, columns in zip(records, next(computed) if found is None else found, strict=True):
            for column, value in columns.items():
                logs[task.name].setdefault(column, {})[str(item.index)] = value
    return logs


def _group_file(kept: Path, task: Task, records: list[Item]) -> Path:
    return kept / f"{task.name}-{records[0].index}.json"


def _described(task: Task, records: list[Item], how: EvaluationSettings) -> dict:
    """What a kept group is of; another one in its place is computed again."""
    return {"task": asdict(task), "records": [item.index for item in records], "plain": how.plain}


def _read_group(
    kept: Path, task: Task, records: list[Item], how: EvaluationSettings
) -> list[dict] | None:
    path = _group_file(kept, task, records)
    found = read_json(path) if path.exists() else {}
    return found["records"] if found.get("of") == _described(task, records, how) else None


def group_logs(
    vlm: VLM, records: list[Item], max_new_tokens: int, plain: bool = False
) -> list[dict]:
    """`record_log` of a few records of one task, computed together."""
    answers = [
        list(dict.fromkeys((item.answer, item.paraphrased, *item.perturbed))) for item in records
    ]
    prompts = vlm.encode([item.prompt for item in records])
    prefilled = vlm.prefill(prompts)
    sums = (
        [plain_nll(vlm, item.prompt, of_one) for item, of_one in zip(records, answers, strict=True)]
        if plain
        else candidate_nll(vlm, prompts, answers, prefilled)
    )
    texts = vlm.generate(
        prompts, max_new_tokens, prefilled
    )  # last: this appends to the cache of `prefilled`
    return [
        record_log(vlm, item, dict(zip(of_one, found)), text)
        for item, of_one, found, text in zip(records, answers, sums, texts, strict=True)
    ]


def record_log(vlm: VLM, item: Item, known: dict[str, tuple[float, int]], generated: str) -> dict:
    """The columns of one record: summed nll (nats), token counts and means of every candidate, the generated text, its ROUGE.

    known   {candidate: (summed nll, number of tokens)}
    source  the columns of TOFU's and the released eval_log_aggregated.json; truth_ratio is TOFU's,
            exp(paraphrased - mean perturbed)
    """
    candidates = (item.answer, item.paraphrased, *item.perturbed)
    (truth, n_truth), (paraphrase, n_paraphrase), *perturbed = (known[text] for text in candidates)
    if not all(math.isfinite(total) for total, _ in known.values()):
        raise RunFailed(
            f"record {item.index}, {item.answer!r}: the nll of an answer is not finite; the model has diverged, "
            "lower --lr"
        )
    means = [total / n for total, n in perturbed]
    recall = rouge.scores(item.answer, generated)
    return {
        "gt_loss": truth,
        "num_token_gt": n_truth,
        "avg_gt_loss": truth / n_truth,
        "paraphrased_loss": paraphrase,
        "num_token_paraphrased": n_paraphrase,
        "avg_paraphrased_loss": paraphrase / n_paraphrase,
        "perturb_loss": [total for total, _ in perturbed],
        "num_token_perturb": [n for _, n in perturbed],
        "average_perturb_loss": means,
        "truth_ratio": tofu_truth_ratio(paraphrase / n_paraphrase, means),
        "rouge1_recall": recall["rouge1"].recall,
        "rougeL_recall": recall["rougeL"].recall,
        "generated_text": [
            vlm.template.prompt(item.prompt.question, item.prompt.image is not None),
            generated,
            item.answer,
        ],
        "candidates": {
            "answer": item.answer,
            "paraphrased": item.paraphrased,
            "perturbed": list(item.perturbed),
        },
    }
