"""Plain training of a model on a plan: base and gold models, relearning."""

from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.guards import Guard
from clear_ref.methods.table import make_options, variant
from clear_ref.model.vlm import VLM

from .curve import Curve
from .plan import FinetunePlan
from .recipes import Recipe
from .saving import NO_SAVING, Saving
from .stage import Stage
from .trace import NEW_RUN
from .train import AfterStep, Training, train


def finetune(
    vlm: VLM,
    plan: FinetunePlan,
    recipe: Recipe,
    seed: int,
    name: str,
    out: Path | None = None,
    resume: bool = False,
    after_step: AfterStep | None = None,
    curve: Curve | None = None,
    saving: Saving = NO_SAVING,
    guards: tuple[Guard, ...] = (),
    begin_again: str = NEW_RUN,
) -> int:
    """Train all weights, or the adapters if there are any; returns the number of steps.

    name         of the stage, in the trace
    out, resume, saving, guards  as in train.Training
    after_step   as in train.train
    curve        evaluations between the steps, instead of after_step
    begin_again  what to do if a file from which it resumes is damaged, for the message
    """
    if not recipe.lora_rank:
        vlm.model.requires_grad_(True)
    retain_ft = variant("retain_ft", "paper")
    options = make_options("retain_ft", {})
    stage = Stage(
        name, retain_ft.needs_of(options), lambda batches: retain_ft.loss(batches, options)
    )
    training = Training(plan, stage, recipe, seed, out, resume, saving, guards)
    if curve is not None:
        after_step = curve.begin(vlm, training)
    try:
        steps = train(vlm, training, after_step=after_step)
    except UserError as error:
        problem = str(error)
        if begin_again == NEW_RUN or not problem.endswith(NEW_RUN):
            raise
        raise UserError(f"{problem.removesuffix(NEW_RUN)}{begin_again}") from None
    vlm.model.requires_grad_(False)
    return steps
