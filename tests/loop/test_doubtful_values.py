"""Values with which a training runs and is not what anyone wants are said, and not refused."""

import warnings

import pytest

from clear_ref.common.errors import Notice
from clear_ref.common.text_table import csv_cell
from clear_ref.loop.recipes import Recipe, check_recipe, warn_recipe
from clear_ref.methods import table
from clear_ref.methods.option_checks import warn_zero_weights


@pytest.mark.parametrize(
    "value, words",
    [
        ({"lr": 30.0}, "lr is 30.0, above 1.0: expect weights that diverge"),
        ({"clip": 1e-30}, "clip is 1e-30: gradients are cut below AdamW's epsilon"),
    ],
)
def test_a_doubtful_value_of_the_recipe_is_said(value, words):
    check_recipe(Recipe(**value))
    with pytest.warns(Notice, match=words):
        warn_recipe(Recipe(**value))


@pytest.mark.parametrize(
    "method, semantics, given, words",
    [
        ("scrub", "paper", {"alpha": 0, "gamma": 0}, r"alpha \(weight of .*gamma .* are 0: their"),
        ("scrub", "original", {"gamma": 0}, r"option gamma \(.*\) is 0: its term has no effect"),
        ("sku", "paper", {"w_retain": 0}, "w_retain"),
        ("llmu", "original", {"w_forget": 0, "w_random": 0, "w_retain": 0}, "w_forget.*w_retain"),
    ],
)
def test_weights_that_are_set_to_zero_are_said(method, semantics, given, words):
    with pytest.warns(Notice, match=words):
        warn_zero_weights(table.make_options(method, given, semantics))


def test_nothing_is_said_of_the_defaults():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_recipe(Recipe())
        for method, module in table.METHODS.items():
            for semantics in module.VARIANTS:
                warn_zero_weights(table.make_options(method, {}, semantics))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("+x", "'+x"),
        ("-rf", "'-rf"),
        ("\t=1", "'\t=1"),
        ("-1.5e-3", "-1.5e-3"),
        ("+2", "+2"),
        ("-inf", "-inf"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_no_cell_of_a_csv_file_is_a_formula(text, expected):
    assert csv_cell(text) == expected
