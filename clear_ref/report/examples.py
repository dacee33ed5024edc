"""What report.html shows of a run: its settings, trace, and a few records with what each model said."""

import json
from pathlib import Path

from ..data.records import read_rows

SHOWN = {"eval_log_forget": (0, 11), "eval_forget_facerec": (3, 14), "eval_text_forget": (0, 21), "eval_log": (0,),
         "eval_real_faces_wo_options": (0,), "eval_real_world_wo_options": (0,)}
MIMES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


def run_for_page(summary: dict, record: dict, out: Path, logs: dict, data: Path) -> dict:
    """The dict that `page` takes, of one unlearning run."""
    rows = [json.loads(line) for line in (out / "trace.jsonl").read_text(encoding="utf-8").splitlines()]
    stages = dict.fromkeys(row["stage"] for row in rows)
    return {**{key: summary[key] for key in ("models", "method", "semantics", "modality", "seed", "impl", "steps", "seconds")},
            "trace": {stage: [row for row in rows if row["stage"] == stage] for stage in stages},
            "examples": list(examples(logs, data)),
            "settings": {"run and recipe": record["settings"], "options of the method": record["options"]},
            "inputs": record["inputs"], "versions": record["versions"]}


def examples(logs: dict[str, dict], data: Path):
    """A few records of each kind: picture, question, expected text and the text of every model."""
    for task, indices in SHOWN.items():
        log = logs["unlearned"].get(task, {})
        rows = read_rows(data, log["config"]) if log else []
        for index in indices:
            if index < len(rows) and str(index) in log["generated_text"]:
                prompt, _, expected = log["generated_text"][str(index)]
                image = rows[index].image
                mime = MIMES.get(image.suffix.lower()) if image else None  # other kinds are left out of the page
                yield {"task": task, "image": image.read_bytes() if mime else None, "mime": mime, "question": prompt,
                       "expected": expected,
                       "generated": {name: found[task]["generated_text"][str(index)][1] for name, found in logs.items()}}
