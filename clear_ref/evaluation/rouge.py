"""ROUGE-1, ROUGE-2 and ROUGE-L of a generated text against an expected text, with Porter stemming.

source  C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; the numbers are
        those of Google's rouge-score with use_stemmer=True, which TOFU, the released code and
        open-unlearning call
flaw    recall alone rewards length: a text that contains the answer scores 1, whatever else it says
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .porter import stem


@dataclass(frozen=True)
class Score:
    """Shares of matched words.

    precision  of the words of the generated text
    recall     of the words of the expected text
    f          harmonic mean of both
    """

    precision: float
    recall: float
    f: float


def tokens(text: str) -> list[str]:
    """The words that ROUGE compares: runs of a-z and 0-9 of the text in lower case.

    Words longer than three characters are stemmed. A letter outside a-z separates words, as it does
    in rouge-score: "café" gives "caf".
    """
    words = re.findall("[a-z0-9]+", text.lower())
    return [stem(word) if len(word) > 3 else word for word in words]


def scores(expected: str, generated: str) -> dict[str, Score]:
    """{"rouge1": Score, "rougeL": Score} of the generated text; all 0 if either has no word."""
    expected_words = tokens(expected)
    generated_words = tokens(generated)
    n_common = sum((Counter(expected_words) & Counter(generated_words)).values())
    lcs = lcs_length(expected_words, generated_words)
    return {
        "rouge1": _score(n_common, len(generated_words), len(expected_words)),
        "rougeL": _score(lcs, len(generated_words), len(expected_words)),
    }


def rouge2(expected: str, generated: str) -> Score:
    """ROUGE-2 of the generated text: of pairs of neighbouring words, each as often as both texts
    have it; all 0 if either text has no pair."""
    expected_pairs = list(pairwise(tokens(expected)))
    generated_pairs = list(pairwise(tokens(generated)))
    n_common = sum((Counter(expected_pairs) & Counter(generated_pairs)).values())
    return _score(n_common, len(generated_pairs), len(expected_pairs))


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence of two sequences.

    The dynamic programme row by row; a row is stored as the bits of one integer: bit i is 0 where
    the row's value rises at a[i] (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    places: dict[Hashable, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    ones = (1 << len(a)) - 1
    row = ones
    for item in b:
        hits = row & places.get(item, 0)
        row = ((row + hits) | (row - hits)) & ones
    return len(a) - row.bit_count()


def _score(n_matched: int, n_generated: int, n_expected: int) -> Score:
    """The three shares; 0 if there is nothing to divide by."""
    precision = n_matched / max(n_generated, 1)
    recall = n_matched / max(n_expected, 1)
    f = 2 * precision * recall / (precision + recall) if n_matched else 0.0
    return Score(precision, recall, f)
