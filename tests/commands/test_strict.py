"""A warning is on stderr, in trace.jsonl, metrics.json, the printed table and the page; --strict
makes it exit status 1, after all results are written.
"""

import json
import shutil

import pytest
from PIL import Image

from clear_ref.loop.trace import guards_in
from tests.helpers import warm_processes
from tests.helpers.commands import call, replaced, small_copy
from tests.helpers.html_reader import Reader

pytestmark = pytest.mark.filterwarnings("ignore::clear_ref.common.guards.GuardNotice")
SMALL = ("--recipe", "mini", "--epochs", "2", "--limit", "2", "--fresh", "--json")
TASKS = ("--tasks", "eval_log_forget,eval_log", "--max-new-tokens", "4")
# A clip of 1e-30 makes steps of 1e-25: no float32 weight changes by them. Four tokens hold no
# answer, and are too short to repeat themselves.
CLIPPED = ("npo", "--clip", "1e-30")
NAMES = ["small_clip", "cut_answers", "same_scores"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_copy(tmp_path_factory.mktemp("world") / "data")


@pytest.fixture(scope="module")
def world(tiny_directory, data):
    """Options that name a tiny model and data with six forget records."""
    return ("--model", tiny_directory, "--data", data, *SMALL, *TASKS)


def names(guards):
    return [guard["guard"] for guard in guards]


def said(stderr):
    """The guards' names on stderr, in order."""
    lines = [line for line in stderr.splitlines() if line.startswith("clear_ref: warning ")]
    return [line.split()[2] for line in lines]


@pytest.mark.slow
def test_a_warning_is_everywhere_and_strict_makes_it_an_error(world, tmp_path, capsys):
    out = tmp_path / "run"
    status, stdout, stderr = call(capsys, *CLIPPED, *world, "--out", out)
    found = json.loads(stdout)["guards"]
    assert status == 0 and names(found) == said(stderr) == NAMES
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["guards"] == found
    first, *_, last = [json.loads(line) for line in (out / "trace.jsonl").open()]
    assert names(first["guards"]) == NAMES[:1] and names(last["guards"]) == NAMES[1:]
    words = " ".join(Reader((out / "report.html").read_text()).text)
    assert "Warnings" in words and "warning small_clip (settings): clip is 1e-30" in words
    before = {path: path.read_bytes() for path in (out / "logs").rglob("*.json")}
    status, stdout, stderr = call(
        capsys, "npo", "--resume", "--out", out, "--strict", *SMALL[-2:], "--limit", "2"
    )
    assert status == 1 and json.loads(stdout)["guards"] == found
    assert stderr.splitlines()[-1].startswith(
        "clear_ref: the run failed: --strict, and there are warnings (small_clip, cut_answers, "
        "same_scores); the first: warning small_clip (settings): clip is 1e-30"
    )
    assert stderr.splitlines()[-1].endswith(f"all results are in {out}")
    assert {path: path.read_bytes() for path in (out / "logs").rglob("*.json")} == before
    assert json.loads((out / "metrics.json").read_text())["guards"] == found
    first, *_, last = [json.loads(line) for line in (out / "trace.jsonl").open()]
    assert names(first["guards"]) == NAMES[:1] and names(last["guards"]) == NAMES[1:]


@pytest.mark.slow
def test_all_has_the_warnings_of_each_run_and_strict_keeps_its_results(world, tmp_path, capsys):
    arguments = ("all", "--methods", "npo", "--clip", "1e-30", "--strict", *world)
    status, stdout, stderr = call(capsys, *arguments, "--out", tmp_path / "all")
    leaderboard = json.loads((tmp_path / "all" / "leaderboard.json").read_text())
    assert status == 1 and json.loads(stdout) == leaderboard and leaderboard["failed"] == []
    assert [names(run["guards"]) for run in leaderboard["runs"]] == [NAMES]
    assert "--strict, and there are warnings (small_clip, " in stderr.splitlines()[-1]
    assert (tmp_path / "all" / "report.html").exists()
    arguments = [word for word in arguments if word != "--strict"]
    status, stdout, stderr = call(capsys, *arguments, "--resume", "--out", tmp_path / "all")
    assert status == 0, stderr
    assert [names(run["guards"]) for run in json.loads(stdout)["runs"]] == [NAMES]
    page = tmp_path / "page"
    status, stdout, _ = call(capsys, "report", tmp_path / "all", "--out", page)
    assert status == 0 and ": warning small_clip (settings): clip is 1e-30" in stdout


@pytest.mark.slow
def test_black_pictures_and_blank_answers_are_said_once_each(world, data, tmp_path, capsys):
    """Two of the pictures of the evaluated rows are black, and one caption is a blank."""
    spoilt = tmp_path / "data"
    shutil.copytree(data, spoilt)
    rows = spoilt / "forget10_perturbed" / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    lines[0]["paraphrased_caption"] = " "
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines[:2]:
        Image.new("RGB", (32, 32)).save(spoilt / line["image"])
    options = [*world]
    options[options.index(data)] = spoilt
    model = options.pop(options.index("--model") + 1)
    for name in ("--model", "--recipe", "mini", "--epochs", "2"):
        options.remove(name)
    arguments = ("evaluate", model, *options, "--strict")
    status, stdout, stderr = call(capsys, *arguments, "--out", tmp_path / "run")
    found = json.loads(stdout)["guards"]
    assert status == 1 and names(found)[:2] == ["blank_text", "one_colour"]
    assert names(found) == said(stderr) and "one colour" in found[1]["reason"]
    assert found[1]["reason"].startswith("2 of ")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["guards"] == found


@pytest.mark.slow
def test_a_right_evaluation_has_no_warning_and_strict_is_silent(tmp_path, capsys):
    arguments = ("evaluate", "mini", "--limit", "2", "--tasks", "eval_log,eval_log_forget")
    out = tmp_path / "run"
    status, stdout, stderr = call(capsys, *arguments, "--strict", "--fresh", "--json", "--out", out)
    assert status == 0 and said(stderr) == [] and "guards" not in json.loads(stdout)
    assert guards_in(out) == []


@pytest.mark.slow
def test_a_step_that_is_not_finite_ends_all_processes_with_one_line(world, tmp_path, capsys):
    """NPO before 2025-03-30 takes the logarithm of a negative number after a step or two."""
    out = tmp_path / "run"
    options = [*replaced(world, epochs="3"), "--set", "beta=1"]
    arguments = ["npo", "--semantics", "released@2024-12-10", *options]
    arguments += ["--batch-size", "3", "--lr", "1e-2", "--out", out]
    done = warm_processes.run("clear_ref.run", *arguments, n=2)
    [line] = [one for one in done.stderr.splitlines() if "the run failed" in one]
    assert done.returncode == 1 and done.stdout == ""
    assert "npo, step " in line and "term " in line and "; batch forget, " in line
    assert "rows.jsonl:" in line and "--resume --out" in line
    *before, last = [json.loads(text) for text in (out / "trace.jsonl").open()]
    assert names(last["guards"]) == ["not_finite"] and last["loss"] == "nan"
    assert len(list((out / "checkpoint").glob(f"state-npo-{len(before):06d}*"))) == 2
    status, _, stderr = call(capsys, "npo", "--resume", "--out", out, "--json")
    assert status == 1 and f"npo, step {len(before) + 1}: loss is nan" in stderr
