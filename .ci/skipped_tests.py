"""pytest plugin: writes which tests were skipped, and in a later pass runs these alone.

usage    PYTHONPATH=.ci python -m pytest -p skipped_tests --write-skipped FILE ...
         PYTHONPATH=.ci python -m pytest -p skipped_tests --only-skipped FILE ...
FILE     the id of a test on each line, or of a file that was skipped as a whole
exits    1 if a line of FILE had no test in the later pass
"""

import os
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--write-skipped", metavar="FILE", type=Path)
    parser.addoption("--only-skipped", metavar="FILE", type=Path)


def pytest_configure(config):
    os.environ.pop("PYTEST_ADDOPTS", None)  # a pytest that a test starts has no such options
    if config.option.write_skipped is not None:
        config.pluginmanager.register(Writer(config.option.write_skipped))
    if config.option.only_skipped is not None:
        lines = config.option.only_skipped.read_text(encoding="utf-8").split("\n")
        config.pluginmanager.register(Chooser({line for line in lines if line}))


class Writer:
    """Each process of xdist adds a line for what it skips; it collects all files, so lines repeat.

    The first process gets one report for all files that a helper skips at the same line.
    """

    def __init__(self, path):
        self._path = path

    def _write(self, report):
        if report.skipped:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{report.nodeid}\n")

    pytest_collectreport = pytest_runtest_logreport = _write


class Chooser:
    """Runs the tests with these ids and those of the files with these names."""

    def __init__(self, wanted):
        self._wanted, self._missing = wanted, set(wanted)

    def pytest_collection_modifyitems(self, config, items):
        chosen = [each for each in items if self._wanted & names(each.nodeid)]
        config.hook.pytest_deselected(items=[each for each in items if each not in set(chosen)])
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        self._missing -= names(report.nodeid)

    def pytest_sessionfinish(self, session):
        if self._missing and not hasattr(session.config, "workerinput"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for name in sorted(self._missing):
            terminalreporter.write_line(f"ERROR {name}: was skipped before and has not been run")


def names(nodeid):
    """The id of a test, and of its file."""
    return {nodeid, nodeid.split("::")[0]}
