"""The text of `evaluate --robustness`: three tables, each number with its definition's name."""

from textwrap import wrap

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.bootstrap import Interval
from clear_ref.evaluation.definitions import label_of
from clear_ref.evaluation.membership import FALSE_POSITIVES
from clear_ref.evaluation.membership_scores import MEMORISATION
from clear_ref.evaluation.robustness_results import (
    ATTACKS,
    Membership,
    Relearning,
    Robustness,
    Rounding,
    robustness_definitions,
)

from .columns import columns_of, headings, number
from .record_intervals import as_text

CURVES = {
    "nll_relearned": "nll of the relearned",
    "forget": "Forget",
    "forget_not_relearned": "Forget, not relearned",
    "text_forget": "Forget text",
    "text_forget_not_relearned": "Forget text, not relearned",
}
INTERVAL = "  95 %"  # of the line above, over the records
# Numbers of one value: no attack with a threshold.
SINGLE = ("privleak", *MEMORISATION)


def robustness(results: Robustness | None) -> list[str]:
    """The lines of metrics.json's "robustness", an empty line after each table; [] for None."""
    if not results:
        return []
    names = results["definitions"]
    blocks = [
        relearning(results["relearning"], names),
        rounding(results["rounding"], names),
        membership(results["membership"], names),
    ]
    if results["missing"]:
        note = f"membership not computed of {results['missing']}"
        blocks.append(wrap(note, 110, subsequent_indent="  "))
    lines = []
    for block in blocks:
        if block:
            lines += [*block, ""]
    return lines


def relearning(results: Relearning, names: dict[str, str]) -> list[str]:
    """The curves of relearning, a line for each measure and model.

    names    {measure: its definition's name}
    """
    table = []
    for measure, heading in CURVES.items():
        # The measure's heading is printed once, in its first line.
        shown = heading
        for model, curves in results["models"].items():
            curve = curves[measure]
            if None in curve:
                continue
            rise = results["mean_rise"][model][measure]
            label = label_of(names[measure])
            table.append([shown, model, *map(number, curve), number(rise), label])
            ends = results["intervals"][model][measure]
            of_rise = results["mean_rise_intervals"][model][measure]
            table.append(["", INTERVAL, *map(as_text, ends), as_text(of_rise), ""])
            shown = ""
    steps = results["steps"]
    header = ["after step", "of", *map(str, steps), "mean rise", "definition"]
    title = (
        f"relearning {len(results['records'])} of {results['n_forget']} forget records: "
        f"steps of cross-entropy on adapters (rank {results['rank']}), rate {results['lr']:g}"
    )
    return [title, "", *aligned(header, table, left=(0, 1, len(steps) + 3))]


def rounding(results: Rounding, names: dict[str, str]) -> list[str]:
    """The leaderboard with rounded weights, and the names of its definitions.

    names    {metric: its definition's name}
    """
    all_metrics = [metrics for bits in results["models"].values() for metrics in bits.values()]
    columns = columns_of(all_metrics)
    table = []
    for model, by_bits in results["models"].items():
        for bits, metrics in by_bits.items():
            numbers = [number(metrics.get(metric)) for metric, _, _ in columns]
            table.append([f"{model}, {bits} bits", *numbers])
            own = results["intervals"][model][bits]
            table.append([INTERVAL, *(as_text(own.get(metric)) for metric, _, _ in columns)])
    headings_of: dict[str, list[str]] = {}
    for metric, heading, _ in columns:
        headings_of.setdefault(names[metric], []).append(heading)
    used = "; ".join(f"{label_of(name)}: {', '.join(shown)}" for name, shown in headings_of.items())
    title = (
        f"weights of {results['layers']} linear layers rounded to nearest, "
        "a scale for each row, below 8 bits for each "
    )
    title += f"{results['group']} columns of it" if results["group"] else "row too"
    return [title, "", *aligned(["weights", *headings(columns)], table), *wrap(used, 110)]


def _between(interval: Interval | None) -> str:
    """An interval; of percentages without decimals."""
    if interval is None:
        return ""
    is_percent = max(map(abs, interval)) > 1
    return as_text(interval, 0 if is_percent else 2)


def membership(results: dict[str, Membership], names: dict[str, str]) -> list[str]:
    """The attacks' numbers, a line for each kind of record and attack; [] if there are none.

    names    {attack: its definition's name}
    """
    if not results:
        return []
    models = list(next(iter(results.values()))["models"])
    table = []
    used: dict[str, None] = {}
    for kind, result in results.items():
        shown = kind
        for attack in (*ATTACKS, *SINGLE):
            values = result["models"].values()
            if not any(attack in own for own in values):
                continue
            ends = ["", *FALSE_POSITIVES] if attack in ATTACKS else [""]
            cells = [number(own.get(attack + end)) for own in values for end in ends]
            of_models = result["intervals"].values()
            between = [_between(own.get(attack + end)) for own in of_models for end in ends]
            if attack in SINGLE:
                cells = [cell for one in cells for cell in (one, "", "")]
                between = [cell for one in between for cell in (one, "", "")]
            table.append([shown, attack, *cells, label_of(names[attack])])
            table.append(["", INTERVAL, *between, ""])
            used |= dict.fromkeys(attack + end for end in ends)
            shown = ""
    counts = ", ".join(
        f"{result['n_forget']} against {result['n_holdout']} {kind}"
        for kind, result in results.items()
    )
    known = robustness_definitions()
    words = {names[attack]: known[attack].words for attack in used if attack in known}
    heads = [head for model in models for head in (model, "at 1 %", "at 0.1 %")]
    header = ["records", "attack", *heads, "definition"]
    title = (
        f"membership: forget records told from held-out ones ({counts}). A score is low for a "
        "record that a model was trained on. AUC 0.5: they are not told apart; at 1 %, at 0.1 %: "
        "true positives at that share of false ones"
    )
    return [
        *wrap(title, 110),
        "",
        *aligned(header, table, left=(0, 1, 2 + len(heads))),
        *(f"{label_of(name)}: {text}" for name, text in words.items()),
    ]
