"""Whether membership scores that are read back are those of every record, in words."""

from clear_ref.common.file_keys import is_number, shown
from clear_ref.common.files import one_line

from .membership_scores import ComparedRecords, score_names

# Names inside names; None in place of a number.
Names = dict[str, "Names | None"]
MOST_SHOWN = 200  # characters of the names that are expected


def scores_problem(found: object, compared: dict[str, ComparedRecords], gradients: bool) -> str:
    """What is wrong with `found`: the key, what it is and what is expected; "" if it has a finite
    number for each score of each record, as membership_scores returns them, and nothing else.

    compared, gradients  as given to membership_scores
    """
    expected: Names = {
        kind: {
            name: {
                part: dict.fromkeys(map(str, range(len(own)))) for part, own in parts.items() if own
            }
            for name in score_names(gradients)
        }
        for kind, parts in compared.items()
    }
    return _problem(found, expected, "scores")


def _problem(found: object, expected: Names | None, key: str) -> str:
    if expected is None:
        return "" if is_number(found) else f"{key} is {shown(found)}; expected a finite number"
    names = one_line(", ".join(expected) or "nothing", MOST_SHOWN)
    if not isinstance(found, dict):
        return f"{key} is {shown(found)}; expected an object with {names}"
    for name in expected:
        if name not in found:
            return f"{key} has no {name}; expected {names}"
    for name in found:
        if name not in expected:
            return f"{key} has {one_line(name, 60)}; expected {names} alone"
    for name, own in expected.items():
        problem = _problem(found[name], own, f"{key}.{name}")
        if problem:
            return problem
    return ""
