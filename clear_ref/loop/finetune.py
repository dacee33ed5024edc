"""Plain training of a model on a plan: base and gold models, relearning."""

from clear_ref.methods.table import make_options, variant
from clear_ref.model.vlm import VLM

from .plan import FinetunePlan
from .train import Stage, train


def finetune(
    vlm: VLM,
    plan: FinetunePlan,
    recipe,
    seed: int,
    name: str,
    out=None,
    resume=False,
    after_step=None,
) -> int:
    """Train every weight (or the adapters, where there are any) on a plan's records; returns the number of steps.

    out, resume, after_step  as in train
    """
    if not recipe.lora_rank:
        vlm.model.requires_grad_(True)
    plain, options = variant("retain_ft", "paper"), make_options("retain_ft", {})
    stage = Stage(name, plain.needs_of(options), lambda batches: plain.loss(batches, options))
    steps = train(vlm, plan, stage, recipe, seed, out, resume, after_step=after_step)
    vlm.model.requires_grad_(False)
    return steps
