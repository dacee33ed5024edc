"""data_fetch.py with a fake hub on this machine: the files of a checkpoint arrive unchanged.

Run: python -m pytest tests/data/test_data_fetch_checkpoints.py
"""

import hashlib
import json
import shutil

import clear_ref
from clear_ref.mini.directories import BASE
from tests.helpers.fake_hub import FakeHub, Fault
from tests.helpers.fetching import (
    data_fetch,
    failed,
    files_below,
    model_hub,
)


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

    def test_a_single_file_has_precedence_over_an_index(self, fetch, out):
        """transformers and load take the whole file."""
        shards = {f"model-0000{n}-of-00002.safetensors": b"shard" * n for n in (1, 2)}
        files = {
            "config.json": b"{}",
            "model.safetensors.index.json": b"{}",
            "model.safetensors": b"all",
            **shards,
        }
        with FakeHub("org/model", "model", files).running() as hub:
            assert fetch(hub, "org/model").status == 0
            assert {path.name for path in out.glob("model*")} == {"model.safetensors"}
            del hub.files["model.safetensors"]
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
