"""data_fetch.py with wrong input: one line on stderr that names it, and exit status 2.

Run: python -m pytest tests/data/test_data_fetch_input.py
"""

import json
from types import SimpleNamespace

import pytest

from tests.helpers.fetching import (
    failed,
    model_hub,
)


class TestInput:
    def test_a_wrong_command_line_is_one_line(self, fetch):
        with model_hub().running() as hub:
            assert failed(fetch(hub, "org/model", "--retry", "many"), 2, "--help shows")
            assert failed(
                fetch(hub, "org/model", "--only", "full"),
                2,
                "--only full: a checkpoint is fetched as a whole",
            )

    @pytest.mark.parametrize(
        "option, value",
        [
            *(("--timeout", value) for value in ("inf", "1e30", "0", "-1", "nan", "soon")),
            *(("--wait", value) for value in ("nan", "-1", "inf")),
            *(("--retries", value) for value in ("-3", "1.5", "1e9")),
            *(
                (option, value)
                for option in ("--out", "--revision", "--only")
                for value in ("", " ")
            ),
            ("--only", ","),
        ],
    )
    def test_an_impossible_value_is_one_line_that_names_its_option(self, fetch, option, value):
        with model_hub().running() as hub:
            assert failed(
                fetch(hub, "org/model", f"{option}={value}"),
                2,
                f"argument {option}: ",
                "found; expected",
            )
            assert not hub.log

    @pytest.mark.parametrize("option", ["--out", "--revision", "--only", "--retries"])
    def test_an_option_given_twice_is_refused(self, fetch, option):
        with model_hub().running() as hub:
            assert failed(
                fetch(hub, "org/model", f"{option}=1", f"{option}=2"),
                2,
                f"argument {option}: given twice",
            )
            assert not hub.log

    def test_an_impossible_address_is_one_line_that_names_the_variable(self, fetch):
        for endpoint in ("http://[x", "https://[::1/hub"):
            assert failed(
                fetch(SimpleNamespace(urls={"hub": endpoint}), "org/model"),
                2,
                "HF_ENDPOINT is",
                endpoint,
            )

    def test_a_file_in_the_way_is_one_line_before_any_request(self, fetch, out, tmp_path):
        (tmp_path / "file").write_text("mine")
        (out / "fetched").mkdir(parents=True)
        (out / "fetched/parts").symlink_to("nowhere")
        with model_hub().running() as hub:
            for directory in (tmp_path / "file", tmp_path / "file/below", out):
                for item in ("tofu", "org/model"):
                    assert failed(
                        fetch(hub, item, "--out", str(directory)), 2, "in the way", "another --out"
                    )
            assert not hub.log and (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize(
        "change",
        [
            {"files": [1]},
            {"files": 5},
            {"files": [{"path": "model.safetensors"}]},
            {"files": {}},
            {"files": None},
            {
                "files": [
                    {"path": "model.safetensors", "size": "9", "sha256": "0" * 64, "git": None}
                ]
            },
            {"files": [{"path": "model.safetensors", "size": 9, "sha256": None, "git": None}]},
            {"written": []},
            {"written": {"model.safetensors": {}}},
            {"written": {"model.safetensors": 1}},
            {"commit": 1},
            {"commit": "main"},
            {"revision": None},
            {"repository": ["org/model"]},
        ],
    )
    def test_a_manifest_of_another_shape_is_one_line(self, fetch, out, change):
        with model_hub().running() as hub:
            assert fetch(hub, "org/model").status == 0
            path, asked = out / "fetched/checkpoint.json", len(hub.log)
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
            assert failed(
                fetch(hub, "org/model"),
                2,
                "checkpoint.json: not a manifest of this script",
                "remove it",
            )
            for text in ("5", "null", "[]", "[" * 100_000):
                path.write_text(text)
                assert failed(
                    fetch(hub, "org/model"),
                    2,
                    "checkpoint.json: not a manifest of this script",
                    "remove it",
                )
            assert len(hub.log) == asked
