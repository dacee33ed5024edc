"""One method on one model: all its stages, in order."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.guards import Guard
from clear_ref.common.run_directory import CHECKPOINT_DIRECTORY
from clear_ref.data.label_masks import MASKS
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Row
from clear_ref.methods import LossFunction, Need, Variant, sku, table
from clear_ref.model import lora
from clear_ref.model.vlm import VLM
from clear_ref.model.weights import fill

from .checkpoint import read_into, write_kept
from .curve import Curve
from .kept import Kept
from .plan import UnlearnPlan
from .recipes import Recipe
from .saving import Saving
from .stage import Stage, StageLoss, trainable
from .teacher import Teacher
from .train import Training, train

REFERENCE = "reference.safetensors"
Weights = dict[str, torch.Tensor]  # by name


@dataclass(frozen=True)
class Unlearning:
    """What is trained.

    options  of the method's variant
    rows     (forget, retain)
    mask     label mask: answer, released or auto (label_mask)
    out      run directory for trace and checkpoints; None: neither is written
    resume   continue from the checkpoint in out; saving, guards: as in train.Training
    kept     results of the teacher that are used again, see kept_results
    """

    method: str
    semantics: str
    options: Any
    recipe: Recipe
    rows: tuple[list[Row], list[Row]]
    phrases: Phrases
    seed: int
    mask: str = "auto"
    out: Path | None = None
    resume: bool = False
    saving: Saving = Saving()
    guards: tuple[Guard, ...] = ()
    kept: Kept | None = None

    def variant(self) -> Variant:
        """The variant that is trained."""
        return table.variant(self.method, self.semantics)

    def plan(self, batches: tuple[str, ...]) -> UnlearnPlan:
        """The plan with records for these batches."""
        forget, retain = self.rows
        contents = self.variant().contents
        return UnlearnPlan(forget, retain, batches, self.phrases, self.seed, contents)

    def training(self, plan: UnlearnPlan, stage: Stage) -> Training:
        """The training of one stage of this run."""
        return Training(
            plan,
            stage,
            self.recipe,
            self.seed,
            self.out,
            self.resume,
            self.saving,
            self.guards,
            self.kept_results(),
        )

    def kept_results(self) -> Kept | None:
        """Where the teacher's results are kept; None: nowhere.

        Records that are padded together are together again in other runs with the seed, and hardly
        ever in another epoch. So one run alone keeps results of single records.
        """
        together = self.recipe.records_at_once
        if self.variant().by_batch:
            together = self.recipe.batch_size
        if self.kept is None or self.kept.shared or together == 1:
            return self.kept
        return None


def label_mask(family: str, chosen: Variant, given: str = "auto") -> str:
    """The label mask of a run: the given one (answer, released); for auto by family and semantics.

    The released mask differs from the answer's only where the processor expands the image token.
    Qwen2-VL's and Qwen2.5-VL's always do. LLaVA's does not in the version that the released code
    pins, unless its config names a patch size: the model inserts the image features. So the
    published numbers are more likely to come from the answer mask, and auto takes it for LLaVA.
    """
    if given not in ("auto", *MASKS):
        raise UserError(f"--mask is {given!r}; expected auto, {' or '.join(MASKS)}")
    if given != "auto":
        return given
    if chosen.mask == "released" and family in ("qwen2_vl", "qwen2_5_vl"):
        return "released"
    return "answer"


def unlearn(vlm: VLM, run: Unlearning, curve: Curve | None = None) -> int:
    """Run the method on a model made trainable by `prepare`; returns the steps of all stages.

    curve  evaluations between the steps of the method's own stage, as if the run ended there; if it
           keeps the best weights, the model gets these
    """
    chosen = run.variant()
    negated = table.second_stage(run.method, run.semantics) == "negate_delta"
    tunes_reference = table.reference_model(run.method, run.options) == "idk"
    start_weights: Weights = {}
    if tunes_reference or (negated and not lora.adapters(vlm.model)):
        start_weights = {name: tensor.detach().clone() for name, tensor in trainable(vlm).items()}
    plan = run.plan(tuple(table.needs(run.method, run.semantics, run.options)))
    options = run.options
    if chosen.prepare_options is not None:
        options = chosen.prepare_options(options, min(run.recipe.batch_size, len(plan)))
    mask = label_mask(vlm.family.name, chosen, run.mask)
    teacher = None
    steps = 0
    if tunes_reference:
        teacher, steps = idk_reference(vlm, run, mask, start_weights)
    training = run.training(plan, stage_of(run.method, chosen, options, mask))
    after_step = None
    if curve is not None:

        def finished() -> AbstractContextManager[object]:
            return negated_inside(vlm, start_weights) if negated else nullcontext()

        after_step = curve.begin(vlm, training, finished)
    steps += train(vlm, training, teacher, after_step)
    if curve is not None:
        curve.give_best(vlm)
    if negated:
        with torch.no_grad():
            negate(vlm, start_weights)
    return steps


def negate(vlm: VLM, start_weights: Weights) -> None:
    """Set the weights to 2 theta_0 - theta_1. The change of adapters is B A: B changes sign."""
    adapters = lora.adapters(vlm.model)
    for adapter in adapters.values():
        adapter.lora_B.neg_()
    if adapters:
        return
    parameters = trainable(vlm)
    trained = {name: parameter.detach() for name, parameter in parameters.items()}
    fill(parameters, sku.negate_delta(start_weights, trained), "sku's second stage")


@contextmanager
def negated_inside(vlm: VLM, start_weights: Weights) -> Iterator[None]:
    """Inside the block the model is negated; afterwards it is bit for bit what it was."""
    trained = {name: parameter.detach().clone() for name, parameter in trainable(vlm).items()}
    try:
        with torch.no_grad():
            negate(vlm, start_weights)
        yield
    finally:
        fill(trainable(vlm), trained, "the model before it was negated")


def stage_of(method: str, chosen: Variant, options: Any, mask: str = "answer") -> Stage:
    """The Stage that trains a variant under these options."""
    phases = []
    for phase in chosen.phases_of(options):
        phases.append(
            Stage(
                name=phase.name,
                needs=phase.needs,
                loss=_with_options(phase.loss, options),
                hidden_layer=getattr(options, "layer", None),
                by_batch=chosen.by_batch,
                mask=mask,
                epochs=phase.epochs,
            )
        )
    return Stage(
        name=method,
        needs=chosen.needs_of(options),
        loss=_with_options(chosen.loss, options),
        hidden_layer=getattr(options, "layer", None),
        by_batch=chosen.by_batch,
        mask=mask,
        phases=tuple(phases),
    )


def _with_options(loss: LossFunction, options: Any) -> StageLoss:
    return lambda batches: loss(batches, options)


def idk_reference(
    vlm: VLM, run: Unlearning, mask: str, start_weights: Weights
) -> tuple[Teacher, int]:
    """The reference that DPO compares with: the base tuned on refusals; and the steps made.

    The model itself gets its weights of the start again.
    """
    reference_loss = run.variant().reference_loss
    if reference_loss is None:
        raise UserError(
            f"{run.method} ({run.semantics}) has no first stage; expected reference=base"
        )
    stage = Stage(
        name=f"{run.method} reference",
        needs={"idk": Need()},
        loss=_with_options(reference_loss, run.options),
        mask=mask,
    )
    training = run.training(run.plan(("idk",)), stage)
    saved = None if run.out is None else run.out / CHECKPOINT_DIRECTORY / REFERENCE
    if run.resume and saved is not None and distributed.from_first(saved.exists):
        read_into(trainable(vlm), saved)
        steps = training.n_steps()
    else:
        steps = train(vlm, training)
        if saved is not None:
            write_kept(saved, trainable(vlm))
    if lora.adapters(vlm.model):
        lora.freeze_reference(vlm.model)
        teacher = Teacher(vlm, "reference", run.kept_results())
    else:
        teacher = Teacher(vlm, kept=run.kept_results())
    fill(trainable(vlm), start_weights, "the model before its reference was tuned")
    return teacher, steps
