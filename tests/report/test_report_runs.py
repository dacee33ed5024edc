"""report DIR...: what it reads, what it writes, and what it refuses.

A refusal is one line, exit status 2, and nothing is written.
"""

import base64
import json
import shutil

import pytest

from clear_ref import run
from clear_ref.commands import report
from clear_ref.evaluation import logs, metrics
from clear_ref.mini.directories import WORLD
from clear_ref.report import sequence_page, sequence_table, visual_page
from tests.helpers import made_runs
from tests.helpers.html_reader import Reader

FILES = ["leaderboard.csv", "leaderboard.md", "leaderboard.tex", "report.html"]


def call(capsys, *arguments):
    status = run.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def of_all(path, *methods, failed=()):
    """A directory as `all` writes it: a run for each method; failed runs have no metrics.json."""
    for method in (*methods, *failed):
        made_runs.write(path / f"{method}-paper-both-seed0", method)
    for method in failed:
        (path / f"{method}-paper-both-seed0/metrics.json").unlink()
    (path / "leaderboard.json").write_text("{}")
    return path


def test_runs_become_four_files_and_one_object(tmp_path, capsys):
    paths = [
        made_runs.write(tmp_path / "a", "npo", forget=0.3),
        of_all(tmp_path / "all", "kl", "dpo"),
    ]
    status, stdout, stderr = call(capsys, "report", *paths, "--out", tmp_path / "r", "--json")
    found = json.loads(stdout)
    assert (
        status == 0
        and stderr == ""
        and sorted(path.name for path in (tmp_path / "r").iterdir()) == FILES
    )
    assert (
        sorted(found["files"]) == FILES
        and found["out"] == str(tmp_path / "r")
        and found["failed"] == found["notes"] == []
    )
    assert [(one["label"], one["seed"], one["retain_collapsed"]) for one in found["runs"]] == [
        ("kl", 0, False),
        ("dpo", 0, False),
        ("npo", 0, False),
    ]
    assert found["lines"][2] == {
        "label": "npo",
        "modality": "both",
        "seeds": 1,
        "retain_collapsed": False,
    }
    own, gold = logs.read(tmp_path / "a").tasks, logs.read(tmp_path / "a/logs/gold").tasks
    assert (
        found["runs"][2]["metrics"] == {"paper": metrics.score(own, gold)}
        and found["models"]["gold"]["paper"]["forget"] < 0.11
    )


def test_the_printed_text_has_the_tables_and_the_directory(tmp_path, capsys):
    (
        made_runs.write(tmp_path / "a", "npo", forget=0.3),
        made_runs.write(tmp_path / "b", "dpo", retain=0.1, modality="text"),
    )
    status, stdout, _ = call(
        capsys, "report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "r"
    )
    lines = stdout.splitlines()
    assert status == 0 and "Forgetting pictures and text" in lines and "Forgetting text" in lines
    assert next(line for line in lines if line.startswith("npo")).split()[1] == "0.300"
    assert any(line.startswith("dpo †") for line in lines) and any(
        "Retain collapsed" in line for line in lines
    )
    assert (
        lines[-1] == "report.html, leaderboard.csv, leaderboard.tex, leaderboard.md "
        f"written to {tmp_path / 'r'}"
    )


def test_without_out_a_free_directory_below_runs_is_taken(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_runs.write(tmp_path / "a")
    assert [call(capsys, "report", "a")[0] for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["report", "report-2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "released", "tofu", "all"])
def test_an_old_run_is_scored_again_by_the_definitions_asked_for(tmp_path, capsys, name):
    """The run's own metrics.json holds no number at all."""
    path = made_runs.write(tmp_path / "a", "npo", forget=0.3)
    found = json.loads(
        call(capsys, "report", path, "--out", tmp_path / "r", "--metrics", name, "--json")[1]
    )
    sets = list(metrics.SETS) if name == "all" else [name]
    own, gold = logs.read(path).tasks, logs.read(path / "logs/gold").tasks
    assert found["runs"][0]["metrics"] == {one: metrics.score(own, gold, one) for one in sets}
    page = " ".join(Reader((tmp_path / "r/report.html").read_text()).text)
    assert all(
        (f"{one} definitions" in page) == (name != "paper" and one in sets) for one in metrics.SETS
    )
    assert all(
        found.name in page and found.text in page
        for one in sets
        for metric, found in metrics.definitions(one).items()
        if metric != "text_model_utility"
    )


def test_failed_runs_of_all_are_named_and_the_others_shown(tmp_path, capsys):
    path = of_all(tmp_path / "all", "kl", failed=("npo",))
    found = json.loads(call(capsys, "report", path, "--out", tmp_path / "r", "--json")[1])
    assert found["failed"] == ["npo-paper-both-seed0"] and [
        one["label"] for one in found["runs"]
    ] == ["kl"]
    assert (
        "Failed, without a result: npo-paper-both-seed0."
        in (tmp_path / "r/report.html").read_text()
    )


def test_an_evaluated_model_has_a_panel_of_its_own(tmp_path, capsys):
    """The run does not know what was to be forgotten. Base is that of the other run. The label is
    the model's directory; with an adapter, the adapter's."""
    paths = [
        made_runs.write_evaluated(tmp_path / "e", retain=0.1),
        made_runs.write(tmp_path / "a", "npo"),
    ]
    found = json.loads(call(capsys, "report", *paths, "--out", tmp_path / "r", "--json")[1])
    assert [
        (one["label"], one["method"], one["modality"], one["retain_collapsed"])
        for one in found["runs"]
    ] == [("npo", "npo", "both", False), ("theirs/model", None, None, True)]
    assert "Evaluated alone" in (tmp_path / "r/report.html").read_text()
    made_runs.change(
        paths[0] / "settings.json",
        lambda one: one["settings"].update(adapter={"value": "x/ours/adapter", "source": "t"}),
    )
    found = json.loads(call(capsys, "report", paths[0], "--out", tmp_path / "s", "--json")[1])
    assert [(one["label"], one["retain_collapsed"]) for one in found["runs"]] == [
        ("ours/adapter", None)
    ]


# ---- refused


def spoil(name, edit):
    """A second run of which one JSON file is edited."""

    def made(path):
        made_runs.write(path / "b", "npo")
        made_runs.change(path / "b" / name, edit)
        return ["a", "b"]

    return made


def second(**options):
    def made(path):
        made_runs.write(path / "b", **{"method": "npo", **options})
        return ["a", "b"]

    return made


def one_value(column, value):
    return lambda log: log[column].update({"1": value})


def without(name):
    def made(path):
        made_runs.write(path / "b", "npo")
        target = path / "b" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        return ["a", "b"]

    return made


def text(name, words):
    def made(path):
        made_runs.write(path / "b", "npo")
        (path / "b" / name).write_text(words)
        return ["a", "b"]

    return made


def unfinished_all(path):
    of_all(path / "b", "kl")
    (path / "b/leaderboard.json").unlink()
    return ["b"]


def link(path):
    (path / "b").symlink_to(path / "a")
    return ["a", "b"]


def inside_all(path):
    of_all(path / "b", "kl")
    return ["b", "b/kl-paper-both-seed0"]


def asked(log):
    log["generated_text"]["1"][2] = "Somebody else."


def empty(path):
    (path / "b").mkdir()
    return ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda path: ["a", "nowhere"],
            "report nowhere: no such directory; "
            "expected the directory of a METHOD or an evaluate run",
        ),
        (lambda path: ["a/settings.json"], "report a/settings.json: no such directory"),
        (empty, "report b: holds no run; expected the directory of a METHOD"),
        (
            unfinished_all,
            "report b: holds 1 runs and no leaderboard.json, as an `all` that has not finished",
        ),
        (
            without("metrics.json"),
            "report b: holds no metrics.json, as a run that has not finished",
        ),
        (without("logs"), "report b: holds no logs in b/logs; evaluate it again"),
        (without("trace.jsonl"), "b/trace.jsonl: no such file"),
        (
            spoil("settings.json", lambda one: one.update(command="finetune")),
            "b/settings.json: is of 'clear_ref.run/1', command 'finetune'",
        ),
        (spoil("settings.json", lambda one: one.update(format="x")), "b/settings.json: is of 'x'"),
        (
            spoil("settings.json", lambda one: one.pop("inputs")),
            "b/settings.json: inputs is None; expected",
        ),
        (
            spoil("settings.json", lambda one: one.update(settings={"lr": 3})),
            "b/settings.json: setting lr is 3; expected",
        ),
        (
            spoil("metrics.json", lambda one: one.pop("seed")),
            "b/metrics.json: seed is None; expected",
        ),
        (text("settings.json", "{"), "b/settings.json: not JSON"),
        (
            text("trace.jsonl", '{"stage": "npo", "step": 1}\n'),
            "b/trace.jsonl:1: loss is None; expected",
        ),
        (
            text("trace.jsonl", '{"stage": "npo", "step": 1, "loss": 1.0, "terms": {"a": "b"}}'),
            "b/trace.jsonl:1: a is 'b'; expected",
        ),
        (
            text(
                "trace.jsonl",
                '{"stage": "npo", "step": 1, "loss": 1.0, "terms": {"%s": "b"}}' % ("k" * 5000),
            ),
            f"b/trace.jsonl:1: {'k' * 60}... is 'b'; expected",
        ),
        (
            spoil("metrics.json", lambda one: one.update(seconds={"train": "x"})),
            "b/metrics.json: train is 'x'; expected",
        ),
        (
            spoil(
                "logs/eval_log.json", lambda log: log["generated_text"].update(x=["a", "b", "c"])
            ),
            "b/logs/eval_log.json: generated_text has the record 'x'; expected row numbers",
        ),
        (text("logs/eval_log.json", '{"eval_log": {}}'), "b/logs/eval_log.json: holds eval_log"),
        (
            spoil("logs/eval_log.json", lambda log: log.pop("avg_gt_loss")),
            "report b: eval_log: no column avg_gt_loss",
        ),
        (
            spoil("logs/eval_log.json", one_value("generated_text", ["a"])),
            "report b/logs/eval_log.json: eval_log: generated_text of record 1",
        ),
        (
            spoil("logs/eval_log.json", one_value("avg_gt_loss", float("nan"))),
            "report b: eval_log: avg_gt_loss of record 1 is nan",
        ),
        (link, "report b: is there twice, as a too; name each run once"),
        (inside_all, "is there twice"),
        (second(method="scrub"), "report b: is the same run as a: scrub, seed 0"),
        (
            second(settings={"forget": 5}),
            "report b: forget is 5, of a 10; expected runs of one evaluation",
        ),
        (second(n=3), "report b: limit is 3, of a 4"),
        (
            second(n=3, settings={"limit": 4}),
            "asks other questions than a: eval_forget_facerec has 3 records, there 4; record 3",
        ),
        (second(settings={"max_new_tokens": 32}), "report b: max_new_tokens is 32, of a 64"),
        (
            second(base={**made_runs.BASE, "real": 0.79}),
            "report b: its base is not that of a: avg_paraphrased_loss of record 0 of eval_real",
        ),
        (
            spoil("logs/base/eval_log.json", one_value("avg_gt_loss", 0.25)),
            "report b: its base is not that of a: "
            "avg_gt_loss of record 1 of eval_log is 0.25, there 0.356",
        ),
        (
            spoil(
                "logs/gold/eval_log.json",
                lambda log: log["generated_text"]["1"].__setitem__(1, "x"),
            ),
            "report b: its gold is not that of a: generated_text of record 1 of eval_log is [",
        ),
        (
            spoil("logs/eval_log.json", asked),
            "report b: asks other questions than a: "
            "record 1 of eval_log expects 'Somebody else.', there",
        ),
        (
            spoil("logs/gold/eval_log.json", asked),
            "report b: gold was asked other questions than the model: record 1 of eval_log expects",
        ),
        (
            spoil("logs/eval_log.json", lambda log: log.update(config="retain99")),
            "eval_log is of retain99, there of retain_perturbed",
        ),
        (second(only=["eval_log", "eval_log_forget"]), "is in only one of them"),
    ],
)
def test_a_directory_that_is_no_run_or_not_comparable_is_refused(
    tmp_path, capsys, monkeypatch, make, message
):
    monkeypatch.chdir(tmp_path)
    made_runs.write(tmp_path / "a")
    paths = make(tmp_path)
    status, stdout, stderr = call(capsys, "report", *paths, "--out", "r")
    assert status == 2 and stdout == "" and stderr.count("\n") == 1 and message in stderr, stderr
    assert not (tmp_path / "r").exists()


def test_an_out_in_use_and_wrong_options_are_refused(tmp_path, capsys):
    path = made_runs.write(tmp_path / "a")
    (tmp_path / "r").mkdir()
    (tmp_path / "r/letter.txt").write_text("keep")
    for options, message in (
        (["--out", tmp_path / "r"], "is not empty; choose another directory"),
        (["--metrics", "mine"], "metrics is 'mine'"),
        (["--data", "nowhere"], "data nowhere: no such directory"),
    ):
        status, _, stderr = call(capsys, "report", path, *options)
        assert status == 2 and stderr.count("\n") == 1 and message in stderr
    assert [one.name for one in (tmp_path / "r").iterdir()] == ["letter.txt"]


# ---- pictures


def test_pictures_are_those_of_the_records_each_once(tmp_path, capsys):
    """Captions and names ask about the same pictures; what is embedded is the file."""
    call(capsys, "report", made_runs.write(tmp_path / "a", n=20), "--out", tmp_path / "r")
    sources = [
        attributes["src"]
        for tag, attributes in Reader((tmp_path / "r/report.html").read_text()).tags
        if tag == "img"
    ]
    assert (
        len(sources) == len(set(sources)) == 5
    )  # two to forget, one to retain, a real face, a real scene
    rows = [
        json.loads(line)
        for line in (WORLD / "forget10_perturbed/rows.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert [base64.b64decode(source.split(",")[1]) for source in sources[:2]] == [
        (WORLD / rows[i]["image"]).read_bytes() for i in (0, 10)
    ]


def test_without_its_data_the_page_says_why_there_are_no_pictures(tmp_path, capsys):
    path = made_runs.write(tmp_path / "a", settings={"data": "gone"})
    found = json.loads(call(capsys, "report", path, "--out", tmp_path / "r", "--json")[1])
    assert len(found["notes"]) == 1 and "data gone: no such directory" in found["notes"][0]
    page = Reader((tmp_path / "r/report.html").read_text())
    assert "img" not in [tag for tag, _ in page.tags] and found["notes"][0] in page.text
    call(capsys, "report", path, "--out", tmp_path / "s", "--data", "mini")
    assert "<img" in (tmp_path / "s/report.html").read_text()


@pytest.mark.slow
def test_other_data_under_the_same_name_is_refused_or_noted(tmp_path, capsys):
    shutil.copytree(WORLD, tmp_path / "world")
    rows = tmp_path / "world/forget10_perturbed/rows.jsonl"
    rows.write_text(
        "".join(reversed(rows.read_text(encoding="utf-8").splitlines(keepends=True))),
        encoding="utf-8",
    )
    path = made_runs.write(tmp_path / "a", settings={"data": str(tmp_path / "world")})
    status, _, stderr = call(
        capsys, "report", path, "--out", tmp_path / "r", "--data", tmp_path / "world"
    )
    assert (
        status == 2
        and "row 0 of forget10_perturbed is " in stderr
        and "expected the record that was evaluated" in stderr
    )
    found = json.loads(call(capsys, "report", path, "--out", tmp_path / "s", "--json")[1])
    assert "row 0 of forget10_perturbed" in found["notes"][0]


def test_a_run_and_an_all_get_their_pages_from_the_same_code(tmp_path):
    path = of_all(tmp_path / "all", "kl", "npo")
    report.of_all(path, "paper")
    assert set(FILES) <= {one.name for one in path.iterdir()}
    one = path / "kl-paper-both-seed0"
    report.of_run(one, "paper")
    assert "kl, paper semantics: not forgotten, Retain kept" in (one / "report.html").read_text()


@pytest.mark.parametrize("other", ["s", "./s", "x/../s"])
def test_a_sequence_given_twice_is_refused(tmp_path, capsys, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    for name in ("s", "x"):
        (tmp_path / name).mkdir()
    settings = {"settings": {"sequence": {"value": "1,5", "source": "command line"}}}
    (tmp_path / "s/settings.json").write_text(json.dumps(settings))
    (tmp_path / "s/metrics.json").write_text("{}")
    status, stdout, stderr = call(capsys, "report", "s", other, "--out", "r")
    assert status == 2 and stdout == "" and not (tmp_path / "r").exists()
    assert stderr.endswith(f"report {other}: is there twice, as s too; name each run once\n")


def test_the_help_names_every_kind_of_run_and_every_file(capsys):
    with pytest.raises(SystemExit):
        call(capsys, "report", "--help")
    said = capsys.readouterr().out
    files = [*FILES, visual_page.CSV, sequence_page.CSV, sequence_table.MARKDOWN]
    assert all(f"\n{file}  " in said for file in files)
    assert "not written for visual runs alone" in said
    assert "`visual` run" in said and "METHOD --sequence" in said
