"""Retain FT as the released formula computes it: exponentials of the logits as they are."""

import torch


def loss(method, given, options):
    """AM-softmax of the retain batch; no largest logit is subtracted."""
    assert method == "retain_ft" and options["semantics"] == "released"
    batch = given["batches"]["retain"]
    embeddings = batch["embeddings"]
    cosines = embeddings / embeddings.norm(dim=1, keepdim=True) @ given["weight"].T
    own = torch.nn.functional.one_hot(batch["labels"], cosines.shape[1]).to(cosines)
    z = 30 * (cosines - 0.4 * own)
    return -((z * own).sum(1) - torch.log(torch.exp(z).sum(1))).mean()
