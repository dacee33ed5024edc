"""Which runs may stand on one page: those of one base and one gold, asked the same questions and judged alike.

Forget Quality is a distance from gold and a collapse a share of base's Retain, so a page has one of each; another model is
another page. Logs are compared value by value: where one differs, two tables would be mixed.
"""

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

# Settings that decide which questions are asked, how long an answer may be, and how likelihoods are rounded.
SAME = ("forget", "limit", "max_new_tokens", "tasks", "eval_batch", "plain")
ADVICE = "expected runs of one evaluation; make a report of each"


def check(runs) -> None:
    """UserError naming two runs and the first thing in which they differ, unless all can be compared.

    runs    [(directory, settings.json, {"base", "gold", "unlearned": {task: log}})]; base or gold may be missing
    """
    first = {}
    for where, record, logs in runs:
        for name in SAME:
            value = record["settings"].get(name, {}).get("value")
            other, before = first.setdefault(name, (where, value))
            if before != value:
                raise UserError(
                    f"report {where}: {name} is {value!r}, of {other} {before!r}; {ADVICE}"
                )
        other, before = first.setdefault("unlearned", (where, logs["unlearned"]))
        difference = questions(logs["unlearned"], before)
        if difference:
            raise UserError(
                f"report {where}: asks other questions than {other}: {difference}; {ADVICE}"
            )
        for model in ("base", "gold"):
            if model in logs:
                difference = questions(logs[model], logs["unlearned"])
                if difference:
                    raise UserError(
                        f"report {where}: {model} was asked other questions than the model: {difference}; {ADVICE}"
                    )
                other, before = first.setdefault(model, (where, logs[model]))
                difference = values(logs[model], before)
                if difference:
                    raise UserError(
                        f"report {where}: its {model} is not that of {other}: {difference}; expected one {model} for "
                        "all runs of a page; make a report of each"
                    )


def questions(ours: dict, theirs: dict) -> str:
    """What differs first between the questions of two models' logs, as words; "" if nothing does."""
    if ours is theirs:
        return ""
    odd = [task for task in (*ours, *theirs) if (task in ours) != (task in theirs)]
    if odd:
        return f"{odd[0]} is in only one of them"
    for task, log in ours.items():
        other = theirs[task]
        if log.get("config") != other.get("config"):
            return f"{task} is of {log.get('config')}, there of {other.get('config')}"
        texts, others = (each.get("generated_text", {}) for each in (log, other))
        odd = sorted(set(texts) ^ set(others))
        if odd:
            return f"{task} has {len(texts)} records, there {len(others)}; record {odd[0]} is in only one"
        for key in texts:
            for part, what in ((0, "is asked"), (2, "expects")):
                pair = [
                    text[part] if isinstance(text, list) and len(text) == 3 else text
                    for text in (texts[key], others[key])
                ]
                if pair[0] != pair[1]:
                    return f"record {key} of {task} {what} {_quoted(pair[0])}, there {_quoted(pair[1])}"
    return ""


def values(ours: dict, theirs: dict) -> str:
    """What differs first between two logs of what should be one model, as words; "" if nothing does."""
    if ours is theirs:
        return ""
    for task, log in ours.items():
        for column, found in log.items():
            other = theirs[task].get(column)
            if found == other:
                continue
            if isinstance(found, dict) and isinstance(other, dict):
                key = next(key for key in (*found, *other) if found.get(key) != other.get(key))
                return f"{column} of record {key} of {task} is {_quoted(found.get(key))}, there {_quoted(other.get(key))}"
            return f"{column} of {task} is {_quoted(found)}, there {_quoted(other)}"
    return ""


def _quoted(value) -> str:
    return one_line(repr(value), 70)
