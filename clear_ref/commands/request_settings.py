"""Settings of --leakage and --sequence, which several commands share."""

from typing import Any

from clear_ref.common.settings import setting


def leakage_setting() -> Any:
    """--leakage"""
    return setting(
        False,
        "also ask the forget set otherwise, of every model: without its picture, with another "
        "picture of the person, with another person's, text questions with a picture, and in other "
        "words (clear_ref/evaluation/leakage.py); the evaluation takes about twice as long",
    )


def sequence_setting() -> Any:
    """--sequence"""
    return setting(
        "",
        "several requests to forget, one after another, each with the model that the one before "
        "left: sizes of nested forget sets (1,5,10; each forgets who is new in its set), or names "
        "of people of the forget set with commas; all are asked after each "
        "(clear_ref/commands/sequences.md)",
    )


def request_setting() -> Any:
    """--request"""
    return setting(
        0,
        "of --sequence this request alone, from 1, with --model the model that the one before "
        "left; 0: all, one after another",
    )
