"""The ways in: python -m clear_ref, --version, hints for slips, README's Python block runs."""

import contextlib
import io
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import clear_ref
from clear_ref.common.errors import ShapeError, UserError
from clear_ref.mini.directories import BASE
from clear_ref.run import main
from tests.helpers.commands import call

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_package_runs_as_a_module_and_says_its_version():
    found = subprocess.run(
        [sys.executable, "-m", "clear_ref", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (found.returncode, found.stdout) == (0, f"clear_ref {clear_ref.__version__}\n")


def test_the_console_script_is_the_command_line():
    scripts = metadata.distribution("clear_ref").entry_points.select(group="console_scripts")
    named = {script.name: script.value for script in scripts}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'clear-ref = "clear_ref.run:main"' in text
    assert not named or named == {"clear-ref": "clear_ref.run:main"}


@pytest.mark.parametrize(
    "line, expected",
    [
        ("scrb", "'scrb' is no command; did you mean scrub?"),
        ("check_data mini", "'check_data' is no command; did you mean check-data?"),
        ("qqq", "argument COMMAND: invalid choice: 'qqq' (choose from "),
        ("scrub --epoch 3", "scrub: unrecognized arguments: --epoch 3; did you mean --epochs?"),
        ("evaluate mini --taks x", "evaluate: unrecognized arguments: --taks x; did you mean"),
        ("scrub --lr -1e-3", "lr is -0.001; expected a positive number"),
        ("scrub --lr -.5", "lr is -0.5; expected a positive number"),
        ("scrub --out -x", "after =, as in --lr=-1e-3; --help"),
        ("scrub --lr=-1e-3", "lr is -0.001; expected"),
        ("scrub --modality tex", "--modality is 'tex'; expected one of both, visual, text"),
        ("scrub --model llava-hf/llava-1.5-7b-hf", "For a model of the hub: python data_fetch.py"),
        ("evaluate llava-hf/llava-1.5-7b-hf", "For a model of the hub: python data_fetch.py"),
        ("vectors --out README.md", "README.md is a file; expected a directory to write into"),
    ],
)
def test_a_slip_is_one_line_that_says_what_was_meant(capsys, monkeypatch, line, expected):
    monkeypatch.chdir(ROOT)
    status, _, errors = call(capsys, *line.split())
    assert status == 2 and expected in errors and errors.count("\n") == 1


def test_load_takes_the_embedded_world_by_its_name():
    by_name = clear_ref.load("mini")
    assert by_name.directory == BASE
    with pytest.raises(UserError, match="model nowhere: no such directory"):
        clear_ref.load("nowhere")


@pytest.mark.slow
def test_the_python_block_of_the_readme_runs_as_printed(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), names)
    assert printed.getvalue().startswith("['Wei-Jun Chen']\n")
    gradients = [p.grad for p in names["vlm"].model.parameters() if p.requires_grad]
    assert any(float(gradient.abs().max()) > 0 for gradient in gradients)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [None, [[1.0, 2.0]], 3])
def test_token_terms_of_what_is_no_tensor_is_a_shape_error_that_names_it(place, value):
    tensors = [torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 4)]
    if place == 2 and value is None:
        return  # no teacher is allowed
    tensors[place] = value
    name = ("student_logits", "labels", "teacher_logits")[place]
    with pytest.raises(ShapeError, match=f"{name} is of type {type(value).__name__}; expected"):
        clear_ref.token_terms(*tensors)


def test_main_returns_the_exit_status_of_a_wrong_line(capsys):
    assert main(["scrb"]) == 2


@pytest.mark.parametrize(
    "line",
    [
        "visual scrub",
        "estimate visual",
        "estimate llava-1.5-7b",
        "explain visual scrub",
        "visual-oracle certify",
        "score DIR",
        "report DIR",
        "check-data mini",
        "make-data people.csv",
        "checkpoint llava-1.5-7b",
        "ask mini picture.jpg Who?",
    ],
)
def test_impl_is_refused_where_no_token_terms_are_computed(capsys, line):
    status, stdout, stderr = call(capsys, *line.split(), "--impl", "torch")
    assert status == 2 and stdout == "" and "--impl" in stderr and stderr.count("\n") == 1
