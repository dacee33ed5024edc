"""Functions that conform must fail, each for one reason; `sees` keeps what it was given."""

import sys

import torch

from . import formulas, ours


def constant(method, batches, options):
    """A number that does not depend on the inputs."""
    return 1234.5


def raises(method, batches, options):
    """An error of its own."""
    raise KeyError("no such")


def exits(method, batches, options):
    """Ends the process."""
    sys.exit(0)


def vector(method, batches, options):
    """One number a sequence."""
    return torch.zeros(3)


def nothing(method, batches, options):
    """A forgotten return."""


def text(method, batches, options):
    """A number as text."""
    return "0.5"


def nan(method, batches, options):
    """Not a number."""
    return float("nan")


def infinite(method, batches, options):
    """Not finite."""
    return torch.tensor(float("inf"))


def changes(method, batches, options):
    """Works in place on the logits."""
    batches["forget"]["logits"].detach().mul_(2)
    return 0.0


def changes_labels(method, batches, options):
    """Works in place on the labels."""
    batches["retain"]["labels"][batches["retain"]["labels"] == -100] = 0
    return 0.0


def one_gradient(method, batches, options):
    """The gradient of one batch of two."""
    return 0.0, {"forget": torch.zeros_like(batches["forget"]["logits"])}


def flat_gradient(method, batches, options):
    """A gradient of another shape."""
    return 0.0, {"forget": torch.zeros(5), "retain": torch.zeros_like(batches["retain"]["logits"])}


def nan_gradient(method, batches, options):
    """A gradient with one NaN."""
    gradients = {
        name: torch.zeros_like(batch["logits"]).detach() for name, batch in batches.items()
    }
    gradients["retain"][0, 1, 2] = float("nan")
    return 0.0, gradients


def right_loss_no_gradient(method, batches, options):
    """The right loss with a gradient of zeros."""
    loss = ours.loss(method, batches, options)
    return loss.item(), {name: torch.zeros_like(batch["logits"]) for name, batch in batches.items()}


def text_gradient(method, batches, options):
    """Gradients that are texts."""
    return 0.0, dict.fromkeys(batches, "zero")


def nan_sometimes(method, batches, options):
    """Not a number where a batch has one sequence."""
    loss = ours.loss(method, batches, options)
    return loss * float("nan") if len(batches["forget"]["labels"]) == 1 else loss


SEEN: dict[str, dict[str, torch.Tensor]] = {}


def sees(method, batches, options):
    """The right loss; SEEN holds the batches of the last call."""
    SEEN.clear()
    SEEN.update(batches)
    return formulas.loss(method, batches, options)


def reads_idk(method, batches, options):
    """Reads a batch that kl does not hand over."""
    return batches["idk"]["logits"].mean()
