"""A key table accepts, ignores and refuses as its fates say; a refusal names file, key, value."""

import pytest

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import KeyTable, NoEffect, Only, Used, is_number
from tests.helpers.differential import Case, compare

KEYS = {
    "size": Used("the size"),
    "dropout": NoEffect("training only"),
    "bias": Only((False, None), "another value adds biases; train without"),
}
OPEN = KeyTable("a.json", "part", "library 1.0", KEYS, others="the library ignores them too")
CLOSED = KeyTable("a.json", "part", "library 1.0", KEYS)


@pytest.mark.parametrize("config", [{}, {"size": 3, "dropout": 0.5, "bias": False}, {"bias": None}])
def test_known_values_are_accepted(config):
    OPEN.check(config, "a.json")
    CLOSED.check(config, "a.json")


@pytest.mark.parametrize("value", [True, 0, 1, "false", [], {}])
def test_every_other_value_is_refused_with_file_key_value_and_what_is_expected(value):
    with pytest.raises(UserError) as caught:
        OPEN.check({"bias": value}, "dir/a.json")
    message = str(caught.value)
    assert message.startswith(f"dir/a.json: bias is {value!r}; expected False or None: another")
    assert "\n" not in message


def test_an_unknown_key_is_refused_only_where_the_table_is_closed():
    OPEN.check({"new": 1}, "a.json")
    with pytest.raises(UserError, match="a.json: new is 1, a key that is not known here"):
        CLOSED.check({"new": 1}, "a.json")


def test_the_differential_comparison_tells_the_four_ends_apart():
    def theirs(change):
        if change == "invalid":
            raise ValueError
        return change

    def ours(change):
        if change.startswith("refuse"):
            raise UserError(f"key is {change}")
        return "other" if change == "different" else change

    cases = [
        Case(name, (key,), name)
        for name, key in (
            ("equal", "key"),
            ("invalid", "key"),
            ("different", "key"),
            ("refuse", "part.key"),
            ("refuse unnamed", "word"),
        )
    ]
    counts = compare(cases, ours, theirs, lambda a, b: "" if a == b else f"{a} for {b}")
    assert (counts.equal, counts.invalid, counts.refused, counts.total) == (1, 1, 1, 5)
    assert counts.different == [
        "different: other for different",
        "refuse unnamed: refused: key is refuse unnamed",
    ]
    assert counts.row("x") == "| x | 5 | 1 | 1 | 1 | 2 |"


@pytest.mark.parametrize("value", [0, -3, 1.5, 10**300, -(10**300)])
def test_numbers_that_a_float_holds(value):
    assert is_number(value)


@pytest.mark.parametrize(
    "value", [True, None, "1", [1], float("nan"), float("inf"), 10**400, -(10**400)]
)
def test_what_is_no_number_or_too_large_for_a_float(value):
    assert not is_number(value)
