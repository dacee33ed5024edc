"""data_fetch.py with a fake hub on this machine: data sets arrive unchanged.

The parquet files have CLEAR's published columns and are written by pyarrow.

Run: python -m pytest tests/data/test_data_fetch.py
"""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from clear_ref.data.check import check
from clear_ref.data.records import read_rows
from clear_ref.data.schema import SCHEMA
from clear_ref.mini.directories import WORLD
from tests.helpers.fake_hub import FakeHub, Fault
from tests.helpers.fetching import (
    CLEAR,
    SCRIPT,
    TOFU,
    clear_hub,
    data_fetch,
    failed,
    files_below,
    model_hub,
    parquet,
    picture,
    rows_for,
)
from tests.helpers.real_data import tofu_files


class TestClear:
    def test_every_config_arrives_as_the_hub_has_it(self, fetch, out):
        with clear_hub(configs=CLEAR, per_page=5).running() as hub:
            done = fetch(hub, "clear")
        assert done.status == 0 and done.err == "" and len(CLEAR) == 21
        for config in CLEAR:
            rows, put = read_rows(out, config), rows_for(config, 8)
            for row, there in zip(rows, put, strict=True):
                assert {**row.values, "image": row.image and row.image.read_bytes()} == {
                    "image": None,
                    **there,
                }
        manifest = json.loads((out / "fetched/clear.json").read_text())
        assert (manifest["repository"], manifest["commit"], manifest["revision"]) == (
            "therem/CLEAR",
            hub.commit,
            "main",
        )
        for config in CLEAR:
            entry = manifest["written"][f"{config}/rows.jsonl"]
            assert (
                entry["sha256"]
                == hashlib.sha256((out / config / "rows.jsonl").read_bytes()).hexdigest()
            )
            assert entry["rows"] == 8
        listed = {file["path"]: file["sha256"] for file in manifest["files"]}
        path = "data/train-00001-of-00002.parquet"
        assert listed[path] == hashlib.sha256(hub.files[path]).hexdigest()
        assert not (out / "fetched/parts/clear").exists()

    def test_a_picture_is_named_by_its_hash_and_by_what_it_is(self, fetch, out):
        forms = {
            "JPEG": "jpg",
            "PNG": "png",
            "WEBP": "webp",
            "GIF": "gif",
            "BMP": "bmp",
            "TIFF": "tif",
        }
        rows = [
            {"image": picture(n, form), "caption": "c", "name": "n"}
            for n, form in enumerate([*forms, "JPEG"])
        ]
        rows[-1]["image"] = rows[0]["image"]
        hub = FakeHub(
            "therem/CLEAR", "dataset", {"forget10/train-00000-of-00001.parquet": parquet(rows)}
        )
        with hub.running():
            assert fetch(hub, "clear", "--only", "forget10").status == 0
        names = [
            json.loads(line)["image"]
            for line in (out / "forget10/rows.jsonl").read_text().splitlines()
        ]
        assert names == [
            f"images/{hashlib.sha256(row['image']).hexdigest()[:32]}.{ending}"
            for row, ending in zip(rows, [*forms.values(), "jpg"], strict=True)
        ]
        assert len(list((out / "images").iterdir())) == len(forms)

    def test_only_the_configs_asked_for_are_fetched(self, fetch, out):
        with clear_hub(configs=("forget10", "forget05")).running() as hub:
            done = fetch(hub, "clear", "--only", "forget05")
            assert done.status == 0 and not hub.requests("resolve.*forget10")
            assert failed(
                fetch(hub, "clear", "--only", "forget07"), 2, "--only forget07", "forget05"
            )
            assert failed(fetch(hub, "clear"), 1, "no file for", "retain90")
        assert (out / "forget05").exists() and not (out / "forget10").exists()

    def test_parts_of_other_configs_stay(self, fetch, out):
        with clear_hub(
            Fault("/blob/forget10/train-00001", cut=0, times=3), configs=("forget10", "forget05")
        ).running() as hub:
            assert failed(fetch(hub, "clear", "--only", "forget10"), 1, "0 of")
            assert fetch(hub, "clear", "--only", "forget05").status == 0
            assert fetch(hub, "clear", "--only", "forget10").status == 0
            assert len(hub.requests("/blob/forget10/train-00000")) == 1

    def test_a_dry_run_prints_sizes_and_writes_nothing(self, fetch, out):
        with clear_hub().running() as hub:
            done = fetch(hub, "clear", "--only", "forget10", "--dry-run")
        size = sum(len(data) for path, data in hub.files.items() if path.endswith("parquet"))
        assert (
            done.status == 0
            and f"{size / 1e3:.1f} kB to fetch" in done.out
            and hub.commit in done.out
        )
        assert not out.exists() and not hub.requests("resolve")

    def test_a_second_run_sends_no_request_and_changes_nothing(self, fetch, out):
        with clear_hub().running() as hub:
            fetch(hub, "clear", "--only", "forget10")
            before, asked = files_below(out), len(hub.log)
            assert fetch(hub, "clear", "--only", "forget10").status == 0
            assert files_below(out) == before and len(hub.log) == asked

    def test_a_lost_picture_is_fetched_again(self, fetch, out):
        with clear_hub().running() as hub:
            fetch(hub, "clear", "--only", "forget10")
            before = files_below(out)
            sorted((out / "images").iterdir())[2].unlink()
            assert fetch(hub, "clear", "--only", "forget10").status == 0
        assert files_below(out) == before

    def test_rows_that_differ_are_not_overwritten(self, fetch, out):
        with clear_hub().running() as hub:
            fetch(hub, "clear", "--only", "forget10")
            path = out / "forget10/rows.jsonl"
            path.write_text(path.read_text() + "\n")
            before, asked = files_below(out), len(hub.log)
            assert failed(
                fetch(hub, "clear", "--only", "forget10"),
                2,
                "forget10/rows.jsonl",
                "not overwritten",
            )
            assert files_below(out) == before and len(hub.log) == asked
            shutil.rmtree(out / "fetched")
            assert failed(fetch(hub, "clear", "--only", "forget10"), 2, "not overwritten")

    def test_a_picture_that_differs_from_its_name_is_not_overwritten(self, fetch, out):
        with clear_hub().running() as hub:
            fetch(hub, "clear", "--only", "forget10")
            path = sorted((out / "images").iterdir())[0]
            path.write_bytes(b"other")
            assert failed(fetch(hub, "clear", "--only", "forget10"), 2, path.name, "remove it")
            (
                out / "forget10/rows.jsonl"
            ).unlink()  # so the picture is written again from its parquet file
            assert failed(fetch(hub, "clear", "--only", "forget10"), 2, path.name, "remove it")
            assert path.read_bytes() == b"other"
            path.unlink()
            assert fetch(hub, "clear", "--only", "forget10").status == 0

    @pytest.mark.parametrize(
        "change, words",
        [
            (
                lambda rows: [{**row, "mood": "x"} for row in rows],
                "columns are image, caption, name, mood; expected image,",
            ),
            (
                lambda rows: [{"image": row["image"], "caption": "c"} for row in rows],
                "columns are image, caption; expected",
            ),
            (
                lambda rows: [{**row, "image": b"no picture"} for row in rows],
                "row 1: the picture begins with b'no pictu'",
            ),
            (
                lambda rows: [{**row, "image": b""} for row in rows],
                "row 1: the picture begins with b''",
            ),
            (
                lambda rows: [*rows[:4], {**rows[4], "image": None}],
                "row 5 has a picture (None) without its bytes",
            ),
        ],
    )
    def test_an_unexpected_column_or_picture_is_one_line_and_nothing_is_kept(
        self, fetch, out, change, words
    ):
        with clear_hub().running() as hub:
            good = hub.files["forget10/train-00000-of-00002.parquet"]
            hub.files["forget10/train-00000-of-00002.parquet"] = parquet(
                change(rows_for("forget10", 8)[:5])
            )
            assert failed(
                fetch(hub, "clear", "--only", "forget10"), 1, "forget10/train-00000", words
            )
            assert not (out / "forget10").exists()
            hub.files["forget10/train-00000-of-00002.parquet"], hub.commit = good, "beef" * 10
            assert (
                fetch(hub, "clear", "--only", "forget10", "--revision", "v1").status == 0
            )  # no row was written

    def test_a_column_of_another_type_is_one_line(self, fetch):
        pa = pytest.importorskip("pyarrow", reason="pyarrow writes the parquet files")
        with clear_hub().running() as hub:
            rows = [{**row, "name": 3} for row in rows_for("forget10", 8)[:5]]
            hub.files["forget10/train-00000-of-00002.parquet"] = parquet(rows, name=pa.int64())
            assert failed(
                fetch(hub, "clear", "--only", "forget10"),
                1,
                "column name holds int64; expected text",
            )

    def test_a_file_that_is_no_parquet_is_one_line(self, fetch):
        with clear_hub().running() as hub:
            hub.files["forget10/train-00000-of-00002.parquet"] = b"PAR1 not really PAR1"
            assert failed(fetch(hub, "clear", "--only", "forget10"), 1, "pyarrow cannot read")

    def test_a_missing_shard_is_one_line(self, fetch, out):
        with clear_hub().running() as hub:
            del hub.files["forget10/train-00001-of-00002.parquet"]
            assert failed(
                fetch(hub, "clear", "--only", "forget10"),
                1,
                "forget10/rows.jsonl: the hub lists 1 files of 2",
            )
        assert not out.exists()

    def test_without_pyarrow_there_is_an_error_before_anything_is_fetched(
        self, fetch, monkeypatch, out
    ):
        with clear_hub().running() as hub:
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
            assert failed(fetch(hub, "clear"), 2, "pip install pyarrow")
            assert not hub.log and not out.exists()


@pytest.mark.slow
class TestTofu:
    def test_every_config_is_the_hubs_file_byte_for_byte(self, fetch, out):
        files = {
            f"{name}.json": "\n".join(map(json.dumps, rows_for(f"tofu/{name}", 4))).encode()
            for name in TOFU
        }
        with FakeHub(
            "locuslab/TOFU", "dataset", files | {"README.md": b"card", "forget20.json": b"{}"}
        ).running() as hub:
            assert fetch(hub, "tofu").status == 0 and len(TOFU) == 15
        for name in TOFU:
            assert (out / "tofu" / name / "rows.jsonl").read_bytes() == files[f"{name}.json"]
            assert len(read_rows(out, f"tofu/{name}")) == 4
        assert len(list(out.glob("**/rows.jsonl"))) == 15

    def test_the_real_files_have_the_published_rows(self, fetch, out):
        with FakeHub("locuslab/TOFU", "dataset", tofu_files()).running() as hub:
            assert fetch(hub, "tofu").status == 0
        for name in TOFU:
            assert len(read_rows(out, f"tofu/{name}")) == SCHEMA["configs"][f"tofu/{name}"]["rows"]

    @pytest.mark.parametrize(
        "line, words",
        [
            (
                b'{"question": "q", "answer": "a", "extra": 1}',
                "columns are question, answer, extra; expected question, answer",
            ),
            (b"[1]", "line 2 of the hub's file is no JSON object"),
        ],
    )
    def test_an_unexpected_column_is_one_line(self, fetch, out, line, words):
        with FakeHub(
            "locuslab/TOFU", "dataset", {"full.json": b'{"question": "q", "answer": "a"}\n' + line}
        ).running() as hub:
            assert failed(fetch(hub, "tofu", "--only", "full"), 1, "line 2", words)
        assert not (out / "tofu").exists()


@pytest.mark.slow
def test_the_hubs_own_client_fetches_the_same_from_this_hub(tmp_path):
    """The fake hub works as a hub for huggingface_hub too."""
    pytest.importorskip(
        "huggingface_hub", reason="the hub's own client, as an independent reader of the fake hub"
    )
    code = (
        "import sys, huggingface_hub; huggingface_hub.snapshot_download('therem/CLEAR', "
        "repo_type='dataset', max_workers=1, local_dir=sys.argv[1])"
    )
    with clear_hub(configs=("forget10", "full+tofu"), per_page=2).running() as hub:
        there = {"HF_ENDPOINT": hub.urls["hub"], "no_proxy": "127.0.0.1", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "got")],
            env={**os.environ, **there},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert {path: (tmp_path / "got" / path).read_bytes() for path in hub.files} == hub.files


def test_progress_shows_bytes_speed_and_time_left_on_a_terminal_alone(monkeypatch):
    """5 MB of 10 MB in two seconds, 2 MB of them from before: 1.5 MB/s, so 3 s left."""
    for terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        bar = data_fetch.Progress(quiet=False)
        bar.what, bar.total, bar.done, bar.started = (
            "x",
            10_000_000,
            2_000_000,
            time.monotonic() - 2.0,
        )
        bar.add(3_000_000)
        assert stream.getvalue() == (
            "\r\x1b[Kx  5.0 MB of 10.0 MB  1.5 MB/s  3 s left" if terminal else ""
        )


def test_it_runs_alone_without_the_package_and_torch(tmp_path):
    """Only the script and schema.json are there; -S hides every installed package."""
    (tmp_path / "clear_ref/data").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path)
    shutil.copy(SCRIPT.parent / "clear_ref/data/schema.json", tmp_path / "clear_ref/data")
    with model_hub().running() as hub:
        done = subprocess.run(
            [sys.executable, "-S", "data_fetch.py", "org/model", "--out", "model"],
            cwd=tmp_path,
            env={**os.environ, "HF_ENDPOINT": hub.urls["hub"], "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (
        done.returncode == 0
        and done.stderr == ""
        and (tmp_path / "model/model.safetensors").stat().st_size == 900_000
    )


@pytest.mark.slow
def test_the_embedded_world_through_the_hub_is_the_embedded_world(fetch, out):
    """Its picture configs as parquet files on the hub, fetched: the same rows and pictures."""
    configs = [name for name in CLEAR if (WORLD / name / "rows.jsonl").exists()]
    rows = {
        config: [
            {**row.values, "image": row.image and row.image.read_bytes()}
            for row in read_rows(WORLD, config)
        ]
        for config in configs
    }
    files = {
        f"{config}/train-00000-of-00001.parquet": parquet(rows[config], group=100)
        for config in configs
    }
    with FakeHub("therem/CLEAR", "dataset", files).running() as hub:
        assert fetch(hub, "clear", "--only", ",".join(configs)).status == 0
    for config in configs:
        assert [
            {**row.values, "image": row.image and row.image.read_bytes()}
            for row in read_rows(out, config)
        ] == rows[config]
    found = check(out)
    assert found["problems"] == found["notes"] == [] and len(configs) == 10
