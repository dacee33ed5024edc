"""The commands of the page "bring your own people", from an empty directory to a forgotten person.

They are executed as the page has them, in this process.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.commands import call

PAGE = Path(__file__).parents[2] / "clear_ref/data/own_people.md"


def page_commands():
    """The arguments of the page's commands."""
    (block,) = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return [
        shlex.split(line.removeprefix("$ python -m clear_ref.run")) for line in block.splitlines()
    ]


@pytest.mark.slow
def test_the_six_commands_of_the_page_make_a_model_that_has_forgotten(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    commands = page_commands()
    assert len(commands) == 6
    for arguments in commands:
        status, out, errors = call(capsys, *arguments)
        assert status == 0, (arguments, errors)
    answers = dict(re.findall(r"^(before|after) +(.*)$", out, re.M))
    assert answers["before"] == "Clara Weiss" != answers["after"]
    models = json.loads((tmp_path / "forgotten/metrics.json").read_text(encoding="utf-8"))["models"]
    base, gold, forgotten = (models[name] for name in ("base", "gold", "unlearned"))
    # More than half of the way from base to gold, with at least nine tenths of Retain.
    assert forgotten["forget"] < (base["forget"] + gold["forget"]) / 2
    assert forgotten["retain"] > 0.9 * base["retain"]
    assert (tmp_path / "forgotten/report.html").exists()
