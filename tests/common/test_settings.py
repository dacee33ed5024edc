"""Settings: conversion, choices, sources."""

from dataclasses import dataclass

import pytest

from clear_ref.common.errors import UserError
from clear_ref.common.settings import check_choices, convert, parse_names, setting, with_sources


@dataclass(frozen=True)
class Example:
    beta: float = setting(0.1, "strength", "paper, appendix B")
    forget: int = setting(10, "percent", choices=(1, 5, 10))
    kind: str = setting("ce", "loss", choices=("ce", "kl"))


def test_text_becomes_a_value_of_the_default_s_type():
    assert convert(Example, "beta", "2") == 2.0
    assert convert(Example, "forget", "5") == 5
    assert convert(Example, "kind", "kl") == "kl"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("gamma", "1", "unknown setting 'gamma'; known: beta, forget, kind"),
        ("beta", "much", "setting beta is 'much'; expected float, such as 0.1"),
        ("forget", "7", "forget is 7; expected one of 1, 5, 10"),
        ("kind", "mse", "kind is 'mse'; expected one of ce, kl"),
    ],
)
def test_a_wrong_setting_is_refused(name, text, message):
    with pytest.raises(UserError) as error:
        convert(Example, name, text)
    assert str(error.value) == message


def test_choices_are_checked_for_a_whole_object():
    check_choices(Example(beta=7.0, forget=1, kind="kl"))
    with pytest.raises(UserError, match="kind is 'mse'; expected one of ce, kl"):
        check_choices(Example(kind="mse"))


@pytest.mark.parametrize("text, message", [("a,x", "names 'x';"), ("a, a", "names 'a' twice;")])
def test_a_list_of_names_holds_known_names_once(text, message):
    assert parse_names("b, a", ["a", "b"], "--tasks") == ["b", "a"]
    with pytest.raises(UserError, match=f"--tasks {message} expected all, or some of: a, b"):
        parse_names(text, ["a", "b"], "--tasks")


def test_every_value_has_the_source_that_decided_it():
    assert with_sources(Example(forget=1), {"forget"}, {"kind"}) == {
        "beta": {"value": 0.1, "source": "paper, appendix B"},
        "forget": {"value": 1, "source": "command line"},
        "kind": {"value": "ce", "source": "mini"},
    }
