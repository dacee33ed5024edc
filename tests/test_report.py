"""What a person reads: the terminal's tables and report.html."""

import base64
import copy
import math
import re
from html.parser import HTMLParser

import pytest

from clear_ref.errors import UserError
from clear_ref.evaluation import metrics
from clear_ref.report import page, table

TASKS = list(dict.fromkeys(task for parts in metrics.PARTS.values() for task, _ in parts))
HOSTILE = """<script>alert("x")</script><img src='https://example.org/x.png' onerror=y>&amp;"""
VOID = {"meta", "img", "br"}


def scored(start, **changed):
    """Metrics of one vision-language model, every number another one, recognisable in a text."""
    numbers = (round(start + i / 1000, 3) for i in range(100))
    found = {metric: None if metric == "text_real" else next(numbers) for metric, _, _ in table.COLUMNS}
    found["tasks"] = {task: {**{part: next(numbers) for part in table.PARTS}, "n": 300} for task in TASKS}
    return {**found, "definitions": {metric: found.name for metric, found in metrics.DEFINITIONS.items()}, **changed}


def run(**changed):
    rows = [{"step": i + 1, "loss": 1.0 / (i + 1), "terms": {"forget_kl": -0.1 * i, "retain_nll": 0.25}}
            for i in range(20)]
    return {"method": "scrub", "semantics": "paper", "modality": "both", "seed": 0, "impl": "torch", "steps": 20,
            "seconds": {"train": 12.5}, "trace": {"scrub": rows},
            "models": {"base": scored(0.2, forget_quality=None), "gold": scored(0.3, forget_quality=None),
                       "scrub": scored(0.4)},
            "examples": [{"task": "Forget", "image": b"\x89PNG picture", "mime": "image/png",
                          "question": "Who is this?", "expected": "Ann",
                          "generated": {"base": "Ann", "gold": "Bob", "scrub": ""}}],
            "settings": {"unlearn": {"lr": {"value": 1e-5, "source": "paper App. H"}}},
            "inputs": {"forget10/rows.jsonl": "ab" * 32}, "versions": {"torch": "2.13.0"}, **changed}


class Reader(HTMLParser):
    """Tags in order with their attributes, visible text, and the tags left open or closed twice."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def all_numbers(models):
    for found in models.values():
        yield from (found[metric] for metric, _, _ in table.COLUMNS if found[metric] is not None)
        yield from (parts[part] for parts in found["tasks"].values() for part in table.PARTS)


# ---- tables


def test_leaderboard_by_hand():
    rows = [("base", scored(0.2, forget_quality=None)), ("scrub", scored(0.4))]
    lines = table.leaderboard(rows).splitlines()
    assert lines[:3] == ["model  Forget ↓  Retain ↑  Faces ↑  World ↑  Real ↑   FQ ↑  Retain text ↑  Forget text ↓",
                         "base      0.200     0.201    0.202    0.203   0.204      -          0.206          0.207",
                         "scrub     0.400     0.401    0.402    0.403   0.404  0.405          0.406          0.407"]
    assert "↑ higher is better, ↓ lower is better" in lines[4]


def test_a_column_that_no_model_has_is_left_out():
    """A language model is evaluated on text alone."""
    of_text = {metric: None for metric, _, _ in table.COLUMNS} | {"text_real": 0.25, "text_forget": 0.5}
    rows = [("base", {**scored(0.2), **of_text}), ("scrub", {**scored(0.2), **of_text, "text_retain": 0.75})]
    assert table.leaderboard(rows).splitlines()[:3] == ["model  Real text ↑  Retain text ↑  Forget text ↓",
                                                        "base         0.250              -          0.500",
                                                        "scrub        0.250          0.750          0.500"]


@pytest.mark.parametrize("show", [table.leaderboard, table.per_task,
                                  lambda rows: table.leaderboard_over_seeds([(name, [m, m]) for name, m in rows])])
def test_every_table_is_aligned_and_at_most_110_columns_wide(show):
    rows = [("base", scored(0.2)), ("scrub visual", scored(0.4, forget_quality=None)), ("retain_ft", scored(0.5))]
    lines = show(rows).split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1, "the last column is flush right and never empty"
    assert all(len(line) <= 110 for line in show(rows).splitlines())
    ends = [{match.end() for match in re.finditer(r"\S(?=  |$)", line)} for line in lines]
    n_numbers = 4 if show is table.per_task else 8
    assert len(set.intersection(*ends)) >= n_numbers, "columns of numbers end at the same place in every line"


def test_the_tables_name_the_definitions_and_unknown_ones_as_they_are():
    text = table.leaderboard([("mine", scored(0.1))])
    assert all(re.sub(r"\s", "", found.words) in re.sub(r"\s", "", text) for found in metrics.DEFINITIONS.values())
    other = table.leaderboard([("theirs", scored(0.1, definitions={"rouge": "rouge1_f_of_theirs"}))])
    assert "rouge1_f_of_theirs" in other and "ROUGE-L recall" not in other


def test_spread_by_hand():
    """0.1, 0.2, 0.3: mean 0.2, sample deviation sqrt((0.01 + 0 + 0.01) / 2) = 0.1 (of a population: 0.08)."""
    assert table.spread([0.1, 0.2, 0.3]) == "0.20±0.10"
    assert table.spread([0.25], 3) == "0.250"
    assert table.spread([0.1, None]) == "-"


def test_a_leaderboard_over_seeds_says_how_many_and_only_where_there_are_several():
    text = table.leaderboard_over_seeds([("base", [scored(0.2)]), ("npo", [scored(0.1), scored(0.2), scored(0.3)])])
    assert "over 3 seeds; else one run" in text and "0.20±0.10" in text.splitlines()[2]
    assert "±" not in table.leaderboard_over_seeds([("base", [scored(0.2)])])


def test_a_leaderboard_over_no_seed_is_an_error():
    with pytest.raises(UserError, match="npo: metrics of no seed"):
        table.leaderboard_over_seeds([("npo", [])])


def test_per_task_shows_every_part_and_only_what_was_evaluated():
    one = scored(0.2)
    one["tasks"] = {"eval_log": one["tasks"]["eval_log"]}
    text = table.per_task([("base", one), ("scrub", scored(0.4))])
    assert len(text.splitlines()) == 1 + 1 + len(TASKS)
    assert all(table.number(value) in text for value in one["tasks"]["eval_log"].values() if value != 300)


# ---- page


@pytest.mark.parametrize("given", [run(), run(trace={}, examples=[], settings={}), {"models": {"base": scored(0.1)}},
                                   run(models={f"method {i}": scored(i / 10) for i in range(9)}, examples=[],
                                       trace={f"method {i}": run()["trace"]["scrub"] for i in range(9)})])
def test_page_is_well_formed_and_shows_every_number(given):
    text = page.page(given)
    reader = Reader(text)
    assert text.startswith("<!DOCTYPE html>") and (reader.open, reader.wrong) == ([], [])
    shown = " ".join(reader.text)
    missing = [value for value in all_numbers(given["models"]) if table.number(value) not in shown]
    assert missing == []


def test_page_loads_nothing():
    """No address of another host, no script, no style sheet, no font; pictures only as data."""
    text = page.page(run())
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", text)
    for tag, attributes in Reader(text).tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert attributes.get("src", "data:image/").startswith("data:image/") and "href" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_page_shows_text_from_outside_as_text():
    """The hostile string in every place of `run` that a person, a data set or a model can fill."""
    given = run(method=HOSTILE, semantics=HOSTILE, modality=HOSTILE, seed=HOSTILE, impl=HOSTILE, steps=HOSTILE,
                seconds={HOSTILE: 1.0}, inputs={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE},
                settings={HOSTILE: {HOSTILE: {"value": HOSTILE, "source": HOSTILE}}})
    bad = copy.deepcopy(given["models"]["scrub"])
    bad["tasks"][HOSTILE], bad["definitions"][HOSTILE] = bad["tasks"]["eval_log"], HOSTILE
    given["models"][HOSTILE] = bad
    given["trace"] = {HOSTILE: [{"step": 1, "loss": 1.0, "terms": {HOSTILE: 1.0, "b": 2.0}}]}
    given["examples"][0].update(task=HOSTILE, question=HOSTILE, expected=HOSTILE, generated={HOSTILE: HOSTILE})
    for trace in (given["trace"], {HOSTILE: given["trace"][HOSTILE], "b": given["trace"][HOSTILE]}):
        for models in (given["models"], {"base": bad, HOSTILE: bad}):
            reader = Reader(page.page({**given, "trace": trace, "models": models}))
            assert (reader.open, reader.wrong) == ([], [])
            assert "script" not in [tag for tag, _ in reader.tags]
            assert all("onerror" not in attributes and "example.org" not in str(attributes.get("src"))
                       for _, attributes in reader.tags)
            assert HOSTILE in " ".join(reader.text)


def test_page_without_escaping_would_be_caught(monkeypatch):
    monkeypatch.setattr(page, "_text", str)
    assert "script" in [tag for tag, _ in Reader(page.page(run(versions={"x": HOSTILE}))).tags]


def test_page_holds_the_pictures_themselves():
    sources = [attributes["src"] for tag, attributes in Reader(page.page(run())).tags if tag == "img"]
    assert [base64.b64decode(source.split(",")[1]) for source in sources] == [b"\x89PNG picture"]
    given = run()
    given["examples"][0]["mime"] = "image/svg+xml"
    with pytest.raises(UserError, match="picture has type 'image/svg"):
        page.page(given)


def test_page_says_where_settings_come_from_and_what_every_metric_means():
    shown = " ".join(Reader(page.page(run())).text)
    for words in ("1e-05", "paper App. H", "ab" * 32, "2.13.0", "seed 0", "train 12.5 s", "nothing"):
        assert words in shown
    for definition in metrics.DEFINITIONS.values():
        assert definition.name in shown and definition.text in shown


def test_headline_says_what_happened():
    assert page.headline(run()) == ("scrub, paper semantics: Forget 0.20 → 0.40 (gold 0.30), "
                                    "Retain 0.20 → 0.40 (gold 0.30), forget quality 0.41")
    several = {"base": scored(0.1), "ga": scored(0.5), "npo": scored(0.7), "kl": scored(0.6, forget_quality=None)}
    assert page.headline(run(method="all", models=several)) == (
        "all, paper semantics: 3 unlearned models; most like gold on Forget is npo (forget quality 0.70)")
    text_only = {name: scored(start, forget=None, retain=None, forget_quality=None)
                 for name, start in (("base", 0.5), ("ga", 0.2))}
    assert page.headline(run(method="ga", models=text_only)) == (
        "ga, paper semantics: Forget text 0.51 → 0.21, Retain text 0.51 → 0.21, Real 0.50 → 0.20")


def test_bars_are_as_long_as_their_numbers_and_stay_inside():
    whole = run(models={"a method with quite a long name": scored(0.2, forget=1.0)})
    bar = next(attributes for tag, attributes in Reader(page.page(whole)).tags if tag == "rect")
    assert float(bar["x"]) + float(bar["width"]) < 300 - 35, "the number beside a bar of 1 needs some 35 of the 300"
    rects = [attributes for tag, attributes in Reader(page.page(run())).tags if tag == "rect"]
    base, gold, scrub = (float(rect["width"]) for rect in rects[:3])
    assert gold / base == pytest.approx(0.3 / 0.2, rel=0.01) and scrub / base == pytest.approx(0.4 / 0.2, rel=0.01)


def test_a_long_trace_is_thinned_and_says_so_and_a_value_that_is_not_finite_is_left_out():
    rows = [{"step": i + 1, "loss": math.nan if i == 7 else 1e4 - i, "terms": {}} for i in range(3001)]
    reader = Reader(page.page(run(trace={"ga": rows})))
    points = next(attributes["points"] for tag, attributes in reader.tags if tag == "polyline").split()
    assert len(points) == 300 and "nan" not in " ".join(points)
    assert "loss (means of 10 steps)" in " ".join(reader.text)


def test_a_page_without_a_model_is_an_error():
    with pytest.raises(UserError, match="no model"):
        page.page({"models": {}})
