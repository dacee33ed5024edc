"""This package's visual losses as a function for `visual-oracle conform`."""

from clear_ref.visual.methods import table
from clear_ref.visual.methods.inputs import Batch, Inputs


def loss(method, given, options):
    """The package's own loss."""
    options = dict(options)
    semantics = options.pop("semantics")
    batches = {name: Batch(**arrays) for name, arrays in given["batches"].items()}
    inputs = Inputs(
        batches,
        given["weight"],
        given["base_weight"],
        tuple(given["parameters"]),
        given["done"],
    )
    return table.visual_loss(method, inputs, semantics, **options).value
