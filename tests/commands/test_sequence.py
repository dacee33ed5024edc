"""METHOD --sequence: each request is the run that it says, nothing is lost by a kill, and the table
says what comes back.

The rows of requests are worked out from the embedded world's and TOFU's own rows.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from clear_ref.commands import estimate
from clear_ref.commands.file_settings import EstimateSettings
from clear_ref.common.errors import UserError
from clear_ref.data.records import read_rows
from clear_ref.evaluation import evaluate
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.sequence import changes, part_of
from clear_ref.loop import train as training
from clear_ref.loop.requests import read_requests, rows_of_nobody, rows_of_request
from clear_ref.mini.directories import WORLD
from clear_ref.model.costs import ModelCosts, RecordCosts
from tests.helpers.commands import call, replaced
from tests.helpers.own_people import NAMES, small_data
from tests.helpers.real_data import tofu_rows

CHEN, AMEEN = "Wei-Jun Chen", "Hina Ameen"


def texts_of(rows):
    return [row.values.get("caption") or row.values["question"] for row in rows]


def test_each_person_is_forgotten_once_and_retained_until_then():
    """The forget set has ten pictures of each person, then twenty questions of each."""
    forget, retain = read_rows(WORLD, "forget10+tofu"), read_rows(WORLD, "retain90+tofu")
    chen, ameen = [*range(10), *range(20, 40)], [*range(10, 20), *range(40, 60)]
    requests = read_requests(WORLD, f"{AMEEN},{CHEN}", 10, False)
    rows, kept = rows_of_request(requests, 1, "both", True, "both")
    assert [row.index for row in rows] == ameen
    assert texts_of(kept) == texts_of([*retain, *(forget[index] for index in chen)])
    rows, kept = rows_of_request(requests, 2, "both", True, "both")
    assert [row.index for row in rows] == chen and texts_of(kept) == texts_of(retain)
    rows, kept = rows_of_request(requests, 1, "visual", True, "text")
    assert [row.index for row in rows] == list(range(10, 20)) and len(kept) == 360 + 20
    rows, kept = rows_of_request(requests, 0, "both", True, "both")
    assert len(rows) == 60 and texts_of(kept) == texts_of(retain)


def test_a_row_of_nobody_is_neither_forgotten_nor_retained(tmp_path):
    """Three people with a question each; that of the first one, Ada Lind, no longer names her."""
    data = small_data(tmp_path, (*NAMES, "Di Rossi"), n_forget=3)
    path = data / "tofu/forget10/rows.jsonl"
    first, *others = map(json.loads, path.read_text().splitlines())
    lines = [first | {"question": "Where?", "answer": "There."}, *others]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    requests = read_requests(data, "Bo Costa,Ada Lind", 10, False)
    assert [row.index for row in rows_of_nobody(requests, "text")] == [0]
    assert rows_of_nobody(requests, "visual") == []
    retain = texts_of(read_rows(data, "tofu/retain90"))
    rows, kept = rows_of_request(requests, 1, "text", True, "text")
    assert [row.index for row in rows] == [1]
    assert texts_of(kept) == [*retain, lines[2]["question"]]
    with pytest.raises(UserError, match="request 2, Ada Lind, has no row of modality text"):
        rows_of_request(requests, 2, "text", True, "text")


def test_of_nested_sets_a_request_forgets_who_is_new(tmp_path):
    """TOFU's real sets: the 40 questions of forget01 are the last ones of forget05, and so on."""
    sets = {size: tofu_rows(f"forget{size:02d}") for size in (1, 5, 10)}
    for size, own in sets.items():
        for config, rows in ((f"forget{size:02d}", own), (f"retain{100 - size}", None)):
            rows = rows or tofu_rows(config)
            path = tmp_path / "tofu" / config / "rows.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    requests = read_requests(tmp_path, "1,5,10", 10, False)
    seen = set()
    for number, (size, n_new) in enumerate(((1, 40), (5, 160), (10, 200)), 1):
        rows, kept = rows_of_request(requests, number, "text", False, "text")
        own = {row.values["question"] for row in rows}
        assert len(rows) == n_new and not own & seen
        seen |= own
        assert seen == {row["question"] for row in sets[size]}
        assert len(kept) == 4000 - 40 * size
        assert not seen & {row.values["question"] for row in kept}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--sequence", "5,1"), "--sequence is '5,1'; expected two or more of 1, 5, 10"),
        (("--sequence", "10"), "--sequence is '10'; expected two or more"),
        (("--sequence", "1,10"), "has no forget set of 1 %; expected the configs forget01"),
        (("--sequence", "1,5", "--forget", "10"), "the last set of --sequence 1,5 is 5"),
        (("--sequence", CHEN), f"--sequence names '{CHEN}' alone; expected two people"),
        (("--sequence", f"{CHEN},Nobody"), "--sequence names 'Nobody'; expected names of people"),
        (("--sequence", f"{CHEN},{CHEN}"), f"--sequence names '{CHEN}' twice"),
        (("--request", "1"), "--request is 1, and there is no --sequence"),
        (("--sequence", f"{CHEN},{AMEEN}", "--request", "3"), "--request is 3; expected 1 to 2"),
        (
            ("--sequence", f"{CHEN},{AMEEN}", "--keep", "best:nearest-gold"),
            "expected --keep last with --sequence",
        ),
        (("--sequence", f"{CHEN},{AMEEN}", "--dtype", "bfloat16"), "expected float32"),
        (("--sequence", f"{CHEN},{AMEEN}", "--limit", "3"), f"no record of {AMEEN} is asked by"),
        *(
            (
                ("--sequence", f"{CHEN},{AMEEN}", "--metrics", metrics),
                f"--metrics is {metrics}, and the numbers of a request are the paper's or the",
            )
            for metrics in ("tofu", "mmunlearner", "open_mmunlearning", "forgetium")
        ),
        (
            ("--sequence", f"{CHEN},{AMEEN}", "--tasks", "eval_forget_facerec,eval_text_retain"),
            "expected --tasks with eval_log_forget and eval_forget_facerec, or with "
            "eval_text_forget",
        ),
    ],
)
def test_a_wrong_sequence_is_an_error_of_one_line_and_nothing_is_written(
    capsys, tmp_path, arguments, message
):
    status, stdout, stderr = call(capsys, "npo", "--out", tmp_path / "r", "--quiet", *arguments)
    assert status == 2 and stdout == "" and message in stderr.splitlines()[-1], stderr
    assert not (tmp_path / "r").exists()


def test_what_comes_back_by_hand():
    """From 0.2 right after the own request to 0.7 at the end; the last has no later one."""
    numbers = [[0.9, 0.8], [0.2, 0.8], [0.5, 0.1], [0.7, 0.3]]
    states = [
        {"requests": {"A": {"forget": a}, "B": {"forget": b}, "C": {"forget": None}}}
        for a, b in numbers
    ]
    found = changes(states)
    assert found["A"]["forget"] == pytest.approx(0.5) and found["C"]["forget"] is None
    assert found["B"]["forget"] == pytest.approx(0.2)
    log = {"task": "t", "avg_gt_loss": {"0": 1.0, "4": 2.0}, "not_asked": ["x"]}
    assert part_of(log, ["4", "9"]) == {**log, "avg_gt_loss": {"4": 2.0}}


class Killed(BaseException):
    """What ends the command, as a kill does."""


def killed_before(patch, number):
    """Raise Killed before the number-th change of a file name, and at any later one."""
    calls, original = [], os.replace

    def replace(*paths):
        calls.append("/".join(Path(paths[1]).parts[-2:]))
        if len(calls) >= number:
            raise Killed
        return original(*paths)

    patch.setattr(os, "replace", replace)
    return calls


def counting(patch, counts):
    """Count what is computed: groups of records, and training steps."""
    for module, name in ((evaluate, "group_logs"), (training, "step_loss")):
        original = getattr(module, name)

        def counted(*arguments, name=name, original=original, **named):
            counts[name] = counts.get(name, 0) + 1
            return original(*arguments, **named)

        patch.setattr(module, name, counted)


def without_seconds(found):
    """A summary without the times in it."""
    return {
        key: [without_seconds(run) for run in value] if key == "runs" else value
        for key, value in found.items()
        if key != "seconds"
    }


def files(out):
    """The bytes of everything in a run directory but times, its own path and pages."""
    found = {}
    for path in sorted(each for each in out.rglob("*") if each.is_file()):
        name = str(path.relative_to(out))
        found[name] = path.read_bytes().replace(str(out).encode(), b"OUT")
        if path.name == "metrics.json":
            found[name] = without_seconds(json.loads(found[name]))
        timed = path.parent.name == "checkpoint" and path.suffix == ".json"
        if timed or path.name in ("report.html", "trace.csv", "trace.jsonl"):
            found[name] = b""
    return found


def several_sequences(capsys, tmp_path, straight):
    """`report` of two seeds has mean and spread; of one run twice, of other runs, of other requests
    and of a changed file it is one line."""
    other = tmp_path / "seed1"
    shutil.copytree(straight, other)
    path = other / "metrics.json"
    values = json.loads(path.read_text())
    texts = [state["requests"]["Bo Costa"] for state in values["states"]]
    mean = texts[1]["text_forget"] + 0.1
    texts[1]["text_forget"] += 0.2
    path.write_text(json.dumps(values | {"seed": 1}))
    report = ("report", straight, other, "--out", tmp_path / "r")
    status, stdout, _ = call(capsys, *report)
    assert status == 0 and f"{mean:.3f}±{0.2 / 2**0.5:.3f}" in stdout and "came back" in stdout
    assert f"{mean:.3f}±" in (tmp_path / "r/sequence.md").read_text()
    assert f"{mean:.3f}±" in (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "npo,paper,both,1,after Bo Costa" in (tmp_path / "r/sequence.csv").read_text()
    base, *later = values["states"]
    other_base = [base | {"all": base["all"] | {"real": 0.123}}, *later]
    for changed, paths, message in (
        ({"seed": 1}, (straight, straight / "request1"), "is no sequence of requests, as"),
        ({"seed": 0}, (straight, other), "the same method and seed as"),
        ({"seed": 1}, (straight, straight), "is there twice"),
        (
            {"sequence": ["Ada Lind", "Bo Costa"]},
            (straight, other),
            "its requests are not those of",
        ),
        ({"definitions": {"forget": "x v1"}}, (straight, other), "its definitions are not those"),
        ({"states": []}, (straight, other), "is not what a finished sequence writes"),
        ({"seed": 1, "recipe": "x"}, (straight, other), "recipe is 'x', of "),
        ({"seed": 1, "lr": 0.5}, (straight, other), "lr is 0.5, of "),
        ({"method": "kl", "limit": 7}, (straight, other), "limit is 7, of "),
        ({"method": "kl", "states": other_base}, (straight, other), "its base is not that of"),
    ):
        path.write_text(json.dumps(values | changed))
        settings = json.loads((straight / "settings.json").read_text())
        settings["settings"]["lr"]["value"] = changed.get("lr", 0.01)
        settings["settings"]["limit"]["value"] = changed.get("limit", 0)
        (other / "settings.json").write_text(json.dumps(settings))
        status, _, stderr = call(capsys, "report", *paths, "--out", tmp_path / "r2")
        assert status == 2 and message in stderr and not (tmp_path / "r2").exists()


def resumed_otherwise(capsys, straight):
    """Finished requests are not evaluated again, so the evaluation stays that of the start; a log
    that is gone is named, with what makes it again."""
    resume = ("npo", "--resume", "--out", straight, "--quiet")
    for option, value in (("--limit", 1), ("--max-new-tokens", 5), ("--eval-batch", 2)):
        status, _, stderr = call(capsys, *resume, option, value)
        assert status == 2 and f"{option[2:].replace('-', '_')} = " in stderr, stderr
        assert "now it is" in stderr and "resume with the settings of its start" in stderr
    settings = straight / "request2/settings.json"
    kept = settings.read_bytes()
    settings.unlink()
    status, _, stderr = call(capsys, *resume)
    assert status == 2 and stderr.count("\n") == 1
    assert f"{settings}: no such file, and " in stderr and "remove the directory of that" in stderr
    settings.write_bytes(kept)
    log = straight / "request1/logs/base/eval_text_forget.json"
    content = log.read_bytes()
    log.unlink()
    status, _, stderr = call(capsys, *resume)
    assert status == 2 and f"{log}: no such file; remove report.html of that run, and" in stderr
    (straight / "request1/report.html").unlink()
    assert call(capsys, *resume)[0] == 0 and log.read_bytes() == content


def resumed_elsewhere(capsys, tmp_path, straight, expected):
    """From another working directory, then moved and request 2 stopped before its end: resumed
    without another option than --out, with the same results."""
    moved, counts = tmp_path / "below/moved", {}
    moved.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        counting(patch, counts)
        patch.chdir(tmp_path)
        assert call(capsys, "npo", "--resume", "--out", straight.name, "--quiet")[0] == 0
        straight.rename(moved)
        for name in ("metrics.json", "request2/metrics.json", "request2/report.html"):
            (moved / name).unlink()
        patch.chdir(moved.parent)
        done = call(capsys, "npo", "--resume", "--out", "./moved", "--quiet")
    assert done[0] == 0 and not counts.get("step_loss"), done
    found = files(moved)
    paths = ("settings.json", "adapter_config.json", "metrics.json")
    for name in found.keys() - {each for each in found if each.endswith(paths)}:
        assert found[name] == expected[name], name
    assert found["metrics.json"]["states"] == expected["metrics.json"]["states"]


@pytest.mark.slow
def test_requests_follow_one_another_and_a_kill_loses_nothing(capsys, tmp_path, tiny_directory):
    """Two of three own people. The second run begins with the model that the first one left: its
    base is, digit for digit, what was evaluated. Killed inside request 1, between the requests and
    inside request 2, and resumed: the same bytes, and no finished part is computed again."""
    torch.set_num_threads(1)
    data = small_data(tmp_path, n_forget=2)
    command = ("npo", "--model", tiny_directory, "--data", data, "--recipe", "mini", "--quiet")
    command += ("--sequence", "Bo Costa,Ada Lind", "--epochs", 2, "--max-new-tokens", 4)
    command += ("--tasks", "eval_log_forget,eval_forget_facerec,eval_text_forget", "--lr", "0.01")
    straight, counts = tmp_path / "straight", {}
    with pytest.MonkeyPatch.context() as patch:
        counting(patch, counts)
        calls = killed_before(patch, 10**9)
        status, stdout, stderr = call(capsys, *command, "--out", straight)
    assert status == 0, stderr
    expected = files(straight)
    assert counts == {"group_logs": 3 * 3, "step_loss": 2 * 2}  # base, after 1, after 2
    found = expected["metrics.json"]
    runs = [expected[f"request{number}/metrics.json"] for number in (1, 2)]
    assert runs[1]["models"]["base"] == runs[0]["models"]["unlearned"]
    assert runs[1]["models"]["unlearned"] != runs[0]["models"]["unlearned"]
    assert [run["forget_rows"] for run in found["runs"]] == [2, 2]
    assert [run["retain_rows"] for run in found["runs"]] == [4, 2]
    for number, state in enumerate(found["states"]):
        folder = straight / f"request{max(number, 1)}/logs" / ("base" if number == 0 else "")
        for label, index in (("Ada Lind", "0"), ("Bo Costa", "1")):
            logs = {}
            for task in ("eval_log_forget", "eval_forget_facerec", "eval_text_forget"):
                log = json.loads((folder / f"{task}.json").read_text())
                logs[task] = {
                    name: {index: column[index]} if isinstance(column, dict) else column
                    for name, column in log.items()
                }
            by_hand = score(logs)
            own = state["requests"][label]
            assert own == {name: by_hand[name] for name in ("forget", "text_forget")}
    back = found["changes"]["Bo Costa"]["text_forget"]
    texts = [state["requests"]["Bo Costa"]["text_forget"] for state in found["states"]]
    assert back == texts[2] - texts[1] and f"Forget text {back:+.3f}" in stdout
    table = (straight / "sequence.csv").read_text()
    assert f"after Bo Costa,Bo Costa,text_forget,{texts[1]!r}" in table
    assert f"change,Bo Costa,text_forget,{back!r},,,change_since_own_request v1" in table
    page = (straight / "report.html").read_text(encoding="utf-8")
    assert "After each request" in page and "request2/report.html" in page
    several_sequences(capsys, tmp_path, straight)
    resumed_otherwise(capsys, straight)

    left = straight / "request1/model"
    tasks = command[command.index("--max-new-tokens") : command.index("--lr")]
    call(capsys, "evaluate", left, "--data", data, *tasks, "--out", tmp_path / "left", "--quiet")
    alone = (*replaced(command, model=left), "--request", 2, "--out", tmp_path / "alone")
    assert call(capsys, *alone)[0] == 0
    for task in ("eval_log_forget", "eval_forget_facerec", "eval_text_forget"):
        log = (tmp_path / f"left/logs/model/{task}.json").read_bytes()
        assert log == (straight / f"request1/logs/{task}.json").read_bytes()
        assert log == (straight / f"request2/logs/base/{task}.json").read_bytes()
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "alone" / adapter).read_bytes() == expected[f"request2/{adapter}"]
    assert expected[f"request2/{adapter}"] != expected[f"request1/{adapter}"]
    assert (tmp_path / "alone/records.jsonl").read_bytes() == expected["request2/records.jsonl"]

    between = calls.index("request1/model") + 1
    inside = [number for number, name in enumerate(calls, 1) if name == "request2/trace.jsonl"]
    for number in (between - 8, between, inside[0] if inside else between + 5):
        out, again = tmp_path / f"killed{number}", {}
        with pytest.MonkeyPatch.context() as patch:
            counting(patch, again)
            killed_before(patch, number)
            with pytest.raises(Killed):
                call(capsys, *command, "--out", out)
        assert not (out / "metrics.json").exists()
        with pytest.MonkeyPatch.context() as patch:
            counting(patch, again)
            done = call(capsys, *command, "--out", out, "--resume")
            assert done[0] == 0, done
        assert files(out).keys() == expected.keys()
        for name, content in files(out).items():
            assert content == expected[name], name
        assert sum(again.values()) - sum(counts.values()) <= 3, (number, again)
    resumed_elsewhere(capsys, tmp_path, straight, expected)


def test_estimate_says_what_it_costs(capsys, monkeypatch):
    """Three requests: one training's time, five evaluations, two models of float32 on disk. With
    --leakage 4 x 378 captions, 4 x 378 names and 2 x 400 texts more; 30 of 75 tokens are the
    prompt, a picture's record is 10 operations, a text's 1, of which a token is 1/75."""
    text, picture = RecordCosts(75, 1.0, 3.0, 11, 5), RecordCosts(651, 10.0, 20.0, 111, 55)
    small = ModelCosts(1000, 100, 10, 7, 50, text, picture)
    monkeypatch.setattr(estimate, "model_costs", lambda *_: small)
    arguments = ("estimate", "llava-1.5-7b", "--dtype", "float32")
    found = json.loads(call(capsys, *arguments, "--sequence", "1,5,10", "--json")[1])
    minutes = {run["run"]: run["minutes"] for run in found["runs"]}
    cost = found["sequence"]
    assert cost["minutes"]["npo"] == pytest.approx(minutes["npo"] + 5 * minutes["evaluate"])
    assert cost["disk_gb"] == pytest.approx(2 * 4 * 1000 / 1e9) and cost["evaluations"] == 5
    assert "--sequence 1,5,10: " in call(capsys, *arguments, "--sequence", "1,5,10")[1]
    plain, more = (
        estimate.evaluating(small, EstimateSettings(dtype="float32", leakage=asked))["pflop"]
        for asked in (False, True)
    )
    token = 1 / 75
    long, name = (tokens * (token + 7) for tokens in (7 * 45 + 64, 7 * 8 + 16))
    seen, unseen = 10 - 45 * token, 1 - 45 * token
    by_hand = 378 * (3 * (seen + long) + unseen + long) + 378 * (3 * (seen + name) + unseen + name)
    by_hand += 400 * (seen + long) + 400 * (unseen + long)
    assert more - plain == pytest.approx(by_hand / 1e15)
    for wrong, message in (
        (("--sequence", "A,B"), "estimate reads no data"),
        (("--sequence", "1,5"), "--forget is 10; expected 5"),
        (("--sequence", "1,5", "--dtype", "bfloat16", "--forget", 5), "--dtype float32"),
    ):
        status, _, stderr = call(capsys, *arguments[: 2 if "--dtype" in wrong else 4], *wrong)
        assert status == 2 and message in stderr
