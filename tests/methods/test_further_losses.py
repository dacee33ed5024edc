"""The losses beside the eleven: values by hand, and that they are losses but no training commands.

The batches, the notation and their numbers: tests/helpers/batches_by_hand.py. The gradients are
held to the authors' code (test_authors.py), and in certify to closed forms and finite differences.
Run: python -m pytest tests/methods/test_further_losses.py
"""

from math import log
from pathlib import Path

import pytest

from clear_ref.common.errors import UserError
from clear_ref.methods import FURTHER, LOSSES, METHODS, make_options, method_loss, needs
from clear_ref.methods.table import markdown
from clear_ref.run import main
from tests.helpers.batches_by_hand import L2, RETAIN_NLL, batches

ROOT = Path(__file__).parents[2]

# method, semantics, options, expected terms; never from the code under test.
CASES = [
    # a = 3/2 L2 | 4 L2; exp(margin - 2 a) = 4/8 | 4/256
    (
        "simnpo",
        "paper",
        {"beta": 2, "margin": log(4), "lambda_retain": 3},
        {"forget_simnpo": (log(3 / 2) + log(65 / 64)) / 2, "retain_nll": 3 * RETAIN_NLL},
    ),
    ("simnpo", "paper", {"beta": 2}, {"forget_simnpo": (log(9 / 8) + log(257 / 256)) / 2}),
    # beta delta = log 4
    (
        "simnpo",
        "original",
        {"beta": 2, "delta": L2, "gamma": 0.5, "alpha": 2},
        {"forget_simnpo": (log(3 / 2) + log(65 / 64)) / 4, "retain_nll": 2 * RETAIN_NLL},
    ),
    (
        "simnpo",
        "original",
        {"beta": 1, "gamma": 1, "alpha": 0},
        {"forget_simnpo": log(1 + 2**-1.5) + log(17 / 16)},
    ),
]


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, semantics, options, expected", CASES)
def test_a_further_loss_has_the_value_worked_out_by_hand(
    method, semantics, options, expected, left
):
    """Tolerance: float64 rounding of a dozen logs below 10.

    retain_nll with weight 1 is RETAIN_NLL; it is left out of the tuples above.
    """
    batch_needs = needs(method, semantics, make_options(method, options, semantics))
    loss = method_loss(method, batches(batch_needs, left), semantics, **options)
    found = {name: term.item() for name, term in loss.terms.items()}
    if "retain" in batch_needs:
        expected = {"retain_nll": RETAIN_NLL, **expected}
    assert found == pytest.approx(expected, abs=1e-14)
    assert loss.value.item() == pytest.approx(sum(expected.values()), abs=1e-14)


def test_every_variant_has_a_value_by_hand():
    every = {(name, one) for name, module in FURTHER.items() for one in module.VARIANTS}
    assert {case[:2] for case in CASES} == every


def test_they_are_losses_and_no_methods_of_clear():
    assert len(METHODS) == 11 and not set(METHODS) & set(FURTHER)
    assert list(LOSSES) == [*METHODS, *FURTHER]
    for name, module in FURTHER.items():
        assert list(module.VARIANTS) == ["paper", "original"], name
        with pytest.raises(UserError, match="CLEAR's released code does not have this loss"):
            make_options(name, {}, "released")


@pytest.mark.parametrize("name", FURTHER)
def test_no_command_trains_with_them_and_the_error_says_what_exists(name, capsys):
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert f"'{name}' is a loss that no command trains with: explain {name}" in error
    assert error.count("\n") == 1
    for command in (["all", "--methods", name], ["sweep", name]):
        assert main(command) == 2
        assert name in capsys.readouterr().err


def test_the_table_in_the_readme_is_made_from_their_files():
    text = (ROOT / "clear_ref" / "methods" / "README.md").read_text(encoding="utf-8")
    between = text.split("<!-- further -->\n")[1].split("<!-- /further -->")[0]
    assert between == markdown(FURTHER)
