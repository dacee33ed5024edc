"""visual --resume --out DIR continues with the settings, recipes and options that the run in DIR
began with; another value of what has a result, and a settings.json that no run writes, are refused.

The people are six colours with noise, the network has two channels.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from clear_ref import run
from clear_ref.commands.visual import processes_of
from clear_ref.commands.visual_settings import Visual
from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from tests.helpers import made_runs
from tests.helpers.small_faces import arguments, write_faces


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run of twins, with many values of its own."""
    folder = tmp_path_factory.mktemp("run")
    own = ("--metrics=all", "--seed=3", "--set=twins.distance=kl", "--train=twins.momentum=0.5")
    faces = write_faces(folder / "data")
    assert run.main(arguments(faces, folder / "out", "twins", *own, "--processes=1")) == 0
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "out")


def resume(out, method="twins", *more):
    """The exit status of --resume --out with no other option than those of `more`."""
    return run.main(["visual", method, "--quiet", "--resume", f"--out={out}", *more])


def record_of(out):
    """Its settings.json, without the directory's name."""
    found = json.loads((out / "settings.json").read_text())
    del found["settings"]["out"]
    return found


def test_nothing_needs_to_be_given_again(out, finished):
    gold = [out / f"splits/002/gold.{each}" for each in ("json", "cosines.safetensors")]
    gold[0].unlink()
    before = gold[1].read_bytes()
    gold[1].unlink()
    assert resume(out) == 0
    assert gold[1].read_bytes() == before
    assert record_of(out) == record_of(finished)
    assert record_of(out)["settings"]["seed"] == {"value": 3, "source": "command line"}
    summaries = [json.loads((each / "metrics.json").read_text()) for each in (out, finished)]
    assert summaries[0]["models"] == summaries[1]["models"]
    assert summaries[0]["metrics"] == ["paper", "released"]


def test_what_is_given_again_may_be_what_it_was(out, finished):
    more = ("--seed=3", "--train=base.epochs=2", "--set=twins.distance=kl", "--splits=4")
    assert resume(out, "twins", *more) == 0
    assert record_of(out) == record_of(finished)


@pytest.mark.parametrize(
    "option, message",
    [
        ("--seed=4", "was run with seed = 3, now it is 4"),
        ("--splits=8", "was run with splits = 4, now it is 8"),
        ("--size=16", "was run with size = 32, now it is 16"),
        ("--semantics=released", "was run with semantics = 'paper', now it is 'released'"),
        ("--train=gold.epochs=3", "was run with train gold = 'epochs 2, batch_size 6, "),
        ("--train=twins.momentum=0.9", "was run with train twins = "),
        ("--set=twins.distance=l2", "was run with twins.distance = 'kl', now it is 'l2'"),
    ],
)
def test_another_value_than_that_of_the_start_is_refused(out, finished, capsys, option, message):
    assert resume(out, "twins", option) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert record_of(out) == record_of(finished)


def test_another_method_can_be_added_with_values_of_its_own(out):
    """And the values of the first stay, with their sources."""
    own = [f"--train=retain_ft.{value}" for value in ("epochs=1", "batch_size=6", "lr=0.05")]
    assert resume(out, "retain_ft", *own) == 0
    record = record_of(out)
    assert list(json.loads((out / "metrics.json").read_text())["models"])[2:] == [
        "retain_ft",
        "twins",
    ]
    assert record["options"]["twins.distance"] == {"value": "kl", "source": "command line"}
    assert "momentum 0.5" in record["settings"]["train twins"]["value"]
    assert record["settings"]["train retain_ft"]["value"].startswith("epochs 1, batch_size 6, lr 0")
    assert resume(out, "all", "--train=retain_ft.lr=0.1") == 2


def test_files_in_another_place_are_the_same_inputs(tmp_path, monkeypatch, capsys):
    """Moved, and named from another directory; a file with other bytes is refused."""
    faces = write_faces(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments(Path("data"), "out", "twins", "--processes=1")) == 0
    faces.rename(tmp_path / "moved")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    capsys.readouterr()
    assert resume("../out") == 2
    assert "data" in capsys.readouterr().err
    network, *lists = ("start.safetensors", "forget.txt", "holdout.txt")
    moved = Path("../moved")
    named = [f"--data={moved}", f"--network={moved / network}"]
    named += [f"--{each.removesuffix('.txt')}-names={moved / each}" for each in lists]
    assert resume("../out", "twins", *named) == 0
    assert json.loads(Path("../out/settings.json").read_text())["settings"]["network"] == {
        "value": f"../moved/{network}",
        "source": "command line",
    }
    (moved / "holdout.txt").write_text("Cem\n")
    capsys.readouterr()
    assert resume("../out", "twins", *named) == 2
    said = capsys.readouterr().err
    assert "its inputs have changed since (../moved/holdout.txt)" in said, said


def test_settings_that_change_no_number_can_be_given_anew(out):
    assert resume(out, "twins", "--metrics=paper") == 0
    assert json.loads((out / "metrics.json").read_text())["metrics"] == ["paper"]


RECIPE = "expected a text with a value of each of epochs, batch_size, lr, momentum, "
DAMAGE = [
    (("settings",), [], "settings is []; expected an object, as a run writes it; put back"),
    (("settings", "train gold"), 5, "settings.train gold is 5; expected an object with value and"),
    (("settings", "train gold", "value"), 5, f"train gold is 5; {RECIPE}"),
    (("settings", "train gold", "value"), "epochs 3", f"train gold is 'epochs 3'; {RECIPE}"),
    (("settings", "seed", "value"), "3", "setting seed is '3'; expected int"),
    (("settings", "semantics", "value"), "mine", "setting semantics is 'mine'; expected one of pa"),
    (("settings", "semantics", "value"), None, "setting semantics is None; expected str"),
    (
        ("settings", "speed"),
        {"value": 1, "source": ""},
        "has the setting speed, which this",
    ),
    (("options", "twins.width"), {"value": 1, "source": ""}, "has the option twins.width, which"),
    (("options", "rmu.c", "value"), "x", "rmu: option c is 'x'; expected a float; put back"),
    (("options", "dpo.beta", "value"), 0, "dpo: option beta is 0.0; expected a number above 0"),
    (("inputs",), 5, "inputs is 5; expected an object"),
]


@pytest.mark.parametrize("keys, value, message", DAMAGE)
def test_a_damaged_settings_file_is_one_line(out, capsys, keys, value, message):
    """The file, the key and what is expected."""
    file = out / "settings.json"
    found = place = json.loads(file.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(found))
    assert resume(out) == 2
    said = capsys.readouterr().err
    assert f"{file}: {message}" in said and said.count("\n") == 1


def test_a_wrong_value_in_a_recipe_is_one_line(out, capsys):
    file = out / "settings.json"
    file.write_text(file.read_text().replace("momentum 0.5", "momentum -1"))
    assert resume(out) == 2
    said = capsys.readouterr().err
    assert f"{file}: train twins: momentum is -1.0; expected a finite number" in said


@pytest.mark.parametrize("name", ["splits", "train gold"])
def test_a_setting_that_is_missing_is_named(out, capsys, name):
    """Defaults are not taken for it: gold has results."""
    file = out / "settings.json"
    found = json.loads(file.read_text())
    del found["settings"][name]
    file.write_text(json.dumps(found))
    assert resume(out) == 2
    said = capsys.readouterr().err
    assert f"its settings.json has no {name}, now it is " in said and said.count("\n") == 1


def test_a_run_of_another_command_is_named(tmp_path, capsys):
    made_runs.write(tmp_path / "scrub")
    assert resume(tmp_path / "scrub") == 2
    said = capsys.readouterr().err
    assert "settings.json: is of scrub; expected one of visual: for that run it is python" in said
    assert "scrub --resume --out" in said and said.count("\n") == 1


def test_the_command_of_a_visual_run_is_named_with_its_method(out, capsys):
    assert run.main(["npo", "--resume", f"--out={out}"]) == 2
    assert f"python -m clear_ref.run visual twins --resume --out {out}\n" in capsys.readouterr().err


def test_a_value_that_the_run_has_may_be_given_again_though_it_is_not_read(out, capsys):
    """As older versions took it; another value of it is refused."""
    file = out / "settings.json"
    record = json.loads(file.read_text())
    recipe = record["settings"]["train gold"]["value"]
    fields = dict(pair.split(" ", 1) for pair in recipe.split(", "))
    assert fields["schedule"] == "warmup_cosine"
    words = f"--train=gold.schedule_steps={fields['schedule_steps']}"
    assert resume(out, "twins", words) == 0
    assert resume(out, "twins", "--train=gold.schedule_steps=77") == 2
    assert "--train gold.schedule_steps: gold does not read it" in capsys.readouterr().err


def test_under_torchrun_there_are_as_many_processes_as_it_started(monkeypatch):
    """So a number that a start without torchrun was given does not make all train everything."""
    monkeypatch.setattr(distributed, "size", lambda: 4)
    assert processes_of(Visual(processes=1), set(), torch.device("cpu")) == 4
    with pytest.raises(UserError, match="--processes is 1, and torchrun started 4; leave it out"):
        processes_of(Visual(processes=1), {"processes"}, torch.device("cpu"))


class TestAnotherRecipeOfBase:
    """Base has no result left, and what began with it has, or failed."""

    @pytest.mark.parametrize("ending", ["json", "failed.json"])
    def test_it_is_refused_while_a_method_is_there_that_began_with_it(self, out, capsys, ending):
        for split in out.glob("splits/[0-9]*"):
            (split / "base.json").unlink()
            (split / "twins.json").rename(split / f"twins.{ending}")
        before = {path: path.read_bytes() for path in out.rglob("*.*")}
        assert resume(out, "twins", "--train=base.lr=0.3") == 2
        said = capsys.readouterr().err
        assert f"--out {out}: twins began with a base of lr 0.1, now it is lr 0.3; resume" in said
        assert "or remove what began with that base: splits/*/twins.*\n" in said
        assert said.count("\n") == 1
        assert {path: path.read_bytes() for path in out.rglob("*.*")} == before

    def test_where_nothing_is_left_of_it_it_is_taken(self, out):
        for path in (*out.glob("splits/*/base.json"), *out.glob("splits/*/twins.*")):
            path.unlink()
        assert resume(out, "twins", "--train=base.lr=0.3") == 0
        assert "lr 0.3" in record_of(out)["settings"]["train base"]["value"]

    def test_of_gold_it_is_taken_as_no_training_begins_with_gold(self, out):
        for path in out.glob("splits/*/gold.json"):
            path.unlink()
        assert resume(out, "twins", "--train=gold.lr=0.3") == 0

    def test_a_settings_file_without_it_is_named(self, out, capsys):
        """Its default is not taken for the recipe of the base that is gone."""
        for path in out.glob("splits/*/base.json"):
            path.unlink()
        file = out / "settings.json"
        found = json.loads(file.read_text())
        del found["settings"]["train base"]
        file.write_text(json.dumps(found))
        assert resume(out) == 2
        assert "its settings.json has no train base, now it is " in capsys.readouterr().err


class TestAMethodThatFailed:
    @pytest.fixture
    def failed(self, out):
        """The run, to which a retain_ft was added that failed in every split."""
        own = [f"--train=retain_ft.{value}" for value in ("epochs=2", "batch_size=6", "lr=1e30")]
        assert resume(out, "retain_ft", *own) == 1
        return out

    def test_it_stays_named_when_another_method_is_resumed(self, failed, tmp_path, capsys):
        """With its reason: in metrics.json, the tables and a report; the start itself is done."""
        reasons = json.loads((failed / "metrics.json").read_text())["failed"]
        assert len(reasons) == 4 and reasons[0].startswith("split 0, retain_ft (paper), step ")
        capsys.readouterr()
        assert resume(failed, "twins") == 0
        said = capsys.readouterr().out
        assert "retain_ft (failed)" in said and "failed: split 0, retain_ft (paper), step" in said
        assert json.loads((failed / "metrics.json").read_text())["failed"] == reasons
        assert "retain_ft (failed)" in (failed / "leaderboard.md").read_text()
        assert run.main(["report", str(failed), "--out", str(tmp_path / "report")]) == 0
        assert "retain_ft (failed)" in (tmp_path / "report/leaderboard.md").read_text()

    def test_it_is_named_until_it_is_trained_with_success(self, failed, capsys):
        assert resume(failed, "retain_ft") == 1
        assert "the run failed: split 0, retain_ft (paper)" in capsys.readouterr().err
        assert resume(failed, "retain_ft", "--train=retain_ft.lr=0.01") == 0
        assert json.loads((failed / "metrics.json").read_text())["failed"] == []
        assert not list(failed.glob("splits/*/*.failed.json"))

    def test_a_changed_file_of_it_is_named(self, failed, capsys):
        path = failed / "splits/002/retain_ft.failed.json"
        for text, message in (
            ("{", "not JSON"),
            (path.read_text().replace('"split": 2', '"split": 3'), "split is 3, expected 2"),
            (path.read_text().replace('"reason": "', '"reason": 5, "x": "'), "reason is 5, expect"),
        ):
            path.write_text(text)
            capsys.readouterr()
            assert resume(failed, "twins") == 2
            said = capsys.readouterr().err
            assert f"{path}: is not the failure of split 2, retain_ft ({message}" in said
            assert "; remove it, and visual retain_ft --resume --out DIR trains it again" in said
