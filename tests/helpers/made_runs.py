"""Run directories with numbers known in advance.

Every part of a task has the value of its level v, so every reported number is a level too:
- ROUGE recall is v in the log.
- An answer's probability is exp(-nll), so nll = -ln v. Among two candidates the probability is
  P / (P + Q), so the nll of the other one is larger by ln(v / (1 - v)).
- The truth ratio score max(0, 1 - R) is v if the only wrong answer is 1 - v times as likely as the
  right one.
"""

import json
import math

from clear_ref.data.prompts import read_phrases
from clear_ref.data.templates import TEMPLATES
from clear_ref.evaluation.definitions import MULTIPLE_CHOICE
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.mini.directories import WORLD

BASE = {"forget": 0.6, "retain": 0.7, "real": 0.8, "text_forget": 0.65, "text_retain": 0.75}
GOLD = {"forget": 0.1, "retain": 0.72, "real": 0.81, "text_forget": 0.05, "text_retain": 0.77}
OF = {
    "eval_log_forget": "forget",
    "eval_forget_facerec": "forget",
    "eval_log": "retain",
    "eval_retain_facerec": "retain",
    "eval_text_forget": "text_forget",
    "eval_text_retain": "text_retain",
    "eval_real_faces_wo_options": "real",
    "eval_real_world_wo_options": "real",
}
VERSIONS = {"python": "3.11", "torch": "2.13.0"}
KNOWN = {task.name: (task, items(task, WORLD, read_phrases(WORLD), 24)) for task in tasks(10, 64)}


def log(task, level, said, n=4):
    """The log of the first n rows of the embedded world.

    said    said(i) is the text that the model generates for record i
    """
    shape, rows = KNOWN[task]
    odds = math.log(level / (1 - level))
    answer = 9.0 if task in MULTIPLE_CHOICE else -math.log(level)
    other = answer + odds if task in MULTIPLE_CHOICE else 9.0
    right = other + math.log(1 - level)

    def column(value):
        return {str(i): value for i in range(min(n, len(rows)))}

    def prompt(row):
        has_image = row.prompt.image is not None
        return TEMPLATES["llava-end"].prompt(row.prompt.question, has_image)

    return {
        "format": "clear_ref.log/1",
        "task": task,
        "set": shape.set_name,
        "config": shape.config,
        "avg_gt_loss": column(answer),
        "avg_paraphrased_loss": column(right),
        "average_perturb_loss": column([other]),
        "rougeL_recall": column(level),
        "generated_text": {
            str(i): [prompt(row), said(i), row.answer] for i, row in enumerate(rows[:n])
        },
    }


def logs(levels, said="base", n=4, only=None):
    """{task: log} of a model with these levels."""
    return {
        task: log(task, levels[of], lambda i: f"{said} says {i}", n)
        for task, of in OF.items()
        if not only or task in only
    }


def write_logs(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    for task, one in found.items():
        (folder / f"{task}.json").write_text(json.dumps(one))


def write(
    path,
    method="scrub",
    semantics="paper",
    modality="both",
    seed=0,
    settings=None,
    options=None,
    inputs=None,
    base=BASE,
    gold=GOLD,
    n=4,
    only=None,
    trace=None,
    curve=None,
    kept=None,
    said=None,
    **levels,
):
    """A run directory of METHOD. The model has base's levels, except those that are given.

    base, gold    levels of these models; None: the run did not evaluate the model
    curve, kept   lines of curve.jsonl; the step of the kept weights. None: there are none
    """
    values = {
        "model": "mini",
        "data": "mini",
        "out": str(path),
        "forget": 10,
        "limit": n,
        "max_new_tokens": 64,
        "metrics": "paper",
        "seed": seed,
        "method": method,
        "semantics": semantics,
        "modality": modality,
        "lr": 0.001,
        **(settings or {}),
    }
    record = {
        "format": "clear_ref.run/1",
        "command": "unlearn",
        "impl": "torch",
        "recipe": "mini",
        "settings": {
            name: {"value": value, "source": "this test"} for name, value in values.items()
        },
        "options": {
            name: {"value": value, "source": "paper App. B"}
            for name, value in (options or {}).items()
        },
        "inputs": inputs or {"base/model.safetensors": "ab" * 32},
        "versions": VERSIONS,
        "label_mask": "answer",
    }
    write_logs(path / "logs", logs({**BASE, **levels}, said or method, n, only))
    for name, own in (("base", base), ("gold", gold)):
        if own:
            write_logs(path / "logs" / name, logs(own, name, n, only))
    (path / "settings.json").write_text(json.dumps(record))
    (path / "metrics.json").write_text(
        json.dumps(
            {
                "method": method,
                "semantics": semantics,
                "modality": modality,
                "seed": seed,
                "impl": "torch",
                "steps": 3,
                "trained": {"tensors": 2, "parameters": 100, "of": 1000, "layers": 1},
                "seconds": {"train": 12.5, "evaluate": 2.0},
            }
            | ({} if kept is None else {"kept": {"step": kept}})
        )
    )
    if curve is not None:
        (path / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
    rows = (
        trace
        if trace is not None
        else [
            {
                "stage": method,
                "step": i + 1,
                "loss": 1.0 / (i + 1),
                "terms": {"a": 0.5, "b": -0.1 * i},
            }
            for i in range(3)
        ]
    )
    (path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_evaluated(path, model="runs/theirs/model", gold=GOLD, **levels):
    """A run directory of `evaluate`."""
    write(path, **levels)
    record = json.loads((path / "settings.json").read_text())
    record["command"] = "evaluate"
    for name in ("seed", "method", "semantics", "modality"):
        del record["settings"][name]
    del record["options"], record["label_mask"]
    (path / "settings.json").write_text(json.dumps(record))
    (path / "metrics.json").write_text(
        json.dumps(
            {"command": "evaluate", "model": model, "impl": "torch", "seconds": {"evaluate": 2.0}}
        )
    )
    (path / "trace.jsonl").unlink()
    for file in (path / "logs").glob("*.json"):
        (path / "logs/model").mkdir(exist_ok=True)
        file.rename(path / "logs/model" / file.name)
    for file in (path / "logs/base").glob("*.json"):
        file.unlink()
    (path / "logs/base").rmdir()
    if gold:
        write_logs(path / "logs/gold", logs(gold, "gold"))
    return path


def change(path, edit):
    """Edit a JSON file's object in place."""
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))
