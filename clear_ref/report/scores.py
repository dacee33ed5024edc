"""What `score` prints for people: a line for each metric and definition."""

from textwrap import wrap

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.membership import definition
from clear_ref.evaluation.metrics import SETS, definitions


def text(summary: dict) -> str:
    """The numbers of commands.score.run as a table, the words of every definition in it, and why a number is missing."""
    about = f"score: {', '.join(summary['log'])} ({summary['format']})"
    gold = (
        f"gold: {summary['gold']} ({summary['gold_format']})" if summary["gold"] else "gold: none"
    )
    records = wrap(
        "records: " + ", ".join(f"{task} {n}" for task, n in summary["records"].items()),
        110,
        subsequent_indent="  ",
    )
    lines = [
        [row["metric"], f"{row['value']:.6g}", row["definition"], ", ".join(row["metrics"])]
        for row in summary["numbers"]
    ]
    table = aligned(["metric", "value", "definition", "definitions of"], lines, left=(0, 2, 3))
    words = {found.name: found.words for name in SETS for found in definitions(name).values()}
    words |= {
        row["definition"]: definition(row["metric"]).words
        for row in summary["numbers"]
        if row["definition"] not in words
    }
    used = [
        [name, words[name]]
        for name in dict.fromkeys(row["definition"] for row in summary["numbers"])
    ]
    used = [[name, phrase.removeprefix("columns: ")] for name, phrase in used]
    missing = [f"{metric}: not computed; {reason}" for metric, reason in summary["missing"].items()]
    blocks = [
        [about, gold, *records],
        table,
        aligned(["definition", "in words"], used, left=(0, 1)),
        missing,
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)
