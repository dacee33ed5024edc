"""Targets: the vector that each picture's embedding is compared with, fixed before training.

A retain picture has its own embedding by the base. A forget picture has what its variant names
(methods/variant.py, Target). Under the released lookup by caption text, pictures with equal
captions share one entry: of two forget pictures the later one's, and of a forget and a retain
picture the retain picture's, so that this forget picture is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clear_ref.common.errors import UserError
from clear_ref.data.draws import uniform_vector

from .methods.variant import Target
from .network import ResNet18
from .pictures import Pictures

AT_ONCE = 256  # pictures of a forward pass without gradient


@dataclass(frozen=True)
class Targets:
    """Targets of the forget and retain pictures.

    values    [n, D]
    place_of  {picture: its row in values}
    n_forget  rows of values that are forget pictures': the first ones
    """

    values: Tensor
    place_of: Mapping[int, int]
    n_forget: int

    def of(self, pictures: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(targets [B, D], whether each is a forget picture's [B]) of these pictures."""
        places = torch.tensor([self.place_of[each] for each in pictures])
        forget = (places < self.n_forget).to(self.values.device)
        return self.values[places.to(self.values.device)], forget


@torch.no_grad()
def embed(
    network: ResNet18,
    pictures: Pictures,
    indices: Sequence[int],
    mirrored: bool = False,
    at_once: int = AT_ONCE,
) -> Tensor:
    """[n, D]: the embeddings of pictures, BN in eval mode, in the network's dtype and device.

    at_once  pictures of one forward pass, in the order given; changes the last bits at most
    """
    training = network.training
    network.eval()
    read = pictures.mirrored if mirrored else pictures.pixels
    like = network.conv1.weight
    parts = [
        network(read(indices[start : start + at_once]).to(like))
        for start in range(0, len(indices), at_once)
    ]
    network.train(training)
    if not parts:
        return like.new_zeros(0, network.embedding_width)
    return torch.cat(parts)


def forget_values(
    kind: Target, base: ResNet18, pictures: Pictures, forget: Sequence[int], c: float, seed: int
) -> Tensor:
    """[n, D]: the targets of the forget pictures, before any lookup by caption.

    c  scale of the drawn vectors; not read for the base's embeddings
    """
    if kind in (Target.BASE, Target.MIRRORED):
        return embed(base, pictures, forget, kind is Target.MIRRORED)
    width = base.embedding_width
    if kind is Target.DIRECTION:
        vector = uniform_vector(seed, "visual rmu direction", width)
        vectors = np.tile(c * vector / np.linalg.norm(vector), (len(forget), 1))
    else:
        drawn = [uniform_vector(seed, f"visual rmu target {each}", width) for each in forget]
        vectors = c * (2 * np.stack(drawn) - 1)
    return torch.from_numpy(vectors).to(base.conv1.weight)


def target_table(
    forget: Sequence[int],
    retain: Sequence[int],
    of_forget: Tensor,
    of_retain: Tensor,
    captions: Sequence[str] | None = None,
) -> Targets:
    """Targets of two sets of pictures.

    of_forget, of_retain  [n, D] of each set
    captions              of all pictures, by their index: the released lookup by caption text;
                          None: every picture has its own target
    raises                UserError if a picture is in both sets
    """
    both = sorted(set(forget) & set(retain))
    if both:
        raise UserError(f"picture {both[0]} is in the forget and in the retain set; expected one")
    pictures = [*forget, *retain]
    keys = [each if captions is None else captions[each] for each in pictures]
    place_of_key = {key: place for place, key in enumerate(keys)}
    place_of = {each: place_of_key[key] for each, key in zip(pictures, keys, strict=True)}
    return Targets(torch.cat([of_forget, of_retain]), place_of, len(forget))
