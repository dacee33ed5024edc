"""Porter's stemmer with the default extensions of nltk's PorterStemmer. ROUGE uses it.

source  M. F. Porter, "An algorithm for suffix stripping", 1980 (steps 1a to 5b); differences of
        nltk's version are marked "nltk:"
words   lower-case letters and digits; a digit counts as a consonant, as in nltk
"""

from collections.abc import Iterable
from functools import lru_cache

# nltk: words with a given stem, and words that are their own stem.
IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
}
UNCHANGED = frozenset(
    ("sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed")
)

# Steps 2 to 4: only the first suffix of the list that the word ends with is tried, whether or not
# its condition holds. nltk: bli (Porter 1980: abli -> able), fulli and logi (whose condition counts
# the l) are additions.
STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
)
STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
STEP_4 = (
    "al",
    "ance",
    "ence",
    "er",
    "ic",
    "able",
    "ible",
    "ant",
    "ement",
    "ment",
    "ent",
    "ion",
    "ou",
    "ism",
    "ate",
    "iti",
    "ous",
    "ive",
    "ize",
)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of one lower-case word. Words of one or two letters are their own stem.

    equals  nltk.stem.porter.PorterStemmer().stem(word)
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2 or word in UNCHANGED:
        return word
    for step in (
        _plural,
        _past,
        _final_y,
        _double_suffix,
        _single_suffix,
        _bare_suffix,
        _final_e,
        _final_ll,
    ):
        word = step(word)
    return word


def _shape(word: str) -> str:
    """A letter for each of the word's: "v" vowel, "c" consonant; y is a vowel after a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    """Number of vowel groups that are followed by a consonant: m in [C](VC)^m[V]."""
    return _shape(word).count("vc")


def _ends_short(word: str) -> bool:
    """True if the word ends in consonant, vowel, consonant other than w, x, y.

    nltk: also for a word of one vowel and one consonant.
    """
    shape = _shape(word)
    return (shape.endswith("cvc") and word[-1] not in "wxy") or shape == "vc"


def _plural(word: str) -> str:
    """Step 1a. nltk: a word of four letters in -ies keeps its e (ties, tie)."""
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    """Step 1b. nltk: -ied becomes -ie in a word of four letters, else -i."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    rest = ""
    if word.endswith("ed"):
        rest = word[:-2]
    elif word.endswith("ing"):
        rest = word[:-3]
    if "v" not in _shape(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if rest[-1:] == rest[-2:-1] and _shape(rest).endswith("c"):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_short(rest) else rest


def _final_y(word: str) -> str:
    """Step 1c. nltk: -y becomes -i after a consonant that is not the first letter.

    Porter 1980: if the word has a vowel before the -y.
    """
    changes = word.endswith("y") and len(word) > 2 and _shape(word[:-1]).endswith("c")
    return word[:-1] + "i" if changes else word


def _replace(word: str, rules: Iterable[tuple[str, str]]) -> str:
    """The word with its first matching suffix replaced, if the part before the suffix has m > 0."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            rest = word[: len(word) - len(suffix)]
            counted = rest + "l" if suffix == "logi" else rest
            return rest + replacement if _measure(counted) > 0 else word
    return word


def _double_suffix(word: str) -> str:
    """Step 2. nltk: after -alli became -al, the step is repeated."""
    changed = _replace(word, STEP_2)
    if word.endswith("alli") and changed != word:
        return _double_suffix(changed)
    return changed


def _single_suffix(word: str) -> str:
    """Step 3."""
    return _replace(word, STEP_3)


def _bare_suffix(word: str) -> str:
    """Step 4: m > 1 before the suffix; -ion only after s or t."""
    for suffix in STEP_4:
        if word.endswith(suffix):
            rest = word[: len(word) - len(suffix)]
            fits = _measure(rest) > 1 and (suffix != "ion" or rest[-1] in "st")
            return rest if fits else word
    return word


def _final_e(word: str) -> str:
    """Step 5a."""
    if not word.endswith("e"):
        return word
    rest = word[:-1]
    m = _measure(rest)
    return rest if m > 1 or (m == 1 and not _ends_short(rest)) else word


def _final_ll(word: str) -> str:
    """Step 5b."""
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
