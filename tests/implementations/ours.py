"""This package's losses behind conform's signature."""

from clear_ref import Outputs, method_loss

READ = ("logits", "labels", "teacher_logits", "attention_mask", "hidden", "teacher_hidden")


def loss(method, batches, options):
    """The package's loss as a torch scalar with its graph. RMU's directions are its own, made from the option `seed`."""
    outputs = {
        name: Outputs(**{key: batch.get(key) for key in READ}) for name, batch in batches.items()
    }
    return method_loss(method, outputs, **options).value
