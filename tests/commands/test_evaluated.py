"""Base and gold are evaluated once: a later run takes their logs where nothing that changes a
number differs, says so in one line, and writes the same bytes as a run that evaluates them.
"""

import ast
import dataclasses
import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import pytest

from clear_ref.commands import evaluated, input_roles, model_logs
from clear_ref.commands.resolve import resolve_inputs
from clear_ref.commands.settings import Common
from clear_ref.common import run_directory
from clear_ref.common.atomic import UNFINISHED
from clear_ref.common.errors import Notice
from clear_ref.common.processes import map_in_processes
from clear_ref.common.run_lock import LOCK, locked
from clear_ref.mini.directories import BASE, GOLD
from tests.helpers.commands import call, small_copy

ROOT = Path(__file__).parents[2]
QUICK = ("--tasks", "eval_text_forget", "--limit", 1, "--max-new-tokens", 4, "--quiet")


def files_of(out, *names):
    """{path: bytes} of the files of a run directory below these names."""
    paths = [path for name in names for path in sorted((out / name).rglob("*"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.is_file()}


def test_the_hashes_know_files_behind_links_and_the_further_chat_templates(tmp_path):
    """A downloaded data set is often links into a cache; a tokenizer reads a folder of templates.

    A change of any of these files is another key, so no kept log is taken.
    """
    data, model = small_copy(tmp_path / "data"), tmp_path / "model"
    shutil.copytree(BASE, model)
    (model / "additional_chat_templates").mkdir()
    for name in ("images", "forget10"):
        shutil.move(data / name, tmp_path / name)
        (data / name).symlink_to(tmp_path / name, target_is_directory=True)
    (data / "again").symlink_to(data, target_is_directory=True)  # not followed: it is above itself
    files = [
        next(path for path in sorted((tmp_path / "images").rglob("*")) if path.is_file()),
        tmp_path / "forget10" / "rows.jsonl",
        model / "additional_chat_templates" / "default.jinja",
    ]
    known = []
    for path in (None, *files):
        if path is not None:
            path.write_bytes((path.read_bytes() if path.exists() else b"{{ 1 }}") + b"\n")
        inputs = resolve_inputs(Common(data=str(data), model=str(model)), "")
        known.append(evaluated.place_of(inputs, inputs.model)[0])
    assert len(set(known)) == 4
    assert input_roles.models(inputs.hashes) == [str(model)]


@pytest.mark.slow
def test_the_second_run_of_a_method_evaluates_one_model_and_writes_the_same_bytes(
    capsys, tmp_path, monkeypatch
):
    names, whole = [], model_logs.run_tasks

    def run_tasks(vlm, data, phrases, tasks, settings, label, kept):
        names.append(label.removeprefix("evaluate "))
        return whole(vlm, data, phrases, tasks, settings, label, kept)

    def run(command, out, *more):
        found = call(capsys, *command, "--data", world, *QUICK, "--out", tmp_path / out, *more)
        assert found[0] == 0, found[2]
        lines = found[2].splitlines(keepends=True)
        # Four tokens are too few for most answers, and a warning says so.
        return "".join(line for line in lines if "warning cut_answers" not in line)

    monkeypatch.setattr(model_logs, "run_tasks", run_tasks)
    world = small_copy(tmp_path / "world")
    run(("idk", "--epochs", 1), "first")
    assert names == ["gold", "base", "unlearned"]
    errors = run(("npo", "--epochs", 1), "second")
    assert names[3:] == ["unlearned"] and errors.count("\n") == 1
    assert errors.startswith("clear_ref: base and gold: not evaluated again, the logs are in ")
    assert str(run_directory.EVALUATED) in errors and "--fresh" in errors
    assert run(("npo", "--epochs", 1), "third", "--fresh") == ""
    assert names[4:] == ["gold", "base", "unlearned"]
    second, third = (files_of(tmp_path / name, "logs", "adapter") for name in ("second", "third"))
    assert second == third and any(name.startswith("logs/base/") for name in second)
    metrics = [
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("second", "third")
    ]
    for found in metrics:
        del found["seconds"], found["out"]
    assert list(metrics[0].items()) == list(metrics[1].items())
    assert "model and gold: not evaluated" in run(("evaluate", "mini", "--gold", "mini"), "fourth")
    assert files_of(tmp_path / "fourth/logs", "gold") == files_of(tmp_path / "third/logs", "gold")


@pytest.fixture(scope="module")
def inputs():
    """Base and gold of the embedded world, two tasks."""
    return resolve_inputs(Common(tasks="eval_forget_facerec,eval_retain_facerec"), "")


@pytest.fixture
def computed(monkeypatch):
    """The (model, tasks) that were evaluated. An evaluation here is one number for each task."""
    done = []

    def evaluate_model(inputs, vlm, name, out, tasks):
        done.append((name, [task.name for task in tasks]))
        return {task.name: {"task": task.name, "avg_gt_loss": {"0": 0.1 + 0.2}} for task in tasks}

    monkeypatch.setattr(evaluated, "load_model", lambda inputs, directory: "a model")
    monkeypatch.setattr(evaluated, "evaluate_model", evaluate_model)
    return done


def logs_of(inputs, out, fresh=False):
    """(logs of base and gold, the notices)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        logs = evaluated.evaluated(inputs, evaluated.base_and_gold(inputs), out, fresh)
    assert all(each.category is Notice for each in said)
    return logs, [str(each.message) for each in said]


TASKS = ["eval_forget_facerec", "eval_retain_facerec"]
BOTH = [("base", TASKS), ("gold", TASKS)]


def test_logs_are_computed_once_and_fresh_does_not_read_them(inputs, tmp_path, computed):
    first, said = logs_of(inputs, tmp_path)
    assert computed == BOTH and said == [] and list(first) == ["base", "gold"]
    second, said = logs_of(inputs, tmp_path)
    assert computed == BOTH and len(said) == 1 and "base and gold: not evaluated again" in said[0]
    assert logs_of(inputs, tmp_path, fresh=True)[1] == [] and computed == BOTH * 2
    assert json.dumps(first) == json.dumps(second)


def test_a_task_that_is_not_kept_is_computed_alone(inputs, tmp_path, computed):
    one = dataclasses.replace(inputs, tasks=inputs.tasks[1:])
    logs_of(one, tmp_path)
    logs, said = logs_of(inputs, tmp_path)
    assert computed[2:] == [("base", TASKS[:1]), ("gold", TASKS[:1])]
    assert len(said) == 2 and said[1].startswith("gold: logs of 1 of 2 tasks are taken from ")
    assert [list(each) for each in logs.values()] == [TASKS, TASKS]
    other = dataclasses.replace(inputs.tasks[0], config="forget05_perturbed")
    logs_of(dataclasses.replace(inputs, tasks=(other,)), tmp_path)
    assert computed[4:] == [("base", TASKS[:1]), ("gold", TASKS[:1])]
    assert logs_of(inputs, tmp_path)[1][0].startswith("base and gold: not evaluated again")


def changed_hash(inputs, part):
    """The inputs with another hash of the first file whose path holds `part`."""
    key = next(key for key in inputs.hashes if part in key)
    return dataclasses.replace(inputs, hashes=inputs.hashes | {key: "0" * 64})


@pytest.mark.parametrize(
    "change",
    [
        lambda i: changed_hash(i, "base/model.safetensors"),
        lambda i: changed_hash(i, "base/tokenizer.json"),
        lambda i: changed_hash(i, "rows.jsonl"),
        lambda i: changed_hash(i, "refusals.txt"),
        lambda i: changed_hash(i, ", pictures"),
        lambda i: dataclasses.replace(i, template="llava"),
        lambda i: dataclasses.replace(i, dtype="bfloat16"),
        lambda i: dataclasses.replace(i, impl="another"),
        lambda i: dataclasses.replace(i, evaluation=dataclasses.replace(i.evaluation, limit=3)),
        lambda i: dataclasses.replace(i, evaluation=dataclasses.replace(i.evaluation, batch=3)),
        lambda i: dataclasses.replace(i, evaluation=dataclasses.replace(i.evaluation, plain=True)),
    ],
)
def test_what_changes_a_number_changes_the_place(inputs, change):
    assert evaluated.place_of(change(inputs), BASE)[0] != evaluated.place_of(inputs, BASE)[0]


def test_other_code_versions_and_hardware_have_another_place(inputs, monkeypatch):
    before = evaluated.place_of(inputs, BASE)[0]
    assert evaluated.place_of(inputs, GOLD)[0] != before
    for name, value in (
        ("code_hash", lambda: "other source"),
        ("hardware", lambda device: {"cpu": "another", "torch_instruction_set": "AVX2"}),
        ("description", lambda: {"built": False, "instruction_set": None, "cuda": []}),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(evaluated, name, value)
            assert evaluated.place_of(inputs, BASE)[0] != before
    monkeypatch.setattr(run_directory, "versions", lambda: {"torch": "0.1"})
    assert evaluated.place_of(inputs, BASE)[0] != before


def test_gold_and_the_place_of_the_files_do_not_change_the_place(inputs, tmp_path):
    shutil.copytree(BASE, tmp_path / "copy")
    copy = resolve_inputs(Common(model=str(tmp_path / "copy")), "mini")
    there = evaluated.place_of(copy, tmp_path / "copy")
    assert there == evaluated.place_of(inputs, BASE)


def imports_of(start):
    """The modules of ours that a module imports, directly or through others."""
    found, left = set(), [start]
    while left:
        name = left.pop()
        path = ROOT / name.replace(".", "/")
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if name in found or not file.exists():
            continue
        found.add(name)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = importlib.util.resolve_name(
                    "." * node.level + (node.module or ""), package
                )
                if module.startswith("clear_ref"):
                    left += [module, *(f"{module}.{each.name}" for each in node.names)]
    return found


def test_the_code_that_computes_a_log_is_in_the_rooms_that_are_hashed(monkeypatch):
    """Every module of ours that evaluate.py or vlm.py imports, and what these import in turn."""
    imported = imports_of("clear_ref.evaluation.evaluate") | imports_of("clear_ref.model.vlm")
    rooms = {name.split(".")[1] for name in imported if "." in name}
    assert rooms == set(evaluated.ROOMS)
    evaluated.code_hash.cache_clear()
    before = evaluated.code_hash()
    monkeypatch.setattr(evaluated, "ROOMS", evaluated.ROOMS[:-1])
    evaluated.code_hash.cache_clear()
    assert evaluated.code_hash() != before
    evaluated.code_hash.cache_clear()


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def edit(path):
    """Another number, in a file that is still JSON."""
    text = path.read_text(encoding="utf-8")
    assert "0.30000000000000004" in text
    path.write_text(text.replace("0.30000000000000004", "0.25"), encoding="utf-8")


@pytest.mark.parametrize(
    "pattern, spoil, problem",
    [
        ("eval_*.json", cut, "not JSON"),
        ("eval_*.json", edit, "is not the log that was written there"),
        ("eval_*.json", lambda path: path.write_text("{}"), "is not the log that was written"),
        ("key.json", cut, "not JSON"),
        ("key.json", lambda path: path.write_text("{}"), "does not belong to"),
        ("key.json", lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_broken_file_is_said_and_computed_again(
    inputs, tmp_path, computed, pattern, spoil, problem
):
    first, _ = logs_of(inputs, tmp_path)
    paths = sorted(run_directory.EVALUATED.glob("*/" + pattern.replace("eval_", "eval_forget_")))
    whole = [path.read_bytes() for path in paths]
    assert len(paths) == 2
    for path in paths:
        spoil(path)
    second, said = logs_of(inputs, tmp_path)
    assert len(said) == 2 and all(problem in line for line in said)
    assert [line.split("; ")[-1] for line in said] == [
        "base is evaluated again",
        "gold is evaluated again",
    ]
    assert computed == BOTH * 2 and first == second
    assert [path.read_bytes() for path in paths] == whole
    assert "not evaluated again" in logs_of(inputs, tmp_path)[1][0]


def test_a_directory_that_another_process_has_begun_is_no_error(inputs, tmp_path, computed):
    """Only key.json is there: nothing is kept yet, and nothing is said."""
    logs_of(inputs, tmp_path)
    for path in run_directory.EVALUATED.glob("*/eval_*.json"):
        path.unlink()
    assert logs_of(inputs, tmp_path)[1] == [] and computed == BOTH * 2


def test_processes_that_keep_the_same_logs_at_once_do_not_spoil_them(inputs, tmp_path, computed):
    """Four forks keep and read the same logs, ten times each; a reader never sees a part."""

    def work(number):
        return [logs_of(inputs, tmp_path / str(number), fresh=i % 2 == 0) for i in range(10)]

    first, _ = logs_of(inputs, tmp_path)
    found = map_in_processes(work, range(4), 4)
    for runs in found:
        assert all(logs == first for logs, _ in runs)
        assert all("not evaluated again" in line for _, said in runs for line in said)
        assert all(len(said) == i % 2 for i, (_, said) in enumerate(runs))
    assert not [path for path in run_directory.EVALUATED.glob("*/.*")]


def test_the_next_run_removes_what_a_killed_process_left(inputs, tmp_path, computed):
    logs_of(inputs, tmp_path / "a")
    n_computed = len(computed)
    folder, _ = evaluated.place_of(inputs, inputs.model)
    left = [folder / LOCK, folder / f".log.json.0123abcd{UNFINISHED}"]
    for path in left:
        path.write_text("")
    with locked(folder):  # it is written now: nothing is touched
        left[1].write_text("")
        logs_of(inputs, tmp_path / "b")
        assert left[1].exists()
    left[0].write_text("")
    logs_of(inputs, tmp_path / "c")
    assert not list(folder.glob(".*")) and len(computed) == n_computed


def test_logs_are_not_kept_of_a_model_that_changed_meanwhile(inputs, tmp_path, monkeypatch):
    def evaluate_and_change(inputs, vlm, name, out, tasks):
        monkeypatch.setattr(evaluated, "input_hashes", lambda *paths: changed.hashes)
        return {task.name: {} for task in tasks}

    changed = changed_hash(inputs, "base/config.json")
    monkeypatch.setattr(evaluated, "load_model", lambda inputs, directory: "a model")
    monkeypatch.setattr(evaluated, "evaluate_model", evaluate_and_change)
    evaluated.evaluated(inputs, {"gold": GOLD}, tmp_path)
    assert len(list(run_directory.EVALUATED.iterdir())) == 1
    with pytest.warns(Notice, match="changed while it was evaluated; its logs are not kept"):
        evaluated.evaluated(inputs, {"base": BASE}, tmp_path)
    assert len(list(run_directory.EVALUATED.iterdir())) == 1


def test_logs_are_not_kept_of_groups_that_an_earlier_process_computed(inputs, tmp_path, computed):
    """Those may be of other code: the record of a run does not compare versions on --resume."""
    groups = tmp_path / model_logs.FINISHED_GROUPS / "base"
    groups.mkdir(parents=True)
    (groups / "eval_forget_facerec-0.json").write_text("{}")
    assert logs_of(inputs, tmp_path)[1] == []
    assert logs_of(inputs, tmp_path)[1][0].startswith("gold: not evaluated again")
    assert computed == [*BOTH, BOTH[0]]


def test_a_place_that_cannot_be_written_is_said_and_the_run_goes_on(inputs, tmp_path, computed):
    run_directory.EVALUATED.write_text("a file")
    logs, said = logs_of(inputs, tmp_path)
    assert list(logs) == ["base", "gold"] and len(said) == 2
    assert all("evaluates" in line and "cannot be written" in line for line in said)
