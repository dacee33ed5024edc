"""Small trainers in the shape of most unlearning repositories, with adapters for conform.

A trainer has compute_loss(model, inputs) and reads model(**batch).loss and .logits. Some are right,
some have a mistake that their docstring names.
"""

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, logsigmoid

from clear_ref.oracle.trainers import Fakes


def sequence_nll(model, batch):
    """[B]: the nll of each whole answer."""
    logits = model(**batch).logits[:, :-1].transpose(1, 2)
    return nn.CrossEntropyLoss(reduction="none")(logits, batch["labels"][:, 1:]).sum(1)


class KlTrainer:
    """-nll of forget + KL(teacher || student) over all rows of retain."""

    def compute_loss(self, model, inputs):
        """The loss."""
        loss = -model(**inputs["forget"]).loss
        student = log_softmax(model(**inputs["retain"]).logits, -1).flatten(0, 1)
        with torch.no_grad():
            teacher = log_softmax(self.ref_model(**inputs["retain"]).logits, -1).flatten(0, 1)
        return loss + self.divergence(student, teacher)

    def divergence(self, student, teacher):
        """KL(teacher || student)."""
        return kl_div(student, teacher, reduction="batchmean", log_target=True)


class SwappedKlTrainer(KlTrainer):
    """kl_swapped: kl_div's first argument is the teacher."""

    def divergence(self, student, teacher):
        """KL(student || teacher)."""
        return kl_div(teacher, student, reduction="batchmean", log_target=True)


class NpoTrainer:
    """NPO on whole answers."""

    def compute_loss(self, model, inputs):
        """The loss."""
        student = sequence_nll(model, inputs["forget"])
        with torch.no_grad():
            teacher = sequence_nll(self.ref_model, inputs["forget"])
        return -2 / self.beta * logsigmoid(self.beta * (student - teacher)).mean()


class BatchMeanNpoTrainer:
    """npo_batch_mean: .loss is a mean over the tokens of the batch."""

    def compute_loss(self, model, inputs):
        """The loss."""
        with torch.no_grad():
            teacher = self.ref_model(**inputs["forget"]).loss
        student = model(**inputs["forget"]).loss
        return -2 / self.beta * logsigmoid(self.beta * (student - teacher)).mean()


class SelfReferenceTrainer(NpoTrainer):
    """reference_is_wrong_model: the adapters stay on while the reference runs."""

    def compute_loss(self, model, inputs):
        """The loss."""
        self.ref_model = model
        return super().compute_loss(model, inputs)


class PeftNpoTrainer(NpoTrainer):
    """NPO whose reference is the model without its adapters."""

    def compute_loss(self, model, inputs):
        """The loss."""
        student = sequence_nll(model, inputs["forget"])
        with torch.no_grad(), model.disable_adapter():
            teacher = sequence_nll(model, inputs["forget"])
        return -2 / self.beta * logsigmoid(self.beta * (student - teacher)).mean()


class ShiftedTwiceTrainer:
    """shift_off_by_one: logits and labels are compared at the same place."""

    def compute_loss(self, model, inputs):
        """The loss."""
        logits = model(**inputs["forget"]).logits
        return -nn.CrossEntropyLoss()(logits.flatten(0, 1), inputs["forget"]["labels"].flatten())


class RmuTrainer:
    """RMU on hidden states that a forward hook keeps; mean squares over all positions."""

    layer = 7

    def states(self, model, batch):
        """[B, T, D]: what the layer returns."""
        kept = []
        hook = model.model.layers[self.layer].register_forward_hook(
            lambda module, inputs, output: kept.append(output)
        )
        model(**batch)
        hook.remove()
        return kept[0]

    def compute_loss(self, model, inputs):
        """The loss."""
        with torch.no_grad():
            teacher = self.states(self.ref_model, inputs["retain"])
        forget = (self.states(model, inputs["forget"]) - self.target).square().mean()
        retain = (self.states(model, inputs["retain"]) - teacher).square().mean()
        return forget + self.alpha * retain


def train(model, forget, retain, accelerator):
    """A script: a step of gradient ascent on forget, then one of descent on retain."""
    model, forget, retain = accelerator.prepare(model, forget, retain)
    for batch in forget:
        with accelerator.accumulate(model):
            accelerator.backward(-model(**batch).loss)
    for batch in retain:
        accelerator.backward(model(**batch).loss)


def train_by_itself(model, loader):
    """A loop that calls backward itself; the mean loss as a number."""
    losses = []
    for batch in loader:
        loss = -model(**batch).loss
        loss.backward()
        losses.append(loss.item())
    return sum(losses) / len(losses)


# Below: the adapters.


def kl(method, batches, options):
    """KlTrainer."""
    fakes = Fakes(batches)
    trainer = fakes.trainer(KlTrainer, ref_model=fakes.teacher)
    return trainer.compute_loss(fakes.student, fakes.inputs)


def kl_swapped(method, batches, options):
    """SwappedKlTrainer."""
    fakes = Fakes(batches)
    trainer = fakes.trainer(SwappedKlTrainer, ref_model=fakes.teacher)
    return trainer.compute_loss(fakes.student, fakes.inputs)


def npo(method, batches, options):
    """NpoTrainer."""
    fakes = Fakes(batches)
    trainer = fakes.trainer(NpoTrainer, ref_model=fakes.teacher, beta=options["beta"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


def npo_batch_mean(method, batches, options):
    """BatchMeanNpoTrainer."""
    fakes = Fakes(batches)
    trainer = fakes.trainer(BatchMeanNpoTrainer, ref_model=fakes.teacher, beta=options["beta"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


def npo_self_reference(method, batches, options):
    """SelfReferenceTrainer."""
    fakes = Fakes(batches)
    trainer = fakes.trainer(SelfReferenceTrainer, beta=options["beta"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


def npo_peft(method, batches, options):
    """PeftNpoTrainer."""
    fakes = Fakes(batches)
    trainer = fakes.trainer(PeftNpoTrainer, beta=options["beta"])
    return trainer.compute_loss(fakes.student, fakes.inputs)


def ascent_shifted_twice(method, batches, options):
    """ShiftedTwiceTrainer."""
    fakes = Fakes(batches)
    return fakes.trainer(ShiftedTwiceTrainer).compute_loss(fakes.student, fakes.inputs)


def rmu(method, batches, options):
    """RmuTrainer."""
    fakes = Fakes(batches)
    target = options["c"] * batches["forget"]["control"]
    trainer = fakes.trainer(
        RmuTrainer, ref_model=fakes.teacher, target=target, alpha=options["alpha"]
    )
    return trainer.compute_loss(fakes.student, fakes.inputs)


def script(method, batches, options):
    """train: two steps, judged by the sum of their losses."""
    fakes = Fakes(batches)
    train(fakes.student, [fakes.inputs["forget"]], [fakes.inputs["retain"]], fakes.accelerator)
    return sum(fakes.accelerator.losses)


def own_backward(method, batches, options):
    """train_by_itself: the gradients are those that backward left."""
    fakes = Fakes(batches)
    return train_by_itself(fakes.student, [fakes.inputs["forget"]]), fakes.gradients()


ADAPTERS = (
    kl,
    kl_swapped,
    npo,
    npo_batch_mean,
    npo_self_reference,
    npo_peft,
    ascent_shifted_twice,
    rmu,
    script,
    own_backward,
)
