"""data_fetch.py with a fake hub that has faults: each is one line, and the same command resumes.

Run: python -m pytest tests/data/test_data_fetch_faults.py
"""

import contextlib
import hashlib
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

from clear_ref.data.records import read_rows
from tests.helpers.fake_hub import Fault
from tests.helpers.fetching import (
    SCRIPT,
    clear_hub,
    data_fetch,
    failed,
    model_hub,
)


@pytest.mark.slow
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
                fetch(hub, "org/model"), 1, "300000 of 900000 bytes arrived", "same command resumes"
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
