"""Fixtures of the tests of check-data and data_fetch.py."""

from types import SimpleNamespace

import pytest

from tests.helpers.data_directories import caption, perturbed, write
from tests.helpers.fetching import data_fetch


@pytest.fixture
def fetch(monkeypatch, capsys, tmp_path):
    """fetch(hub, item, ...) -> status, out, err of one run in this process, into tmp_path/out."""
    for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(hub, *arguments, token=None):
        monkeypatch.setenv("HF_ENDPOINT", hub.urls["hub"])
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        quick = {"--out": tmp_path / "out", "--wait": 0.01, "--retries": 2, "--timeout": 5}
        given = {argument.split("=")[0] for argument in arguments}
        own = [f"{name}={value}" for name, value in quick.items() if name not in given]
        status = data_fetch.main([*own, *arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(status=status, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def small(tmp_path):
    """Ten authors, one of them to forget; every relation between the configs is right."""
    rows = [caption(tmp_path, number) for number in range(10)]
    qa = [{"question": f"q{number}", "answer": f"a{number}"} for number in range(10)]
    for config, part in (
        ("full", slice(None)),
        ("forget10", slice(9, None)),
        ("retain90", slice(9)),
    ):
        write(tmp_path, config, rows[part])
        write(tmp_path, f"tofu/{config}", qa[part])
    write(tmp_path, "forget10_perturbed", [perturbed(rows[9])])
    write(tmp_path, "retain_perturbed", list(map(perturbed, rows[:4])))
    return tmp_path
