"""Makes a model trainable as a recipe says: adapters, or every weight."""

import torch

from clear_ref.common.errors import UserError
from clear_ref.model.vlm import VLM

from .recipes import Recipe


def prepare(vlm: VLM, recipe: Recipe, seed: int, only: list[str] | None = None) -> list[str]:
    """Make the model trainable; returns the names of the adapted layers, [] without adapters.

    only  the last parts of the names of the layers that a variant trains, instead of the recipe's
    """
    _check_targets(recipe, only)
    vlm.checkpoint_layers(recipe.checkpointing == "on")
    if not recipe.lora_rank:
        _train_weights(vlm, only)
        return []
    targets: str | list[str] = recipe.lora_targets
    if only is not None:
        targets = only
    elif recipe.lora_targets not in ("all", "language"):
        targets = [name.strip() for name in recipe.lora_targets.split(",")]
    return vlm.add_lora(recipe.lora_rank, recipe.lora_alpha, targets, seed)


def _check_targets(recipe: Recipe, only: list[str] | None) -> None:
    """UserError if --lora-targets names layers although something else chooses them."""
    if recipe.lora_targets == "all":
        return
    if only is not None:
        reason = f"these semantics train {', '.join(only)} alone"
    elif not recipe.lora_rank:
        reason = "--lora-rank 0 trains every weight"
    else:
        return
    raise UserError(
        f"--lora-targets is {recipe.lora_targets}, and {reason}; leave one of the two out"
    )


def _train_weights(vlm: VLM, only: list[str] | None) -> None:
    """Make every weight trainable, or those of the layers in `only`."""
    if vlm.dtype in (torch.bfloat16, torch.float16):
        raise UserError(
            f"--lora-rank 0 trains every weight, and small steps are lost in {vlm.dtype}; "
            "expected --dtype float32, or adapters (--lora-rank 8)"
        )
    for name, parameter in vlm.model.named_parameters():
        layer = name.rsplit(".", 1)[0]
        parameter.requires_grad_(only is None or any(_ends_with(layer, part) for part in only))


def _ends_with(layer: str, part: str) -> bool:
    """True if the last parts of the layer's name are `part`."""
    return layer == part or layer.endswith("." + part)
