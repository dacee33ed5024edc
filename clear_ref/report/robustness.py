"""What `evaluate --robustness` prints for people: three tables, each number with the name of its definition."""

from textwrap import wrap

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.robustness_results import robustness_definitions

from .table import columns_of, headings, number

CURVES = {
    "nll_relearned": "nll of the relearned",
    "forget": "Forget",
    "forget_not_relearned": "Forget, not relearned",
    "text_forget": "Forget text",
    "text_forget_not_relearned": "Forget text, not relearned",
}
ATTACKS = ("mia_loss", "mia_min_k", "privleak")


def lines(found: dict | None) -> list[str]:
    """The tables of metrics.json's "robustness", an empty line at the end; nothing where there is none."""
    if not found:
        return []
    names = found["definitions"]
    blocks = [
        relearning(found["relearning"], names),
        rounding(found["rounding"], names),
        membership(found["membership"], names),
    ]
    if found["missing"]:
        blocks.append(
            wrap(f"membership not computed of {found['missing']}", 110, subsequent_indent="  ")
        )
    return [line for block in blocks if block for line in [*block, ""]]


def relearning(found: dict, names: dict) -> list[str]:
    """The curves, a line for each measure and model."""
    table = []
    for measure, heading in CURVES.items():
        for model, curves in found["models"].items():
            if None not in curves[measure]:
                table.append(
                    [
                        heading,
                        model,
                        *map(number, curves[measure]),
                        number(found["mean_rise"][model][measure]),
                        names[measure],
                    ]
                )
                heading = ""
    title = (
        f"relearning {len(found['records'])} of {found['n_forget']} forget records: steps of cross-entropy on adapters "
        f"(rank {found['rank']}), rate {found['lr']:g}"
    )
    return [
        title,
        "",
        *aligned(
            ["after step", "of", *map(str, found["steps"]), "mean rise", "definition"],
            table,
            left=(0, 1, len(found["steps"]) + 3),
        ),
    ]


def rounding(found: dict, names: dict) -> list[str]:
    """The leaderboard's columns with rounded weights, and what they are called."""
    every = [metrics for bits in found["models"].values() for metrics in bits.values()]
    shown = columns_of(every)
    table = [
        [f"{model}, {bits} bits", *(number(metrics.get(metric)) for metric, _, _ in shown)]
        for model, by_bits in found["models"].items()
        for bits, metrics in by_bits.items()
    ]
    by_name = {}
    for metric, heading, _ in shown:
        by_name.setdefault(names[metric], []).append(heading)
    called = "; ".join(f"{name}: {', '.join(of)}" for name, of in by_name.items())
    title = f"weights of {found['layers']} linear layers rounded to nearest, a scale for each row, below 8 bits for each "
    title += f"{found['group']} columns of it" if found["group"] else "row too"
    return [title, "", *aligned(["weights", *headings(shown)], table), *wrap(called, 110)]


def membership(found: dict, names: dict) -> list[str]:
    """The attacks' AUC, a line for each kind of record and attack."""
    words = {one.name: one.words for one in robustness_definitions().values()}
    table = [
        [
            kind if attack == ATTACKS[0] else "",
            attack,
            *(number(values[attack]) for values in entry["models"].values()),
            names[attack],
        ]
        for kind, entry in found.items()
        for attack in ATTACKS
    ]
    if not table:
        return []
    models = list(next(iter(found.values()))["models"])
    counts = ", ".join(
        f"{entry['n_forget']} against {entry['n_holdout']} {kind}" for kind, entry in found.items()
    )
    used = dict.fromkeys(names[attack] for attack in ATTACKS)
    return [
        f"membership: forget records told from held-out ones ({counts}); 0.5: they are not",
        "",
        *aligned(["records", "attack", *models, "definition"], table, left=(0, 1, 2 + len(models))),
        *(f"{name}: {words[name]}" for name in used),
    ]
