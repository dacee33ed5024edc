"""The losses beside the eleven: values by hand, and that they are losses but no training commands.

The batches, the notation and their numbers: tests/helpers/batches_by_hand.py. The gradients are
held to the authors' code (test_authors.py), and in certify to closed forms and finite differences.
Run: python -m pytest tests/methods/test_further_losses.py
"""

from math import exp, log
from pathlib import Path

import pytest

from clear_ref.common.errors import UserError
from clear_ref.methods import FURTHER, LOSSES, METHODS, make_options, method_loss, needs
from clear_ref.methods.table import markdown
from clear_ref.run import main
from tests.helpers.batches_by_hand import K_TEACHER_STUDENT, L2, RETAIN_NLL, batches

ROOT = Path(__file__).parents[2]

# As the comments at undial below say.
UNDIAL = (
    L2,
    (2 * L2 + 9 * log(4 / 3)) / 10,
    (4 * L2 + 21 * log(16 / 15)) / 22,
)
ENTROPY = log(1 + exp(-7)) + 7 * exp(-7) / (1 + exp(-7))

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
    # The teacher's 1/4, 1/4 | 1/8 have odds 1/3, 1/3 | 1/7; three times lower they are 1/10, 1/10 |
    # 1/22. Cross-entropies with 1/2, 1/4 | 1/16: UNDIAL.
    ("undial", "paper", {"beta": log(3)}, {"forget_undial": sum(UNDIAL) / 3}),
    # Rows 0 to 4 of both sequences: 7 without a label have the entropy of the odds exp(7).
    (
        "undial",
        "original",
        {"beta": log(3), "gamma": 0.5, "alpha": 2},
        {"forget_undial": (sum(UNDIAL) + 7 * ENTROPY) / 20, "retain_nll": 2 * RETAIN_NLL},
    ),
    ("undial", "original", {"beta": log(3)}, {"forget_undial": (sum(UNDIAL) + 7 * ENTROPY) / 10}),
    # p nll: 1/2, 2/4 | 4/16; p^2 nll: 1/4, 2/16 | 4/256
    ("wga", "paper", {}, {"forget_wga": -5 / 12 * L2}),
    # All rows but two of the twelve have KL 0.
    (
        "wga",
        "paper",
        {"beta": 2, "retain": "kl"},
        {"forget_wga": -25 / 192 * L2, "retain_kl": K_TEACHER_STUDENT / 6},
    ),
    (
        "wga",
        "original",
        {"beta": 2, "gamma": 3, "alpha": 0.5},
        {"forget_wga": -25 / 64 * L2, "retain_nll": RETAIN_NLL / 2},
    ),
    # p (1 - p) nll: 1/4, 2 * 3/16 | 4 * 15/256
    (
        "satimp",
        "paper",
        {"beta1": 1},
        {"forget_satimp": -55 / 192 * L2, "retain_nll": RETAIN_NLL / 10},
    ),
    (
        "satimp",
        "original",
        {"beta1": 1, "gamma": 2, "retain": "kl"},
        {"forget_satimp": -55 / 96 * L2, "retain_kl": K_TEACHER_STUDENT / 6},
    ),
    # Of two entries the other one is certain: -log(1 - p) = log 2, log 4/3 | log 16/15
    ("ceu", "paper", {}, {"forget_ceu": log(128 / 45) / 3}),
    ("ceu", "original", {}, {"forget_ceu": log(4 / 3)}),
    ("ceu", "original", {"skip": 2}, {"forget_ceu": 0.0}),
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
    if "retain" in batch_needs and options.get("retain") != "kl":
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
