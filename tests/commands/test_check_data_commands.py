"""check-data says of each command what the command does with the data: it resolves, or it stops.

Configs are removed from a small data directory, one by one, and rows and pictures are damaged. Each
command is then resolved (nothing is trained): it stops exactly where check-data says so.
"""

import json
import shutil

import pytest

from clear_ref.commands import all_methods, evaluate, finetune, metrics_audit, sequence, unlearn
from clear_ref.commands.audit_settings import MetricsAudit
from clear_ref.commands.data_needs import NO, SOME, WITH_TASKS, YES, data_needs
from clear_ref.commands.data_needs_further import further_needs
from clear_ref.commands.given import Given
from clear_ref.commands.settings import Evaluate, Finetune, Unlearn
from clear_ref.common.errors import UserError
from clear_ref.data.check import examine
from tests.helpers.commands import call
from tests.helpers.model_state import write_text_model
from tests.helpers.own_people import small_data

METHODS = ("scrub", "sku")  # sku also needs random answers


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data directory with nine people, of whom the first four are forgotten."""
    names = [f"Person Number{letter}" for letter in "ABCDEFGHI"]
    return small_data(tmp_path_factory.mktemp("people"), names, n_forget=4)


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def remove(data, config):
    (data / config / "rows.jsonl").unlink()


def stops(command, data, model, tasks):
    """Whether a command stops; its other inputs are right."""
    words = command.split()
    common = {"data": str(data), "tasks": tasks}
    if model:
        common["model"] = str(model)
    try:
        if words[0] == "METHOD":
            for method in METHODS:
                settings = Unlearn(**common, method=method, modality=words[2])
                unlearn.resolve(settings, Given(), False)
        elif words[0] == "all":
            modalities = words[2] if len(words) > 1 else "both"
            every = ["both", "visual", "text"] if modalities == "each" else [modalities]
            all_methods.resolve(Unlearn(**common), METHODS, every, [0], Given(), False)
        elif words[0] == "finetune":
            finetune.resolve(Finetune(**common, split=words[2]), Given(), False)
        else:
            settings = Evaluate(**common, robustness=len(words) == 2)
            evaluate.resolve(settings, Given(frozenset({"data"})), False)
    except UserError:
        return True
    return False


def compare(data, model="", every=False):
    """Compare check-data with the commands of --forget 10; returns what check-data says.

    model  a language model; "": that of the embedded world
    every  `all` is compared too
    """
    said = {}
    for use in data_needs(data, examine(data)):
        if use["forget"] != 10 or use["language_model"] != bool(model):
            continue
        command = use["command"]
        said[command] = use
        if command.startswith("all") and not every:
            continue
        assert stops(command, data, model, "all") == (use["runs"] != YES), use
        if use["runs"] == WITH_TASKS:
            assert not stops(command, data, model, use["tasks"]), use
    return said


CONFIGS = (
    *("full", "full+tofu", "retain90", "retain90+tofu", "forget10", "forget10+tofu"),
    *("tofu/full", "tofu/retain90", "tofu/forget10", "real_faces", "real_world"),
    *("forget10_perturbed", "retain_perturbed"),
    *("tofu/forget10_perturbed", "tofu/retain_perturbed"),
)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_without_one_config_each_command_does_what_check_data_says(data, config):
    remove(data, config)
    said = compare(data)
    for use in said.values():
        assert (config in use["missing"]) == (config in use["needs"])
        assert (use["runs"] == YES) == (use["reason"] == "")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["retain90+tofu", "tofu/forget10"])
def test_all_does_what_check_data_says(data, config):
    remove(data, config)
    said = compare(data, every=True)
    assert said["all --modality each"]["runs"] == NO
    assert said["all"]["runs"] == (NO if config == "retain90+tofu" else YES)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["", "tofu/full", "tofu/retain90", "tofu/forget10_perturbed"])
def test_a_language_model_does_what_check_data_says(data, config, tmp_path):
    """Its Real sets may be missing; without config all that it needs is text."""
    if config:
        remove(data, config)
    for picture_config in (*CONFIGS[:6], *CONFIGS[9:13]):
        remove(data, picture_config)
    said = compare(data, write_text_model(tmp_path / "model"))
    assert said["evaluate"]["runs"] == (WITH_TASKS if "perturbed" in config else YES)
    assert said["finetune --split full"]["runs"] != (YES if config == "tofu/full" else NO)


def damaged(data, config, text):
    (data / config / "rows.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_wrong_rows_broken_pictures_and_few_rows_stop_commands_as_said(data, whole):
    """By hand: a row of real_world is wrong; the picture of a retained person is broken; and of one
    forget record, sku can take no random answer of other forget records."""
    damaged(data, "real_world", '{"question": 3}\n')
    said = compare(data)
    assert all(use["wrong"] == ["real_world"] for use in said.values())
    assert said["evaluate"]["runs"] == WITH_TASKS
    shutil.copy(whole / "real_world/rows.jsonl", data / "real_world/rows.jsonl")
    (data / "images/people/8.png").write_bytes(b"?")
    said = compare(data)
    assert said["finetune --split retain"]["runs"] == NO
    assert "8.png" in said["finetune --split retain"]["reason"]
    assert said["evaluate"]["runs"] == WITH_TASKS and "eval_log_forget" in said["evaluate"]["tasks"]
    shutil.copy(whole / "images/people/8.png", data / "images/people/8.png")
    line = (data / "tofu/forget10/rows.jsonl").read_text(encoding="utf-8").splitlines()[0]
    damaged(data, "tofu/forget10", line + "\n")
    use = compare(data)["METHOD --modality text"]
    assert use["runs"] == SOME and "sku cannot run: the forget set has 1 records" in use["reason"]


def test_check_data_says_what_is_missing_and_with_which_tasks_a_command_runs(data, capsys):
    remove(data, "real_faces")
    status, out, errors = call(capsys, "check-data", data)
    assert status == 0 and errors == ""
    assert "no problems" in out and "--forget 1, 5: no config of forget01, forget05" in out
    assert "missing: real_faces; runs with --tasks eval_real_world_wo_options,eval_log_for" in out
    found = json.loads(call(capsys, "check-data", data, "--json")[1])
    [use] = [
        each
        for each in found["commands"]
        if (each["command"], each["forget"], each["language_model"]) == ("evaluate", 10, False)
    ]
    assert use["needs"] == [
        *("forget10+tofu", "forget10", "tofu/forget10", "real_faces", "real_world"),
        *("forget10_perturbed", "retain_perturbed"),
        *("tofu/forget10_perturbed", "tofu/retain_perturbed"),
    ]
    assert (use["missing"], use["wrong"], use["runs"]) == (["real_faces"], [], "--tasks")


def test_the_exit_status_is_1_where_no_command_can_run(data, capsys):
    for config in CONFIGS:
        if config != "full":
            remove(data, config)
    status, out, errors = call(capsys, "check-data", data)
    assert status == 1 and "no problems" in out
    assert errors.endswith("no command can run with it, as listed above\n")
    assert errors.count("\n") == 1


def further(data, command):
    """What check-data says of one further command with --forget 10 of the embedded world's kind."""
    uses = further_needs(data, examine(data))
    [use] = [
        each
        for each in uses
        if (each["command"], each["forget"], each["language_model"]) == (command, 10, False)
    ]
    return use


def stops_further(command, data):
    """Whether a further command stops; its other inputs are right."""
    common = {"data": str(data)}
    names = ",".join(f"Person Number{letter}" for letter in "ABCD")
    try:
        if command == "evaluate --leakage":
            evaluate.resolve(Evaluate(**common, leakage=True), Given(), False)
        elif command == "metrics-audit":
            metrics_audit.resolve(MetricsAudit(**common, metrics="mmunlearner"), Given(), False)
        else:
            settings = Unlearn(**common, method="retain_ft", sequence=names)
            sequence.resolve(settings, Given(), False)
    except UserError:
        return True
    return False


@pytest.mark.filterwarnings("ignore::clear_ref.common.errors.Notice")
@pytest.mark.parametrize(
    "config", ["", "full", "forget10", "retain90+tofu", "forget10_perturbed", "real_faces"]
)
@pytest.mark.parametrize(
    "command", ["evaluate --leakage", "METHOD --sequence PEOPLE", "metrics-audit"]
)
def test_further_commands_do_what_check_data_says(data, config, command):
    if config:
        remove(data, config)
    use = further(data, command)
    assert (use["runs"] == YES) == (not stops_further(command, data)), use
    assert (config in use["missing"]) == (config in use["needs"])


def test_visual_runs_with_the_embedded_world(capsys):
    stdout = call(capsys, "check-data", "mini")[1]
    for command in ("visual", "metrics-audit", "evaluate --leakage", "METHOD --sequence PEOPLE"):
        [line] = [each for each in stdout.splitlines() if each.startswith(f"{command}  ")]
        assert line.split()[-1] == YES
