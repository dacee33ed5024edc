"""The command line from outside: what it prints, where it writes, how it fails. Each failure: exit
2, one line, nothing written.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import clear_ref
from clear_ref.commands import all_methods, evaluate
from clear_ref.commands.output import Output, show
from clear_ref.methods import table
from clear_ref.mini.directories import BASE, GOLD
from tests.helpers import warm_processes
from tests.helpers.commands import call, small_copy

SMALL = ["--epochs", "1", "--limit", "2", "--max-new-tokens", "8", "--quiet"]


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """The embedded world with 6 forget records."""
    return small_copy(tmp_path_factory.mktemp("data") / "world")


@pytest.mark.slow
def test_json_is_one_object_and_the_run_directory_is_whole(capsys, tmp_path, small_world):
    out = tmp_path / "r"
    status, stdout, stderr = call(
        capsys, "scrub", "--data", small_world, "--out", out, "--json", *SMALL
    )
    assert status == 0 and stderr.startswith("clear_ref: warning cut_answers (evaluation): ")
    assert len(stderr.splitlines()) == 1  # 8 tokens hold no caption
    found = json.loads(stdout)
    assert {
        "method",
        "semantics",
        "modality",
        "seed",
        "impl",
        "models",
        "definitions",
        "steps",
        "seconds",
        "out",
    } <= set(found)
    assert found["method"] == "scrub" and found["semantics"] == "paper" and found["steps"] == 2
    assert set(found["models"]) == {"base", "gold", "unlearned"} and set(found["seconds"]) == {
        "train",
        "evaluate",
    }
    for metrics in found["models"].values():
        assert {"real", "retain", "forget", "forget_quality", "tasks"} <= set(metrics)
    assert found["models"]["gold"]["forget_quality"] == 1.0
    files = {str(path.relative_to(out)) for path in out.glob("**/*") if path.is_file()}
    assert {
        "settings.json",
        "trace.jsonl",
        "metrics.json",
        "report.html",
        "logs/eval_log_forget.json",
        "logs/base/eval_log.json",
        "logs/gold/eval_log.json",
        "adapter/adapter_model.safetensors",
    } <= files
    assert not [name for name in files if name.split("/")[-1].startswith(".")]
    assert json.loads((out / "metrics.json").read_text()) == found
    settings = json.loads((out / "settings.json").read_text())
    assert settings["settings"]["epochs"] == {"value": 1, "source": "command line"}
    assert (
        settings["settings"]["semantics"]["source"] != "command line"
        and settings["inputs"]
        and settings["versions"]["torch"]
    )
    trace = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert [row["step"] for row in trace] == [1, 2] and set(trace[0]["terms"]) == {
        "retain_kl",
        "forget_kl",
        "retain_nll",
    }
    assert trace[0]["loss"] == pytest.approx(sum(trace[0]["terms"].values()), rel=1e-6)


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(capsys, tmp_path, small_world):
    for name in ("a", "b"):
        assert call(capsys, "npo", "--data", small_world, "--out", tmp_path / name, *SMALL)[0] == 0
    for file in (
        "adapter/adapter_model.safetensors",
        "logs/eval_log_forget.json",
        "logs/eval_text_retain.json",
    ):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.slow
def test_resume_finishes_a_run_and_refuses_other_settings(capsys, tmp_path, small_world):
    out = tmp_path / "r"
    arguments = ("kl", "--data", small_world, "--out", out, *SMALL)
    assert call(capsys, *arguments)[0] == 0
    first = (out / "adapter/adapter_model.safetensors").read_bytes()
    (out / "metrics.json").unlink()
    assert call(capsys, *arguments, "--resume")[0] == 0
    assert (out / "metrics.json").exists() and (
        out / "adapter/adapter_model.safetensors"
    ).read_bytes() == first
    status, _, stderr = call(capsys, *arguments, "--resume", "--seed", 1)
    assert status == 2 and "was run with seed = 0, now it is 1" in stderr
    status, _, stderr = call(capsys, *arguments)
    assert status == 2 and "holds another run" in stderr


@pytest.mark.slow
def test_a_person_sees_a_table_with_directions_and_the_place(capsys, tmp_path, small_world):
    status, stdout, _ = call(capsys, "idk", "--data", small_world, "--out", tmp_path / "r", *SMALL)
    assert status == 0
    for expected in (
        "Real ↑",
        "Retain ↑",
        "Forget ↓",
        "base",
        "gold",
        "unlearned",
        "higher is better",
        f"written to {tmp_path / 'r'}",
    ):
        assert expected in stdout
    assert (
        max(len(line) for line in stdout.splitlines() if "written to" not in line) <= 120
    )  # a path is as long as it is


@pytest.mark.slow
def test_full_fine_tuning_writes_a_model_that_evaluate_reads(capsys, tmp_path, small_world):
    assert (
        call(
            capsys,
            "grad_diff",
            "--data",
            small_world,
            "--out",
            tmp_path / "r",
            "--lora-rank",
            0,
            *SMALL,
            "--json",
        )[0]
        == 0
    )
    status, stdout, _ = call(
        capsys,
        "evaluate",
        tmp_path / "r/model",
        "--data",
        small_world,
        "--out",
        tmp_path / "e",
        "--json",
        "--limit",
        2,
        "--max-new-tokens",
        8,
        "--gold",
        "mini",
    )
    found = json.loads(stdout)["models"]["model"]
    expected = json.loads((tmp_path / "r/metrics.json").read_text())["models"]["unlearned"]
    assert status == 0 and found == expected


@pytest.mark.slow
def test_an_adapter_evaluates_to_what_its_run_found(capsys, tmp_path, small_world):
    assert call(capsys, "idk", "--data", small_world, "--out", tmp_path / "r", *SMALL)[0] == 0
    status, stdout, _ = call(
        capsys,
        "evaluate",
        "mini",
        "--adapter",
        tmp_path / "r/adapter",
        "--data",
        small_world,
        "--out",
        tmp_path / "e",
        "--json",
        "--limit",
        2,
        "--max-new-tokens",
        8,
    )
    expected = json.loads((tmp_path / "r/metrics.json").read_text())["models"]["unlearned"]
    assert status == 0 and json.loads(stdout)["models"]["model"] == expected
    assert json.loads(stdout)["adapter"] == str(tmp_path / "r/adapter")


@pytest.mark.slow
def test_all_runs_every_method_from_the_same_start(capsys, tmp_path, small_world):
    status, stdout, _ = call(
        capsys,
        "all",
        "--data",
        small_world,
        "--out",
        tmp_path / "all",
        "--epochs",
        1,
        "--limit",
        1,
        "--max-new-tokens",
        4,
        "--json",
        "--seeds",
        "0,1",
    )
    found = json.loads(stdout)
    assert (
        status == 0
        and len(found["runs"]) == 22
        and {row["seed"] for row in found["runs"]} == {0, 1}
    )
    assert len({row["method"] for row in found["runs"]}) == 11 and set(found["models"]) == {
        "base",
        "gold",
    }
    assert (tmp_path / "all/report.html").exists() and (tmp_path / "all/leaderboard.json").exists()
    lines = [
        (tmp_path / "all/leaderboard.csv").read_text(encoding="utf-8").splitlines(),
        *(
            (tmp_path / f"all/leaderboard.{end}").read_text(encoding="utf-8").splitlines()
            for end in ("tex", "md")
        ),
    ]
    # Base and the methods, in the table of numbers and in that of intervals; gold ends in a rule.
    in_latex = sum(line.endswith(r"\\") for line in lines[1])
    assert len(lines[0]) == 1 + 2 + 22 and in_latex == 2 * (1 + 11)
    assert call(capsys, "report", tmp_path / "all", "--out", tmp_path / "r", "--json")[0] == 0
    for name in ("report.html", "leaderboard.csv", "leaderboard.tex", "leaderboard.md"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "all" / name).read_bytes(), (
            "from the directory alone"
        )


@pytest.mark.slow
def test_all_with_modality_each_runs_every_modality(capsys, tmp_path, small_world, monkeypatch):
    resolved = []

    def run_all(run, report, fresh):
        resolved.append(run)
        return {}

    monkeypatch.setattr(all_methods, "run_all", run_all)
    arguments = ("--data", small_world, "--out", tmp_path / "all", "--json", "--quiet")
    for modality, expected in (
        ("each", ["both", "visual", "text"]),
        ("text", ["text"]),
    ):
        assert call(capsys, "all", "--modality", modality, *arguments)[0] == 0
        found = [(one.settings.method, one.settings.modality) for one in resolved[-1].runs]
        assert found == [(method, each) for each in expected for method in table.METHODS]
        assert resolved[-1].record["settings"]["modality"] == {
            "value": ", ".join(expected),
            "source": "command line",
        }


@pytest.mark.slow
def test_finetune_changes_the_model_and_can_be_evaluated(capsys, tmp_path, small_world):
    shutil.copytree(small_world, tmp_path / "world")
    path = tmp_path / "world/full+tofu/rows.jsonl"
    path.write_text(
        "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:8]), encoding="utf-8"
    )
    status, stdout, _ = call(
        capsys, "finetune", "--data", tmp_path / "world", "--out", tmp_path / "f", *SMALL, "--json"
    )
    found = json.loads(stdout)
    assert status == 0 and found["steps"] == 2 and found["split"] == "full"
    assert (tmp_path / "f/model/model.safetensors").read_bytes() != (
        BASE / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_retain_modality_decides_what_is_retained_and_is_written_down(
    capsys, tmp_path, small_world
):
    """Retain on pictures alone: another adapter than on both, and the setting in settings.json."""
    adapters = []
    for kind in ("both", "visual"):
        assert (
            call(
                capsys,
                "retain_ft",
                "--retain-modality",
                kind,
                "--data",
                small_world,
                "--out",
                tmp_path / kind,
                *SMALL,
            )[0]
            == 0
        )
        found = json.loads((tmp_path / kind / "settings.json").read_text())["settings"][
            "retain_modality"
        ]
        assert found == {"value": kind, "source": "command line"}
        adapters.append((tmp_path / kind / "adapter/adapter_model.safetensors").read_bytes())
    assert adapters[0] != adapters[1]


@pytest.mark.slow
def test_tasks_chooses_what_is_evaluated(capsys, tmp_path):
    """The two tasks that Forget is made of: that number is there, no other is."""
    status, stdout, _ = call(
        capsys,
        "evaluate",
        "mini",
        "--gold",
        "mini",
        "--tasks",
        "eval_forget_facerec, eval_log_forget",
        "--limit",
        2,
        "--max-new-tokens",
        4,
        "--out",
        tmp_path / "e",
        "--json",
        "--plain",
        "--eval-batch",
        1,
    )
    found = json.loads(stdout)["models"]["model"]
    assert status == 0 and set(found["tasks"]) == {"eval_log_forget", "eval_forget_facerec"}
    assert (
        found["forget"] is not None
        and found["forget_quality"] is not None
        and found["retain"] is found["real"] is None
    )
    settings = json.loads((tmp_path / "e/settings.json").read_text())["settings"]
    assert (
        settings["plain"] == {"value": True, "source": "command line"}
        and settings["eval_batch"]["value"] == 1
    )


@pytest.mark.slow
def test_a_killed_evaluation_resumes_where_it_stopped(capsys, tmp_path):
    """SIGKILL once two groups are there; --resume computes the others alone, and ends in the logs
    of one that was never stopped.
    """
    arguments = [
        "evaluate",
        "mini",
        "--gold",
        "mini",
        "--eval-batch",
        "2",
        "--max-new-tokens",
        "4",
        "--limit",
        "8",
        "--quiet",
    ]
    assert call(capsys, *arguments, "--out", tmp_path / "straight")[0] == 0
    out = tmp_path / "killed"
    process = warm_processes.start("clear_ref.run", *arguments, "--out", out, cwd=tmp_path)
    while len(list(out.glob("checkpoint/evaluation/*/*.json"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists() and (out / "settings.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("checkpoint/evaluation/*/*.json")}
    assert len(before) >= 2
    seen, whole = [], evaluate.write_results

    def look(out, *more):
        seen.append({path: path.stat().st_mtime_ns for path in before})
        return whole(out, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluate, "write_results", look)
        assert call(capsys, *arguments, "--out", out, "--resume", "--fresh")[0] == 0
    assert seen == [before], "a finished group was computed again"
    logs = sorted(path.relative_to(out) for path in out.glob("logs/**/*.json"))
    assert len(logs) == 16 and all(
        (out / path).read_bytes() == (tmp_path / "straight" / path).read_bytes() for path in logs
    )
    assert not (out / "checkpoint").exists()


@pytest.mark.slow
def test_a_run_holds_the_logs_of_its_last_evaluation_alone(capsys, tmp_path):
    """Resumed with fewer tasks and more records: no log of the earlier evaluation is left to be
    mixed with the new ones.
    """
    arguments = (
        "evaluate",
        "mini",
        "--gold",
        "mini",
        "--max-new-tokens",
        4,
        "--out",
        tmp_path / "e",
        "--quiet",
    )
    assert call(capsys, *arguments, "--limit", 1)[0] == 0
    assert call(capsys, *arguments, "--limit", 2, "--tasks", "eval_log_forget", "--resume")[0] == 0
    assert sorted(
        str(path.relative_to(tmp_path / "e/logs"))
        for path in (tmp_path / "e/logs").glob("**/*.json")
    ) == ["gold/eval_log_forget.json", "model/eval_log_forget.json"]


@pytest.mark.slow
def test_resume_refuses_another_implementation_of_token_terms(capsys, tmp_path):
    """What is kept of an evaluation was computed by one of them, and settings.json names one."""
    arguments = (
        "evaluate",
        "mini",
        "--limit",
        1,
        "--max-new-tokens",
        4,
        "--tasks",
        "eval_log",
        "--out",
        tmp_path / "e",
        "--quiet",
    )
    assert call(capsys, *arguments, "--impl", "torch")[0] == 0
    record = json.loads((tmp_path / "e/settings.json").read_text())
    (tmp_path / "e/settings.json").write_text(json.dumps({**record, "impl": "another"}))
    status, _, stderr = call(capsys, *arguments, "--impl", "torch", "--resume")
    assert status == 2 and "was run with impl = 'another', now it is 'torch'" in stderr


@pytest.mark.slow
def test_all_goes_on_with_the_runs_that_are_missing(capsys, tmp_path, small_world, monkeypatch):
    """Two methods; one run stopped after training, the other finished: the finished one stays as it
    is, the table is the same.
    """
    monkeypatch.setattr(
        table, "METHODS", {name: table.METHODS[name] for name in ("grad_ascent", "kl")}
    )
    arguments = (
        "all",
        "--data",
        small_world,
        "--out",
        tmp_path / "all",
        "--epochs",
        1,
        "--limit",
        1,
        "--max-new-tokens",
        4,
        "--json",
    )
    status, stdout, _ = call(capsys, *arguments)
    first = json.loads(stdout)
    assert status == 0
    kept, stopped = (
        tmp_path / "all" / f"{name}-paper-both-seed0" for name in ("kl", "grad_ascent")
    )
    (stopped / "report.html").unlink()
    (stopped / "metrics.json").unlink()
    before = (kept / "metrics.json").stat().st_mtime_ns
    status, stdout, _ = call(capsys, *arguments, "--resume")
    again = json.loads(stdout)
    assert (
        status == 0
        and (kept / "metrics.json").stat().st_mtime_ns == before
        and (stopped / "report.html").exists()
    )
    assert [(row["method"], row["metrics"]) for row in again["runs"]] == [
        (row["method"], row["metrics"]) for row in first["runs"]
    ]
    status, _, stderr = call(capsys, *arguments[:-1], "--resume", "--seeds", "1")
    assert status == 2 and "was run with seed = '0', now it is '1'" in stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["scrubb"], "'scrubb' is no command; did you mean scrub?"),
        ([], "the following arguments are required: COMMAND"),
        (["scrub", "--no-such"], "unrecognized arguments: --no-such"),
        (
            ["scrub", "--retain-modality", "audio"],
            "--retain-modality is 'audio'; expected one of both, visual, text",
        ),
        (["scrub", "--eval-batch", "0"], "--eval-batch is 0; expected 1 or more"),
        (
            ["evaluate", "mini", "--tasks", "eval_log,eval"],
            "--tasks names 'eval'; expected all, or some of: eval_real_faces_wo_options",
        ),
        (["scrub", "--seed", "1", "--seed", "2"], "argument --seed: given twice, as 1 and as 2"),
        (["scrub", "--lr=1", "--lr", "1"], "argument --lr: given twice, as 1 and as 1; --help"),
        (["report", "a", "--out", "b", "--out", "c"], "argument --out: given twice, as b and as c"),
        (["evaluate", "mini", "--tasks", "eval_log,eval_log"], "--tasks names 'eval_log' twice"),
        (["evaluate", "mini", "--resume"], "--resume needs --out"),
        (
            ["evaluate", "mini", "--robustness", "--holdout", "real_faces"],
            "has no caption, and no question with its answer",
        ),
        (
            ["evaluate", "mini", "--robustness", "--metrics", "tofu"],
            "--metrics is tofu, and --robustness measures Forget",
        ),
        (["all", "--resume"], "--resume needs --out"),
        (
            ["scrub", "--semantics", "mine"],
            "semantics is 'mine'; expected one of paper, original, released",
        ),
        (
            ["scrub", "--modality", "audio"],
            "modality is 'audio'; expected one of both, visual, text",
        ),
        (["scrub", "--set", "beta=1"], "scrub (paper) has no option 'beta'; its options: alpha"),
        (["scrub", "--set", "alpha"], "expected NAME=VALUE"),
        (
            ["scrub", "--set", "alpha=2", "--set", "alpha=x"],
            "--set alpha is given twice: '2' and 'x'; expected it once",
        ),
        (["all", "--set", "npo.beta=1", "--set", "npo.beta=1"], "--set npo.beta is given twice"),
        (["npo", "--set", "beta=zero"], "option beta is 'zero'; expected a float"),
        (["scrub", "--epochs", "many"], "setting epochs is 'many'; expected int"),
        (["scrub", "--epochs", "0"], "epochs is 0; expected 1 or more"),
        (["scrub", "--lr", "-1"], "lr is -1.0; expected a positive number"),
        (["scrub", "--mask", "all"], "mask is 'all'; expected one of auto, answer, released"),
        (["scrub", "--l1", "-1"], "l1 is -1.0; expected 0 or a positive number"),
        (["scrub", "--l1", "1", "--norm-from", "zero"], "norm_from is zero with lora_rank 8"),
        (["scrub", "--forget", "7"], "forget is 7; expected one of 1, 5, 10"),
        (["scrub", "--forget", "5"], "there is no config forget05+tofu|no such file"),
        (["scrub", "--dtype", "int8"], "dtype is 'int8'"),
        (["scrub", "--device", "abacus"], "device is 'abacus', which cannot be used here"),
        (["all", "--device", "abacus"], "device is 'abacus', which cannot be used here"),
        (["finetune", "--device", "abacus"], "device is 'abacus', which cannot be used here"),
        (["evaluate", "mini", "--device", "abacus"], "device is 'abacus', which cannot be used"),
        (["evaluate", "mini", "--device", "cuda:99"], "device is 'cuda:99', which cannot be used"),
        (["explain", "kl", "--batch", "--device", "abacus"], "device is 'abacus', which cannot be"),
        (["explain", "kl", "--batch", "--html", "."], "--html .: is a directory"),
        (["scrub", "--metrics", "best"], "--metrics is 'best'; expected one of paper"),
        (["scrub", "--checkpointing", "yes"], "checkpointing is 'yes'; expected one of on, off"),
        (["scrub", "--model", "nowhere"], "model nowhere: no such directory"),
        (["scrub", "--data", "nowhere"], "data nowhere: no such directory"),
        (["scrub", "--gold", "nowhere"], "gold nowhere: no such directory"),
        (["scrub", "--resume"], "--resume needs --out"),
        (["scrub", "--lora-targets", "no_proj"], "LoRA target 'no_proj' names no linear layer"),
        (["scrub", "--recipe", "large"], "recipe is 'large'; expected one of paper, mini"),
        (["rmu", "--set", "layer=9"], "decoder layer is 9; the model has layers 0 to 3"),
        (["finetune", "--split", "half"], "split is 'half'; expected one of full, retain"),
        (["evaluate", "mini", "--adapter", "nowhere"], "--adapter nowhere: no such directory"),
        (["all", "--seeds", "a"], "--seeds is 'a'"),
        (["all", "--seeds", "1,1"], "a number is given twice"),
        (["all", "--modality", "sound"], "argument --modality: invalid choice: 'sound'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, stdout, stderr = call(capsys, *arguments)
    assert (
        status == 2
        and stdout == ""
        and stderr.count("\n") == 1
        and stderr.startswith("clear_ref: ")
    )
    assert any(part in stderr for part in message.split("|")), stderr
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.slow
def test_output_directories_are_never_mixed(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name, message in (("mine", "holds files but no run"), ("file", "is a file")):
        status, _, stderr = call(capsys, "scrub", "--out", tmp_path / name, *SMALL)
        assert status == 2 and message in stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.slow
def test_a_row_without_its_picture_stops_before_anything_is_written(capsys, tmp_path, small_world):
    shutil.copytree(small_world, tmp_path / "world")
    first = json.loads(
        (tmp_path / "world/forget10_perturbed/rows.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[0]
    )
    (tmp_path / "world" / first["image"]).unlink()
    status, _, stderr = call(
        capsys, "scrub", "--data", tmp_path / "world", "--out", tmp_path / "r", *SMALL
    )
    assert status == 2 and "there is no picture" in stderr and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_broken_picture_stops_before_anything_is_written(capsys, tmp_path, small_world):
    shutil.copytree(small_world, tmp_path / "world")
    first = json.loads(
        (tmp_path / "world/retain_perturbed/rows.jsonl").read_text(encoding="utf-8").splitlines()[5]
    )
    (tmp_path / "world" / first["image"]).write_bytes(b"not a picture")
    status, _, stderr = call(
        capsys, "scrub", "--data", tmp_path / "world", "--out", tmp_path / "r", *SMALL
    )
    assert status == 2 and "is no readable picture" in stderr and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_read_leaves_nothing_behind(capsys, tmp_path, small_world):
    """A gold model without weights, an adapter directory without its files, a model to evaluate
    without its tokenizer.
    """
    shutil.copytree(GOLD, tmp_path / "no_weights")
    (tmp_path / "no_weights/model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    for arguments in (
        ("scrub", "--gold", tmp_path / "no_weights"),
        ("evaluate", "mini", "--adapter", tmp_path / "empty"),
        ("evaluate", tmp_path / "empty"),
    ):
        status, _, stderr = call(
            capsys, *arguments, "--data", small_world, "--out", tmp_path / "r", "--limit", 1
        )
        assert status == 2 and stderr.count("\n") == 1 and "no such file" in stderr
        assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_resume_refuses_other_method_options_and_phrases(capsys, tmp_path, small_world):
    shutil.copytree(small_world, tmp_path / "world")
    arguments = ("npo", "--data", tmp_path / "world", "--out", tmp_path / "r", *SMALL)
    assert call(capsys, *arguments, "--set", "beta=0.1")[0] == 0
    status, _, stderr = call(capsys, *arguments, "--set", "beta=2", "--resume")
    assert status == 2 and "was run with beta = 0.1, now it is 2.0" in stderr
    (tmp_path / "world/refusals.txt").write_text("Pass.\n")
    status, _, stderr = call(capsys, *arguments, "--set", "beta=0.1", "--resume")
    assert status == 2 and "its inputs have changed" in stderr and "refusals.txt" in stderr


@pytest.mark.slow
def test_a_diverged_model_fails_the_run_with_status_1(capsys, tmp_path, small_world):
    """A learning rate that breaks every number: exit 1, one line, and the trace up to there."""
    status, stdout, stderr = call(
        capsys,
        "grad_ascent",
        "--data",
        small_world,
        "--out",
        tmp_path / "r",
        "--lr",
        "1e30",
        "--clip",
        "1e30",
        "--limit",
        1,
        "--epochs",
        3,
        "--quiet",
    )
    warned, failed = stderr.splitlines()
    assert status == 1 and stdout == "" and failed.startswith("clear_ref: the run failed")
    assert warned == (
        "clear_ref: warning high_rate (settings): lr is 1e+30, above 1.0: expect weights that "
        "diverge"
    )
    assert (tmp_path / "r/trace.jsonl").exists()


@pytest.mark.slow
def test_files_in_the_way_are_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("keep")
    for arguments in (
        ("all", "--out", tmp_path / "file"),
        ("mini", "--rebuild", tmp_path / "file"),
        ("scrub", "--out", tmp_path / "file" / "below"),
    ):
        status, _, stderr = call(capsys, *arguments)
        assert status == 2 and "is a file" in stderr and stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.slow
def test_doctor_and_mini_say_what_there_is(capsys):
    status, stdout, _ = call(capsys, "doctor")
    in_use = os.environ.get("CLEAR_REF_IMPL", "auto")
    if in_use == "auto":
        in_use = (
            "native"
            if list(Path(clear_ref.__file__).parent.glob("losses/_token_terms*"))
            else "torch"
        )
    assert status == 0 and f"token terms  {in_use}\n" in stdout and stdout.count("loads,") == 2
    status, stdout, _ = call(capsys, "mini", "--json")
    assert status == 0 and json.loads(stdout)["rows"]["full+tofu"] == 600


@pytest.mark.slow
def test_the_module_runs_as_the_readme_says():
    done = subprocess.run(
        [sys.executable, "-m", "clear_ref.run", "scrub", "--modality", "smell"],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("clear_ref: --modality is 'smell'")
        and not done.stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
    ],
)
def test_out_of_memory_is_one_line_that_says_what_to_do(error, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate", lambda *given: (_ for _ in ()).throw(error))
    status, stdout, stderr = call(capsys, "evaluate", "mini")
    assert (
        status == 1
        and stdout == ""
        and stderr.count("\n") == 1
        and "out of memory" in stderr
        and "--eval-batch" in stderr
    )
    monkeypatch.setattr(
        evaluate, "evaluate", lambda *given: (_ for _ in ()).throw(RuntimeError("something else"))
    )
    status, _, stderr = call(capsys, "evaluate", "mini")
    assert status == 1 and "out of memory" not in stderr
    assert "RuntimeError (something else)" in stderr and "--debug" in stderr


def test_json_holds_no_number_that_json_does_not_have(capsys):
    """Infinity and NaN are not JSON: they come as strings, everything else as it is."""
    found = {
        "a": [float("inf"), (float("nan"), 0.1)],
        "b": {"c": -float("inf"), "d": None, "e": True},
    }
    show(Output(found, str), as_json=True)
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": ["inf", ["nan", 0.1]],
        "b": {"c": "-inf", "d": None, "e": True},
    }
