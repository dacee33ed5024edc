"""Random draws: a function of their key alone, with the values that the documented hash gives."""

import numpy as np
import torch

from clear_ref.data import draws
from clear_ref.data.torch_draws import torch_generator


def test_a_choice_is_the_sha256_of_its_key_modulo_n():
    r"""printf '0\x1fretain partner\x1f2\x1f5' | sha256sum gives the digest below."""
    digest = "2b654e9175a1ae136f9dd123b196305f"
    number = int.from_bytes(bytes.fromhex(digest), "little")
    for n in (1, 7, 1000):
        assert draws.choice(0, "retain partner", 2, 5, n) == number % n


def test_orders_and_samples_hold_each_number_once():
    order = draws.permutation(0, "order", 1, 20)
    assert sorted(order) == list(range(20)) and order != list(range(20))
    chosen = draws.sample(0, "random", 1, 2, 20, 6)
    assert len(set(chosen)) == 6 and set(chosen) <= set(range(20))


def test_every_part_of_the_key_changes_a_draw_and_nothing_else_does():
    first = draws.permutation(0, "order", 1, 20)
    assert draws.permutation(0, "order", 1, 20) == first
    assert first not in (
        draws.permutation(1, "order", 1, 20),
        draws.permutation(0, "another", 1, 20),
        draws.permutation(0, "order", 2, 20),
    )


def test_vectors_are_uniform_in_0_1_and_do_not_depend_on_torch_or_numpy_seeds():
    """The mean of 10,000 draws is 1/2 within five standard errors (5 * 0.2887 / 100 = 0.0144)."""
    first = draws.uniform_vector(0, "direction", 10_000)
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(first, draws.uniform_vector(0, "direction", 10_000))
    assert first.min() >= 0 and first.max() < 1 and abs(first.mean() - 0.5) < 0.0144
    weights = torch.randn(4, generator=torch_generator(0, "weight"))
    assert torch.equal(weights, torch.randn(4, generator=torch_generator(0, "weight")))
