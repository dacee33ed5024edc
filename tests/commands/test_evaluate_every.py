"""--evaluate-every and --keep of the training commands: what they write, and what they refuse."""

import json
import math

import pytest
import torch

from clear_ref import load
from clear_ref.data import draws
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows, training_record
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.selection import halves
from clear_ref.mini.directories import BASE, WORLD
from tests.helpers.commands import call, small_copy

# Forget and Retain are made of the first four.
TASKS = "eval_log_forget,eval_forget_facerec,eval_log,eval_retain_facerec"
SMALL = ["--tasks", TASKS, "--epochs", "2", "--limit", "2", "--max-new-tokens", "4", "--quiet"]
# 6 forget records in steps of 3: two steps an epoch
RECIPE = ["--batch-size", "3", "--accumulate", "1", "--lr", "2e-3"]
LAST = "adapter/adapter_model.safetensors"
RULE = "forget-at-retain-0.9"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The embedded world with 6 forget records."""
    return small_copy(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, world):
    """Three runs of one command: plain, with evaluations, and with the best weights kept."""
    from clear_ref import run

    directory = tmp_path_factory.mktemp("runs")
    more = {
        "plain": [],
        "curve": ["--evaluate-every", "1"],
        "kept": ["--evaluate-every", "epoch", "--keep", f"best:{RULE}"],
    }
    for name, options in more.items():
        arguments = ["grad_diff", "--data", world, "--out", directory / name, *SMALL, *RECIPE]
        assert run.main([*map(str, arguments), *options, "--json"]) == 0
    return directory


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def summary_of(run):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def logs_of(run, model=""):
    folder = run / "logs" / model
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.slow
def test_a_run_with_evaluations_ends_in_the_bytes_of_one_without(runs):
    """Adapter, logs and records; trace.jsonl but for its seconds. A run without has no curve."""
    plain, curve = runs / "plain", runs / "curve"
    files = sorted(path.relative_to(plain) for path in plain.glob("logs/**/*.json"))
    assert len(files) == 12
    for file in (LAST, "records.jsonl", *files):
        assert (plain / file).read_bytes() == (curve / file).read_bytes(), file
    traces = [lines_of(run / "trace.jsonl") for run in (plain, curve)]
    assert [{**line, "seconds": 0} for line in traces[0]] == [
        {**line, "seconds": 0} for line in traces[1]
    ]
    names = [{path.name for path in run.iterdir()} for run in (plain, curve)]
    assert names[1] - names[0] == {"curve.jsonl"} and not names[0] - names[1]
    keys = [summary_of(run).keys() for run in (plain, curve)]
    assert keys[1] - keys[0] == {"curves"} and not keys[0] - keys[1]
    assert summary_of(curve)["curves"] == lines_of(curve / "curve.jsonl")
    assert "Scores during the training" in (curve / "report.html").read_text(encoding="utf-8")
    assert "Scores during the training" not in (plain / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_curve_goes_from_base_to_the_final_scores(runs):
    """Step 0 has base's scores, the last one the unlearned model's up to the merge's rounding."""
    found = summary_of(runs / "curve")
    lines = found["curves"]
    assert [(line["step"], line["epoch"]) for line in lines] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 1),
    ]
    for line, model in ((lines[0], "base"), (lines[-1], "unlearned")):
        for number in ("forget", "retain", "forget_quality"):
            expected = found["models"][model][number]
            assert line[number] == pytest.approx(expected, rel=1e-4), (model, number)
        assert "real" not in line, "not evaluated"
    assert lines[0]["forget"] != lines[-1]["forget"]
    assert lines[-1]["nll_forget"] > lines[0]["nll_forget"] > 0 < lines[0]["nll_retain"]


@pytest.mark.slow
def test_the_nll_of_a_curve_is_torchs_cross_entropy_of_the_answers(runs, world):
    """Base on the first two forget rows (--limit 2), one plain forward for each, in float64."""
    vlm = load(BASE, "float64")
    questions = read_phrases(world).caption_questions
    means = []
    for index, row in enumerate(read_rows(world, "forget10+tofu")[:2]):
        number = draws.choice(0, "caption question/curve forget", 0, index, len(questions))
        batch = vlm.encode([training_record(row, questions[number])])
        with torch.no_grad():
            logits = vlm.head(vlm.hidden(batch))[0, :-1]
        means.append(float(torch.nn.functional.cross_entropy(logits, batch.labels[0, 1:])))
    line = lines_of(runs / "curve/curve.jsonl")[0]
    assert line["nll_forget"] == pytest.approx(sum(means) / 2, rel=1e-4)


@pytest.mark.slow
def test_kept_weights_are_those_that_the_rule_chooses_on_half_of_the_records(capsys, runs, world):
    """The lowest Forget at 0.9 of base's Retain, by hand on the choosing half; also resumed."""
    out = runs / "kept"
    found = summary_of(out)
    base = score(halves(logs_of(out, "base"), 0)[0])
    lines = found["curves"]
    assert [line["step"] for line in lines] == [0, 2, 4]
    enough = [line for line in lines[1:] if line["choosing"]["retain"] >= 0.9 * base["retain"]]
    expected = (
        min(enough, key=lambda line: line["choosing"]["forget"])
        if enough
        else max(lines[1:], key=lambda line: line["choosing"]["retain"])
    )
    kept = found["kept"]
    assert kept["step"] == expected["step"] and kept["last"] == 4 and kept["rule"] == RULE
    assert kept["meets"] is bool(enough) and kept["choosing"] == expected["choosing"]
    choosing, reporting = halves(logs_of(out), 0)
    for half, logs in (("choosing", choosing), ("reporting", reporting)):
        for number in ("forget", "retain"):
            assert kept[half][number] == pytest.approx(score(logs)[number], rel=1e-4)
    weights = {path.name for path in (out / "checkpoint").glob("best-*")}
    assert weights == {f"best-{kept['step']:06d}.{kind}" for kind in ("json", "safetensors")}
    note = next(note for note in found["notes"] if note.startswith("kept: "))
    assert f"after step {kept['step']} of 4, by {RULE} on half of the forget and retain" in note
    # The same run resumed at its end writes the same files.
    before = {name: (out / name).read_bytes() for name in (LAST, "curve.jsonl")}
    (out / "metrics.json").unlink()
    arguments = ["grad_diff", "--data", world, "--out", out, *SMALL, *RECIPE, "--resume"]
    options = ["--evaluate-every", "epoch", "--keep", f"best:{RULE}"]
    assert call(capsys, *arguments, *options)[0] == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    assert summary_of(out)["kept"] == kept
    # Its points were evaluated on two records: another --limit would mix two evaluations.
    arguments[arguments.index("--limit") + 1] = "3"
    status, _, stderr = call(capsys, *arguments, *options)
    assert status == 2 and "was run with limit = 2, now it is 3" in stderr


@pytest.mark.slow
def test_finetune_shows_what_it_learns(capsys, tmp_path, world):
    """Six training rows, of which two are of the forget set: nll of both falls from the start's."""
    small = small_copy(tmp_path / "world")
    rows = [
        *(world / "forget10+tofu/rows.jsonl").read_text(encoding="utf-8").splitlines()[2:4],
        *(WORLD / "retain90+tofu/rows.jsonl").read_text(encoding="utf-8").splitlines()[:4],
    ]
    (small / "full+tofu/rows.jsonl").write_text("".join(row + "\n" for row in rows), "utf-8")
    out = tmp_path / "f"
    options = ["--evaluate-every", "2", "--lr", "1e-3", "--batch-size", "3", "--json"]
    status, stdout, _ = call(capsys, "finetune", "--data", small, "--out", out, *SMALL, *options)
    lines = json.loads(stdout)["curves"]
    assert status == 0 and lines == lines_of(out / "curve.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4]
    for name in ("nll_retain", "nll_forget"):
        assert all(math.isfinite(line[name]) for line in lines)
        assert lines[-1][name] < lines[0][name]


@pytest.mark.slow
def test_a_sweep_never_chooses_weights_on_the_half_that_it_reports(capsys, tmp_path):
    options = ["--evaluate-every", "1", "--keep", f"best:{RULE}", "--split-seed", "1"]
    status, _, stderr = call(
        capsys, "sweep", "scrub", "--grid", "lr=1e-3,2e-3", *options, "--out", tmp_path / "r"
    )
    assert status == 2 and "--split-seed is 1, and --keep chooses on the half of" in stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--evaluate-every", "0"], "--evaluate-every is '0'; expected epoch, or after how many"),
        (["--evaluate-every", "epochs"], "--evaluate-every is 'epochs'; expected epoch, or after"),
        (["--keep", "first"], "--keep is 'first'; expected last, or best:RULE such as best:forget"),
        (
            ["--keep", "best:nearest-gold"],
            "--keep best:nearest-gold: there is no evaluation to choose from; add --evaluate-every",
        ),
        (
            ["--evaluate-every", "epoch", "--keep", "best:luck"],
            "--keep best: is 'luck'; expected nearest-gold, or forget-at-retain-X",
        ),
        (
            ["--evaluate-every", "epoch", "--keep", f"best:{RULE}", "--tasks", "eval_log_forget"],
            "--keep compares Forget with Retain; expected --tasks with all tasks of both, or all",
        ),
        (
            ["--evaluate-every", "epoch", "--keep", f"best:{RULE}", "--limit", "1"],
            "--keep: eval_log_forget has 1 record to evaluate; expected 2 or more (--limit)",
        ),
        (
            ["--evaluate-every", "1", "--keep", "best:nearest-gold", "--model", "COPY"],
            "there is no gold model; expected --gold DIR, or another rule",
        ),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_followed_is_refused_in_one_line(
    arguments, message, capsys, tmp_path, tiny_directory
):
    """By METHOD, and by `all` for the choice without evaluations."""
    given = [tiny_directory if each == "COPY" else each for each in arguments]
    command = "all" if arguments == ["--keep", "best:nearest-gold"] else "scrub"
    status, stdout, stderr = call(capsys, command, *given, "--out", tmp_path / "r")
    assert status == 2 and stdout == "" and message in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()
