"""One model over the tasks: logs. A log holds what `score` needs and nothing that depends on how it was computed.

Likelihoods are computed a record at a time. Text is generated for GROUP records at a time, consecutive in their task; the group
is fixed here, so the same weights give the same logs (--limit cuts the last group).
"""

import math

import torch

from ..data.prompts import Phrases
from ..errors import RunFailed
from ..forked import share
from ..model.vlm import VLM
from ..progress import Progress
from . import rouge
from .likelihood import candidate_nll
from .metrics import tofu_truth_ratio
from .tasks import Item, Task, items

GROUP = 16

def run_tasks(vlm: VLM, directory, phrases: Phrases, chosen: list[Task], limit: int | None = None,
              what: str = "evaluate") -> dict[str, dict]:
    """{task name: log} of the chosen tasks; see `record_log` for a record's columns.

    On the CPU, groups of records are shared among as many processes as torch has threads.
    """
    work = [(task, items(task, directory, phrases, limit)) for task in chosen]
    groups = [(task, found[first:first + GROUP]) for task, found in work for first in range(0, len(found), GROUP)]
    n_processes = torch.get_num_threads() if vlm.device.type == "cpu" else 1
    bar = Progress(what, len(groups[::n_processes]), "group")

    def compute(group):
        task, records = group
        texts = vlm.generate(vlm.encode([item.prompt for item in records]), task.max_new_tokens)
        found = [record_log(vlm, item, generated) for item, generated in zip(records, texts, strict=True)]
        bar.step(note=task.name)
        return found

    with torch.no_grad():
        results = share(compute, groups, n_processes)
    bar.close()
    logs = {task.name: {"format": "clear_ref.log/1", "task": task.name, "set": task.set_name, "config": task.config}
            for task in chosen}
    for (task, records), found in zip(groups, results, strict=True):
        for item, columns in zip(records, found, strict=True):
            for column, value in columns.items():
                logs[task.name].setdefault(column, {})[str(item.index)] = value
    return logs


def record_log(vlm: VLM, item: Item, generated: str) -> dict:
    """The columns of one record: summed nll (nats), token counts and means of every candidate, the generated text, its ROUGE.

    source  the columns of TOFU's and the released eval_log_aggregated.json; truth_ratio is TOFU's,
            exp(paraphrased - mean perturbed)
    """
    candidates = (item.answer, item.paraphrased, *item.perturbed)
    unique = list(dict.fromkeys(candidates))
    known = dict(zip(unique, candidate_nll(vlm, item.prompt, unique)))
    (truth, n_truth), (paraphrase, n_paraphrase), *perturbed = (known[text] for text in candidates)
    if not all(math.isfinite(total) for total, _ in known.values()):
        raise RunFailed(f"record {item.index}, {item.answer!r}: the nll of an answer is not finite; the model has diverged, "
                        "lower --lr")
    means = [total / n for total, n in perturbed]
    recall = rouge.scores(item.answer, generated)
    return {
        "gt_loss": truth, "num_token_gt": n_truth, "avg_gt_loss": truth / n_truth,
        "paraphrased_loss": paraphrase, "num_token_paraphrased": n_paraphrase,
        "avg_paraphrased_loss": paraphrase / n_paraphrase,
        "perturb_loss": [total for total, _ in perturbed], "num_token_perturb": [n for _, n in perturbed],
        "average_perturb_loss": means,
        "truth_ratio": tofu_truth_ratio(paraphrase / n_paraphrase, means),
        "rouge1_recall": recall["rouge1"].recall, "rougeL_recall": recall["rougeL"].recall,
        "generated_text": [vlm.template.prompt(item.prompt.question, item.prompt.image is not None), generated, item.answer],
        "candidates": {"answer": item.answer, "paraphrased": item.paraphrased, "perturbed": list(item.perturbed)},
    }
