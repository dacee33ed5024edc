"""Two explanations side by side: the same records under two semantics."""

from typing import TypedDict

from .explanation import ExplainedRecord, Explanation
from .folding import folded, number_in

# A mistake is computed in numpy, the method in torch: differences below this are rounding.
ROUNDING = 1e-7


class ComparedLine(TypedDict):
    """One token, or several as one, under two semantics.

    contribution, push  [3]: of the first, of the second, and second - first. None if the record is
                        not in that explanation. push: d_logp, or |d loss / d h| of hidden states
    """

    position: int
    token: str
    kind: str
    count: int
    contribution: list[float | None]
    push: list[float | None]


# `in`: whether the record is in the first and in the second explanation.
ComparedRecord = TypedDict(
    "ComparedRecord",
    {
        "batch": str,
        "record": int,
        "in": list[bool],
        "question": str,
        "answer": str | None,
        "lines": list[ComparedLine],
    },
)


def side_by_side(first: Explanation, second: Explanation) -> list[ComparedRecord]:
    """The records of both explanations, batch by batch.

    A record whose tokens differ between the two is listed twice, each time in one of them alone.
    """
    push = "gradient" if first["hidden"] else "d_logp"
    rounding = ROUNDING if "mistake" in second else 0.0
    compared = []
    for name in dict.fromkeys([*first["batches"], *second["batches"]]):
        first_records = first["batches"].get(name)
        second_records = second["batches"].get(name)
        for s in range(len(first_records or second_records or [])):
            one = None if first_records is None else first_records[s]
            other = None if second_records is None else second_records[s]
            if one is not None and other is not None and ids_of(one) == ids_of(other):
                compared.append(compared_record(name, s, one, other, push, rounding))
                continue
            if one is not None:
                compared.append(compared_record(name, s, one, None, push))
            if other is not None:
                compared.append(compared_record(name, s, None, other, push))
    return compared


def ids_of(record: ExplainedRecord) -> list[int | None]:
    """The token ids of a record."""
    return [line["id"] for line in record["lines"]]


def compared_record(
    name: str,
    s: int,
    first: ExplainedRecord | None,
    second: ExplainedRecord | None,
    push: str,
    rounding: float = 0.0,
) -> ComparedRecord:
    """Record s of a batch; at least one of the two is given.

    push      the key of a line's push
    rounding  a difference below this, relatively, is 0
    """
    record = first or second
    assert record is not None  # at least one of the two is given
    columns = [None if one is None else folded(one["lines"]) for one in (first, second)]
    lines = []
    for i, line in enumerate(folded(record["lines"])):
        pair = [None if column is None else column[i] for column in columns]
        contributions = [None if one is None else one["contribution"] for one in pair]
        pushes = [None if one is None else number_in(one, push) for one in pair]
        lines.append(
            ComparedLine(
                position=line["position"],
                token=line["token"],
                kind=line["kind"],
                count=line["count"],
                contribution=with_difference(contributions, rounding),
                push=with_difference(pushes, rounding),
            )
        )
    return {
        "batch": name,
        "record": s,
        "in": [first is not None, second is not None],
        "question": record["question"],
        "answer": record["answer"],
        "lines": lines,
    }


def with_difference(pair: list[float | None], rounding: float = 0.0) -> list[float | None]:
    """The two numbers and second - first, which is None if one of them is."""
    first, second = pair
    if first is None or second is None:
        return [first, second, None]
    difference = second - first
    return [first, second, 0.0 if abs(difference) < rounding * abs(first) else difference]


def is_touched(line: ComparedLine) -> bool:
    """Whether the token adds to a loss or is pushed, under one of the two semantics."""
    return any(value not in (None, 0) for value in (*line["contribution"], *line["push"]))
