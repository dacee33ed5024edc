"""The tables of the terminal, and report.html."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ElementTree

import pytest

from clear_ref import run
from clear_ref.common.errors import UserError
from clear_ref.evaluation import metrics
from clear_ref.mini.directories import WORLD
from clear_ref.report import (
    columns,
    html_frame,
    leaderboard,
    page,
    read_runs,
    run_groups,
    samples,
    scatter,
    terminal_tables,
)
from clear_ref.report.headline import headline
from tests.helpers import made_runs
from tests.helpers.html_reader import Reader

TASKS = list(dict.fromkeys(task for parts in metrics.PARTS.values() for task, _ in parts))
HOSTILE = """<script>alert("x")</script><img src='https://example.org/x.png' onerror=y>&amp;"""


def scored(start, **changed):
    """Metrics of one vision-language model, every number another one, recognisable in a text."""
    numbers = (round(start + i / 1000, 3) for i in range(100))
    found = {
        metric: None if metric == "text_real" else next(numbers)
        for metric, _, _ in columns.PAPER_COLUMNS
    }
    found["tasks"] = {
        task: {**{part: next(numbers) for part in columns.PARTS}, "n": 300} for task in TASKS
    }
    return {
        **found,
        "definitions": {metric: found.name for metric, found in metrics.DEFINITIONS.items()},
        **changed,
    }


# ---- tables


def test_leaderboard_by_hand():
    rows = [("base", scored(0.2, forget_quality=None)), ("scrub", scored(0.4))]
    lines = terminal_tables.leaderboard(rows).splitlines()
    assert lines[:3] == [
        "model  Forget ↓  Retain ↑  Faces ↑  World ↑  Real ↑   FQ ↑  Retain text ↑  Forget text ↓",
        "base      0.200     0.201    0.202    0.203   0.204      -          0.206          0.207",
        "scrub     0.400     0.401    0.402    0.403   0.404  0.405          0.406          0.407",
    ]
    assert "↑ higher is better, ↓ lower is better" in lines[4]


def test_a_column_that_no_model_has_is_left_out():
    """A language model is evaluated on text alone."""
    of_text = {metric: None for metric, _, _ in columns.PAPER_COLUMNS} | {
        "text_real": 0.25,
        "text_forget": 0.5,
    }
    rows = [
        ("base", {**scored(0.2), **of_text}),
        ("scrub", {**scored(0.2), **of_text, "text_retain": 0.75}),
    ]
    assert terminal_tables.leaderboard(rows).splitlines()[:3] == [
        "model  Real text ↑  Retain text ↑  Forget text ↓",
        "base         0.250              -          0.500",
        "scrub        0.250          0.750          0.500",
    ]


@pytest.mark.parametrize(
    "show",
    [
        terminal_tables.leaderboard,
        terminal_tables.per_task,
        lambda rows: terminal_tables.leaderboard_over_seeds([(name, [m, m]) for name, m in rows]),
    ],
)
def test_every_table_is_aligned_and_at_most_110_columns_wide(show):
    rows = [
        ("base", scored(0.2)),
        ("scrub visual", scored(0.4, forget_quality=None)),
        ("retain_ft", scored(0.5)),
    ]
    lines = show(rows).split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1, "the last column is flush right and never empty"
    assert all(len(line) <= 110 for line in show(rows).splitlines())
    ends = [{match.end() for match in re.finditer(r"\S(?=  |$)", line)} for line in lines]
    n_numbers = 4 if show is terminal_tables.per_task else 8
    assert len(set.intersection(*ends)) >= n_numbers, (
        "columns of numbers end at the same place in every line"
    )


def test_the_tables_name_the_definitions_and_unknown_ones_as_they_are():
    text = terminal_tables.leaderboard([("mine", scored(0.1))])
    assert all(
        re.sub(r"\s", "", found.words) in re.sub(r"\s", "", text)
        for found in metrics.DEFINITIONS.values()
    )
    other = terminal_tables.leaderboard(
        [("theirs", scored(0.1, definitions={"rouge": "rouge1_f_of_theirs"}))]
    )
    assert "rouge1_f_of_theirs" in other and "ROUGE-L recall" not in other


def test_below_a_table_stand_only_its_own_definitions_and_what_is_not_computed():
    """Without the questions with options no column of theirs is named as if it was printed."""
    own, gold = made_runs.logs(made_runs.BASE), made_runs.logs(made_runs.GOLD)
    shown = terminal_tables.leaderboard([("model", metrics.score(own, gold, "all"))])
    tables = dict(zip(metrics.SETS, shown.split("definitions\n\n")[1:], strict=True))
    assert "not computed" not in tables["paper"] + tables["tofu"] + tables["forgetium"]
    later = " ".join(tables["mmunlearner"].split())
    assert (
        "not computed: Forget MC, Retain MC, Faces MC, World MC; an evaluation with --metrics mmu"
        in later
    )
    assert "definitions: name_contained v1, rougeL_f1_of_texts v1, sentence_bleu4" in later
    assert "MC:" not in later and "ROUGE-1" not in later and "first_letter" not in later
    five = " ".join(tables["open_mmunlearning"].split())
    assert "not computed: FQ of five; an evaluation with --metrics open_mmunlearning asks " in five
    assert "FQ of five:" not in five and "mean_of_five" not in five
    assert "definitions: minus_log10_ks_p_value v1." in tables["forgetium"]
    alone = terminal_tables.leaderboard([("model", metrics.score(own))])
    assert "js_histogram10" not in alone and "arithmetic_clipped v1" in alone
    asked = {**own, "eval_forget_choice": own["eval_forget_facerec"]}
    with_one = terminal_tables.leaderboard([("model", metrics.score(asked, gold, "mmunlearner"))])
    assert "MC: share of texts" in with_one
    assert "not computed: Retain MC, Faces MC, World MC;" in with_one


def test_a_report_says_what_is_not_computed_and_the_help_what_all_leaves_out(tmp_path, capsys):
    made_runs.write(tmp_path / "run")
    words = ["report", str(tmp_path / "run"), "--metrics", "all", "--out", str(tmp_path / "r")]
    assert run.main(words) == 0
    for file in ("leaderboard.md", "leaderboard.tex", "report.html"):
        said = (tmp_path / "r" / file).read_text(encoding="utf-8")
        assert "mmunlearner definitions, not computed: Forget MC, Retain MC" in said, file
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run.main(["evaluate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "all: every set, side by side, but for numbers of questions with options" in said


def test_spread_by_hand():
    """0.1, 0.2, 0.3: mean 0.2, sample deviation sqrt((0.01 + 0 + 0.01) / 2) = 0.1.

    The deviation of a population would be 0.08.
    """
    assert columns.spread([0.1, 0.2, 0.3]) == "0.20±0.10"
    assert columns.spread([0.25], 3) == "0.250"
    assert columns.spread([0.1, None]) == "-"


def test_a_leaderboard_over_seeds_says_how_many_and_only_where_there_are_several():
    text = terminal_tables.leaderboard_over_seeds(
        [("base", [scored(0.2)]), ("npo", [scored(0.1), scored(0.2), scored(0.3)])]
    )
    assert "over 3 seeds; else one run" in text and "0.20±0.10" in text.splitlines()[2]
    assert "±" not in terminal_tables.leaderboard_over_seeds([("base", [scored(0.2)])])


def test_a_leaderboard_over_no_seed_is_an_error():
    with pytest.raises(UserError, match="npo: metrics of no seed"):
        terminal_tables.leaderboard_over_seeds([("npo", [])])


def test_per_task_shows_every_part_and_only_what_was_evaluated():
    one = scored(0.2)
    one["tasks"] = {"eval_log": one["tasks"]["eval_log"]}
    text = terminal_tables.per_task([("base", one), ("scrub", scored(0.4))])
    assert len(text.splitlines()) == 1 + 1 + len(TASKS)
    assert all(
        columns.number(value) in text for value in one["tasks"]["eval_log"].values() if value != 300
    )


# ---- page


def shown(*paths, metrics="paper", data=WORLD, notes=()):
    """The page of runs, as text."""
    report = read_runs.read(paths, metrics)
    return page.page(report, samples.cards(report, run_groups.run_groups(report), data), notes)


def several(tmp_path):
    """Eleven runs: two methods in three modalities, one collapsed, one with three seeds, one with
    other semantics."""
    runs = [
        dict(method=method, modality=modality, forget=level, text_forget=level)
        for method, level in (("npo", 0.3), ("kl", 0.4))
        for modality in ("both", "visual", "text")
    ]
    runs += [
        dict(method="dpo", forget=0.02, retain=0.1),
        dict(method="kl", semantics="released"),
        dict(method="sku", seed=0),
        dict(method="sku", seed=1, forget=0.5),
        dict(method="sku", seed=2, retain=0.6),
    ]
    return [made_runs.write(tmp_path / f"run{i}", **run) for i, run in enumerate(runs)]


@pytest.mark.slow
def test_page_is_well_formed_and_alone(tmp_path):
    """Every tag is closed, as XML too. Nothing is loaded. The policy allows one script, ours."""
    for text in (shown(made_runs.write(tmp_path / "a")), shown(*several(tmp_path), metrics="all")):
        reader = Reader(text)
        assert (reader.open, reader.wrong) == ([], []) and text.startswith("<!DOCTYPE html>")
        body = text[text.index("<body>") : text.index("</body>") + len("</body>")]
        ElementTree.fromstring(
            re.sub(r"<script>.*</script>", "", re.sub(r"(<img [^>]*)>", r"\1/>", body), flags=re.S)
            .replace("class=n", 'class="n"')
            .replace("class=start", 'class="start"')
        )
        assert not re.search(r"https?://|@import|url\(|javascript:", text)
        for tag, attributes in reader.tags:
            assert tag not in ("link", "iframe", "object", "base", "form")
            assert (
                attributes.get("src", "data:image/").startswith("data:image/")
                and "href" not in attributes
            )
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
        [script] = reader.scripts
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        [policy] = [
            attributes["content"] for tag, attributes in reader.tags if attributes.get("http-equiv")
        ]
        assert script == html_frame.SCRIPT and f"script-src 'sha256-{digest}'" in policy.split("; ")
        assert (
            "default-src 'none'" in policy.split("; ")
            and "unsafe-inline" not in policy.split("script-src")[1]
        )


def test_page_is_whole_without_its_script(tmp_path):
    """Every number of every table, best marks, collapses, texts of the models and settings are
    outside the script."""
    paths = several(tmp_path)
    report = read_runs.read(paths)
    lines = run_groups.run_groups(report)
    text = shown(*paths)
    reader = Reader(re.sub(r"<script>.*</script>", "", text, flags=re.S))
    words = " ".join(" ".join(reader.text).split())
    for found in leaderboard.tables(report, lines):
        for line in found.lines:
            cells = " ".join(cell.text.replace("±", " ±") for cell in line.cells)
            assert f"{line.label}{' †' * line.collapsed} {cells}" in words.replace("  ", " "), (
                line.label
            )
    values = iter(
        attributes["data-value"]
        for tag, attributes in reader.tags
        if tag == "td" and "data-value" in attributes
    )
    for found in leaderboard.tables(report, lines):
        for line in found.lines:
            assert [next(values) for _ in line.cells] == [
                "" if cell.value is None else repr(cell.value) for cell in line.cells
            ]
    assert next(values, None) is None, "what the script sorts by"
    assert (
        text.count('<td class="n best"')
        == sum(
            cell.best
            for found in leaderboard.tables(report, lines)
            for line in found.lines
            for cell in line.cells
        )
        > 5
    )
    assert "npo says 0" in words and "this test" in words and "ab" * 32 in words
    assert not {"hidden", "aria-sort"} & {
        name for _, attributes in reader.tags for name in attributes
    }


def test_a_script_of_another_text_would_have_another_hash():
    assert re.findall("sha256-[^']*", html_frame.page("t", "", "", "a()")) != re.findall(
        "sha256-[^']*", html_frame.page("t", "", "", "b()")
    )
    assert "script" not in html_frame.page("t", "", "")


def hostile_run(path, **changed):
    """A run with the hostile string in every text that a user, a data set or a model can set."""
    made_runs.write(
        path,
        HOSTILE,
        HOSTILE,
        said=HOSTILE,
        settings={HOSTILE: HOSTILE, "lr": HOSTILE},
        options={HOSTILE: HOSTILE},
        inputs={HOSTILE: HOSTILE},
        trace=[{"stage": HOSTILE, "step": 1, "loss": 1.0, "terms": {HOSTILE: 1.0, "b": 2.0}}],
        **changed,
    )
    made_runs.change(
        path / "settings.json",
        lambda one: one.update(
            versions={HOSTILE: HOSTILE}, kernel={HOSTILE: HOSTILE}, label_mask=HOSTILE
        ),
    )
    made_runs.change(
        path / "metrics.json", lambda one: one.update(impl=HOSTILE, seconds={HOSTILE: 1.0})
    )
    for file in path.glob("logs/**/eval_log_forget.json"):

        def edit(log):
            log["set"], log["generated_text"]["0"] = HOSTILE, [HOSTILE, HOSTILE, HOSTILE]

        made_runs.change(file, edit)
    return path


def test_page_shows_text_from_outside_as_text(tmp_path):
    one = hostile_run(tmp_path / "<b onclick=x>&amp;")
    more = [hostile_run(tmp_path / "b", modality=HOSTILE), hostile_run(tmp_path / "c", seed=1)]
    for paths in ([one], [one, *more]):
        reader = Reader(shown(*paths, data=None, notes=[HOSTILE]))
        assert (reader.open, reader.wrong) == ([], []) and reader.scripts == [html_frame.SCRIPT]
        assert not {"img", "b onclick=x"} & {tag for tag, _ in reader.tags} and all(
            "onclick" not in found for _, found in reader.tags
        )
        words = " ".join(reader.text)
        assert words.count(HOSTILE) > 25 and "<b onclick=x>&amp;" in words


@pytest.mark.parametrize("module", [html_frame, page, samples, scatter])
def test_page_without_escaping_would_be_caught(tmp_path, monkeypatch, module):
    path = made_runs.write(tmp_path / "a", "<img x>", said="<img x>", settings={"lr": "<img x>"})
    assert "img" not in [tag for tag, _ in Reader(shown(path, data=None)).tags]
    monkeypatch.setattr(module, "text", str)
    assert "img" in [tag for tag, _ in Reader(shown(path, data=None)).tags]


def test_page_says_where_settings_come_from_and_what_every_metric_means(tmp_path):
    path = made_runs.write(tmp_path / "a", options={"alpha": 0.75})
    words = " ".join(Reader(shown(path)).text)
    for expected in (
        "0.001",
        "this test",
        "0.75",
        "paper App. B",
        "ab" * 32,
        "2.13.0",
        "seed 0",
        "train 12.5 s",
        "100 of 1,000",
        str(path),
        "3 steps",
        "token terms torch",
    ):
        assert expected in words, expected
    for definition in metrics.DEFINITIONS.values():
        assert definition.name in words and definition.text in words


def test_settings_in_common_are_shown_once_and_the_others_beside_their_runs(tmp_path):
    paths = [
        made_runs.write(
            tmp_path / f"r{i}",
            method,
            options={"beta": 0.1},
            settings={"lr": 0.01},
            inputs={"base/model.safetensors": "ab" * 32, "base/extra.json": digest},
        )
        for i, (method, digest) in enumerate(
            (("npo", "cd" * 32), ("npo", "cd" * 32), ("kl", "ef" * 32))
        )
    ]
    made_runs.change(
        paths[1] / "settings.json", lambda one: one["settings"]["seed"].update(value=1)
    )
    made_runs.change(paths[1] / "metrics.json", lambda one: one.update(seed=1))
    text = shown(*paths)
    assert (
        text.count("<td>max_new_tokens</td>") == 1
        and text.count("ab" * 32) == 1
        and text.count("<td>lr</td>") == 1
    )
    assert text.count("<td>beta</td>") == 2, "once for npo, whose two runs agree, once for kl"
    differing = text[text.index("Settings that differ") : text.index("Options of the methods")]
    assert re.findall(r"<th>(\w+)</th>", differing) == ["run", "out", "seed", "method"]
    assert "1 (this test)" in differing and text.count("cd" * 32) == text.count("ef" * 32) == 1
    assert re.search(f"{'cd' * 32}</td><td>npo, both, seed 0, npo, both, seed 1</td>", text)


def test_headline_states_the_result(tmp_path):
    def headline_of(*paths):
        report = read_runs.read(paths)
        return headline(report, run_groups.run_groups(report))

    one = made_runs.write(tmp_path / "a", "scrub", forget=0.4)
    # (0.6 - 0.4) / (0.6 - 0.1) = 0.4 of the way
    assert headline_of(one) == "scrub, paper semantics: partly forgotten, Retain kept"
    lost = made_runs.write(tmp_path / "b", "dpo", forget=0.1, retain=0.1)
    assert (
        headline_of(one, lost)
        == "2 runs of 2 methods: most like gold, with Retain kept, is scrub: "
        "partly forgotten, Retain kept, forget quality 0.17 (base 0.17)"
    )
    like = made_runs.write(tmp_path / "c", "npo", modality="text", forget=0.1)
    assert headline_of(one, lost, like) == (
        "3 runs of 3 methods: most like gold, with Retain kept, is npo, forgetting text: "
        "not forgotten, Retain text kept, forget quality 1.00 (base 0.17)"
    )
    assert headline_of(made_runs.write(tmp_path / "d", gold=None, forget=0.4)).endswith(
        ": Retain kept"
    )
    alone = made_runs.write(tmp_path / "f", base=None, gold=None, forget=0.4)
    assert headline_of(alone).endswith(": Forget 0.40, Retain 0.70")
    text_only = made_runs.write(
        tmp_path / "e", "ga", only=["eval_text_forget", "eval_text_retain"], text_forget=0.2
    )
    assert "Forget text against Retain text" in shown(text_only) and "Truth ratios" in shown(
        text_only
    )
    assert headline_of(text_only) == "ga, paper semantics: partly forgotten, Retain text kept"


def test_the_headline_never_calls_a_retain_of_0_442_for_0_769_kept(tmp_path):
    """The lowest Forget and the highest FQ, but Retain 0.442 / 0.769 = 57 %: damaged."""
    base = {**made_runs.BASE, "retain": 0.769}
    paths = [
        made_runs.write(tmp_path / "a", "npo", base=base, forget=0.1, retain=0.442),
        made_runs.write(tmp_path / "b", "kl", base=base, forget=0.5, retain=0.43),
    ]
    report = read_runs.read(paths)
    groups = run_groups.run_groups(report)
    assert headline(report, groups) == (
        "2 runs of 2 methods: none kept Retain (90% of base's); most like gold is npo: "
        "forgotten, Retain damaged, forget quality 1.00 (base 0.17)"
    )
    assert "Retain damaged" in headline(*one_line_of(paths[0]))


def one_line_of(path):
    report = read_runs.read([path])
    return report, run_groups.run_groups(report)


@pytest.mark.slow
def test_a_page_of_33_runs_stays_small(tmp_path):
    """Three modalities of eleven methods with long answers and 300 steps each: below 700 kB."""
    answer = "A photograph of somebody with a rather long description. " * 3

    def trace(method):
        return [
            {"stage": method, "step": i, "loss": i**0.5, "terms": {"a": 1.0}} for i in range(300)
        ]

    paths = [
        made_runs.write(
            tmp_path / f"{method}{modality}",
            method,
            modality=modality,
            trace=trace(method),
            n=20,
            said=f"{method} {modality} {answer}",
        )
        for method in (
            "retain_ft",
            "grad_ascent",
            "grad_diff",
            "kl",
            "idk",
            "dpo",
            "npo",
            "scrub",
            "llmu",
            "rmu",
            "sku",
        )
        for modality in ("both", "visual", "text")
    ]
    text = shown(*paths)
    assert text.count("npo visual A photograph") == 11 and len(text.encode()) < 700_000


def test_a_page_without_a_run_is_an_error():
    with pytest.raises(UserError, match="no run to show"):
        page.page(read_runs.Report((), ("paper",), {}, {}, {}))
