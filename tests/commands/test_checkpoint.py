"""checkpoint SHAPE: what the command checks before it writes, and what it prints."""

import json

import pytest

from clear_ref.commands import checkpoint
from clear_ref.commands.file_settings import CheckpointSettings
from clear_ref.common.errors import UserError
from tests.helpers.commands import call


@pytest.mark.parametrize(
    "settings, shape, message",
    [
        ({"out": "x"}, "gpt-2", "shape is 'gpt-2'; expected one of llava-78m"),
        ({}, "llava-78m", "checkpoint needs --out"),
        ({"out": "x", "dtype": "int8"}, "llava-78m", "dtype is 'int8'"),
        ({"out": "x", "layers": -1}, "llava-78m", "--layers is -1"),
        ({"out": "x", "shard_gb": float("nan")}, "llava-78m", "--shard-gb is nan"),
        ({"out": "x", "shard_gb": float("inf")}, "llava-78m", "--shard-gb is inf"),
        ({"out": "x", "layers": 10**9}, "llava-78m", "num_hidden_layers is 1000000000"),
        ({"out": "x", "shard_gb": 0.0}, "llava-78m", "--shard-gb is 0.0"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    settings, shape, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        checkpoint.run(shape, CheckpointSettings(**settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_says_what_it_wrote(tmp_path, capsys):
    status, out, _ = call(
        capsys, "checkpoint", "llava-78m", "--layers", 1, "--json", "--out", tmp_path / "m"
    )
    written = json.loads(out)
    assert status == 0
    assert written["files"] == 1
    assert written["bytes"] > 2 * written["parameters"]
