"""--settings FILE repeats the run that wrote FILE, with what is given beside it; --resume --out DIR
continues a run with the settings that it began with. Other inputs than that run's are refused.
"""

import argparse
import functools
import json
import shutil

import pytest

from clear_ref.commands import (
    all_methods,
    evaluate,
    finetune,
    repeat,
    resolve,
    sequence,
    sweep,
    unlearn,
)
from clear_ref.mini.directories import BASE
from tests.helpers.commands import call, small_copy

hashes_once = functools.cache(resolve.input_hashes)


@pytest.fixture
def record_of(capsys, monkeypatch, tmp_path):
    """record_of(ARGUMENT, ...): (settings.json of the command's run, stderr); nothing is run."""
    runs = []
    kept = lambda run, *more, **named: runs.append(run) or {}  # noqa: E731
    for module, name in (
        (unlearn, "unlearn"),
        (all_methods, "run_all"),
        (finetune, "finetune"),
        (evaluate, "evaluate"),
        (sweep, "sweep"),
        (sequence, "run_requests"),
    ):
        monkeypatch.setattr(module, name, kept)
        monkeypatch.setattr(module, "check_pictures", lambda *inputs: None, raising=False)
        monkeypatch.setattr(module, "check_gold_files", lambda inputs: None, raising=False)
    monkeypatch.setattr(resolve, "input_hashes", hashes_once)

    def record(*line):
        status, _, errors = call(capsys, *line, "--json", "--quiet")
        assert status == 0, errors
        record = json.loads(json.dumps(runs[-1].record))
        record["settings"].pop("out")
        return record, errors

    monkeypatch.chdir(tmp_path)
    return record


def write(path, record, **changes):
    """A settings.json with other values for some settings; its path."""
    record = json.loads(json.dumps(record))
    record["settings"]["out"] = {"value": "runs/x", "source": "command line"}
    for name, value in changes.items():
        record["settings"][name]["value"] = value
    path.mkdir(exist_ok=True)
    (path / "settings.json").write_text(json.dumps(record))
    return path / "settings.json"


def values(record, part="settings"):
    return {name: (entry["value"], entry["source"]) for name, entry in record[part].items()}


LINES = {
    "npo": "npo --set beta=0.2 --seed 3 --lr 2e-3 --modality text --limit 5 "
    "--tasks eval_log,eval_retain_facerec",
    "rmu": "rmu --semantics original --impl torch --dtype float64 --weight-decay 0",
    "all": "all --methods npo,kl --set npo.beta=0.3 --modality each --seeds 5 --epochs 2",
    "finetune": "finetune --split retain --epochs 2 --model mini",
    "evaluate": "evaluate mini --gold mini --robustness --relearn-at 1,3 --min-k 0.3 --plain",
    "sweep npo,scrub": "sweep npo,scrub --grid lr=1e-3,2e-3 --set-grid beta=0.5,1 --seeds 3,4 "
    "--epochs 2 --choose nearest-gold --limit 5",
}


@pytest.mark.parametrize("command", LINES)
def test_a_repeated_run_has_the_record_of_the_earlier_one(record_of, tmp_path, command):
    first, _ = record_of(*LINES[command].split())
    file = write(tmp_path / "earlier", first)
    for place in (file, file.parent):
        again, errors = record_of(*command.split(), "--settings", place)
        assert again == first and (errors == "" or errors.startswith("clear_ref: --set"))


def test_a_grid_beside_the_settings_of_a_sweep_replaces_its_points(record_of, tmp_path, capsys):
    first, _ = record_of(*LINES["sweep npo,scrub"].split())
    file = write(tmp_path / "e", first)
    again, _ = record_of("sweep", "npo", "--settings", file, "--set-grid", "beta=2,3")
    points = again["settings"].pop("points")["value"]
    assert [each.partition("beta ")[2] for each in points] == ["2", "3"]
    for changed in ("points", "method"):
        first["settings"].pop(changed)
        again["settings"].pop(changed, None)
    assert again == first
    status, _, error = call(capsys, "sweep", "kl", "--settings", file)
    assert status == 2 and "settings.json: points: has no row of kl; expected" in error
    one, _ = record_of("sweep", "scrub", "--settings", file)
    assert {each.partition(":")[0] for each in one["settings"]["points"]["value"]} == {"scrub"}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"points": 3}, "setting points: 3; expected METHOD: and its values"),
        ({"points": ["npo: 5"]}, "setting points: '5' of npo: expected values of the recipe"),
        ({"points": ["hope: lr 1"]}, "setting points: 'hope: lr 1'; expected METHOD"),
        ({"epochs": "two"}, "json: setting epochs is 'two'; expected"),
        ({"points": []}, "setting points: []; expected one point or more; put back"),
        ({"points": ["npo: lr abc"]}, "json: setting points: setting lr is 'abc'; expected float"),
        ({"seed": "0; 1"}, "json: setting seed is '0; 1'; expected whole numbers"),
    ],
)
def test_a_damaged_sweep_is_one_line(record_of, tmp_path, capsys, changes, said):
    first, _ = record_of(*LINES["sweep npo,scrub"].split())
    file = write(tmp_path / "e", first, **changes)
    status, _, error = call(capsys, "sweep", "npo,scrub", "--settings", file)
    assert status == 2 and said in error and error.count("\n") == 1, error


def test_a_recorded_value_is_taken_although_the_default_is_another_one_now(record_of, tmp_path):
    first, _ = record_of("npo")
    changed = json.loads(json.dumps(first))
    changed["settings"]["lr"] = {"value": 3e-5, "source": "paper App. H"}
    changed["settings"]["eval_batch"] = {"value": 16, "source": "released code"}
    changed["options"]["beta"] = {"value": 0.7, "source": "mini"}
    again, _ = record_of("npo", "--settings", write(tmp_path / "e", changed))
    assert again == changed
    assert values(again)["lr"] == (3e-5, "paper App. H")


@pytest.mark.parametrize("steps", [0, 7])
def test_a_run_from_before_minutes_and_kept_checkpoints_is_repeated(record_of, tmp_path, steps):
    """Its save_every is a whole number of steps, and it has no keep_checkpoints."""
    first, _ = record_of("npo")
    old = json.loads(json.dumps(first))
    del old["settings"]["keep_checkpoints"]
    again, _ = record_of("npo", "--settings", write(tmp_path / "e", old, save_every=steps))
    first["settings"]["save_every"]["value"] = str(steps)
    assert again == first


def test_what_is_given_beside_the_file_wins_and_is_recorded(record_of, tmp_path):
    first, _ = record_of(*LINES["npo"].split())
    file = write(tmp_path / "e", first)
    beside = "--lr 5e-4 --limit 7 --set beta=0.4 --impl torch"
    again, _ = record_of("npo", "--settings", file, *beside.split())
    different = {
        name for name in first["settings"] if again["settings"][name] != first["settings"][name]
    }
    assert different == {"lr", "limit"} and again["impl"] == "torch"
    assert values(again)["lr"] == (5e-4, "command line")
    assert values(again)["limit"] == (7, "command line")
    assert values(again, "options")["beta"] == (0.4, "command line")


def test_the_seed_of_a_method_is_that_of_the_run(record_of, tmp_path):
    first, _ = record_of("rmu", "--seed", 3)
    file = write(tmp_path / "e", first)
    again, _ = record_of("rmu", "--settings", file, "--seed", 4)
    assert values(first, "options")["seed"][0] == 3 and values(again, "options")["seed"][0] == 4
    named, _ = record_of("rmu", "--seed", 3, "--set", "seed=9")
    again, _ = record_of("rmu", "--settings", write(tmp_path / "n", named), "--seed", 4)
    assert values(again, "options")["seed"] == (9, "command line")


def test_a_recipe_or_semantics_that_is_named_anew_brings_its_own_defaults(record_of, tmp_path):
    first, _ = record_of("npo", "--epochs", 2, "--set", "beta=0.2")
    file = write(tmp_path / "e", first)
    again, _ = record_of("npo", "--settings", file, "--recipe", "paper")
    assert again["recipe"] == "paper" and values(again)["lr"] == (1e-5, "paper App. H")
    assert values(again)["epochs"] == (2, "command line")
    scrub, _ = record_of("scrub")
    file = write(tmp_path / "s", scrub)
    again, _ = record_of("scrub", "--settings", file, "--semantics", "original")
    straight, _ = record_of("scrub", "--semantics", "original")
    assert again["options"] == straight["options"]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("kl --settings e", "e/settings.json: is of npo; expected one of kl: for that run it is "),
        ("all --settings e", "python -m clear_ref.run npo --settings e/settings.json"),
        ("npo --settings nowhere.json", "nowhere.json: no such file"),
        ("npo --settings broken", "broken/settings.json: not JSON"),
        ("npo --settings other", "other/settings.json: is no settings.json of this version"),
        ("npo --settings text", "setting seed is '3'; expected int"),
        ("npo --settings new", "has a setting from_the_future that this version does not know"),
        (
            "npo --settings shape",
            "shape/settings.json: settings.seed is {'value': 3}; expected an object with value and "
            "source, as a run writes it; put back the file that the run wrote, or start a new run",
        ),
        ("npo --settings choice", "setting dtype is 'int8'; expected one of float32, "),
        ("npo --settings e --resume --out e", "is given beside --resume, which reads"),
        ("kl --resume --out e", "expected one of kl: for that run it is python -m clear_ref.run "),
        ("npo --resume --out e --seed 4", "was run with seed = 3, now it is 4"),
        ("evaluate", "evaluate: MODEL is missing; expected a model directory, mini, or"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(capsys, record_of, tmp_path, line, expected):
    first, _ = record_of("npo", "--seed", 3)
    write(tmp_path / "e", first)
    write(tmp_path / "text", first, seed="3")
    write(tmp_path / "choice", first, dtype="int8")
    write(tmp_path / "broken", first).write_text("{")
    write(tmp_path / "other", first | {"format": "clear_ref.run/0"})
    new = first["settings"] | {"from_the_future": {"value": 1, "source": "x"}}
    write(tmp_path / "new", first | {"settings": new})
    write(tmp_path / "shape", first | {"settings": first["settings"] | {"seed": {"value": 3}}})
    status, _, errors = call(capsys, *line.split(), "--quiet")
    assert status == 2 and expected in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    "option, file",
    [
        ("data", "forget10+tofu/rows.jsonl"),
        ("data", "pictures"),
        ("model", "training_history.json"),
        ("gold", "model.safetensors"),
    ],
)
def test_other_inputs_than_those_of_the_run_are_refused(capsys, record_of, tmp_path, option, file):
    """Unless the option that names them is given: then they are taken as they are now."""
    first, _ = record_of("npo")
    part = {"data": "world", "model": "base/", "gold": "gold/"}[option]
    [key] = [key for key in first["inputs"] if part in key and key.endswith(file)]
    earlier = write(tmp_path / "e", first | {"inputs": first["inputs"] | {key: "0" * 64}})
    status, _, errors = call(capsys, "npo", "--settings", earlier, "--quiet")
    assert status == 2 and f"{file} of --{option} is not what it was in that run" in errors
    assert f"--{option} beside --settings" in errors and errors.count("\n") == 1
    again, _ = record_of("npo", "--settings", earlier, f"--{option}", "mini")
    assert again["inputs"] == first["inputs"]


def test_the_same_files_in_another_place_are_the_same_inputs(record_of, tmp_path):
    """The record of a run of another machine, where the package was elsewhere."""
    first, _ = record_of("npo")
    elsewhere = {
        key.replace(str(BASE.parent), "/elsewhere"): value for key, value in first["inputs"].items()
    }
    assert elsewhere.keys() != first["inputs"].keys()
    again, errors = record_of(
        "npo", "--settings", write(tmp_path / "e", first | {"inputs": elsewhere})
    )
    assert again == first and errors == ""


def test_a_run_is_resumed_with_its_model_in_another_place(capsys, record_of, tmp_path, monkeypatch):
    """Spelled otherwise, from another directory, or moved: what counts is the files. A model with
    one other file is refused."""
    shutil.copytree(BASE, tmp_path / "model")
    first, _ = record_of("npo", "--model", "model", "--seed", 3)
    write(tmp_path / "e", first)
    relative, _ = record_of("npo", "--resume", "--out", "e", "--model", tmp_path / "model")
    assert relative["settings"]["model"]["value"] == str(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "moved")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    record_of("npo", "--resume", "--out", "../e", "--model", "../moved")
    history = tmp_path / "moved/training_history.json"
    history.write_text(history.read_text() + "\n")
    hashes_once.cache_clear()
    line = ("npo", "--resume", "--out", "../e", "--model", "../moved", "--quiet")
    status, _, errors = call(capsys, *line)
    assert status == 2 and errors.count("\n") == 1, errors


def test_other_versions_are_said(record_of, tmp_path):
    first, _ = record_of("npo")
    old = first | {"versions": first["versions"] | {"torch": "1.0"}}
    again, errors = record_of("npo", "--settings", write(tmp_path / "e", old))
    assert again == first and "that run had torch 1.0, now " in errors and errors.count("\n") == 1


def test_the_implementation_is_that_of_the_run_unless_one_is_named(
    record_of, tmp_path, monkeypatch
):
    first, _ = record_of("npo", "--impl", "torch")
    file = write(tmp_path / "e", first)
    assert record_of("npo", "--settings", file)[0]["impl"] == "torch"
    monkeypatch.setenv("CLEAR_REF_IMPL", "auto")
    assert record_of("npo", "--settings", file)[0]["impl"] == record_of("npo")[0]["impl"]


def test_a_command_without_settings_of_runs_is_left_alone():
    repeat.take_settings(argparse.Namespace(command="mini"))


@pytest.mark.slow
def test_a_repeated_and_a_resumed_run_write_the_same_bytes(capsys, tmp_path):
    world = small_copy(tmp_path / "world")
    quick = "--epochs 1 --seed 3 --set beta=0.2 --limit 1 --max-new-tokens 4 --tasks eval_log"
    first, second = tmp_path / "first", tmp_path / "second"
    line = ("npo", *quick.split(), "--data", world, "--out", first, "--quiet")
    assert call(capsys, *line)[0] == 0
    assert call(capsys, "npo", "--settings", first, "--out", second, "--quiet")[0] == 0

    def whole(path):
        return {
            name: (path / name).read_bytes()
            for name in ("adapter/adapter_model.safetensors", "logs/eval_log.json")
        }

    assert whole(first) == whole(second)
    before = (first / "settings.json").read_bytes()
    assert before.replace(str(first).encode(), b"") == (
        second / "settings.json"
    ).read_bytes().replace(str(second).encode(), b"")
    (first / "metrics.json").unlink()
    assert call(capsys, "npo", "--resume", "--out", first, "--quiet")[0] == 0
    assert (first / "settings.json").read_bytes() == before and whole(first) == whole(second)
    found = json.loads((first / "metrics.json").read_text())
    assert found["seed"] == 3 and list(found["models"]["unlearned"]["tasks"]) == ["eval_log"]
    (world / "holdout10" / "rows.jsonl").unlink()
    status, _, errors = call(capsys, "npo", "--settings", first, "--out", tmp_path / "third")
    assert status == 2 and "holdout10/rows.jsonl of --data is not what it was" in errors
