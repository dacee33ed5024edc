"""Fixtures of the tests of data_fetch.py."""

from types import SimpleNamespace

import pytest

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
        quick = [
            "--out",
            str(tmp_path / "out"),
            "--wait",
            "0.01",
            "--retries",
            "2",
            "--timeout",
            "5",
        ]
        status = data_fetch.main([*quick, *arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(status=status, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"
