"""ROUGE-1 and ROUGE-L of one text against another, with Porter stemming.

source  C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; the numbers are those of Google's
        rouge-score with use_stemmer=True, which TOFU, the released code and open-unlearning all call
flaw    recall alone rewards length: a text that holds the answer somewhere scores 1, whatever else it says
"""

import re
from collections import Counter
from dataclasses import dataclass

from .porter import stem


@dataclass(frozen=True)
class Score:
    """Shares of matched tokens: of the generated text (precision), of the expected one (recall); f: harmonic mean."""

    precision: float
    recall: float
    f: float


def tokens(text: str) -> list[str]:
    """The words ROUGE compares: runs of a-z and 0-9 of the lowered text, those longer than three characters stemmed.

    A letter outside a-z separates words, as it does in rouge-score: "café" is "caf".
    """
    return [stem(word) if len(word) > 3 else word for word in re.findall("[a-z0-9]+", text.lower())]


def scores(expected: str, generated: str) -> dict[str, Score]:
    """{"rouge1": Score, "rougeL": Score} of the generated text; all zero where either has no word."""
    want, got = tokens(expected), tokens(generated)
    shared = sum((Counter(want) & Counter(got)).values())
    return {
        "rouge1": _score(shared, len(got), len(want)),
        "rougeL": _score(lcs_length(want, got), len(got), len(want)),
    }


def lcs_length(a, b) -> int:
    """Length of the longest common subsequence of two sequences of hashable items.

    Row by row of the dynamic programme, a row held as the bits of one integer: bit i is 0 where the row's value rises
    at a[i] (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    places = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    ones = (1 << len(a)) - 1
    row = ones
    for item in b:
        hits = row & places.get(item, 0)
        row = ((row + hits) | (row - hits)) & ones
    return len(a) - row.bit_count()


def _score(matched: int, n_generated: int, n_expected: int) -> Score:
    """The three shares; 0 where there is nothing to divide by."""
    precision, recall = matched / max(n_generated, 1), matched / max(n_expected, 1)
    return Score(
        precision, recall, 2 * precision * recall / (precision + recall) if matched else 0.0
    )
