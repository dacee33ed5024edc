"""CPU time of trainings in two checkouts, in turns: what a kept teacher saves.

python -m tests.helpers.teacher_times OTHER_CHECKOUT METHODS MODALITY ROUNDS
trains the LLaVA of `bench --what step` (576 image tokens) for five epochs in one thread: text: 2
records to forget, 18 to retain; visual: a picture and 9. It prints, for each method, the medians
of the process CPU time of both checkouts, their ratio, and how many of the teacher's results were
computed and found. The trained adapters of both must have the same bytes.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"text": 2, "visual": 1}
RETAIN = 9  # times as many, as retain90 beside forget10
QUESTION, ANSWER = 20, 45  # tokens: each letter is one


def rows(modality, root):
    """(forget, retain) rows with random letters, pictures of random pixels."""
    import numpy as np
    from PIL import Image

    from clear_ref.data.records import Row

    generator = np.random.default_rng(0)
    found = []
    for number in range(SIZES[modality] * (1 + RETAIN)):
        letters = "".join(map(chr, generator.integers(97, 123, QUESTION + ANSWER)))
        path = None
        if modality == "visual":
            path = root / f"{number}.png"
            if not path.exists():
                pixels = generator.integers(0, 256, (336, 336, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
        values = {"question": letters[:QUESTION], "answer": letters[QUESTION:]}
        values |= {"caption": letters[QUESTION:]} if path else {}
        found.append(Row(number, "made", values, path))
    return found[: SIZES[modality]], found[SIZES[modality] :]


def trained(method, modality, root):
    """{seconds, computed, found, adapters} of one training."""
    from clear_ref.data.prompts import Phrases
    from clear_ref.loop import unlearn as unlearning
    from clear_ref.loop.prepare import prepare
    from clear_ref.loop.recipes import Recipe
    from clear_ref.loop.stage import trainable
    from clear_ref.methods import make_options
    from clear_ref.model.vlm import load

    more, kept = {}, None
    try:
        from clear_ref.loop.kept import Kept
    except ImportError:
        pass
    else:
        kept = more["kept"] = Kept()
    questions = tuple(f"{number} what is shown?" for number in range(9))
    refusals = tuple(f"I do not know, {number:02d}." for number in range(100))
    given = {"dpo": {"reference": "base"}, "rmu": {"layer": "4"}}.get(method, {})
    vlm = load(root / "model")
    recipe = Recipe(epochs=5, batch_size=2, accumulate=1)
    prepare(vlm, recipe, 0)
    run = unlearning.Unlearning(
        method,
        "paper",
        make_options(method, given),
        recipe,
        rows(modality, root),
        Phrases(questions, "Who?", refusals),
        0,
        **more,
    )
    started = time.process_time()
    unlearning.unlearn(vlm, run)
    seconds = time.process_time() - started
    content = hashlib.sha256()
    for _, tensor in sorted(trainable(vlm).items()):
        content.update(tensor.detach().numpy().tobytes())
    counts = (kept.computed, kept.found) if kept else (0, 0)
    return {"seconds": seconds, "counts": counts, "adapters": content.hexdigest()}


def worker(root):
    """Answers each line `METHOD MODALITY` of stdin with a line of JSON."""
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(trained(*line.split(), Path(root))), flush=True)


def start(checkout, root):
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", root],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def main(other, methods, modality, rounds):
    """Prints a line for each method."""
    from clear_ref.bench import training_step_inputs

    print(f"python -m tests.helpers.teacher_times {other} {methods} {modality} {rounds}")
    with tempfile.TemporaryDirectory() as root:
        training_step_inputs.write(Path(root), "small")
        workers = [start(where, root) for where in (other, Path(__file__).parents[2])]
        for method in methods.split(","):
            seconds = ([], [])
            for _ in range(int(rounds)):
                answers = []
                for which, each in enumerate(workers):
                    each.stdin.write(f"{method} {modality}\n")
                    each.stdin.flush()
                    answers.append(json.loads(each.stdout.readline()))
                    seconds[which].append(answers[-1]["seconds"])
                assert answers[0]["adapters"] == answers[1]["adapters"]
            before, now = map(statistics.median, seconds)
            computed, found = answers[1]["counts"]
            print(
                f"{method:10} {modality:7} {before:7.1f} s {now:7.1f} s  ratio {now / before:.2f}  "
                f"computed {computed}, found {found}; equal bytes",
                flush=True,
            )
        for each in workers:
            each.stdin.close()
            each.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        worker(sys.argv[2])
    else:
        main(*sys.argv[1:])
