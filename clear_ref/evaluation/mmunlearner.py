"""MMUnlearner's metrics of CLEAR: accuracy of named people, ROUGE F-measures and BLEU of texts.

source  MMUnlearner fa77c66, CLEAR_eval.py, whose numbers papers on CLEAR print (mostly of the
        forget 5 % split: 188 pictures, so that 72.34 is 136 of them)
differs the place of the right option is drawn by a key (there: random.seed(42) and the order of
        calls); at most 16 tokens of the name answers (there 50), of which the first letter decides;
        two mistakes of its code are in wrong_definitions.py
"""

import math
import re
from collections import Counter
from collections.abc import Callable

from . import log_columns, rouge
from .exact_means import mean
from .log_format import Log

# BLEU: n-grams of 1 to N_GRAMS words, and what stands for no match (nltk's smoothing method 1).
N_GRAMS = 4
NO_MATCH = 0.1


def multiple_choice_accuracy(log: Log) -> float:
    """Share of records whose generated text begins with the letter of the right option, in [0, 1].

    formula mean_i [the first of a-z, A-Z, 0-9 of the text, in upper case, = the right letter]
    source  CLEAR_eval.py:58-86 (forget, retain), :263-302 (real faces, real world)
    flaw    an answer in words counts as wrong unless its first letter happens to be the option's;
            chance is 1/(K+1) only for a model that answers with a letter
    """
    return mean(
        float(chosen_letter(generated) == expected)
        for _, generated, expected in log_columns.texts(log).values()
    )


def chosen_letter(text: str) -> str:
    """The first letter or digit of a text, in upper case; "" if it has none."""
    found = re.search("[a-zA-Z0-9]", text)
    return found.group().upper() if found else ""


def contained_name_accuracy(log: Log) -> float:
    """Share of records whose generated text contains the name, in [0, 1].

    formula mean_i [name in text], both in lower case, runs of white space as one space
    source  CLEAR_eval.py:77-82 without options, as meant; its code compares with a text without
            spaces and capitals (wrong_definitions.py)
    flaw    a text that lists many names is right; a name with another spelling is wrong
    """
    return mean(
        float(_plain(expected) in _plain(generated))
        for _, generated, expected in log_columns.texts(log).values()
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def rouge1_f(log: Log) -> float:
    """Mean over records of ROUGE-1 F1 (Porter stemmer) of the greedy text, in [0, 1].

    formula 2 P R / (P + R), P and R the words in common / the words of the text, of the answer
    source  CLEAR_eval.py:93, :124
    flaw    the order of words does not count
    """
    return _mean_of_texts(log, lambda expected, text: rouge.scores(expected, text)["rouge1"].f)


def rouge2_f(log: Log) -> float:
    """Mean over records of ROUGE-2 F1 (Porter stemmer) of the greedy text, in [0, 1].

    formula 2 P R / (P + R), P and R the pairs of neighbouring words in common / the pairs of the
            text, of the answer
    source  CLEAR_eval.py:93, :125
    flaw    0 for every answer of one word
    """
    return _mean_of_texts(log, lambda expected, text: rouge.rouge2(expected, text).f)


def rouge_l_f(log: Log) -> float:
    """Mean over records of ROUGE-L F1 (Porter stemmer) of the greedy text, in [0, 1].

    formula 2 P R / (P + R), P = LCS / words of the text, R = LCS / words of the answer; always of
            the texts, whatever columns the log has
    source  CLEAR_eval.py:93, :126
    flaw    a right and longer answer scores less than a short one
    """
    return _mean_of_texts(log, lambda expected, text: rouge.scores(expected, text)["rougeL"].f)


def bleu(log: Log) -> float:
    """Mean over records of the sentence BLEU of the greedy text, in [0, 1]; see sentence_bleu.

    source  CLEAR_eval.py:17-39
    flaw    n-grams that a text is too short to have count as not matched: a name of two words has
            0.32 against itself (findings/bleu_of_equal_short_texts.sh)
    """
    return _mean_of_texts(log, sentence_bleu)


def _mean_of_texts(log: Log, value: Callable[[str, str], float]) -> float:
    return mean(
        value(expected, generated) for _, generated, expected in log_columns.texts(log).values()
    )


def sentence_bleu(expected: str, generated: str) -> float:
    """BLEU of one text against one expected text, in [0, 1].

    formula B exp(1/4 sum_n log p_n), n = 1..4; p_n = n-grams in common, each as often as both texts
            have it, / n-grams of the text (at least 1), 0.1 in place of 0 in common; B = 1 for a
            text longer than the expected one, else exp(1 - words expected / words of the text);
            words are what white space separates; 0 for a text without a word in common
    source  Papineni et al. 2002; nltk's sentence_bleu with SmoothingFunction().method1
    """
    words, expected_words = generated.split(), expected.split()
    logs = []
    for n in range(1, N_GRAMS + 1):
        own, right = _grams(words, n), _grams(expected_words, n)
        n_common = sum((own & right).values())
        if n == 1 and not n_common:
            return 0.0
        logs.append(math.log((n_common or NO_MATCH) / max(sum(own.values()), 1)) / N_GRAMS)
    shorter = min(0.0, 1.0 - len(expected_words) / len(words))
    return math.exp(shorter + math.fsum(logs))


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n words occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
