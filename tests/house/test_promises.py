"""The page "What it promises": each promise names a test, and each named test exists."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "clear_ref" / "PROMISES.md"
NAMED = re.compile(r"\[(test_\w+)\]\((\S+\.py)\)")


def rows():
    """The cells of every row of the tables of promises."""
    text = PAGE.read_text(encoding="utf-8")
    tables = re.findall(r"\| promise \| limit \| test \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", text)
    assert tables
    return [line.strip("|").split(" | ") for table in tables for line in table.splitlines()]


def missing(file, test):
    """True unless a test function of this name is in the file."""
    path = (PAGE.parent / file).resolve()
    if not path.is_file() or not path.is_relative_to(PAGE.parents[1] / "tests"):
        return True
    return not re.search(rf"^( {{4}})?def {test}\(", path.read_text(encoding="utf-8"), re.M)


def test_each_promise_names_a_test():
    assert all(NAMED.search(cells[-1]) for cells in rows())


def test_each_named_test_exists():
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) >= len(rows())
    assert not [f"{test} in {file}" for test, file in named if missing(file, test)]


def test_a_test_that_does_not_exist_is_seen():
    file = "../tests/house/test_promises.py"
    assert not missing(file, "test_each_promise_names_a_test")
    assert missing(file, "test_each_promise") and missing("../tests/house/none.py", "test_x")
