"""The thresholds of every verdict in words, in one place.

The rule: nine tenths. A model has forgotten if it went at least nine tenths of the way from base's
Forget to gold's, and has not if it went less than one tenth. It has kept Retain if at least nine
tenths of base's are left. The paper has no such thresholds; they are this project's.
"""

FORGOTTEN = 0.9  # share of the way from base's Forget to gold's: from here on forgotten
PARTLY = 0.1  # from here on partly forgotten, below it not forgotten
KEPT = 0.9  # share of base's Retain (and Retain text): from here on kept, below it damaged
COLLAPSED = 0.5  # below this share of base's Retain it has collapsed: Forget is then low for free
SMALLEST_GAP = 0.05  # between base's and gold's Forget, for a share of the way to mean anything
UNMOVED = 0.001  # a printed digit
TOO_ALIKE = 0.9  # base's Forget Quality, or gold's Forget divided by base's
FEWEST = 20  # records on which a Forget Quality says something

RULE = (
    f"Rule of the words: forgotten from {FORGOTTEN:.0%} of the way from base's Forget to gold's, "
    f"not forgotten below {PARTLY:.0%}; Retain kept from {KEPT:.0%} of base's, damaged below, "
    f"collapsed below {COLLAPSED:.0%}."
)

EDGES = (FORGOTTEN, PARTLY, KEPT, COLLAPSED)
ROUNDING = 5e-6  # a share this close below a threshold is printed as the threshold


def percent(share: float) -> str:
    """A share as whole percent; with up to three digits more where a threshold would be passed.

    0.897 is "89.7%", because "90%" is forgotten and 0.897 is not.
    """
    shown = ""
    for digits in range(4):
        rounded = round(100 * share, digits) + 0.0  # no minus before a zero
        shown = f"{rounded:.{digits}f}%".replace("-", "−")
        sides = [(rounded / 100 >= edge) == (share >= edge - ROUNDING) for edge in EDGES]
        if all(sides):
            break
    return shown


def forgotten_in_words(share: float) -> str:
    """forgotten, partly forgotten or not forgotten, of a share of the way from base to gold."""
    if share >= FORGOTTEN:
        return "forgotten"
    return "partly forgotten" if share >= PARTLY else "not forgotten"


def kept_in_words(share: float) -> str:
    """kept, damaged or collapsed, of a share of base's Retain."""
    if share >= KEPT:
        return "kept"
    return "damaged" if share >= COLLAPSED else "collapsed"
