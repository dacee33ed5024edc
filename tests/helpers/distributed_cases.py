"""Small trainings and evaluations that any number of processes can do, each giving numbers.

python -m torch.distributed.run --nproc-per-node N -m tests.helpers.distributed_cases MODEL OUT KIND
does the cases of one kind; the first process writes OUT.json and OUT.safetensors.
"""

import copy
import json
import sys
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clear_ref.common import distributed
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows, training_record
from clear_ref.data.torch_draws import torch_generator
from clear_ref.evaluation.evaluate import EvaluationSettings, run_tasks
from clear_ref.evaluation.membership_scores import membership_scores
from clear_ref.evaluation.relearning import relearn
from clear_ref.evaluation.tasks import tasks
from clear_ref.loop import batch_rows
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.engine import Engine
from clear_ref.loop.plan import FinetunePlan, UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.saving import NO_SAVING
from clear_ref.loop.stage import trainable
from clear_ref.loop.step import step_loss
from clear_ref.loop.teacher import Teacher
from clear_ref.losses import fused_head
from clear_ref.losses.rows import BatchRows
from clear_ref.methods import METHODS, make_options, variant
from clear_ref.mini.directories import WORLD
from clear_ref.model import lora
from clear_ref.model.sharded import own_part
from clear_ref.model.vlm import load
from tests.helpers.stopped_training import Stopped, stopped_after

OPTIONS = {"rmu": {"layer": 1, "c": 2.0}, "sku": {"n_random": 2}}
# Trainings with what a single step does not have: a reference tuned on refusals, phases, a second
# stage, hidden states, padded batches that are cut.
TRAINED = (
    ("dpo", "paper"),
    ("scrub", "original"),
    ("sku", "paper"),
    ("rmu", "released"),
    ("npo", "original"),
    ("kl", "paper"),
)
# Full fine-tuning, whose weights are shared out: two stages, phases with a copied teacher.
FULL = (("dpo", "paper"), ("scrub", "original"))
# With four processes some have no records of a step of three.
OF_FOUR = (("scrub", "paper"), ("scrub", "released"), ("dpo", "original"), ("rmu", "released"))
# Under these a step of two whole batches is computed too: each process has one.
WHOLE = (("scrub", "released"), ("rmu", "released"), ("idk", "original"))
# With frozen weights shared out: every kind of batch and of reference, hidden states, phases. What
# a loss does with them is the same with whole weights, for which every variant is computed.
SHARDED = tuple(dict.fromkeys((*TRAINED, *WHOLE, *OF_FOUR, ("llmu", "paper"))))
# Steps of at most seven rows of logits at a time, which the frozen output layer computes.
IN_CHUNKS = (("kl", "released"), ("scrub", "paper"))
# With --shard on: load shares out the frozen weights. Set by main.
LOADING = {"shard": False}


@cache
def rows():
    """Three pictures and three texts to forget, six and six to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def variants():
    """(method, semantics) of every variant."""
    return [(method, name) for method, module in METHODS.items() for name in module.VARIANTS]


@cache
def loaded(directory):
    """The model in float64; it is not to be changed."""
    return load(directory, "float64")


def new_model(directory):
    """The model in float64; with whole weights, a copy of one that was loaded once."""
    if LOADING["shard"]:
        return load(directory, "float64", **LOADING)
    vlm = copy.copy(loaded(str(directory)))
    vlm.model = copy.deepcopy(vlm.model)
    return vlm


def prepared(directory, method, semantics, recipe):
    """(model, variant, options): trainable, in float64; adapters, if any, are not zero."""
    chosen = variant(method, semantics)
    options = make_options(method, OPTIONS.get(method, {}), semantics)
    if chosen.prepare_options:
        options = chosen.prepare_options(options, recipe.batch_size)
    vlm = new_model(directory)
    prepare(vlm, recipe, 0, chosen.targets and chosen.targets(options))
    with torch.no_grad():
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.1, generator=torch_generator(3, name))
    return vlm, chosen, options


def step(directory, method, semantics, batch_size, indices):
    """({phase: [loss, terms, answer tokens]}, {phase/name: gradient}) of one step."""
    recipe = Recipe(lora_rank=2, batch_size=batch_size, records_at_once=6)
    vlm, chosen, options = prepared(directory, method, semantics, recipe)
    batches = tuple(chosen.needs_of(options))
    plan = UnlearnPlan(*rows(), batches, read_phrases(WORLD), 0, chosen.contents)
    stage = unlearning.stage_of(method, chosen, options, "released")
    teacher = Teacher(vlm)
    engine = Engine(vlm, teacher)
    numbers, gradients = {}, {}
    for phase in stage.passes(0):
        numbers[phase.name] = step_loss(vlm, plan, phase, teacher, recipe, 0, indices, engine)
        for name, parameter in trainable(vlm).items():
            if parameter.grad is not None:
                gradients[f"{phase.name}/{name}"] = parameter.grad.clone()
        vlm.model.zero_grad()
    return numbers, gradients


def steps(directory, chosen=None):
    """`step` of variants: of a batch of three that is cut; of WHOLE, also of two whole batches."""
    numbers, tensors = {}, {}
    for method, semantics in chosen or variants():
        for cut, batch_size, indices in (("whole", 2, [4, 0, 2, 5]), ("cut", 3, [4, 0, 2])):
            if cut == "whole" and (method, semantics) not in WHOLE:
                continue
            key = f"{method} {semantics} {cut}"
            numbers[key], gradients = step(directory, method, semantics, batch_size, indices)
            tensors |= {f"{key}/{name}": gradient for name, gradient in gradients.items()}
    return numbers, tensors


def steps_in_chunks(directory):
    """`steps` of IN_CHUNKS, and how often losses/fused_head.py computed a batch."""
    called = []
    terms = fused_head.head_terms
    fused_head.head_terms = lambda *given: called.append(1) or terms(*given)
    batch_rows.BatchRows = partial(BatchRows, chunk_rows=7)
    try:
        numbers, tensors = steps(directory, IN_CHUNKS)
    finally:
        fused_head.head_terms, batch_rows.BatchRows = terms, BatchRows
    return {"steps": numbers, "fused": len(called)}, tensors


def train(directory, method, semantics, out=None, resume=False, rank=2, saving=NO_SAVING):
    """(model, steps) of two epochs of two steps, three records each; rank 0: every weight."""
    recipe = Recipe(
        epochs=2, batch_size=3, accumulate=1, records_at_once=6, lora_rank=rank, lr=1e-3
    )
    vlm, _, options = prepared(directory, method, semantics, recipe)
    phrases = read_phrases(WORLD)
    run = unlearning.Unlearning(
        method, semantics, options, recipe, rows(), phrases, 0, "auto", out, resume, saving
    )
    return vlm, unlearning.unlearn(vlm, run)


def trainings(directory, ranks=(2, 0)):
    """The adapters after each of TRAINED (rank 2), the weights after each of FULL (rank 0)."""
    numbers, tensors = {}, {}
    for rank, chosen in ((each, {2: TRAINED, 0: FULL}[each]) for each in ranks):
        for method, semantics in chosen:
            key = f"{method} {semantics} {rank}"
            vlm, numbers[key] = train(directory, method, semantics, rank=rank)
            for name, parameter in trainable(vlm).items():
                tensors[f"{key}/{name}"] = parameter.detach().clone()
    return numbers, tensors


def stopped(directory, out, rank):
    """A training of scrub (original) that stops in its second epoch."""
    try:
        with stopped_after(6):
            train(directory, "scrub", "original", out, rank=rank)
    except Stopped:
        return {"stopped": True}, {}
    return {"stopped": False}, {}


def resumed(directory, out, rank):
    """What is trained after the stopped training was resumed."""
    vlm, n_steps = train(directory, "scrub", "original", out, resume=True, rank=rank)
    return {"steps": n_steps}, {name: each.detach() for name, each in trainable(vlm).items()}


def evaluations(directory):
    """Logs of two tasks, membership scores, and a short relearning."""
    vlm = load(directory, **LOADING)
    chosen = [task for task in tasks(10, 8) if task.name in ("eval_log_forget", "eval_text_forget")]
    phrases = read_phrases(WORLD)
    logs = run_tasks(vlm, WORLD, phrases, chosen, EvaluationSettings(limit=7, batch=2))
    some = read_rows(WORLD, "forget10+tofu")
    records = [training_record(row, "What is this?") for row in (*some[:3], *some[20:22])]
    compared = {"captions": {"forget": records[:3], "holdout": records[3:]}}
    plan = FinetunePlan(some[:3], phrases, 0)
    recipe = Recipe(lora_rank=2, lr=1e-3)
    double = load(directory, "float64", **LOADING)
    curve = relearn(double, plan, recipe, [1, 2], {"forget": 0.0}, lambda step: {"forget": 0.0})
    if vlm.is_shared_out:
        with pytest.raises(UserError, match="norms of gradients need whole weights"):
            membership_scores(vlm, compared, 0.4)
    scores = membership_scores(vlm, compared, 0.4, with_gradients=not vlm.is_shared_out)
    return {"logs": logs, "membership": scores, "relearning": curve}, {}


def unknown_parameter(directory):
    """What the guard says of a parameter that DDP does not know."""
    vlm, chosen, options = prepared(directory, "grad_ascent", "paper", Recipe(lora_rank=2))
    plan = UnlearnPlan(*rows(), ("forget",), read_phrases(WORLD), 0, chosen.contents)
    stage = unlearning.stage_of("grad_ascent", chosen, options)
    engine = Engine(vlm, None)
    *_, adapter = lora.adapters(vlm.model).values()  # of the decoder: every record uses it
    adapter.lora_A = torch.nn.Parameter(adapter.lora_A.detach().clone())
    step_loss(vlm, plan, stage, None, Recipe(lora_rank=2), 0, [4, 0], engine)
    try:
        engine.check()
    except RunFailed as error:
        return {"guard": str(error)}, {}
    return {"guard": ""}, {}


def held(directory, out):
    """What each process holds of the decoder layers, and of all; the adapters are written."""
    vlm, _ = train(directory, "kl", "paper")
    vlm.save_adapter(f"{out}.adapter")
    layers = list(vlm.model.decoder.layers.named_parameters())
    frozen = [each for name, each in layers if ".adapter." not in name]
    own = sum(own_part(each)[0].numel() for each in frozen)
    numbers = distributed.gather([own, sum(each.numel() for each in frozen)])
    return {"numbers": numbers}, {}


def main(directory, out, kind):
    """Do the cases of a kind and write what they give."""
    torch.set_num_threads(1)
    distributed.start()
    numbers, tensors = {}, {}
    LOADING["shard"] = kind.startswith("sharded")
    if kind.endswith("four"):
        numbers["steps"], tensors = steps(directory, OF_FOUR)
        vlm, _ = train(directory, "kl", "paper")
        for name, parameter in trainable(vlm).items():
            tensors[f"kl paper 2/{name}"] = parameter.detach().clone()
    elif LOADING["shard"]:
        numbers["steps"], tensors = steps(directory, SHARDED)
        numbers["trainings"], trained = trainings(directory, (2,))
        tensors |= trained
        numbers["evaluations"], _ = evaluations(directory)
        numbers["held"], _ = held(directory, out)
        numbers["in chunks"], found = steps_in_chunks(directory)
        tensors |= {f"in chunks/{name}": tensor for name, tensor in found.items()}
        begun = Path(f"{out}.begun2")
        numbers["resumed"], found = resumed(directory, begun, 2)
        tensors |= {f"resumed/{name}": tensor for name, tensor in found.items()}
        numbers["stopped"], _ = stopped(directory, Path(f"{out}.run2"), 2)
    else:
        numbers["steps"], tensors = steps(directory)
        numbers["trainings"], trained = trainings(directory)
        tensors |= trained
        for rank in (0, 2):
            numbers[f"stopped {rank}"], _ = stopped(directory, Path(f"{out}.run{rank}"), rank)
            begun = Path(f"{out}.begun{rank}")
            numbers[f"resumed {rank}"], trained = resumed(directory, begun, rank)
            tensors |= {f"resumed {rank}/{name}": tensor for name, tensor in trained.items()}
        numbers["evaluations"], _ = evaluations(directory)
        numbers["guard"], _ = unknown_parameter(directory)
    if distributed.is_first():
        Path(f"{out}.json").write_text(json.dumps(numbers), encoding="utf-8")
        save_file({name: each.contiguous() for name, each in tensors.items()}, f"{out}.safetensors")
    distributed.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
