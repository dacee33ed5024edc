"""A log in the layout that Open-MMUnlearning's CLEAR evaluator writes, with made losses and texts.

Layout from src/evals/clear.py at 60def72: eval_log_aggregated.json holds a task for each file; the
tasks of pictures have paraphrases and wrong answers, the text tasks have neither; generated_text
has four entries, the last one a category; tasks of names and Real sets have normalized_gt_loss;
with generation_mia each task has loss_mia and zlib_mia. Losses are float32 means and sums.
"""

import math
import random

import numpy as np

PICTURES = (
    "eval_real_faces_wo_options",
    "eval_real_world_wo_options",
    "eval_log_forget",
    "eval_log",
    "eval_forget_facerec",
    "eval_retain_facerec",
)
TEXTS = ("eval_text_forget", "eval_text_retain")
WORDS = ("Anna", "Berg", "paints", "the", "sea", "in", "Oslo", "every", "morning")


def evaluated_log(seed: int, n: int = 8) -> dict:
    """{TASK.json: its columns} of one model; the expected texts do not depend on the seed."""
    return {
        f"{task}.json": _task(task, random.Random(f"{seed} {task}"), n)
        for task in (*PICTURES, *TEXTS)
    }


def _task(task: str, rng: random.Random, n: int) -> dict:
    names = ["gt"]
    found: dict[str, dict] = {}
    if task in PICTURES:
        names.append("paraphrased")
        found = {"average_perturb_loss": {}, "perturb_loss": {}, "num_token_perturb": {}}
        found |= {"truth_ratio": {}}
    for name in names:
        found |= {f"avg_{name}_loss": {}, f"{name}_loss": {}, f"num_token_{name}": {}}
    found |= {"generated_text": {}, "loss_mia": {}, "zlib_mia": {}}
    for i in map(str, range(n)):
        for name in names:
            loss, count, average = _loss(rng)
            found[f"{name}_loss"][i] = loss
            found[f"num_token_{name}"][i] = count
            found[f"avg_{name}_loss"][i] = average
        if task in PICTURES:
            wrong = [_loss(rng) for _ in range(3)]
            found["perturb_loss"][i] = [loss for loss, _, _ in wrong]
            found["num_token_perturb"][i] = [count for _, count, _ in wrong]
            found["average_perturb_loss"][i] = [average for _, _, average in wrong]
            mean = sum(found["average_perturb_loss"][i]) / 3
            found["truth_ratio"][i] = math.exp(found["avg_paraphrased_loss"][i] - mean)
        expected = " ".join(random.Random(f"{task} {i}").choices(WORDS, k=5))
        said = " ".join(rng.choices(WORDS, k=4))
        found["generated_text"][i] = [f"USER: {i}", said, expected, "a category"]
        found["loss_mia"][i] = found["avg_gt_loss"][i]
        found["zlib_mia"][i] = found["avg_gt_loss"][i] / 50
    return found


def _loss(rng: random.Random) -> tuple[float, int, float]:
    """(sum, number of tokens, mean), sum and mean as float32."""
    count = rng.randint(2, 9)
    loss = np.float32(rng.uniform(0.3, 3.0) * count)
    return float(loss), count, float(loss / np.float32(count))
