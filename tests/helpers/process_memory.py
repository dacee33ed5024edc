"""The memory of a training step in each of several processes, beside the parts of `estimate`.

torchrun --nproc-per-node N -m tests.helpers.process_memory MODEL OUT WAYS TINY
trains one step of kl in float32 for each way (off: adapters, every process has all weights; on:
adapters, frozen weights shared out; full: every weight); the first process writes OUT: {way:
[bytes that resident memory grew by at most, of each process]}. TINY: a model whose step is first,
so that libraries have what they take once. Freed memory must be returned to
the system at once (bench/process.py: RETURNED_AT_ONCE).
"""

import gc
import json
import sys
from pathlib import Path

import torch

from clear_ref.bench.memory import growth
from clear_ref.common import distributed
from clear_ref.data.prompts import read_phrases
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.engine import Engine
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import trainable
from clear_ref.loop.step import step_loss
from clear_ref.loop.teacher import Teacher
from clear_ref.loop.train import adamw
from clear_ref.methods import make_options, variant
from clear_ref.mini.directories import WORLD
from clear_ref.model.vlm import load

RANK = 8


def step(directory, way):
    """One step of kl on texts, from loading to the optimiser; a record for each process."""
    vlm = load(directory, "float32", shard=way == "on")
    recipe = Recipe(lora_rank=0 if way == "full" else RANK, accumulate=distributed.size())
    prepare(vlm, recipe, 0)
    chosen, options = variant("kl", "paper"), make_options("kl", {})
    rows = split_rows(WORLD, "text", 10, True, "text")
    plan = UnlearnPlan(*rows, ("forget", "retain"), read_phrases(WORLD), 0, chosen.contents)
    stage = unlearning.stage_of("kl", chosen, options)
    teacher = Teacher(vlm)
    engine = Engine(vlm, teacher, sharded=way == "full")
    optimiser = adamw(trainable(vlm), recipe)
    step_loss(vlm, plan, stage, teacher, recipe, 0, range(distributed.size()), engine)
    optimiser.step()


def main(directory, out, ways, tiny):
    torch.set_num_threads(1)
    distributed.start()
    found = {}
    for way in ways.split(","):
        step(tiny, way)  # what libraries take once is not that of a model
        gc.collect()
        found[way] = distributed.gather(growth(lambda way=way: step(directory, way))["bytes"])
    if distributed.is_first():
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    distributed.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
