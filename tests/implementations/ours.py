"""This package's losses with the signature that conform expects."""

from clear_ref import Outputs, method_loss

READ = ("logits", "labels", "teacher_logits", "attention_mask", "hidden", "teacher_hidden")


def loss(method, batches, options):
    """The package's loss, a torch scalar with its graph.

    RMU computes its control vectors from the option `seed`; the given ones are not read.
    """
    outputs = {
        name: Outputs(**{key: batch.get(key) for key in READ}) for name, batch in batches.items()
    }
    return method_loss(method, outputs, **options).value
