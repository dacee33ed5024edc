"""The house: arrows between rooms, imports, file sizes, no network, no pickle, a README that says what the code does."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clear_ref"
FILES = sorted(PACKAGE.glob("**/*.py"))
ROOMS = ("data", "model", "losses", "methods", "loop", "evaluation", "report", "oracle")
GROUND = {"errors", "files", "progress", "settings", "world", "forked"}  # any room may stand on these; they stand on each other alone
RUN_TIME = {"torch", "safetensors", "PIL", "numpy", "tokenizers"}


def imports(path):
    """(module, line) of every import of a file, relative ones resolved."""
    package = ["clear_ref", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def room(parts):
    return parts[0] if parts and parts[0] in ROOMS else None


def backward(path, module):
    """Whether this import goes against the flow."""
    parts = module.split(".")
    if parts[0] != "clear_ref":
        return False
    here, there = room(path.relative_to(PACKAGE).parts), room(parts[1:])
    if here is None:
        own = path.stem
        return own in GROUND and (there is not None or parts[1] not in GROUND)
    if there is None:
        return parts[1] not in GROUND
    return ROOMS.index(there) > ROOMS.index(here)


def test_data_flows_one_way():
    wrong = [f"{path.relative_to(ROOT)}:{line} imports {module}" for path in FILES for module, line in imports(path)
             if backward(path, module)]
    assert not wrong, wrong


def test_the_arrow_test_can_fail():
    assert backward(PACKAGE / "data" / "x.py", "clear_ref.model.vlm")
    assert backward(PACKAGE / "losses" / "x.py", "clear_ref.experiment")
    assert backward(PACKAGE / "files.py", "clear_ref.data.records")
    assert not backward(PACKAGE / "loop" / "x.py", "clear_ref.losses.terms")


def test_only_the_five_run_time_packages_are_imported():
    outside = {(module.split(".")[0], str(path.relative_to(ROOT))) for path in FILES for module, _ in imports(path)}
    foreign = {pair for pair in outside if pair[0] not in RUN_TIME | {"clear_ref"} | sys.stdlib_module_names}
    assert not foreign


def test_nothing_is_pickled_and_nothing_reaches_the_network():
    banned = {"pickle", "shelve", "marshal", "urllib", "http", "socket", "ftplib", "requests"}
    found = [f"{path.name}:{line} {module}" for path in FILES for module, line in imports(path) if module.split(".")[0] in banned]
    assert not found
    calls = re.compile(r"torch\.(load|save)\(|allow_pickle\s*=\s*True|torch\.hub")
    assert not [path.name for path in FILES if calls.search(path.read_text(encoding="utf-8"))]


def test_files_have_one_duty_and_lines_fit():
    """Methods up to 100 lines, every other module up to 300; lines up to 130 columns."""
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= (100 if path.parent.name == "methods" else 300), f"{path}: {len(lines)} lines"
        assert max(map(len, lines), default=0) <= 130, f"{path}: a line of {max(map(len, lines))} columns"


def test_public_functions_say_what_comes_back():
    """Every public function of a module has a docstring, but the variants of a method: their file's head is their docstring."""
    missing = []
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                if not (path.parent.name == "methods" and node.name in ("paper", "original", "released", "needs")):
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing, missing


def test_no_unfinished_words_and_no_private_paths():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b|(^|[^A-Za-z])/(work|root|farm)/")
    texts = [*FILES, ROOT / "README.md", ROOT / "setup.py", ROOT / "pyproject.toml", *(ROOT / ".ci").glob("*")]
    assert not [str(path) for path in texts if words.search(path.read_text(encoding="utf-8"))]


def test_constraints_pin_every_run_time_package():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {"torch", "safetensors", "pillow", "numpy", "tokenizers", "pytest", "transformers", "peft"} <= pinned


def readme_commands():
    """The shell lines of README's code blocks marked console, without their $."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_readme_commands_are_commands_of_this_package():
    """Every `python -m clear_ref.run ...` in README parses."""
    from clear_ref.run import parser
    found = [command.split("clear_ref.run", 1)[1].split("&&")[0] for command in readme_commands() if "clear_ref.run" in command]
    assert any(command.strip() == "scrub" for command in found)
    for command in found:
        parser().parse_args([word for word in command.split() if word != "--help"])


def test_readme_lists_every_method():
    from clear_ref.methods import METHODS
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{method}`" in text for method in METHODS)


@pytest.mark.parametrize("command", ["", "scrub", "all", "finetune", "evaluate", "score", "mini", "doctor"])
def test_help_names_every_setting_with_its_source(command):
    done = subprocess.run([sys.executable, "-m", "clear_ref.run", *command.split(), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:")
    if command == "scrub":
        for expected in ("--semantics", "--lora-rank", "paper App. H", "alpha=1.0", "--resume", "default"):
            assert expected in done.stdout
