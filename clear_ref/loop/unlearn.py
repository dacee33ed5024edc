"""One method on one model: its stages in order, from the starting weights to the unlearned ones."""

from pathlib import Path

import torch

from clear_ref.common.errors import UserError
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Row, read_rows
from clear_ref.methods import Need, Variant, sku, table
from clear_ref.model import lora
from clear_ref.model.vlm import MASKS, VLM
from clear_ref.model.weights import fill, read_tensors, write_tensors

from .plan import UnlearnPlan
from .teacher import Teacher
from .train import Stage, stage_steps, train, trainable

REFERENCE = "reference.safetensors"
MODALITIES = {"both": "{}+tofu", "visual": "{}", "text": "tofu/{}"}


def split_rows(
    directory, modality: str, forget: int, pictures: bool = True, retain_modality: str = "both"
) -> tuple[list[Row], list[Row]]:
    """The rows to forget and those to retain, each in the modality asked for: pictures, texts or both (App. C's ablation keeps
    retain90+tofu whatever is forgotten); for a model that sees no pictures text alone, as in the text-only experiments."""
    for option, value in (("modality", modality), ("retain modality", retain_modality)):
        if value not in MODALITIES:
            raise UserError(f"{option} is {value!r}; expected one of {', '.join(MODALITIES)}")
    if not pictures:
        if modality != "text":
            raise UserError(
                f"--modality is {modality}, and the model sees no pictures; expected --modality text"
            )
        if retain_modality == "visual":
            raise UserError(
                "--retain-modality is visual, and the model sees no pictures; expected --retain-modality text"
            )
        retain_modality = "text"
    return tuple(
        read_rows(directory, MODALITIES[kind].format(config))
        for kind, config in (
            (modality, f"forget{forget:02d}"),
            (retain_modality, f"retain{100 - forget}"),
        )
    )


def prepare(vlm: VLM, recipe, seed: int, only: list[str] | None = None) -> list[str]:
    """Make the model trainable as the recipe says: adapters, or every weight. Returns the adapted layers' names.

    only  the last parts of the names of the layers that a variant trains, instead of the recipe's
    """
    if recipe.lora_targets != "all" and (only is not None or not recipe.lora_rank):
        reason = (
            "--lora-rank 0 trains every weight"
            if only is None
            else f"this meaning trains {', '.join(only)} alone"
        )
        raise UserError(
            f"--lora-targets is {recipe.lora_targets}, and {reason}; leave one of the two out"
        )
    vlm.checkpoint_layers(recipe.checkpointing == "on")
    if not recipe.lora_rank:
        if vlm.dtype in (torch.bfloat16, torch.float16):
            raise UserError(
                f"--lora-rank 0 trains every weight, and small steps are lost in {vlm.dtype}; "
                "expected --dtype float32, or adapters (--lora-rank 8)"
            )
        for name, parameter in vlm.model.named_parameters():
            layer = name.rsplit(".", 1)[0]
            parameter.requires_grad_(
                only is None or any(layer == one or layer.endswith("." + one) for one in only)
            )
        return []
    named = [name.strip() for name in recipe.lora_targets.split(",")]
    targets = recipe.lora_targets if recipe.lora_targets in ("all", "language") else named
    return vlm.add_lora(
        recipe.lora_rank, recipe.lora_alpha, targets if only is None else only, seed
    )


def label_mask(family: str, chosen: Variant, given: str = "auto") -> str:
    """The label mask of a run: the one given (answer, released), or with auto what the variant means for this model family.

    The released mask differs from the answer's only where the processor expands the image token. Qwen2-VL's always does.
    LLaVA's does not in the version that the released code pins, unless its config names a patch size: the model splices the
    features in. That is the likelier way to the published numbers, so auto takes it; --mask released is the other.
    """
    if given not in ("auto", *MASKS):
        raise UserError(f"--mask is {given!r}; expected auto, {' or '.join(MASKS)}")
    if given != "auto":
        return given
    return "released" if chosen.mask == "released" and family == "qwen2_vl" else "answer"


def unlearn(
    vlm: VLM,
    method: str,
    semantics: str,
    options,
    recipe,
    rows: tuple[list[Row], list[Row]],
    phrases: Phrases,
    seed: int,
    out: Path | None = None,
    resume: bool = False,
    mask: str = "auto",
) -> int:
    """Run the method on a model made trainable by `prepare`; returns the number of optimiser steps of all stages.

    out     run directory for trace and checkpoints; resume: go on from what it holds
    mask    label mask: answer, released or auto (see `label_mask`)
    """
    needs = table.needs(method, semantics, options)
    chosen = table.variant(method, semantics)
    negated, tuned = (
        table.second_stage(method, semantics) == "negate_delta",
        table.reference_model(method, options) == "idk",
    )
    begin = {}
    if tuned or (negated and not lora.adapters(vlm.model)):
        begin = {name: tensor.detach().clone() for name, tensor in trainable(vlm).items()}
    plan = UnlearnPlan(*rows, tuple(needs), phrases, seed, chosen.contents)
    if chosen.prepare_options is not None:
        options = chosen.prepare_options(options, min(recipe.batch_size, len(plan)))
    teacher, steps, mask = None, 0, label_mask(vlm.family.name, chosen, mask)
    if tuned:
        teacher, steps = idk_reference(
            vlm, method, chosen, options, recipe, rows, phrases, seed, out, resume, begin, mask
        )
    steps += train(
        vlm, plan, stage_of(method, chosen, options, mask), recipe, seed, out, resume, teacher
    )
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
        fill(
            now,
            sku.negate_delta(begin, {name: tensor.detach() for name, tensor in now.items()}),
            "sku's second stage",
        )


def stage_of(method: str, chosen: Variant, options, mask: str = "answer") -> Stage:
    """The Stage that trains a variant under these options."""

    def stage(name, needs, loss, phases=(), epochs=None):
        return Stage(
            name,
            needs,
            lambda batches: loss(batches, options),
            getattr(options, "layer", None),
            chosen.by_batch,
            mask,
            phases,
            epochs,
        )

    phases = tuple(
        stage(one.name, one.needs, one.loss, epochs=one.epochs) for one in chosen.phases_of(options)
    )
    return stage(method, chosen.needs_of(options), chosen.loss, phases)


def idk_reference(
    vlm, method, chosen, options, recipe, rows, phrases, seed, out, resume, begin, mask
) -> tuple[Teacher, int]:
    """The reference that DPO compares with: the base tuned on refusals. The model itself is put back to its start."""
    plan = UnlearnPlan(*rows, ("idk",), phrases, seed, chosen.contents)
    stage = Stage(
        f"{method} reference",
        {"idk": Need()},
        lambda batches: chosen.reference_loss(batches, options),
        mask=mask,
    )
    kept = None if out is None else out / "checkpoint" / REFERENCE
    if resume and kept is not None and kept.exists():
        fill(trainable(vlm), read_tensors(kept), kept)
        steps = stage_steps(plan, recipe, stage)
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
