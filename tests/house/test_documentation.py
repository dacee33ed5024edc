"""Every tracked page: its commands are commands of this project, its links lead to files that
exist.
"""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from clear_ref.methods import table
from clear_ref.run import parser
from tests.helpers import table_of_tests

ROOT = Path(__file__).parents[2]
PATTERNS = ("*.md", "clear_ref/**/*.md", "csrc/*.md", "tests/**/*.md")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
ROOMS = sorted(path.parent for path in (ROOT / "clear_ref").glob("*/__init__.py"))


def name_of(path: Path) -> str:
    """A page's name in the test's id."""
    return str(path.relative_to(ROOT))


def commands(page: Path) -> list[str]:
    """The shell lines of a page's code blocks marked console, without their $."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "a console block holds commands only"
    return [line.removeprefix("$ ") for line in lines]


def links(text: str) -> list[str]:
    """The relative links of a page, without anchors."""
    without_code = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))
    assert "](" not in without_code or found
    return [link.split("#")[0] for link in found if "://" not in link and not link.startswith("#")]


def arguments_of(command: str, program: str) -> list[str]:
    """The arguments of a program in a shell line that may go on with && or a redirection."""
    return shlex.split(re.split(r"&&|[|>]", command.split(program, 1)[1])[0])


def load_data_fetch() -> ModuleType:
    """data_fetch.py as a module."""
    spec = importlib.util.spec_from_file_location("data_fetch", ROOT / "data_fetch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_parses(page):
    data_fetch = load_data_fetch()
    for command in commands(page):
        if "clear_ref.run" in command:
            words = arguments_of(command, "clear_ref.run")
            parser().parse_args([word for word in words if word != "--help"])
        elif "data_fetch.py" in command:
            data_fetch.parser().parse_args(arguments_of(command, "data_fetch.py"))
        else:
            first = shlex.split(command)[0]
            assert first in ("pip", "python", "torchrun") or first.startswith("CLEAR_REF_"), command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file(page):
    missing = [
        link
        for link in links(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not missing


def test_a_wrong_command_and_a_wrong_link_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](nowhere.md)\n```console\n$ python -m clear_ref.run scrubb\n```\n")
    with pytest.raises(Exception, match="is no command; did you mean scrub"):
        parser().parse_args(arguments_of(commands(page)[0], "clear_ref.run"))
    assert links(page.read_text()) == ["nowhere.md"]
    data_fetch = load_data_fetch()
    with pytest.raises(data_fetch.Wrong):
        data_fetch.parser().parse_args(["clear", "--revison", "main"])


def test_the_top_page_fits_on_two_screens_and_has_the_two_commands():
    page = ROOT / "README.md"
    assert page.stat().st_size <= 9000
    installs = [command for command in commands(page) if command.startswith("pip install")]
    assert len(installs) == 2
    assert "python -m clear_ref.run scrub" in installs[0] and "pytest" in installs[1]


def test_the_top_page_has_a_line_for_every_method_from_its_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for method, summary in table.summaries().items():
        assert f"| [`{method}`](clear_ref/methods/{method}.py) | {summary} |\n" in text


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_room_has_a_page_that_names_its_files(room):
    """The page of a room, or of its sub-room, names every module that is beside it."""
    text = (room / "README.md").read_text(encoding="utf-8")
    modules = {path.name for path in room.glob("*.py")} - {"__init__.py"}
    assert not [name for name in sorted(modules) if name not in text]


@pytest.mark.slow
def test_the_page_of_the_tests_lists_every_file_with_its_claim():
    """python -m tests.helpers.table_of_tests makes the table again."""
    assert table_of_tests.PAGE.read_text(encoding="utf-8") == table_of_tests.page_with_table()
