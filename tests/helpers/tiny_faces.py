"""Faces for tests: small pictures of a few people, a network of width 1 or 2."""

import numpy as np
import torch

from clear_ref.visual.pictures import Pictures
from clear_ref.visual.training import Faces

EACH = 4  # pictures of one person
FORGET = list(range(EACH))  # the first person
RETAIN = list(range(EACH, 3 * EACH))  # the second and the third


def tiny_faces(n_people=3, size=33, captions=True):
    """`EACH` noisy pictures of each person, whose mean colour tells them apart."""
    rng = np.random.RandomState(0)
    labels = np.repeat(np.arange(n_people), EACH)
    colours = rng.randint(40, 216, (n_people, 3, 1, 1))
    values = colours[labels] + rng.randint(-40, 40, (len(labels), 3, size, size))
    texts = [f"a picture, number {k}" for k in range(len(labels))] if captions else None
    pictures = Pictures(torch.tensor(values.astype(np.uint8)))
    return Faces(pictures, torch.tensor(labels), n_people, texts)
