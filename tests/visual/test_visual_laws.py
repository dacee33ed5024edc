"""Laws of the visual losses, for every method and semantics: float64 finite differences, the stated
divisor (a batch twice gives the same loss), no gradient in what is fixed, and what holds at the
base.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from clear_ref.visual.methods import table
from clear_ref.visual.methods.inputs import Inputs
from tests.helpers.visual_inputs import gradients, inputs, leaves

ALL = [
    pytest.param(method, semantics, options, id="-".join([method, semantics, *options.values()]))
    for method, semantics, options in [
        *((name, each, {}) for name, module in table.METHODS.items() for each in module.VARIANTS),
        ("llmu", "paper", {"kl": "base_student"}),
        ("twins", "paper", {"distance": "kl"}),
    ]
]
everything = pytest.mark.parametrize("method, semantics, options", ALL)


def loss_of(method, semantics, options, given):
    """The scalar of a loss."""
    return table.visual_loss(method, given, semantics, **options).value


def given_for(method, semantics, seed=7, gap=0.4):
    """Inputs of a variant."""
    return inputs(table.variant(method, semantics).sampling, seed, gap)


def with_leaves(given, values):
    """The same Inputs with other leaves, in the order of `leaves`."""
    values = dict(zip(leaves(given), values, strict=True))
    batches = {
        name: dataclasses.replace(batch, embeddings=values[name])
        for name, batch in given.batches.items()
    }
    parameters = tuple(values[name] for name in values if name.startswith("parameter"))
    return Inputs(batches, values["weight"], given.base_weight, parameters, given.done)


@everything
def test_gradients_by_finite_differences(method, semantics, options):
    """Central differences with steps of 1e-6: an error of about 1e-9 of the third derivative, and
    of 1e-10 / 1e-6 from rounding.
    """
    given = given_for(method, semantics)
    found = gradients(loss_of(method, semantics, options, given), given)
    names = list(leaves(given))
    values = [leaf.detach() for leaf in leaves(given).values()]
    generator = torch.Generator().manual_seed(0)
    for place, name in enumerate(names):
        direction = torch.randn(values[place].shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = list(values)
            moved[place] = values[place] + sign * 1e-6 * direction
            ends.append(float(loss_of(method, semantics, options, with_leaves(given, moved))))
        slope = (ends[0] - ends[1]) / 2e-6
        expected = float((found[name] * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-6), name


@everything
def test_a_batch_twice_gives_the_same_loss(method, semantics, options):
    """Every term is divided by the pictures of its batch; the sum over parameters is not."""
    given = given_for(method, semantics)
    twice = {}
    for name, batch in given.batches.items():
        parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        twice[name] = type(batch)(
            **{
                key: None if value is None else torch.cat([value, value])
                for key, value in parts.items()
            }
        )
    doubled = Inputs(twice, given.weight, given.base_weight, given.parameters)
    one, other = (float(loss_of(method, semantics, options, x).detach()) for x in (given, doubled))
    assert one == pytest.approx(other, rel=1e-12)


@everything
def test_targets_and_the_bases_head_get_no_gradient_and_others_are_read(method, semantics, options):
    """What a variant trains is exactly what its loss has a gradient in."""
    given = given_for(method, semantics)
    loss = loss_of(method, semantics, options, given)
    chosen = table.variant(method, semantics)
    found = gradients(loss, given)
    read = {name for name, gradient in found.items() if bool(gradient.any())}
    expected = set(given.batches) | ({"weight"} if chosen.trains_head else set())
    if method == "sparsity":
        expected |= {"parameter0", "parameter1"}
    assert read == expected


def at_base(method, semantics):
    """Inputs whose student is the base."""
    given = given_for(method, semantics)
    values = {name: batch.targets.clone() for name, batch in given.batches.items()}
    values["weight"] = given.base_weight.clone()
    values |= {f"parameter{k}": each.detach() for k, each in enumerate(given.parameters)}
    return with_leaves(given, [each.requires_grad_() for each in values.values()])


@pytest.mark.parametrize("semantics", ["paper", "released", "original"])
def test_scrub_starts_as_gamma_times_retain_ft(semantics):
    given = at_base("scrub", semantics)
    loss = table.visual_loss("scrub", given, semantics)
    for name in ("retain_kl", "forget_kl"):
        assert abs(float(loss.terms[name].detach())) < 1e-12
    found = gradients(loss.value, given)
    read = "released" if semantics == "released" else "paper"
    expected = gradients(table.visual_loss("retain_ft", given, read).value, given)
    for name in found:
        assert torch.allclose(found[name], expected[name], rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_the_retain_kl_of_llmu_starts_without_a_gradient(semantics):
    given = at_base("llmu", semantics)
    term = table.visual_loss("llmu", given, semantics).terms["retain_kl"]
    assert abs(float(term.detach())) < 1e-12
    assert all(float(each.abs().max()) < 1e-12 for each in gradients(term, given).values())


def test_dpo_starts_at_log_2_with_half_the_gradient_of_the_log_ratios():
    """Released: the gradient of mean_i (g_f(i) - g_r(i)) / 2 whatever beta is, the value log 2 /
    beta. Paper: the gradient of -(beta / 2) mean_f h.
    """
    given = at_base("dpo", "released")
    loss = table.visual_loss("dpo", given, "released", beta=0.25).value
    assert float(loss.detach()) == pytest.approx(4 * math.log(2), rel=1e-12)
    logp = {}
    for name, batch in given.batches.items():
        every = (batch.embeddings @ given.weight.T).log_softmax(1)
        logp[name] = every[torch.arange(len(every)), batch.labels]
    by_hand = (logp["forget"] - logp["retain"]).mean() / 2
    for one, other in zip(
        gradients(loss, given).values(), gradients(by_hand, given).values(), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    given = at_base("dpo", "paper")
    term = table.visual_loss("dpo", given).terms["dpo"]
    assert float(term.detach()) == pytest.approx(math.log(2), rel=1e-12)
    batch = given.batches["forget"]
    unit = torch.nn.functional.normalize
    every = (30 * unit(batch.embeddings) @ unit(given.weight).T).log_softmax(1)
    places = torch.arange(len(every))
    h = every[places, batch.random] - every[places, batch.labels]
    for one, other in zip(
        gradients(term, given).values(), gradients(-0.05 * h.mean(), given).values(), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["scrubbio", "rmu", "twins"])
@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_at_the_targets_there_is_no_gradient(method, semantics):
    """SCRUBbio: a cosine of 1 is the greatest. RMU and Twins: every distance is 0."""
    given = at_base(method, semantics)
    loss = table.visual_loss(method, given, semantics).value
    for gradient in gradients(loss, given).values():
        assert float(gradient.abs().max()) < 1e-12


def test_the_table_of_the_page_is_the_methods():
    page = (Path(table.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert page.split("<!-- methods -->\n")[1].split("<!-- /methods -->")[0] == table.markdown()
