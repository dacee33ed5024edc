"""The choice of a run directory: new, resumed, refused."""

import copy
from pathlib import Path

import pytest

from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json
from clear_ref.common.run_directory import FORMAT, SETTINGS_FILE, choose

RECORD = {
    "format": FORMAT,
    "command": "unlearn",
    "impl": "torch",
    "settings": {
        "seed": {"value": 0, "source": "this project"},
        "limit": {"value": 0, "source": "this project"},
    },
    "options": {"beta": {"value": 0.1, "source": "paper"}},
    "inputs": {"base/model.safetensors": "ab"},
    "versions": {"python": "3.11"},
}


def changed(*keys, value):
    """A copy of RECORD with another value at the place that the keys name."""
    record = copy.deepcopy(RECORD)
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return record


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / "run" / SETTINGS_FILE, RECORD)
    return tmp_path / "run"


def test_without_a_name_the_first_unused_directory_below_runs_is_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choose("", "npo", RECORD, resume=False) == Path("runs/npo")
    Path("runs/npo").mkdir(parents=True)
    Path("runs/npo-2").mkdir()
    assert choose("", "npo", RECORD, resume=False) == Path("runs/npo-3")


def test_a_run_is_resumed_where_only_settings_without_effect_on_training_changed(run):
    assert choose(str(run), "npo", RECORD, resume=True) == run
    other = changed("settings", "limit", "value", value=8)
    assert choose(str(run), "npo", other, resume=True) == run
    with pytest.raises(UserError, match="was run with limit = 0, now it is 8"):
        choose(str(run), "npo", other, resume=True, changeable={"out"})


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (["command"], "finetune", "holds no run of finetune"),
        (["settings", "seed", "value"], 1, "was run with seed = 0, now it is 1"),
        (["options", "beta", "value"], 0.5, "was run with beta = 0.1, now it is 0.5"),
        (["impl"], "native", "was run with impl = 'torch', now it is 'native'"),
        (["inputs", "base/model.safetensors"], "cd", "its inputs have changed"),
        (["inputs", "another"], "ef", "its inputs have changed since .another."),
    ],
)
def test_another_run_is_not_resumed(run, keys, value, message):
    with pytest.raises(UserError, match=message):
        choose(str(run), "npo", changed(*keys, value=value), resume=True)


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (
            ["settings"],
            [],
            r"settings is \[\]; expected an object, as a run writes it; put back the",
        ),
        (["settings", "seed"], 5, "settings.seed is 5; expected an object with value and source"),
        (["options", "beta"], {"value": 1}, "options.beta is .*; expected an object with value"),
        (["options", "beta", "source"], None, "options.beta.source is None; expected text"),
        (["options"], "beta", "options is 'beta'; expected an object"),
        (["inputs"], None, "inputs is None; expected an object"),
        (["inputs", "base/model.safetensors"], {}, "inputs.base/model.safetensors is {}; expected"),
        (["versions"], 3, "versions is 3; expected an object"),
        (["impl"], 3, "impl is 3; expected text"),
        (["format"], "clear_ref.run/0", "is no settings.json of this version"),
        (["command"], None, "is no settings.json of this version"),
    ],
)
def test_a_damaged_record_is_not_resumed(run, keys, value, message):
    """The file, the key and what is expected are named."""
    write_json(run / SETTINGS_FILE, changed(*keys, value=value))
    with pytest.raises(UserError, match=f"{run / SETTINGS_FILE}: {message}"):
        choose(str(run), "npo", RECORD, resume=True)


def test_a_setting_that_the_run_does_not_have_is_named(run):
    more = changed("settings", "speed", value={"value": 1, "source": "this project"})
    with pytest.raises(UserError, match="its settings.json has no speed, now it is 1; resume with"):
        choose(str(run), "npo", more, resume=True)


def test_a_model_in_another_place_is_the_same_where_its_files_are(run):
    """Compared as the command says (files_of): here by the names of files without directories."""
    here = copy.deepcopy(RECORD)
    here["settings"]["model"] = {"value": "base", "source": "command line"}
    write_json(run / SETTINGS_FILE, here)
    moved = copy.deepcopy(here)
    moved["settings"]["model"]["value"] = "/else/where"
    moved["inputs"] = {"/else/where/model.safetensors": "ab"}

    def names(record):
        return {Path(key).name: value for key, value in record["inputs"].items()}

    assert choose(str(run), "npo", moved, resume=True, files_of=names) == run
    with pytest.raises(UserError, match="was run with model = 'base', now it is '/else/where'"):
        choose(str(run), "npo", moved, resume=True)
    moved["inputs"] = {"/else/where/model.safetensors": "cd"}
    with pytest.raises(UserError, match="was run with model = 'base', now it is '/else/where'"):
        choose(str(run), "npo", moved, resume=True, files_of=names)


def test_a_directory_with_other_content_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    assert choose(str(tmp_path / "empty"), "npo", RECORD, resume=False) == tmp_path / "empty"
    for out, resume, message in (
        (run, False, "holds another run"),
        (tmp_path, False, "holds files but no run"),
        (tmp_path / "file" / "below", False, "is a file"),
        (tmp_path / "empty", True, "there is no run to resume"),
        ("", True, "--resume needs --out"),
    ):
        with pytest.raises(UserError, match=message):
            choose(str(out), "npo", RECORD, resume)
