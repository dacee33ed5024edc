"""Explanations as text for the terminal; the page uses the same cells."""

from clear_ref.common.text_table import aligned

from .explanation import ExplainedRecord, Explanation, Line
from .folding import FoldedLine, folded, number_in
from .method_file import hanging
from .side_by_side import ComparedLine, ComparedRecord, is_touched, side_by_side

# {key of a line: heading of its column}
LOGIT_COLUMNS = {
    "nll": "nll",
    "teacher_nll": "teacher's",
    "kl_teacher_student": "KL(t|s)",
    "kl_student_teacher": "KL(s|t)",
}
HIDDEN_COLUMNS = {"norm": "|h|", "moved": "|h - teacher|", "gradient": "|dL/dh|"}
SHORT_NAMES = {"kl_teacher_student": "KL(t|s)", "kl_student_teacher": "KL(s|t)"}
LOGIT_LEGEND = (
    "Each line is a token with the row of logits that predicts it; weight: d loss / d column at "
    "that row. The contributions\n"
    "of all lines sum to the loss. d logit: d loss / d logit of the token; d logp: the same per "
    "log p(token), divided by 1 - p.\n"
    "↑ descent makes the token more likely, ↓ less likely, · no push. Of folded lines "
    "contributions are summed, the rest are means."
)
HIDDEN_LEGEND = (
    "Each line is a token with its own hidden state h. The contributions of all lines sum to the "
    "loss; |dL/dh|\n"
    "is how hard the state is pulled. Of folded lines contributions are summed, the rest are means."
)
LEFT_ALIGNED = ("kind", "token", "")


def explanation_text(explanation: Explanation) -> str:
    """One explanation: its loss, its terms, and a table of each record."""
    terms = ", ".join(f"{name} {value:.6g}" for name, value in explanation["terms"].items())
    lines = [
        title(explanation),
        f"terms {terms}",
        explanation["teacher"],
        "",
        legend(explanation),
    ]
    for name, records in explanation["batches"].items():
        headings = record_headings(explanation, name)
        for s, record in enumerate(records):
            share = sum(line["contribution"] for line in record["lines"])
            lines += [
                "",
                f"{name}, record {s}: {share:.6g} of the loss",
                *question_and_answer(record),
                "",
                *table(headings, record_rows(explanation, name, s)),
            ]
    return "\n".join(lines)


def comparison_text(first: Explanation, second: Explanation) -> str:
    """Two explanations side by side; tokens that neither touches are left out."""
    lines = [
        title(first),
        title(second),
        f"difference {second['loss'] - first['loss']:.10g}",
        *mistake_lines(second),
        first["teacher"],
        "",
        legend(first),
    ]
    headings = compared_headings(first, second)
    for record in side_by_side(first, second):
        rows = [compared_cells(line) for line in record["lines"] if is_touched(line)]
        rest = sum(line["count"] for line in record["lines"] if not is_touched(line))
        where = "" if all(record["in"]) else f" ({alone_in(record, first, second)} alone)"
        lines += [
            "",
            f"{record['batch']}, record {record['record']}{where}; "
            f"{rest} tokens are touched by neither",
            *question_and_answer(record),
        ]
        if rows:
            lines += ["", *table(headings, rows)]
    return "\n".join(lines)


def mistake_lines(explanation: Explanation) -> list[str]:
    """What a known mistake or another project's meaning is, wrapped; [] for semantics."""
    if "mistake" not in explanation:
        return []
    about = explanation["mistake"]
    lines = [f"{about['name']}, {about['kind']}: {about['what']}", f"seen in: {about['seen']}"]
    return [part for line in [*lines, about["stored"]] for part in hanging("  ", line)]


def title(explanation: Explanation) -> str:
    """Method, semantics, options and loss."""
    options = "".join(f", {name} {value}" for name, value in explanation["options"].items())
    semantics = explanation["semantics"]
    return f"{explanation['method']} ({semantics}{options}): loss {explanation['loss']:.10g}"


def legend(explanation: Explanation) -> str:
    """What the columns are."""
    return HIDDEN_LEGEND if explanation["hidden"] else LOGIT_LEGEND


def alone_in(record: ComparedRecord, first: Explanation, second: Explanation) -> str:
    """The semantics of the explanation that has a record, if only one has it."""
    return first["semantics"] if record["in"][0] else second["semantics"]


def question_and_answer(record: ExplainedRecord | ComparedRecord) -> list[str]:
    """The question and the answer of a record, each on one line."""
    return [
        f"  question {record['question']}".replace("\n", "⏎"),
        f"  answer   {record['answer']}".replace("\n", "⏎"),
    ]


def record_headings(explanation: Explanation, name: str) -> list[str]:
    """The headings of the tables of a batch's records."""
    headings = ["pos", "id", "kind", "token"]
    if explanation["hidden"]:
        return [*headings, *HIDDEN_COLUMNS.values(), "contribution"]
    weights = weighted_columns(explanation["batches"][name])
    headings += LOGIT_COLUMNS.values()
    headings += [f"weight {SHORT_NAMES.get(column, column)}" for column in weights]
    return [*headings, "contribution", "d logit", "d logp", ""]


def record_rows(explanation: Explanation, name: str, s: int) -> list[list[str]]:
    """The rows of cells of one record, under `record_headings`."""
    records = explanation["batches"][name]
    weights = weighted_columns(records)
    keys = HIDDEN_COLUMNS if explanation["hidden"] else LOGIT_COLUMNS
    rows = []
    for line in folded(records[s]["lines"]):
        cells = [number(line["position"], 6), number(line["id"], 9), line["kind"], piece(line)]
        cells += [number(number_in(line, key)) for key in keys]
        cells += [number(line["weights"].get(column)) for column in weights]
        cells.append(number(line["contribution"], 4))
        if not explanation["hidden"]:
            cells += [number(line["d_logit"]), number(line["d_logp"]), arrow(line)]
        rows.append(cells)
    return rows


def weighted_columns(records: list[ExplainedRecord]) -> list[str]:
    """The columns that have a weight other than 0 anywhere in a batch."""
    columns: dict[str, None] = {}
    for record in records:
        for line in record["lines"]:
            for column, weight in line.get("weights", {}).items():
                if weight != 0:
                    columns[column] = None
    return list(columns)


def compared_headings(first: Explanation, second: Explanation) -> list[str]:
    """The headings of the tables of `comparison_text`."""
    push = "|dL/dh|" if first["hidden"] else "d logp"
    names = [first["semantics"], second["semantics"], "difference"]
    contributions = [f"contribution {name}" for name in names]
    pushes = [f"{push} {name}" for name in names]
    return ["pos", "kind", "token", *contributions, *pushes]


def compared_cells(line: ComparedLine) -> list[str]:
    """The cells of one line, under `compared_headings`."""
    numbers = [*line["contribution"], *line["push"]]
    return [
        number(line["position"], 6),
        line["kind"],
        piece(line),
        *(number(value) for value in numbers),
    ]


def arrow(line: Line) -> str:
    """The direction in which descent moves the token's probability."""
    slope = line.get("d_logp")
    if slope is None:
        return ""
    if slope < 0:
        return "↑"
    return "↓" if slope > 0 else "·"


def piece(line: FoldedLine | ComparedLine) -> str:
    """A token with its blanks and line ends visible, and the number of tokens if several."""
    text = line["token"].replace("\n", "⏎").replace(" ", "␣")
    return f"{text} ×{line['count']}" if line["count"] > 1 else text


def number(value: float | None, digits: int = 3) -> str:
    """A cell with a number; "" for None."""
    return "" if value is None else f"{value + 0.0:.{digits}g}"


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """The cells in columns: words aligned to the left, numbers to the right."""
    return aligned(headings, rows, left_aligned(headings))


def left_aligned(headings: list[str]) -> list[int]:
    """The numbers of the columns that hold words."""
    return [i for i, heading in enumerate(headings) if heading in LEFT_ALIGNED]
