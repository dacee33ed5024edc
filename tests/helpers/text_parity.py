"""Loss and gradients of our language models beside those of transformers, with one batch."""

import pytest
import torch


def check_loss_and_gradients(ours, theirs, records):
    """The loss within 1e-5; of each tensor's gradient the difference below 1e-4 of its norm."""
    batch = ours.encode(records)
    theirs.zero_grad()
    expected = theirs(batch.input_ids, batch.attention_mask, labels=batch.labels).loss
    expected.backward()
    ours.model.requires_grad_(True)
    ours.model.zero_grad()
    logits = ours.forward(batch.input_ids, batch.attention_mask)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
    )
    loss.backward()
    ours.model.requires_grad_(False)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert set(gradients) == {name for name, _ in ours.model.named_parameters()}
    for name, parameter in ours.model.named_parameters():
        assert (
            float((parameter.grad - gradients[name]).norm())
            < 1e-4 * float(gradients[name].norm()) + 1e-9
        ), name
