"""An explained batch for the terminal; and what the page shows too: lines folded, two meanings side by side."""

COLUMNS = {
    "nll": "nll",
    "teacher_nll": "teacher's",
    "kl_teacher_student": "KL(t|s)",
    "kl_student_teacher": "KL(s|t)",
}
HIDDEN = {"norm": "|h|", "moved": "|h - teacher|", "gradient": "|dL/dh|"}
SHORT = {"kl_teacher_student": "KL(t|s)", "kl_student_teacher": "KL(s|t)"}
LEGEND = """Each line is a token with the row of logits that predicts it; weight: d loss / d column at that row. The contributions
of all lines sum to the loss. d logit: d loss / d logit of the token; d logp: the same per log p(token), divided by 1 - p.
↑ descent makes the token more likely, ↓ less likely, · no push. Of folded lines contributions are summed, the rest are means."""
HIDDEN_LEGEND = """Each line is a token with its own hidden state h. The contributions of all lines sum to the loss; |dL/dh|
is how hard the state is pulled. Of folded lines contributions are summed, the rest are means."""


def folded(lines: list[dict], kinds=("image", "padding")) -> list[dict]:
    """The lines with consecutive ones of the same kind, of `kinds`, made one: "count", summed contribution, means of the rest."""
    groups = []
    for line in lines:
        if groups and line["kind"] in kinds and groups[-1][-1]["kind"] == line["kind"]:
            groups[-1].append(line)
        else:
            groups.append([line])
    return [group[0] | {"count": 1} if len(group) == 1 else merged(group) for group in groups]


def merged(group: list[dict]) -> dict:
    """One line of several."""

    def mean(values):
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    line = {
        "position": group[0]["position"],
        "id": group[0]["id"],
        "token": group[0]["token"],
        "kind": group[0]["kind"],
        "count": len(group),
        "contribution": sum(one["contribution"] for one in group),
    }
    line |= {
        key: mean([one[key] for one in group])
        for key in (*COLUMNS, *HIDDEN, "d_logp", "d_logit")
        if key in group[0]
    }
    if "weights" in group[0]:
        names = dict.fromkeys(name for one in group for name in one["weights"])
        line["weights"] = {
            name: mean([one["weights"].get(name, 0.0) for one in group]) for name in names
        }
    return line


def weights_of(records: list[dict]) -> list[str]:
    """The columns that weigh something anywhere in a batch."""
    return list(
        dict.fromkeys(
            name
            for record in records
            for line in record["lines"]
            for name, weight in line.get("weights", {}).items()
            if weight != 0
        )
    )


def arrow(line: dict) -> str:
    """Where descent moves the token's probability."""
    slope = line.get("d_logp")
    return "" if slope is None else "↑" if slope < 0 else "↓" if slope > 0 else "·"


def piece(line: dict) -> str:
    """A token as it is shown: blanks and line ends visible, its count where several are folded."""
    text = line["token"].replace("\n", "⏎").replace(" ", "␣")
    return f"{text} ×{line['count']}" if line.get("count", 1) > 1 else text


def number(value, digits: int = 3) -> str:
    """A cell; nothing for None."""
    return "" if value is None else f"{value + 0.0:.{digits}g}"


def table(found: dict, fold: bool = True) -> tuple[list[str], list[tuple]]:
    """(headings, [(batch, record, title, rows of cells)]) of an explained batch."""
    sections, all_headings = [], {}
    for name, records in found["batches"].items():
        own, weights = HIDDEN if found["hidden"] else COLUMNS, weights_of(records)
        headings = [
            "pos",
            "id",
            "kind",
            "token",
            *own.values(),
            *(f"weight {SHORT.get(one, one)}" for one in weights),
            "contribution",
            *([] if found["hidden"] else ["d logit", "d logp", ""]),
        ]
        all_headings[name] = headings
        for s, record in enumerate(records):
            rows = []
            for line in folded(record["lines"]) if fold else record["lines"]:
                rows.append(
                    [
                        number(line["position"], 6),
                        number(line["id"], 9),
                        line["kind"],
                        piece(line),
                        *(number(line[key]) for key in own),
                        *(number(line["weights"].get(one)) for one in weights),
                        number(line["contribution"], 4),
                        *(
                            []
                            if found["hidden"]
                            else [number(line["d_logit"]), number(line["d_logp"]), arrow(line)]
                        ),
                    ]
                )
            sections.append((name, s, record, rows))
    return all_headings, sections


def one(found: dict) -> str:
    """An explained batch."""
    headings, sections = table(found)
    terms = ", ".join(f"{name} {value:.6g}" for name, value in found["terms"].items())
    lines = [
        title(found),
        f"terms {terms}",
        found["teacher"],
        "",
        HIDDEN_LEGEND if found["hidden"] else LEGEND,
    ]
    for name, s, record, rows in sections:
        share = sum(line["contribution"] for line in record["lines"])
        lines += [
            "",
            f"{name}, record {s}: {share:.6g} of the loss",
            *asked(record),
            "",
            *aligned(headings[name], rows),
        ]
    return "\n".join(lines)


def title(found: dict) -> str:
    """Method, meaning, options and loss."""
    options = "".join(f", {name} {value}" for name, value in found["options"].items())
    return f"{found['method']} ({found['semantics']}{options}): loss {found['loss']:.10g}"


def asked(record: dict) -> list[str]:
    """The record's words."""
    return [
        f"  question {record['question']}".replace("\n", "⏎"),
        f"  answer   {record['answer']}".replace("\n", "⏎"),
    ]


def beside(first: dict, second: dict) -> list[dict]:
    """Two meanings, batch by batch and record by record: [{"batch", "record", "same", "question", "answers", "lines"}].

    A line has "token", "kind", "count" and, of both and their difference (second - first), "contribution" and "push" (d_logp, or
    the gradient of a hidden state), [3] each; None where a meaning lacks the batch, or holds another record in it.
    """
    found, push = [], "gradient" if first["hidden"] else "d_logp"
    for name in dict.fromkeys([*first["batches"], *second["batches"]]):
        pair = [one["batches"].get(name) for one in (first, second)]
        for s in range(len(pair[0] or pair[1])):
            records = [None if one is None else one[s] for one in pair]
            ids = [
                None if one is None else [line["id"] for line in one["lines"]] for one in records
            ]
            if ids[0] == ids[1]:
                found.append(section(name, s, records, push))
            else:
                found += [
                    section(
                        name, s, [one if i == j else None for j, one in enumerate(records)], push
                    )
                    for i in (0, 1)
                    if records[i] is not None
                ]
    return found


def section(name: str, s: int, records: list, push: str) -> dict:
    """One record of `beside`."""
    there = next(record for record in records if record is not None)
    columns = [None if record is None else folded(record["lines"]) for record in records]
    lines = []
    for i, line in enumerate(folded(there["lines"])):
        cells = {}
        for key, source in (("contribution", "contribution"), ("push", push)):
            values = [None if column is None else column[i].get(source) for column in columns]
            cells[key] = [*values, None if None in values else values[1] - values[0]]
        lines.append({key: line[key] for key in ("position", "token", "kind", "count")} | cells)
    return {
        "batch": name,
        "record": s,
        "in": [record is not None for record in records],
        "question": there["question"],
        "answer": there["answer"],
        "lines": lines,
    }


def compared(first: dict, second: dict) -> str:
    """Two meanings side by side."""
    names = [one["semantics"] for one in (first, second)]
    push = "|dL/dh|" if first["hidden"] else "d logp"
    headings = [
        "pos",
        "kind",
        "token",
        *(f"contribution {name}" for name in (*names, "difference")),
        *(f"{push} {name}" for name in (*names, "difference")),
    ]
    lines = [
        title(first),
        title(second),
        f"difference {second['loss'] - first['loss']:.10g}",
        first["teacher"],
        "",
        HIDDEN_LEGEND if first["hidden"] else LEGEND,
    ]
    for part in beside(first, second):
        where = "" if all(part["in"]) else f" ({names[part['in'].index(True)]} alone)"
        rows = [
            [
                number(line["position"], 6),
                line["kind"],
                piece(line),
                *(number(value) for value in line["contribution"]),
                *(number(value) for value in line["push"]),
            ]
            for line in part["lines"]
            if touched(line)
        ]
        rest = sum(line["count"] for line in part["lines"] if not touched(line))
        lines += [
            "",
            f"{part['batch']}, record {part['record']}{where}; {rest} tokens are touched by neither",
            *asked(part),
        ]
        lines += ["", *aligned(headings, rows)] if rows else []
    return "\n".join(lines)


def touched(line: dict) -> bool:
    """Whether a line of `beside` adds to a loss or is pushed, in either meaning."""
    return any(value not in (None, 0) for key in ("contribution", "push") for value in line[key])


def aligned(headings: list[str], rows: list[list[str]]) -> list[str]:
    """The cells as text in columns: words flush left, numbers flush right."""
    words = {i for i, heading in enumerate(headings) if heading in ("kind", "token", "")}
    widths = [max(map(len, column)) for column in zip(headings, *rows)]
    return [
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in (headings, *rows)
    ]
