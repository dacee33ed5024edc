"""The text of `evaluate --robustness`: three tables, each number with its definition's name."""

from textwrap import wrap

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.robustness_results import (
    Membership,
    Relearning,
    Robustness,
    Rounding,
    robustness_definitions,
)

from .columns import columns_of, headings, number

CURVES = {
    "nll_relearned": "nll of the relearned",
    "forget": "Forget",
    "forget_not_relearned": "Forget, not relearned",
    "text_forget": "Forget text",
    "text_forget_not_relearned": "Forget text, not relearned",
}
ATTACKS = ("mia_loss", "mia_min_k", "privleak")


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
            table.append([shown, model, *map(number, curve), number(rise), names[measure]])
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
    headings_of: dict[str, list[str]] = {}
    for metric, heading, _ in columns:
        headings_of.setdefault(names[metric], []).append(heading)
    used = "; ".join(f"{name}: {', '.join(shown)}" for name, shown in headings_of.items())
    title = (
        f"weights of {results['layers']} linear layers rounded to nearest, "
        "a scale for each row, below 8 bits for each "
    )
    title += f"{results['group']} columns of it" if results["group"] else "row too"
    return [title, "", *aligned(["weights", *headings(columns)], table), *wrap(used, 110)]


def membership(results: dict[str, Membership], names: dict[str, str]) -> list[str]:
    """The attacks' numbers, a line for each kind of record and attack; [] if there are none.

    names    {attack: its definition's name}
    """
    if not results:
        return []
    models = list(next(iter(results.values()))["models"])
    table = []
    for kind, result in results.items():
        for attack in ATTACKS:
            shown = kind if attack == ATTACKS[0] else ""
            numbers = [number(values[attack]) for values in result["models"].values()]
            table.append([shown, attack, *numbers, names[attack]])
    counts = ", ".join(
        f"{result['n_forget']} against {result['n_holdout']} {kind}"
        for kind, result in results.items()
    )
    words = {known.name: known.words for known in robustness_definitions().values()}
    used = dict.fromkeys(names[attack] for attack in ATTACKS)
    header = ["records", "attack", *models, "definition"]
    return [
        f"membership: forget records told from held-out ones ({counts}); 0.5: they are not",
        "",
        *aligned(header, table, left=(0, 1, 2 + len(models))),
        *(f"{name}: {words[name]}" for name in used),
    ]
