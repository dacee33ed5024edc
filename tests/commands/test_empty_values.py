"""An option with an empty value, as of a variable of the shell that is not set, is refused."""

import pytest

from clear_ref.commands.parser import parser
from clear_ref.common.errors import UserError
from tests.helpers.commands import call

COMMANDS = parser().commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_refuses_an_empty_value(command):
    """Options of numbers say which number they expect."""
    made = COMMANDS[command]
    options = [each for each in made._actions if each.option_strings and each.nargs != 0]
    assert bool(options) == (command != "check-data")
    for action in options:
        option = action.option_strings[-1]
        for words in ([option, ""], [f"{option}="], [option, "  "]):
            with pytest.raises(UserError) as error:
                made.parse_args(words)
            said = str(error.value)
            assert f"{option} is '" in said or f"{option}: invalid" in said, said
            assert "\n" not in said


def test_no_run_begins_with_an_empty_sequence(capsys, tmp_path):
    """It forgot all people at once."""
    status, stdout, stderr = call(capsys, "npo", "--sequence", "", "--out", tmp_path / "run")
    expected = "npo: --sequence is ''; expected a value, or no --sequence; --help shows what"
    assert status == 2 and stdout == "" and expected in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_beside_settings_an_empty_value_takes_back_what_the_file_has():
    words = ["npo", "--settings", "runs/before", "--sequence", "", "--tasks="]
    found = parser("npo").parse_args(words)
    assert (found.sequence, found.tasks, found.settings_file) == ("", "", "runs/before")
    with pytest.raises(UserError, match="--settings is ''"):
        parser("npo").parse_args(["npo", "--settings", ""])


def test_an_empty_argument_that_is_no_option_is_its_command_s(capsys):
    status, _, stderr = call(capsys, "check-data", "")
    assert status == 2 and "data is ''; expected mini or a directory" in stderr
