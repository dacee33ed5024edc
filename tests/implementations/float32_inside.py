"""This package's losses, computed in float32 whatever the dtype of the inputs."""

from . import ours


def loss(method, batches, options):
    """The loss of the inputs cast to float32, a number of float32."""
    cast = {}
    for name, batch in batches.items():
        cast[name] = {
            key: array.float() if array.is_floating_point() else array
            for key, array in batch.items()
        }
    return ours.loss(method, cast, options)
