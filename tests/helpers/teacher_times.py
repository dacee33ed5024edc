"""CPU time of trainings in two checkouts, in turns: what kept results of frozen weights save.

python -m tests.helpers.teacher_times OTHER_CHECKOUT METHODS MODALITY ROUNDS [TARGETS [SHAPE]]
trains the LLaVA of `bench --what step` (576 image tokens) for five epochs in one thread: 2 records
to forget, 18 to retain; visual: captions of pictures. METHODS: names with commas; all: every
method, one after the other, as the runs of the command `all` do. TARGETS: --lora-targets. SHAPE:
that of `bench --what step`; tiny shows in seconds that everything runs. It
prints, for each method, the medians of the process CPU time of both checkouts, their ratio, and how
many results were found of those asked for. The trained adapters of both must have the same bytes.

python -m tests.helpers.teacher_times OTHER_CHECKOUT mini SEEDS ROUNDS [OPTION ...]
runs the command `all` on the embedded world in both, in turns: CPU time of all processes together.
Each value of the other's leaderboard.json must stand in this one's. OPTION: further options of
`all`.
"""

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"text": 2, "visual": 2}
RETAIN = 9  # times as many, as retain90 beside forget10
OPTIONS = {"dpo": {"reference": "base"}, "sku": {"n_random": "1"}}
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
            pixels = generator.integers(0, 256, (336, 336, 3), dtype=np.uint8)
            if not path.exists():
                Image.fromarray(pixels).save(path)
        values = {"question": letters[:QUESTION], "answer": letters[QUESTION:]}
        values |= {"caption": letters[QUESTION:]} if path else {}
        found.append(Row(number, "made", values, path))
    return found[: SIZES[modality]], found[SIZES[modality] :]


def keeping(shared):
    """{"kept": kept results}; {} in a checkout that has none."""
    try:
        from clear_ref.loop.kept import Kept
    except ImportError:
        return {}
    return {"kept": Kept(shared=shared)}


def trained(method, modality, targets, root, more):
    """The bytes of the adapters of one training."""
    from clear_ref.data.prompts import Phrases
    from clear_ref.loop import unlearn as unlearning
    from clear_ref.loop.prepare import prepare
    from clear_ref.loop.recipes import Recipe
    from clear_ref.loop.stage import trainable
    from clear_ref.methods import make_options, variant
    from clear_ref.model.vlm import load

    questions = tuple(f"{number} what is shown?" for number in range(9))
    refusals = tuple(f"I do not know, {number:02d}." for number in range(100))
    vlm = load(root / "model")
    middle = str(vlm.text_config.num_hidden_layers // 2)
    options = make_options(
        method, {"layer": middle} if method == "rmu" else OPTIONS.get(method, {})
    )
    recipe = Recipe(epochs=5, batch_size=2, accumulate=1, lora_targets=targets)
    chosen = variant(method, "paper")
    prepare(vlm, recipe, 0, chosen.targets and chosen.targets(options))
    phrases = Phrases(questions, "Who?", refusals)
    run = unlearning.Unlearning(
        method, "paper", options, recipe, rows(modality, root), phrases, 0, **more
    )
    unlearning.unlearn(vlm, run)
    tensors = sorted(trainable(vlm).items())
    return b"".join(tensor.detach().numpy().tobytes() for _, tensor in tensors)


def measured(methods, modality, targets, root):
    """{seconds, hits, adapters} of one training, or of those of all methods."""
    from clear_ref.methods import METHODS

    names = list(METHODS) if methods == "all" else [methods]
    more = keeping(shared=len(names) > 1)
    started = time.process_time()
    content = hashlib.sha256()
    for method in names:
        content.update(trained(method, modality, targets, root, more))
    seconds = time.process_time() - started
    hits = more["kept"].hits() if more else ""
    return {"seconds": seconds, "hits": hits, "adapters": content.hexdigest()}


def worker(root):
    """Answers each line `METHOD MODALITY TARGETS` of stdin with a line of JSON."""
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(measured(*line.split(), Path(root))), flush=True)


def start(checkout, root):
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", root],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def mini(checkout, seeds, directory, options):
    """(CPU seconds of all processes, {place: value} of the leaderboard) of `all` on mini."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "clear_ref.run", "all", "--seeds", seeds, "--out", "all"]
    command += ["--fresh", "--quiet", *options]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, env=environment, cwd=directory, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    board = json.loads((Path(directory) / "all" / "leaderboard.json").read_text(encoding="utf-8"))
    return seconds, dict(values(board))


def values(node, place=()):
    """(place, value) of every value but the times, and the words of a warning."""
    if isinstance(node, dict | list):
        for name, each in node.items() if isinstance(node, dict) else enumerate(node):
            if name not in ("seconds", "reason"):
                yield from values(each, (*place, name))
    else:
        yield place, node


def mini_main(other, seeds, rounds, *options):
    """Prints a line for `all` on the embedded world."""
    seconds = ([], [])
    for _ in range(int(rounds)):
        boards = []
        for which, checkout in enumerate((other, Path(__file__).parents[2])):
            with tempfile.TemporaryDirectory() as directory:
                found, board = mini(checkout, seeds, directory, options)
            seconds[which].append(found)
            boards.append(board)
    before, now = map(statistics.median, seconds)
    print(f"all on mini, seeds {seeds}: {before:.1f} s {now:.1f} s  ratio {now / before:.2f}")
    other_values = dict(boards[0].items() - boards[1].items())
    assert len(boards[0]) > 100 and not other_values, other_values


def main(other, methods, modality, rounds, targets="all", shape="small"):
    """Prints a line for each method."""
    from clear_ref.bench import training_step_inputs

    with tempfile.TemporaryDirectory() as root:
        training_step_inputs.write(Path(root), shape)
        workers = [start(where, root) for where in (other, Path(__file__).parents[2])]
        for method in methods.split(","):
            seconds = ([], [])
            for _ in range(int(rounds)):
                answers = []
                for which, each in enumerate(workers):
                    each.stdin.write(f"{method} {modality} {targets}\n")
                    each.stdin.flush()
                    answers.append(json.loads(each.stdout.readline()))
                    seconds[which].append(answers[-1]["seconds"])
                assert answers[0]["adapters"] == answers[1]["adapters"]
            before, now = map(statistics.median, seconds)
            print(
                f"{method:10} {modality:7} {before:7.1f} s {now:7.1f} s  ratio {now / before:.2f}  "
                f"found: {answers[1]['hits'] or 'nothing asked for'}; equal bytes",
                flush=True,
            )
        for each in workers:
            each.stdin.close()
            each.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        worker(sys.argv[2])
    elif sys.argv[2] == "mini":
        mini_main(sys.argv[1], *sys.argv[3:])
    else:
        main(*sys.argv[1:])
