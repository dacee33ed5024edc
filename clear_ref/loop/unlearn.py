"""One method on one model: its stages in order, from the starting weights to the unlearned ones."""

from pathlib import Path

import torch

from ..data.prompts import Phrases
from ..data.records import Row, read_rows
from ..errors import UserError
from ..methods import Need, sku, table
from ..model import lora
from ..model.vlm import VLM
from ..model.weights import fill, read_tensors, write_tensors
from .plan import UnlearnPlan
from .teacher import Teacher
from .train import Stage, stage_steps, train, trainable

REFERENCE = "reference.safetensors"
MODALITIES = {"both": "{}+tofu", "visual": "{}", "text": "tofu/{}"}


def split_rows(directory, modality: str, forget: int, pictures: bool = True) -> tuple[list[Row], list[Row]]:
    """The rows to forget, in the modality asked for, and those to retain, always pictures and text (semantics: App. C's ablation
    keeps retain90+tofu for every modality); for a model that sees no pictures text alone, as in the text-only experiments."""
    if modality not in MODALITIES:
        raise UserError(f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}")
    if not pictures:
        if modality != "text":
            raise UserError(f"--modality is {modality}, and the model sees no pictures; expected --modality text")
        return (read_rows(directory, f"tofu/forget{forget:02d}"), read_rows(directory, f"tofu/retain{100 - forget}"))
    return (read_rows(directory, MODALITIES[modality].format(f"forget{forget:02d}")),
            read_rows(directory, f"retain{100 - forget}+tofu"))


def prepare(vlm: VLM, recipe, seed: int) -> list[str]:
    """Make the model trainable as the recipe says: adapters, or every weight. Returns the adapted layers' names."""
    if not recipe.lora_rank:
        if vlm.dtype in (torch.bfloat16, torch.float16):
            raise UserError(f"--lora-rank 0 trains every weight, and small steps are lost in {vlm.dtype}; "
                            "expected --dtype float32, or adapters (--lora-rank 8)")
        vlm.model.requires_grad_(True)
        return []
    named = [name.strip() for name in recipe.lora_targets.split(",")]
    targets = recipe.lora_targets if recipe.lora_targets in ("all", "language") else named
    return vlm.add_lora(recipe.lora_rank, recipe.lora_alpha, targets, seed)


def unlearn(vlm: VLM, method: str, semantics: str, options, recipe, rows: tuple[list[Row], list[Row]], phrases: Phrases,
            seed: int, out: Path | None = None, resume: bool = False) -> int:
    """Run the method on a model made trainable by `prepare`; returns the number of optimiser steps of all stages.

    out     run directory for trace and checkpoints; resume: go on from what it holds
    """
    needs = table.needs(method, semantics, options)
    chosen = table.variant(method, semantics)
    negated, tuned = table.finish(method, semantics) == "negate_delta", table.reference(method, options) == "idk"
    begin = {}
    if tuned or (negated and not lora.adapters(vlm.model)):
        begin = {name: tensor.detach().clone() for name, tensor in trainable(vlm).items()}
    plan = UnlearnPlan(*rows, tuple(needs), phrases, seed)
    teacher, steps = None, 0
    if tuned:
        teacher, steps = idk_reference(vlm, method, semantics, options, recipe, rows, phrases, seed, out, resume, begin)
    stage = Stage(method, needs, lambda splits: chosen.loss(splits, options), getattr(options, "layer", None))
    steps += train(vlm, plan, stage, recipe, seed, out, resume, teacher)
    if negated:
        with torch.no_grad():
            negate(vlm, begin)
    return steps


def negate(vlm: VLM, begin: dict[str, torch.Tensor]) -> None:
    """Put the model on the other side of its start: 2 theta_0 - theta_1. With adapters the delta is B A, so B changes sign."""
    found = lora.adapters(vlm.model)
    for adapter in found.values():
        adapter.lora_B.neg_()
    if not found:
        now = trainable(vlm)
        fill(now, sku.negate_delta(begin, {name: tensor.detach() for name, tensor in now.items()}), "sku's second stage")


def idk_reference(vlm, method, semantics, options, recipe, rows, phrases, seed, out, resume, begin) -> tuple[Teacher, int]:
    """The reference that DPO compares with: the base tuned on refusals. The model itself is put back to its start."""
    chosen = table.variant(method, semantics)
    plan = UnlearnPlan(*rows, ("idk",), phrases, seed)
    stage = Stage(f"{method} reference", {"idk": Need()}, lambda splits: chosen.reference_loss(splits, options))
    kept = None if out is None else out / "checkpoint" / REFERENCE
    if resume and kept is not None and kept.exists():
        fill(trainable(vlm), read_tensors(kept), kept)
        steps = stage_steps(plan, recipe)
    else:
        steps = train(vlm, plan, stage, recipe, seed, out, resume)
        if kept is not None:
            write_tensors(kept, trainable(vlm))
    if lora.adapters(vlm.model):
        lora.freeze_reference(vlm.model)
        teacher = Teacher(vlm, "reference")
    else:
        teacher = Teacher(vlm)
    fill(trainable(vlm), begin, "the model before its reference was tuned")
    return teacher, steps
