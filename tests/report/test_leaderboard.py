"""The leaderboard's lines and marks, its CSV, LaTeX and Markdown, for runs with known numbers."""

import csv
import functools
import io
import math
import re

import pytest

from clear_ref.common.errors import UserError
from clear_ref.evaluation import metrics
from clear_ref.report import formats, leaderboard, read_runs, run_groups
from tests.helpers import made_runs

HOSTILE = r"""a|b_c % & # $ {x} ~ ^ \input{y} <script>alert("1")</script> `z` [l](u) *s*"""


def made(tmp_path, *runs, metrics="paper"):
    """(report, rows, tables) of runs given as made_runs.write takes them."""
    paths = [made_runs.write(tmp_path / f"run{i}", **run) for i, run in enumerate(runs)]
    report = read_runs.read(paths, metrics)
    lines = run_groups.run_groups(report)
    return report, lines, leaderboard.tables(report, lines)


def column(table, metric):
    """{label: cell} of one column."""
    at = [name for name, _, _ in table.columns].index(metric)
    return {line.label: line.cells[at] for line in table.lines}


def test_every_number_is_the_level_that_its_logs_were_made_with(tmp_path):
    _, _, [table] = made(
        tmp_path, {"method": "npo", "forget": 0.3, "retain": 0.55, "real": 0.62, "text_forget": 0.2}
    )
    for metric, base, gold, npo in (
        ("forget", 0.6, 0.1, 0.3),
        ("retain", 0.7, 0.72, 0.55),
        ("real", 0.8, 0.81, 0.62),
        ("real_faces", 0.8, 0.81, 0.62),
        ("text_forget", 0.65, 0.05, 0.2),
        ("text_retain", 0.75, 0.77, 0.75),
    ):
        found = column(table, metric)
        assert {label: cell.value for label, cell in found.items()} == pytest.approx(
            {"base": base, "gold": gold, "npo": npo}
        )
        assert found["npo"].text == f"{npo:.3f}"


# ---- collapsed, best


@pytest.mark.parametrize(
    "levels, lost",
    [
        ({"retain": 0.36}, False),
        ({"retain": 0.34}, True),  # base 0.7: half is 0.35
        ({"text_retain": 0.38}, False),
        ({"text_retain": 0.37}, True),  # base 0.75: half is 0.375
        ({"retain": 0.1, "text_retain": 0.7}, True),
        ({"forget": 0.01}, False),
    ],
)
def test_a_retain_below_half_of_base_has_collapsed_pictures_or_text(tmp_path, levels, lost):
    _, [row], [table] = made(tmp_path, {"method": "kl", **levels})
    assert row.collapsed is lost and table.lines[-1].collapsed is lost


def test_collapse_is_by_the_papers_definitions_whichever_are_shown(tmp_path):
    """TOFU's definitions have no Retain at all."""
    for name in ("released", "tofu", "all"):
        _, lines, _ = made(
            tmp_path / name, {"method": "kl", "retain": 0.2}, {"method": "npo"}, metrics=name
        )
        assert [(row.label, row.collapsed) for row in lines] == [("kl", True), ("npo", False)]


def test_without_base_a_collapse_is_unknown(tmp_path):
    report, [row], tables = made(tmp_path, {"method": "kl", "retain": 0.01, "base": None})
    assert row.collapsed is None and not tables[0].lines[-1].collapsed
    assert any("it is unknown" in sentence for sentence in leaderboard.legend(tables, report))
    assert run_groups.has_collapsed({"retain": None}, {"retain": 0.7}) is None


def test_records_that_leakage_could_not_ask_are_named_for_every_run_once(tmp_path):
    reasons = {"eval_log_forget_text": ["row 0 of forget10: no picture", "row 1 of forget10: x"]}
    paths = [made_runs.write(tmp_path / name, method=name) for name in ("kl", "npo", "dpo")]
    for path in paths[1:]:
        made_runs.change(path / "metrics.json", lambda summary: summary.update(not_asked=reasons))
    report = read_runs.read(paths, "paper")
    tables = leaderboard.tables(report, run_groups.run_groups(report))
    [line] = [one for one in leaderboard.legend(tables, report) if one.startswith("leakage: ")]
    assert line == (
        "leakage: eval_log_forget_text is not asked of 2 records, first of row 0 of forget10: "
        "no picture"
    )


def test_best_by_hand_and_a_collapsed_model_is_never_best(tmp_path):
    """dpo has the lowest Forget, but its Retain has collapsed. Of the others npo has the lowest
    Forget and kl the highest Retain. Gold and base are never the best."""
    _, _, [table] = made(
        tmp_path,
        {"method": "dpo", "forget": 0.02, "retain": 0.1, "real": 0.9},
        {"method": "npo", "forget": 0.3, "retain": 0.5, "real": 0.7},
        {"method": "kl", "forget": 0.4, "retain": 0.6, "real": 0.79},
    )
    for metric, label in (("forget", "npo"), ("retain", "kl"), ("real", "kl")):
        assert [name for name, cell in column(table, metric).items() if cell.best] == [label]
    assert [line.label for line in table.lines if line.collapsed] == ["dpo"]


def test_equal_printed_numbers_are_best_together_and_a_column_of_one_number_has_no_best():
    cells = [
        leaderboard.Cell("0.300", 0.3004),
        leaderboard.Cell("0.300", 0.2996),
        leaderboard.Cell("0.500", 0.5),
        leaderboard.Cell("-", None),
    ]
    assert leaderboard.best(cells, "↓") == [0, 1] and leaderboard.best(cells, "↑") == [2]
    assert (
        leaderboard.best(cells[:2], "↑") == []
        and leaderboard.best([], "↑") == []
        and leaderboard.best(cells[3:], "↑") == []
    )
    spread = [
        leaderboard.Cell("0.30±0.10", 0.301),
        leaderboard.Cell("0.30±0.02", 0.299),
        leaderboard.Cell("0.40±0.00", 0.4),
    ]
    assert leaderboard.best(spread, "↓") == [0, 1]


def test_one_run_has_no_best(tmp_path):
    _, _, [table] = made(tmp_path, {"method": "npo"})
    assert not any(cell.best for line in table.lines for cell in line.cells)


# ---- which runs are one line


def test_seeds_are_one_line_mean_and_sample_deviation(tmp_path):
    """Forget 0.2, 0.3, 0.4: mean 0.3, deviation sqrt((0.01 + 0 + 0.01) / 2) = 0.1."""
    report, [row], [table] = made(
        tmp_path,
        *(
            {"method": "npo", "seed": seed, "forget": level, "options": {"seed": seed}}
            for seed, level in ((2, 0.4), (0, 0.2), (1, 0.3))
        ),
    )
    cell = column(table, "forget")["npo"]
    assert (
        cell.text == "0.30±0.10"
        and cell.value == pytest.approx(0.3)
        and column(table, "forget")["base"].text == "0.60"
    )
    assert [run.seed for run in row.runs] == [0, 1, 2] and table.seeds == 3
    assert "Mean ± standard deviation (n - 1) over 3 seeds; else one run." in leaderboard.legend(
        [table], report
    )


def test_a_collapse_over_seeds_is_of_the_mean(tmp_path):
    """Retain 0.1 and 0.5: mean 0.3, below 0.35; 0.1 and 0.61: mean 0.355."""
    for second, lost in ((0.5, True), (0.61, False)):
        _, [row], _ = made(tmp_path / str(second), {"retain": 0.1}, {"seed": 1, "retain": second})
        assert row.collapsed is lost


def test_lines_are_in_the_order_of_panels_and_methods(tmp_path):
    _, lines, tables = made(
        tmp_path,
        {"method": "sku", "modality": "text"},
        {"method": "npo"},
        {"method": "dpo", "modality": "visual"},
        {"method": "kl"},
        {"method": "mine"},
    )
    assert [(row.panel, row.label) for row in lines] == [
        ("both", "kl"),
        ("both", "npo"),
        ("both", "mine"),
        ("visual", "dpo"),
        ("text", "sku"),
    ]
    assert [table.panel for table in tables] == ["both", "visual", "text"]


@pytest.mark.parametrize(
    "first, second, labels",
    [
        ({}, {"method": "npo"}, ["npo", "scrub"]),
        ({}, {"semantics": "released"}, ["scrub (paper)", "scrub (released)"]),
        ({"semantics": "released"}, {"semantics": "released", "seed": 1}, ["scrub"]),
        ({}, {"settings": {"lr": 0.01}}, ["scrub (lr 0.001)", "scrub (lr 0.01)"]),
        (
            {"options": {"alpha": 1.0}},
            {"options": {"alpha": 2.0}, "seed": 1},
            ["scrub (alpha 1.0)", "scrub (alpha 2.0)"],
        ),
        (
            {},
            {"seed": 1, "settings": {"out": "elsewhere", "model": "a/copy", "metrics": "all"}},
            ["scrub"],
        ),
    ],
)
def test_a_label_names_exactly_the_settings_that_differ(tmp_path, first, second, labels):
    _, lines, _ = made(tmp_path, first, second)
    assert sorted(row.label for row in lines) == labels


def test_runs_on_other_inputs_are_other_lines(tmp_path):
    _, lines, _ = made(tmp_path, {}, {"seed": 1, "inputs": {"a": "12" * 32}})
    assert len(lines) == 2 and all(
        re.fullmatch(r"scrub \(inputs [0-9a-f]{8}\)", row.label) for row in lines
    )
    _, lines, _ = made(
        tmp_path / "moved", {}, {"seed": 1, "inputs": {"another/place.safetensors": "ab" * 32}}
    )
    assert [row.label for row in lines] == ["scrub"], "the same bytes at another place"


def set_value(record, key, value):
    record[key] = value


def test_runs_with_other_implementations_or_label_masks_are_other_lines(tmp_path):
    for name, file, key, value in (
        ("a", "metrics.json", "impl", "native"),
        ("b", "settings.json", "label_mask", "released"),
    ):
        paths = [made_runs.write(tmp_path / name / str(seed), seed=seed) for seed in (0, 1)]
        made_runs.change(paths[1] / file, functools.partial(set_value, key=key, value=value))
        words = {"impl": "token terms", "label_mask": "label mask"}[key]
        labels = [row.label for row in run_groups.run_groups(read_runs.read(paths))]
        assert len(labels) == 2 and f"scrub ({words} {value})" in labels


def test_the_same_run_in_two_directories_is_refused(tmp_path):
    with pytest.raises(
        UserError,
        match=r"run1: is the same run as .*run0: scrub, seed 0, every setting; name one of them",
    ):
        made(tmp_path, {}, {})


# ---- CSV, LaTeX, Markdown


def test_csv_parsed_back_equals_the_metrics_of_the_logs(tmp_path):
    """Each number bit for bit, beside its definition; one line for base, gold and each run."""
    report, lines, _ = made(
        tmp_path,
        {"method": "npo", "forget": 0.3},
        {"method": "npo", "seed": 1, "forget": 0.25, "retain": 0.1},
        {"method": "kl", "modality": "text", "semantics": "released"},
        metrics="all",
    )
    found = list(csv.DictReader(io.StringIO(formats.as_csv(report, lines))))
    assert [
        (row["model"], row["kind"], row["seed"], row["retain_collapsed"], row["modality"])
        for row in found
    ] == [
        ("base", "base", "", "", ""),
        ("gold", "gold", "", "", ""),
        ("npo (paper)", "unlearned", "0", "false", "both"),
        ("npo (paper)", "unlearned", "1", "true", "both"),
        ("kl (released)", "unlearned", "0", "false", "text"),
    ]
    own = [
        made_runs.logs({**made_runs.BASE, "forget": 0.25, "retain": 0.1}, "npo"),
        made_runs.logs(made_runs.GOLD, "gold"),
    ]
    for name in metrics.SETS:
        expected = metrics.score(*own, name)
        numbers = {
            metric: value
            for metric, value in expected.items()
            if metric not in ("tasks", "definitions") and value is not None
        }
        assert {metric: float(found[3][f"{name}.{metric}"]) for metric in numbers} == numbers
        assert {found[3][f"{name}.{metric}.definition"] for metric in numbers} == {
            f"{expected['definitions'][m]} v1" for m in numbers
        }
    assert (
        found[3]["out"].endswith("run1")
        and found[4]["semantics"] == "released"
        and found[0]["paper.text_retain"] != ""
    )


def test_csv_escapes_what_a_name_holds(tmp_path):
    name = 'a,"b"\nc'
    report, lines, _ = made(tmp_path, {"method": name})
    assert list(csv.DictReader(io.StringIO(formats.as_csv(report, lines))))[-1]["method"] == name


def two_tables(tmp_path):
    return made(
        tmp_path,
        {"method": HOSTILE, "forget": 0.3, "retain": 0.2},
        {"method": "npo", "forget": 0.4},
        {"method": "kl"},
        {"method": "kl", "modality": "text", "seed": 1},
    )


def test_markdown_is_the_page_s_table_and_names_are_text(tmp_path):
    report, _, tables = two_tables(tmp_path)
    lines = formats.as_markdown(
        tables, report.sets, leaderboard.legend(tables, report)
    ).splitlines()
    assert lines[0] == "## Forgetting pictures and text" and "## Forgetting text" in lines
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(line) for line in cells} == {1 + len(tables[0].columns)}, (
        "no name adds or takes a column"
    )
    hostile = next(line for line in lines if line.startswith("| a"))
    assert (
        "<script" not in hostile.replace(r"\<", "")
        and r"a\|b\_c" in hostile
        and r"\`z\`" in hostile
        and "†" in hostile
    )
    assert next(line for line in lines if line.startswith("| npo ")).split(" | ")[1] == "**0.400**"
    assert lines[-1].startswith(
        "- † Retain collapsed: Retain or Retain text is less than 0.5 of base's"
    )


def test_latex_is_well_formed_and_names_are_text(tmp_path):
    """Braces, commands and cells are counted, which is all that plain tabular needs; a name adds
    none of them."""
    report, _, tables = two_tables(tmp_path)
    text = formats.as_latex(tables, report.sets, leaderboard.legend(tables, report))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert (
        re.findall(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), text)
        == ["l" + "r" * len(tables[0].columns)] * 2
    )
    commands = set(re.findall(r"\\([a-zA-Z]+)", text))
    assert commands == {
        "begin",
        "end",
        "hline",
        "textbf",
        "uparrow",
        "downarrow",
        "dagger",
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
    }
    bare = re.sub(r"\\.", "", text.replace(r"\\", ""))  # without escaped signs
    for line in bare.splitlines():
        if not line.startswith("%"):
            assert line.count("{") == line.count("}") and line.count("$") % 2 == 0
            assert "%" not in line and "#" not in line and "_" not in line and "^" not in line
    rows_of = [line for line in text.splitlines() if line.endswith((r"\\", r"\hline"))]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows_of} == {len(tables[0].columns)}
    assert r"\textbf{0.400}" in next(line for line in rows_of if line.startswith("npo"))
    assert any(
        line.startswith("a\\textbar{}b\\_c \\% \\& \\# \\$") and r"$\dagger$" in line
        for line in rows_of
    )


def test_a_line_end_in_a_name_cannot_leave_a_comment_or_a_row(tmp_path):
    report, _, tables = made(
        tmp_path, {"method": "a\n\\end{document}\n## b\n| c", "modality": "x\n\\y"}
    )
    latex = formats.as_latex(tables, report.sets, [])
    assert all(
        line.startswith(("%", r"\begin", r"\end{tabular}", "model", "base", "gold", "a "))
        for line in latex.splitlines()
        if line
    )
    markdown = formats.as_markdown(tables, report.sets, [])
    assert sum(line.startswith("#") for line in markdown.splitlines()) == 1


def test_titles_name_the_definitions_where_they_are_not_the_papers_alone(tmp_path):
    for name, expected in (
        ("paper", ["Forgetting pictures and text"]),
        ("tofu", ["Forgetting pictures and text, tofu definitions"]),
        ("all", [f"Forgetting pictures and text, {one} definitions" for one in metrics.SETS]),
    ):
        report, _, tables = made(tmp_path / name, {"method": "npo"}, metrics=name)
        assert [formats.title(table, report.sets) for table in tables] == expected


def test_semantics_that_all_runs_share_are_in_the_titles_unless_they_are_the_papers(tmp_path):
    report, lines, [table] = made(
        tmp_path,
        {"method": "npo", "semantics": "original"},
        {"method": "kl", "semantics": "original"},
    )
    assert formats.title(table, report.sets) == "Forgetting pictures and text, original semantics"
    assert [row.label for row in lines] == ["kl", "npo"]


def test_paper_semantics_come_before_the_others_of_a_method(tmp_path):
    _, lines, _ = made(
        tmp_path,
        {"semantics": "released"},
        {"semantics": "original"},
        {"semantics": "paper"},
        {"method": "kl"},
    )
    assert [row.label for row in lines] == [
        "kl (paper)",
        "scrub (paper)",
        "scrub (original)",
        "scrub (released)",
    ]


def test_forget_quality_of_a_model_that_answers_like_gold_is_one(tmp_path):
    """Same level, same truth ratios; base's lie in another bin, disjoint: 1 - sqrt(ln 2)."""
    _, _, [table] = made(tmp_path, {"method": "npo", "forget": 0.1})
    found = column(table, "forget_quality")
    assert found["npo"].value == 1.0 and found["base"].value == pytest.approx(
        1 - math.sqrt(math.log(2))
    )
