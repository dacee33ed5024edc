"""Wrong names, captions and answers for people, drawn by key from what is said of other people.

names     of other people
captions  the caption (its paraphrase, where there is one) with a wrong name: one of the given
          ones, else another person's; where the caption does not name the person, another person's
          caption
answers   another person's answer to the same question, with this person's name in it; else the
          answer with another person's name; where it does not name the person, another answer of
          another person. Two questions are the same if they differ in the person's name alone

source    as the perturbed columns of CLEAR and TOFU, which a language model wrote: a wrong text is
          like the paraphrase, and one thing in it is wrong
"""

import re
from collections.abc import Sequence

from clear_ref.common.errors import UserError

from . import draws
from .people import Fact, Person

MOST = 5  # wrong texts of a row, as in CLEAR


def names_person(text: str, name: str) -> bool:
    """Whether a text has the name as whole words."""
    return _pattern(name).search(text) is not None


def with_name(text: str, name: str, other: str) -> str:
    """The text with another name wherever it has the name."""
    return _pattern(name).sub(lambda _: other, text)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def in_other_words(fact: Fact) -> str:
    """The paraphrase; the text itself where none is given."""
    return fact.paraphrased or fact.text


def drawn_people(person: Person, people: Sequence[Person], seed: int, what: str) -> list[Person]:
    """The other people in an order drawn by key."""
    others = [other for other in people if other is not person]
    order = draws.permutation(seed, f"{what}/{person.name}", 0, len(others))
    return [others[number] for number in order]


def wrong_names(person: Person, fact: Fact, people: Sequence[Person], seed: int) -> list[str]:
    """The given wrong names, else up to MOST names of other people."""
    if fact.wrong_names:
        return list(fact.wrong_names)
    drawn = drawn_people(person, people, seed, f"wrong names/{fact.key}")
    return [other.name for other in drawn[:MOST]]


def wrong_captions(person: Person, fact: Fact, people: Sequence[Person], seed: int) -> list[str]:
    """The given wrong captions, else up to MOST as the head of this file says."""
    text = in_other_words(fact)
    others = drawn_people(person, people, seed, f"wrong captions/{fact.key}")
    if names_person(text, person.name):
        names = fact.wrong_names or [other.name for other in others]
        candidates = [with_name(text, person.name, name) for name in names]
    else:
        candidates = [_other_text(other.pictures, fact, seed) for other in others]
    return _first_different(person, fact, candidates, "perturbed_captions")


def wrong_answers(person: Person, fact: Fact, people: Sequence[Person], seed: int) -> list[str]:
    """The given wrong answers, else up to MOST as the head of this file says."""
    text = in_other_words(fact)
    question = with_name(fact.key, person.name, "")
    candidates = []
    for other in drawn_people(person, people, seed, f"wrong answers/{fact.key}"):
        same = [one for one in other.questions if with_name(one.key, other.name, "") == question]
        if same:
            candidates.append(with_name(in_other_words(same[0]), other.name, person.name))
        elif names_person(text, person.name):
            candidates.append(with_name(text, person.name, other.name))
        else:
            candidates.append(_other_text(other.questions, fact, seed))
    return _first_different(person, fact, candidates, "perturbed_answer")


def _other_text(facts: Sequence[Fact], fact: Fact, seed: int) -> str:
    """One of the texts, drawn by the key of a fact."""
    return in_other_words(facts[draws.choice(seed, f"wrong text/{fact.key}", 0, 0, len(facts))])


def _first_different(person: Person, fact: Fact, drawn: list[str], column: str) -> list[str]:
    """The given wrong texts, else the first MOST drawn ones, each once and none of them right."""
    if fact.wrong:
        return list(fact.wrong)
    right = {fact.text, in_other_words(fact)}
    found = [text for text in dict.fromkeys(drawn) if text not in right]
    if not found:
        raise UserError(
            f"{fact.where}: no other person's text differs from {fact.text!r} of {person.name}; "
            f"write wrong ones in the column {column}"
        )
    return found[:MOST]
