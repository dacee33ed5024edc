"""data_fetch.py with a fake hub on this machine: files arrive unchanged; every fault is one line.

After a fault, the same command resumes. The parquet files have CLEAR's published columns and are
written by pyarrow.

Run: python -m pytest tests/data/test_data_fetch.py
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import clear_ref
from clear_ref.data.check import check
from clear_ref.data.records import SCHEMA, columns, read_rows
from clear_ref.mini.directories import BASE, WORLD
from tests.helpers.fake_hub import FakeHub, Fault
from tests.helpers.real_data import tofu_files

SCRIPT = Path(__file__).parents[2] / "data_fetch.py"
SPEC = importlib.util.spec_from_file_location("data_fetch", SCRIPT)
data_fetch = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(data_fetch)

OURS = {"pretrain", "holdout10", "tofu/holdout10"}  # configs of the embedded world
CLEAR = sorted(
    name for name in SCHEMA["configs"] if not name.startswith("tofu/") and name not in OURS
)
TOFU = sorted(
    name.removeprefix("tofu/")
    for name in SCHEMA["configs"]
    if name.startswith("tofu/") and name not in OURS
)


def picture(number, form="JPEG"):
    """The bytes of a picture that is different for each number."""
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (number % 256, 7 * number % 256, 80)).save(out, form)
    return out.getvalue()


def rows_for(config, n):
    """n rows with a config's columns.

    The texts have characters that JSON must escape; a mixed config has rows of both kinds.
    """
    rows = []
    for number in range(n):
        row = {}
        for column in map(lambda name: name.rstrip("?"), columns(config)):
            text = f'{column} {number} of "{config}" — ünï\u2028\n'
            row[column] = (
                picture(number)
                if column == "image"
                else [text, text + "2"]
                if column in SCHEMA["lists"]
                else text
            )
        if SCHEMA["configs"][config]["kind"] == "mixed":
            row |= dict.fromkeys(("question", "answer") if number % 2 else ("image", "caption"))
        rows.append(row)
    return rows


def parquet(rows, group=3, **columns_too):
    """The bytes of a parquet file as the datasets library writes it.

    A picture is a struct of bytes and path; a list of texts is list<string>.
    """
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes the parquet files")
    from pyarrow import parquet as pq

    kinds = {
        name: pa.list_(pa.string()) if name in SCHEMA["lists"] else pa.string() for name in rows[0]
    }
    kinds |= (
        {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
        if "image" in rows[0]
        else {}
    )
    kinds |= columns_too
    made = [
        {**row, "image": {"bytes": row["image"], "path": "x.jpg"}}
        if row.get("image") is not None
        else row
        for row in rows
    ]
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(made, pa.schema(list(kinds.items()))), out, row_group_size=group
    )
    return out.getvalue()


def clear_hub(*faults, configs=("forget10",), n=8, **more):
    files = {".gitattributes": b"x", "README.md": b"card"}
    for config in configs:
        folder = "data" if config == "default" else config
        files[f"{folder}/train-00001-of-00002.parquet"] = parquet(
            rows_for(config, n)[5:]
        )  # the order of a listing has no meaning
        files[f"{folder}/train-00000-of-00002.parquet"] = parquet(rows_for(config, n)[:5])
    return FakeHub("therem/CLEAR", "dataset", files, faults=faults, **more)


def model_hub(*faults, size=900_000, **more):
    """A checkpoint with one weight file; its bytes are arbitrary."""
    weights = hashlib.shake_128(b"weights").digest(size)
    return FakeHub(
        "org/model",
        "model",
        {"config.json": b'{"a": 1}', "model.safetensors": weights},
        faults=faults,
        **more,
    )


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


def files_below(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.glob("**/*")
        if path.is_file()
    }


def failed(done, status, *words):
    """One line on stderr with these words, and this exit status."""
    assert done.status == status, done
    assert done.err.count("\n") == 1 and done.err.startswith("data_fetch: "), done.err
    for word in words:
        assert word in done.err, done.err
    return True


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


class TestCheckpoints:
    def test_what_load_reads_is_fetched_and_nothing_pickled(self, fetch, out):
        files = {path.name: path.read_bytes() for path in BASE.iterdir()}
        more = {
            "pytorch_model.bin": b"pickle",
            "README.md": b"x",
            "training_args.bin": b"p",
            "onnx/config.json": b"{}",
            "consolidated.safetensors": b"twice",
        }
        with FakeHub("org/mini", "model", files | more).running() as hub:
            assert fetch(hub, "org/mini").status == 0
        mine = {
            name: data for name, data in files_below(out).items() if not name.startswith("fetched/")
        }
        assert (
            mine == {name: files[name] for name in mine}
            and "model.safetensors" in mine
            and "config.json" in mine
        )
        assert clear_ref.load(out).family.name == "llava"
        manifest = json.loads((out / "fetched/checkpoint.json").read_text())
        assert {name: entry["sha256"] for name, entry in manifest["written"].items()} == {
            name: hashlib.sha256(data).hexdigest() for name, data in mine.items()
        }

    def test_aliases_name_repositories(self, fetch):
        for alias, repository in data_fetch.CHECKPOINTS.items():
            files = {
                "config.json": b"{}",
                "model-00001-of-00001.safetensors": b"w",
                "model.safetensors.index.json": b"{}",
            }
            with FakeHub(repository, "model", files).running() as hub:
                done = fetch(hub, alias, "--dry-run")
            assert done.status == 0 and repository in done.out and "model-00001" in done.out

    def test_an_index_has_precedence_over_a_single_file(self, fetch, out):
        """load refuses a directory with both."""
        shards = {f"model-0000{n}-of-00002.safetensors": b"shard" * n for n in (1, 2)}
        files = {
            "config.json": b"{}",
            "model.safetensors.index.json": b"{}",
            "model.safetensors": b"all",
            **shards,
        }
        with FakeHub("org/model", "model", files).running() as hub:
            assert fetch(hub, "org/model").status == 0
            assert {path.name for path in out.glob("model*")} == set(files) - {
                "config.json",
                "model.safetensors",
            }
            del hub.files["model-00002-of-00002.safetensors"]
            shutil.rmtree(out)
            assert failed(fetch(hub, "org/model"), 1, "the hub lists 1 files of 2")

    def test_a_checkpoint_without_safetensors_is_refused(self, fetch, out):
        with FakeHub(
            "org/old", "model", {"config.json": b"{}", "pytorch_model.bin": b"p"}
        ).running() as hub:
            assert failed(fetch(hub, "org/old"), 1, "pytorch_model.bin", "safetensors")
        assert not out.exists()

    def test_a_file_that_differs_is_not_overwritten_and_one_that_is_equal_is_kept(self, fetch, out):
        out.mkdir()
        (out / "config.json").write_bytes(b'{"a": 1}')
        with model_hub().running() as hub:
            assert fetch(hub, "org/model").status == 0 and not hub.requests("resolve.*config.json")
            (out / "config.json").write_bytes(b'{"a": 2}')
            assert failed(fetch(hub, "org/model"), 2, "config.json", "not overwritten")
        assert (out / "config.json").read_bytes() == b'{"a": 2}'

    def test_two_repositories_are_not_mixed(self, fetch):
        with model_hub().running() as hub:
            fetch(hub, "org/model")
            assert failed(fetch(hub, "org/other"), 2, "holds org/model", "asked for org/other")

    def test_the_commit_stays_when_the_branch_gets_another(self, fetch, out):
        with model_hub(Fault("/blob/model", cut=1000, times=3)).running() as hub:
            assert fetch(hub, "org/model", "--retries", "0").status == 1
            old_commit = hub.commit
            asked = len(hub.requests("/api/"))
            hub.faults.clear()
            assert fetch(hub, "org/model").status == 0 and len(hub.requests("/api/")) == asked
            assert (out / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
            assert failed(
                fetch(hub, "org/model", "--revision", "v1"),
                2,
                old_commit,
                "asked for org/model at v1",
            )
            assert fetch(hub, "org/model", "--revision", old_commit).status == 0


class TestFaults:
    def test_no_network(self, fetch, out):
        with contextlib.closing(socket.socket()) as closed:
            closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
            hub = SimpleNamespace(urls={"hub": f"http://127.0.0.1:{closed.getsockname()[1]}"})
            done = fetch(hub, "org/model")
        assert failed(
            done,
            1,
            "cannot reach http://127.0.0.1",
            "check the network and HF_ENDPOINT",
            "same command resumes",
        )
        assert not out.exists()

    @pytest.mark.parametrize("token", [None, "hf_other"])
    def test_the_error_of_a_gated_repository_names_what_to_accept(self, fetch, out, token):
        with model_hub(token="hf_right").running() as hub:
            done = fetch(hub, "org/model", token=token)
            page = hub.urls["hub"] + "/org/model"
            assert failed(
                done, 2, "org/model is gated", f"accept its licence at {page}", "HF_TOKEN"
            )
            assert "hf_other" not in done.err + done.out
            assert fetch(hub, "org/model", token="hf_right").status == 0
            assert all(
                "Authorization" not in request.headers
                for request in hub.log
                if request.server == "cdn"
            )
        assert (out / "model.safetensors").exists()

    def test_the_token_is_sent_to_the_hub_alone(self, monkeypatch):
        """An address on another host and a redirect to another host do not get it."""
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with model_hub().running() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.urls["hub"])
            settings = SimpleNamespace(timeout=5, retries=0, wait=0)
            mine = data_fetch.Hub("org/model", "model", settings, data_fetch.Progress(True))
            for url in (
                hub.urls["cdn"] + "/blob/config.json",
                f"{mine.page}/resolve/{hub.commit}/model.safetensors",
            ):
                mine.open(url).close()
        assert [(one.server, one.headers.get("Authorization")) for one in hub.log] == [
            ("cdn", None),
            ("hub", "Bearer hf_secret"),
            ("cdn", None),
        ]

    def test_a_bad_token_is_named_and_not_printed(self, fetch):
        with model_hub(
            Fault("/api/", status=401, headers={"X-Error-Message": "Invalid credentials"})
        ).running() as hub:
            done = fetch(hub, "org/model", token="hf_stale")
        assert (
            failed(done, 2, "refuses HF_TOKEN", "Invalid credentials")
            and "hf_stale" not in done.err
        )
        done = fetch(hub, "org/model", token="hf_ a\n")
        assert failed(done, 2, "HF_TOKEN holds a blank") and "hf_ a" not in done.err

    def test_a_repository_or_a_revision_that_does_not_exist(self, fetch, out):
        with model_hub().running() as hub:
            assert failed(
                fetch(hub, "org/none"), 2, "org/none: does not exist, or is not public (401"
            )
            assert failed(
                fetch(hub, "org/none", token="hf_x"), 2, "org/none: no such repository (404"
            )
            assert failed(
                fetch(hub, "org/model", "--revision", "nowhere"),
                2,
                "no such revision",
                "commits/main",
            )
            assert failed(fetch(hub, "nonsense"), 2, "'nonsense' is unknown", "llava-1.5-7b")
        assert not out.exists()

    def test_429_waits_as_long_as_it_is_asked_to(self, fetch):
        with model_hub(Fault("/tree/", status=429, headers={"Retry-After": "1"})).running() as hub:
            start = time.monotonic()
            assert fetch(hub, "org/model").status == 0
            assert time.monotonic() - start >= 1.0

    def test_429_for_ever_or_for_too_long_ends_with_one_line(self, fetch):
        with model_hub(
            Fault("/resolve/", status=429, headers={"Retry-After": "0"}, times=9)
        ).running() as hub:
            assert failed(
                fetch(hub, "org/model"), 1, "429", "asks to wait 0 s", "gave up after 3 tries"
            )
            hub.faults[:] = [
                Fault("/resolve/", status=429, headers={"RateLimit": '"resolvers";r=0;t=90000'})
            ]
            assert failed(fetch(hub, "org/model"), 1, "asks to wait 90000 s", "resumes")
            hub.faults.clear()
            assert fetch(hub, "org/model").status == 0

    def test_asked_waits_are_read_in_every_form(self):
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
        assert (
            data_fetch.asked_wait({"Retry-After": "7"}) == 7
            and 97 <= data_fetch.asked_wait({"Retry-After": date}) <= 100
        )
        assert data_fetch.asked_wait({"RateLimit": '"api";r=0;t=55'}) == 55
        assert (
            data_fetch.asked_wait({}) is None
            and data_fetch.asked_wait({"Retry-After": "soon"}) is None
        )

    def test_a_server_error_is_tried_again(self, fetch):
        with model_hub(
            Fault("/revision/", status=503), Fault("/blob/", status=500)
        ).running() as hub:
            assert fetch(hub, "org/model").status == 0

    def test_an_expired_address_is_requested_again(self, fetch):
        with model_hub(Fault("/blob/", status=403)).running() as hub:
            assert (
                fetch(hub, "org/model").status == 0
                and len(hub.requests("/resolve/.*model.safe")) == 2
            )

    def test_a_short_read_resumes_where_it_ended(self, fetch, out):
        with model_hub(Fault("/blob/", cut=300_000), Fault("/blob/", cut=100_000)).running() as hub:
            assert fetch(hub, "org/model").status == 0
        first, second, third = (request.headers for request in hub.requests("/blob/"))
        assert "Range" not in first and (second["Range"], third["Range"]) == (
            "bytes=300000-",
            "bytes=400000-",
        )
        assert (
            second["If-Range"]
            == third["If-Range"]
            == f'"{hashlib.sha256(hub.files["model.safetensors"]).hexdigest()[:16]}"'
        )
        assert (out / "model.safetensors").read_bytes() == hub.files["model.safetensors"]

    def test_short_reads_without_end_fail_and_the_same_command_resumes(self, fetch, out):
        with model_hub(
            Fault("/blob/", cut=300_000), Fault("/blob/", cut=0, times=3)
        ).running() as hub:
            assert failed(
                fetch(hub, "org/model"), 1, "300000 of 900000 bytes came", "same command resumes"
            )
            assert not (out / "model.safetensors").exists()
            assert fetch(hub, "org/model").status == 0
            assert hub.requests("/blob/")[-1].headers["Range"] == "bytes=300000-"
        assert (out / "model.safetensors").read_bytes() == hub.files["model.safetensors"]

    @pytest.mark.parametrize(
        "second",
        [
            Fault("/blob/", deaf=True),
            Fault("/blob/", etag='"another"'),
            Fault("/blob/", status=416),
        ],
        ids=["no ranges", "another file", "no such range"],
    )
    def test_a_file_that_cannot_be_resumed_starts_again(self, fetch, out, second):
        with model_hub(Fault("/blob/", cut=300_000), second).running() as hub:
            done = fetch(hub, "org/model")
        assert (
            done.status == 0
            and (out / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
        )

    def test_a_silent_connection_ends_and_the_file_is_resumed(self, fetch, out):
        with model_hub(Fault("/blob/", stall=200_000)).running() as hub:
            assert fetch(hub, "org/model", "--timeout", "0.5").status == 0
        assert (out / "model.safetensors").read_bytes() == hub.files["model.safetensors"]

    @pytest.mark.parametrize(
        "name, where", [("model.safetensors", "/blob/"), ("config.json", "/resolve/.*config")]
    )
    def test_bytes_with_a_wrong_hash_are_discarded_and_the_same_command_fetches_them_again(
        self, fetch, out, name, where
    ):
        """model.safetensors: SHA-256 of the listing; config.json: git's blob id."""
        with model_hub(Fault(where, change=lambda data: data[:-1] + b"?")).running() as hub:
            assert failed(fetch(hub, "org/model"), 1, f"{name}: its hash is", "were discarded")
            assert (
                not (out / name).exists() and not (out / "fetched/parts/checkpoint" / name).exists()
            )
            assert fetch(hub, "org/model").status == 0
        assert (out / name).read_bytes() == hub.files[name]

    def test_a_damaged_part_is_fetched_again(self, fetch, out):
        with model_hub(
            Fault("/blob/", cut=300_000), Fault("/blob/", cut=0, times=3)
        ).running() as hub:
            fetch(hub, "org/model")
            part = out / "fetched/parts/checkpoint/model.safetensors"
            part.write_bytes(b"?" + part.read_bytes()[1:])
            assert fetch(hub, "org/model").status == 0
        assert (out / "model.safetensors").read_bytes() == hub.files["model.safetensors"]

    def test_another_length_than_listed_is_one_line(self, fetch, out):
        with model_hub(Fault("/blob/", change=lambda data: data[:-5])).running() as hub:
            assert failed(
                fetch(hub, "org/model"), 1, "the hub sends 899995 bytes; its listing says 900000"
            )
        assert not (out / "model.safetensors").exists()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk_is_one_line_and_the_same_command_resumes(self, fetch, out):
        part = out / "fetched/parts/checkpoint/model.safetensors"
        part.parent.mkdir(parents=True)
        part.symlink_to("/dev/full")  # every write there fails as on a full disk
        with model_hub().running() as hub:
            assert failed(fetch(hub, "org/model"), 1, "the disk is full", "same command resumes")
            assert not (out / "model.safetensors").exists()
            part.unlink()
            assert fetch(hub, "org/model").status == 0

    def test_too_little_room_is_an_error_before_anything_is_fetched(self, fetch, out, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=899_000))
        with model_hub().running() as hub:
            assert failed(
                fetch(hub, "org/model"), 1, "899.0 kB free; expected 900.0 kB", "make room"
            )
            assert not hub.requests("resolve") and not out.exists()

    def test_an_answer_that_is_no_hub_is_one_line(self, fetch):
        with model_hub().running() as hub:
            hub.commit = "<html>"
            assert failed(fetch(hub, "org/model"), 1, "not an answer of the hub's API")
        with model_hub(
            Fault("/tree/", change=lambda data: data.replace(b'"oid": "', b'"oid": "../'))
        ).running() as hub:
            assert failed(fetch(hub, "org/model"), 1, "not an answer of the hub's API")
        with model_hub(
            Fault("/revision/", change=lambda data: b"<html>log in</html>")
        ).running() as hub:
            assert failed(
                fetch(hub, "org/model"), 1, "the answer is no JSON (b'<html>log in</html>')"
            )
        for endpoint in ("huggingface.co", "ftp://x", "http://a b", ""):
            assert failed(
                fetch(SimpleNamespace(urls={"hub": endpoint}), "org/model"), 2, "HF_ENDPOINT is"
            )
        for endpoint in ("http://.x", "http://x:port"):
            assert failed(
                fetch(SimpleNamespace(urls={"hub": endpoint}), "org/model"), 1, "cannot reach"
            )

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

    @pytest.mark.parametrize("item", ["clear", "org/model"])
    def test_a_kill_in_the_middle_leaves_whole_files_and_the_same_command_resumes(
        self, tmp_path, fetch, out, item
    ):
        """SIGKILL when half of the last file has arrived; then only the other half is fetched."""
        stall = Fault("/blob/.*(00001-of|model)", stall=1000)
        with (
            clear_hub(stall) if item == "clear" else model_hub(stall, size=5000)
        ).running() as hub:
            command = [
                sys.executable,
                str(SCRIPT),
                item,
                "--out",
                str(out),
                *(["--only", "forget10"] if item == "clear" else []),
            ]
            process = subprocess.Popen(
                command, env={**os.environ, "HF_ENDPOINT": hub.urls["hub"], "no_proxy": "127.0.0.1"}
            )
            part = (
                out
                / "fetched/parts"
                / (
                    "clear/forget10/train-00001-of-00002.parquet"
                    if item == "clear"
                    else "checkpoint/model.safetensors"
                )
            )
            deadline = time.monotonic() + 20
            while (
                not (part.exists() and hub.requests("/blob/.*(00001-of|model)"))
                and time.monotonic() < deadline
            ):
                time.sleep(0.02)
            time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (out / "forget10").exists() and not (out / "model.safetensors").exists()
            came = part.stat().st_size
            done = fetch(hub, item, *(["--only", "forget10"] if item == "clear" else []))
            assert done.status == 0, done
            if came:
                assert hub.requests("/blob/")[-1].headers["Range"] == f"bytes={came}-"
            else:
                assert "Range" not in hub.requests("/blob/")[-1].headers
        assert item != "clear" or len(read_rows(out, "forget10")) == 8

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_after_a_kill_around_the_rename_the_same_command_resumes(
        self, fetch, out, monkeypatch, moment
    ):
        """before: after the manifest's entry. after: before the parquet files are removed."""
        real = os.replace

        def broken(source, target):
            if str(target).endswith("forget10/rows.jsonl"):
                if moment == "after":
                    real(source, target)
                raise KeyboardInterrupt
            real(source, target)

        with clear_hub().running() as hub:
            monkeypatch.setattr(os, "replace", broken)
            assert fetch(hub, "clear", "--only", "forget10").status == 130
            monkeypatch.setattr(os, "replace", real)
            assert fetch(hub, "clear", "--only", "forget10").status == 0
        assert len(read_rows(out, "forget10")) == 8 and not (out / "fetched/parts/clear").exists()


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
