#!/usr/bin/env python3
"""Fetches CLEAR, TOFU and checkpoints from the hub to plain files.

  python data_fetch.py clear            DIR/CONFIG/rows.jsonl and DIR/images/, the pictures' bytes as the hub has them
  python data_fetch.py tofu             DIR/tofu/CONFIG/rows.jsonl, the hub's files as they are
  python data_fetch.py llava-1.5-7b     DIR/config.json, *.safetensors, ...: what clear_ref.load reads, as it is
  python data_fetch.py OWNER/NAME       any checkpoint of the hub

Runs from a clone with Python alone; clear also needs pyarrow. HF_ENDPOINT names another hub; HF_TOKEN is sent to the hub only.

The first run writes the commit of --revision and its listing to DIR/fetched/ITEM.json; later runs stay with that commit.
A file is complete and has the listed hash before it gets its name; what has come of it waits in DIR/fetched/parts/. After
any failure, a kill included, the same command goes on. Nothing that differs is overwritten.

Exit status: 0 done, 1 the fetch failed, 2 the input is wrong (a name, the token, a file in the way), 130 stopped.
"""

import argparse
import contextlib
import email.utils
import errno
import hashlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

SCHEMA = json.loads(
    (Path(__file__).parent / "clear_ref" / "data" / "schema.json").read_text(encoding="utf-8")
)
PUBLISHED = {
    name for name, config in SCHEMA["configs"].items() if config["rows"] is not None
}  # the others: the embedded world's
TOFU = {name.removeprefix("tofu/") for name in PUBLISHED if name.startswith("tofu/")}
CLEAR = {name for name in PUBLISHED if not name.startswith("tofu/")}
DATA_SETS = {"clear": "therem/CLEAR", "tofu": "locuslab/TOFU"}
CHECKPOINTS = {
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
    "llama-2-7b": "meta-llama/Llama-2-7b-chat-hf",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
}
WANTED = re.compile(  # of a checkpoint: what load reads and nothing pickled
    r"(generation_|preprocessor_|processor_|tokenizer_|adapter_)?config\.json|tokenizer\.(json|model)|"
    r"chat_template\.(json|jinja)|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|"
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|adapter_model\.safetensors"
)
MAGIC = (
    (rb"\xff\xd8\xff", "jpg"),
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"RIFF....WEBP", "webp"),
    (rb"GIF8", "gif"),
    (rb"BM", "bmp"),
    (rb"II\*\0|MM\0\*", "tif"),
)  # what a picture's bytes begin with, and the ending of its name
LONGEST_WAIT = 600  # seconds; a server that asks for more ends the run
LONGEST_TIMEOUT = 86_400  # seconds
MOST_RETRIES = 1000
GO_ON = "the same command goes on from here"


class Wrong(Exception):
    """The input is wrong; exit status 2."""


class Failed(Exception):
    """The fetch failed; exit status 1."""


class Retry(Exception):
    """It may work in a moment. wait: seconds the server asks for; came: whether bytes arrived since the last one."""

    def __init__(self, message, wait=None, came=False):
        super().__init__(message)
        self.wait, self.came = wait, came


class Progress:
    """One line on stderr: how many bytes of all, how fast, how long still. Silent when stderr is no terminal, or on request."""

    def __init__(self, quiet: bool):
        self.live = sys.stderr.isatty() and not quiet
        self.what, self.total, self.done, self.new, self.start, self.shown = (
            "",
            0,
            0,
            0,
            time.monotonic(),
            0.0,
        )

    def add(self, n: int) -> None:
        """Count n bytes more (negative: thrown away); redraw at most ten times a second."""
        self.done, self.new, now = self.done + n, self.new + max(n, 0), time.monotonic()
        if now - self.shown > 0.1:
            self.shown, rate = now, self.new / max(now - self.start, 1e-9)
            left = f"{(self.total - self.done) / rate:.0f} s left" if rate else ""
            self.show(
                f"{self.what}  {amount(self.done)} of {amount(self.total)}  {amount(rate)}/s  {left}"
            )

    def show(self, line: str = "") -> None:
        """Put a line in the place of the last; the empty one clears the place."""
        if self.live:
            sys.stderr.write("\r\x1b[K" + line[:150])
            sys.stderr.flush()


def amount(n: float) -> str:
    """A number of bytes as people read it (1 MB = 10^6 bytes)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def one_line(text, most: int = 200) -> str:
    """A foreign text as one line of at most `most` characters."""
    line = " ".join(str(text).split())
    line = line if line.isprintable() else ascii(line)[1:-1]
    return line if len(line) <= most else line[:most] + "..."


def host(url: str) -> str:
    """Scheme, host and port."""
    return "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))


def address(text: str) -> bool:
    """Whether a text is a web address with a host and without a query."""
    try:
        return bool(re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text) and host(text))
    except ValueError:  # such as a [ that nothing closes
        return False


class TokenStaysHome(urllib.request.HTTPRedirectHandler):
    """urllib hands all headers on to where it is redirected; the token must not go to another host."""

    def redirect_request(self, request, *rest):
        new = super().redirect_request(request, *rest)
        if new is not None and host(new.full_url) != host(request.full_url):
            new.remove_header("Authorization")
        return new


def asked_wait(headers) -> float | None:
    """Seconds that a 429 or 503 asks to wait: Retry-After (seconds or a date), or the t= of a RateLimit header."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    found = re.search(r";\s*t=(\d+)", headers.get("RateLimit") or "")
    return float(found[1]) if found else None


class Hub:
    """One repository on a hub, as the hub's HTTP API shows it."""

    def __init__(self, repository: str, kind: str, settings, progress: Progress):
        self.endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        self.token = os.environ.get("HF_TOKEN", "")
        if not address(self.endpoint):
            raise Wrong(
                f"HF_ENDPOINT is {one_line(self.endpoint)!r}; expected an address such as https://huggingface.co"
            )
        if not re.fullmatch(r"[!-~]*", self.token):
            raise Wrong(
                "HF_TOKEN holds a blank or a character that no token has; expected a text such as hf_..."
            )
        self.repository, self.settings, self.progress = repository, settings, progress
        self.api = f"{self.endpoint}/api/{kind}s/{repository}"
        self.page = f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}"
        self.opener = urllib.request.build_opener(TokenStaysHome)

    def open(self, url: str, headers: dict | None = None):
        """The response to a GET, 416 included; Retry, Wrong or Failed for everything else."""
        headers = {"User-Agent": "clear_ref", "Accept-Encoding": "identity", **(headers or {})}
        if self.token and host(url) == host(self.endpoint):
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            return self.opener.open(
                urllib.request.Request(url, headers=headers), timeout=self.settings.timeout
            )
        except urllib.error.HTTPError as error:
            if error.code == 416:
                return error
            with error:
                raise self.refused(error) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = one_line(getattr(error, "reason", error))
            raise Retry(
                f"cannot reach {host(url)} ({why}); check the network and HF_ENDPOINT"
            ) from None

    def refused(self, error) -> Exception:
        """What an HTTP error status means, and what to do."""
        status, why, name = error.code, error.headers.get("X-Error-Code", ""), self.repository
        said = f"{status} {one_line(error.headers.get('X-Error-Message') or error.reason)}"
        if status in (401, 403) and host(error.url) != host(self.endpoint):
            return Retry(
                f"{host(error.url)}: {said}"
            )  # a signed address ran out: the hub gives a new one
        if status in (401, 403) and why == "GatedRepo":
            return Wrong(
                f"{name} is gated ({status}{', HF_TOKEN has no access' if self.token else ''}): accept its licence at "
                f"{self.page} and set HF_TOKEN to a token of the account that did ({self.endpoint}/settings/tokens)"
            )
        if status in (401, 403) and self.token:
            return Wrong(
                f"{name}: the hub refuses HF_TOKEN ({said}); expected a token that may read {self.page}: make one at "
                f"{self.endpoint}/settings/tokens, or unset HF_TOKEN if the repository is public"
            )
        if status in (401, 403):
            return Wrong(
                f"{name}: not there, or not for everybody ({said}); check the name, or accept what {self.page} asks for "
                "and set HF_TOKEN"
            )
        if status == 404 and why == "RevisionNotFound":
            return Wrong(
                f"{name} has no such revision ({said}); expected a branch, tag or commit of {self.page}/commits/main"
            )
        if status == 404 and why == "EntryNotFound":
            return Failed(
                f"{name}: listed and not there ({said}: {one_line(error.url)}); try another --revision"
            )
        if status == 404:
            return Wrong(
                f"{name}: no such repository ({said}); check the name and HF_ENDPOINT: {self.page}"
            )
        if status in (408, 425, 429) or status >= 500:
            return Retry(f"{host(error.url)}: {said}", asked_wait(error.headers))
        return Failed(f"{one_line(error.url)}: {said}; expected 200; {GO_ON}")

    def patiently(self, once):
        """once(), again after each Retry, with waits that double; the count starts again whenever bytes have come."""
        tries = 0
        while True:
            try:
                return once()
            except Retry as trouble:
                tries = 1 if trouble.came else tries + 1
                wait = (
                    min(self.settings.wait * 2 ** (tries - 1), 60)
                    if trouble.wait is None
                    else trouble.wait
                )
                if tries > self.settings.retries or wait > LONGEST_WAIT:
                    asked = f", asks to wait {wait:.0f} s" if trouble.wait is not None else ""
                    raise Failed(
                        f"{trouble}{asked}; gave up after {tries} tries in a row, {GO_ON}"
                    ) from None
                self.progress.show(
                    f"{trouble}; again in {wait:.0f} s ({tries} of {self.settings.retries})"
                )
                time.sleep(wait)

    def json(self, url: str):
        """(parsed answer, the address of the next page or None) of an API call."""

        def once():
            with self.open(url) as answer:
                try:
                    return answer.read(), answer.headers.get("Link", "")
                except (OSError, http.client.HTTPException) as error:
                    raise Retry(f"{url}: the answer broke off ({one_line(error)})") from None

        text, link = self.patiently(once)
        try:
            found = json.loads(text)
        except ValueError:
            raise Failed(
                f"{url}: the answer is no JSON ({one_line(text[:80])}); is HF_ENDPOINT a hub, or does a login page "
                "answer?"
            ) from None
        following = re.search(r'<([^>]+)>;\s*rel="?next', link)
        return found, following and urllib.parse.urljoin(url, following[1])

    def listing(self, revision: str) -> tuple[str, list[dict]]:
        """(commit, files) of a revision; a file: path, size, and sha256 (large files) or git (its blob's id; small ones)."""
        url = f"{self.api}/revision/{urllib.parse.quote(revision, safe='')}"
        try:
            commit, files = self.json(url)[0]["sha"], []
            if not re.fullmatch(r"[0-9a-f]{40}", commit):
                raise ValueError(commit)
            url = f"{self.api}/tree/{commit}?recursive=true"
            while url:
                page, url = self.json(url)
                for entry in page:
                    if entry["type"] == "file":
                        large = entry.get("lfs")
                        oid = (large or entry)["oid"]
                        if not re.fullmatch(r"[0-9a-f]{64}" if large else r"[0-9a-f]{40}", oid):
                            raise ValueError(oid)
                        files.append(
                            {
                                "path": str(entry["path"]),
                                "size": int(entry["size"]),
                                "sha256": large and oid,
                                "git": None if large else oid,
                            }
                        )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Failed(
                f"{url}: not what the hub's API answers ({one_line(repr(error))}); check HF_ENDPOINT"
            ) from None
        return commit, files

    def download(self, file: dict, commit: str, part: Path) -> None:
        """Bring one file to `part`, complete and with the listed hash; what an earlier run left there is gone on with."""
        url = f"{self.page}/resolve/{commit}/{urllib.parse.quote(file['path'])}"
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        self.progress.what = file["path"]
        self.patiently(lambda: self.receive(url, file, part))
        found = fingerprint(part, file)
        if found != expected(file):
            part.unlink()
            self.progress.add(-file["size"])
            if resumed:  # what was there before may have been bad: once more from the start
                return self.download(file, commit, part)
            raise Failed(
                f"{file['path']}: its hash is {found}; expected {expected(file)}; what came was thrown away, the same "
                "command fetches it again"
            )

    def receive(self, url: str, file: dict, part: Path) -> None:
        """One request for what is missing of a file; Retry if the connection ends before the file does."""
        size, tag = file["size"], part.with_name(part.name + ".etag")
        have = part.stat().st_size if part.exists() else 0
        if have == size and part.exists():
            return
        headers = {}
        if 0 < have < size:
            headers["Range"] = f"bytes={have}-"
            mark = tag.read_text() if tag.exists() else ""
            if mark.startswith('"'):  # only a strong ETag may stand there
                headers["If-Range"] = mark
        with self.open(url, headers) as answer:
            goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            )
            if not goes_on:
                self.progress.add(-have)
                have = 0
                if answer.status != 200:
                    part.unlink(missing_ok=True)
                    raise Retry(
                        f"{file['path']}: {answer.status} in answer to {headers.get('Range', 'the whole')}"
                    )
            if answer.length is not None and have + answer.length != size:
                raise Failed(
                    f"{file['path']}: the hub sends {have + answer.length} bytes; its listing says {size}; try again "
                    "later, or another --revision"
                )
            tag.write_text(answer.headers.get("ETag", ""))
            came, why = 0, "the connection ended"
            with open(part, "ab" if goes_on else "wb") as out:
                while have < size:
                    try:
                        block = answer.read1(min(1 << 18, size - have))
                    except (OSError, http.client.HTTPException) as error:
                        block, why = b"", one_line(error) or type(error).__name__
                    if not block:
                        break
                    out.write(block)
                    have, came = have + len(block), came + len(block)
                    self.progress.add(len(block))
                out.flush()
                os.fsync(out.fileno())
            if have < size:
                raise Retry(f"{file['path']}: {have} of {size} bytes came ({why})", came=came > 0)


def digest(path: Path, kind: str = "sha256", head: bytes = b"") -> str:
    """Hash of head and a file's bytes, in hex."""
    found = hashlib.new(kind, head)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def record_of(path: Path, **counts) -> dict:
    """A file's entry in the manifest."""
    return {"sha256": digest(path), "size": path.stat().st_size, **counts}


def fingerprint(path: Path, file: dict) -> str:
    """What `expected` is for the right bytes: SHA-256, or git's blob id where the listing has no SHA-256."""
    if file["sha256"]:
        return "sha256:" + digest(path)
    return "git:" + digest(path, "sha1", f"blob {path.stat().st_size}\0".encode())


def expected(file: dict) -> str:
    """The listed hash."""
    return "sha256:" + file["sha256"] if file["sha256"] else "git:" + file["git"]


def is_manifest(found) -> bool:
    """Whether parsed JSON has everything in its place that this script writes to a manifest and reads from one."""

    def text(value, pattern=".+"):
        return isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None

    def listed(file):
        hashes = (file.get("sha256"), file.get("git")) if isinstance(file, dict) else ()
        return (
            hashes
            and text(file.get("path"))
            and type(file.get("size")) is int
            and file["size"] >= 0
            and (
                text(hashes[0], "[0-9a-f]{64}")
                or hashes[0] is None
                and text(hashes[1], "[0-9a-f]{40}")
            )
        )

    def made(record):
        return isinstance(record, dict) and text(record.get("sha256"), "[0-9a-f]{64}")

    return (
        isinstance(found, dict)
        and all(text(found.get(key)) for key in ("repository", "revision"))
        and text(found.get("commit"), "[0-9a-f]{40}")
        and isinstance(found.get("files"), list)
        and all(map(listed, found["files"]))
        and isinstance(found.get("written"), dict)
        and all(map(made, found["written"].values()))
    )


def complete(parts: list[dict], of: str) -> list[dict]:
    """Shards in order; Failed if some of NNNNN-of-NNNNN are not listed."""
    parts = sorted(parts, key=lambda file: file["path"])
    for file in parts:
        total = re.search(r"-of-(\d{5})\.", file["path"])
        if total and int(total[1]) != len(parts):
            raise Failed(
                f"{of}: the hub lists {len(parts)} files of {int(total[1])}; try another --revision"
            )
    return parts


def clear_targets(files: list[dict]) -> dict[str, list[dict]]:
    """{"CONFIG/rows.jsonl": its parquet files}. `default` lies in data/; the hub's own conversions lie in CONFIG/train/."""
    found = {}
    for file in files:
        match = re.fullmatch(r"([^/]+)/train(?:-\d{5}-of-\d{5}|/\d+)\.parquet", file["path"])
        config = match and {"data": "default"}.get(match[1], match[1])
        if config in CLEAR:
            found.setdefault(f"{config}/rows.jsonl", []).append(file)
    return found


def tofu_targets(files: list[dict]) -> dict[str, list[dict]]:
    """{"tofu/CONFIG/rows.jsonl": [its file]}."""
    return {
        f"tofu/{name}/rows.jsonl": [file]
        for file in files
        if (name := file["path"].removesuffix(".json")) in TOFU
    }


def checkpoint_targets(files: list[dict]) -> dict[str, list[dict]]:
    """{path: [the file]} of what load reads, small files first; Failed where there are no safetensors."""
    found = {file["path"]: [file] for file in files if WANTED.fullmatch(file["path"])}
    if "model.safetensors.index.json" in found:
        found.pop("model.safetensors", None)
    weights = [
        file
        for path, (file,) in found.items()
        if path.startswith("model") and path.endswith(".safetensors")
    ]
    if not ("config.json" in found and weights) and not {
        "adapter_config.json",
        "adapter_model.safetensors",
    } <= set(found):
        have = one_line(", ".join(sorted(file["path"] for file in files))) or "nothing"
        raise Failed(
            f"expected config.json and model.safetensors, whole or in numbered parts; the hub lists {have}; name a "
            "checkpoint in safetensors form (nothing pickled is fetched)"
        )
    complete(weights, "model.safetensors")
    return dict(sorted(found.items(), key=lambda item: item[1][0]["size"]))


def check_columns(kinds: dict[str, str], config: str, where: str) -> None:
    """Failed unless a config's columns are there and no other; kinds: {column: text, texts, picture, any or something else}."""
    columns = SCHEMA["kinds"][SCHEMA["configs"][config]["kind"]]
    if (
        not {name for name in columns if name[-1] != "?"}
        <= set(kinds)
        <= {name.rstrip("?") for name in columns}
    ):
        raise Failed(
            f"{where}: columns are {', '.join(kinds)}; expected {', '.join(columns)}; no row was written, try another "
            "--revision"
        )
    for name, kind in kinds.items():
        wanted = "picture" if name == "image" else "texts" if name in SCHEMA["lists"] else "text"
        if kind not in (wanted, "any"):
            raise Failed(
                f"{where}: column {name} holds {kind}; expected {wanted}; no row was written, try another --revision"
            )


def picture(data: bytes, out: Path, parts: Path, where: str) -> str:
    """Write a picture's own bytes under a name made of their hash, if it is not there; its path below the data directory."""
    ending = next((ending for magic, ending in MAGIC if re.match(magic, data, re.DOTALL)), None)
    if ending is None:
        raise Failed(
            f"{where}: the picture begins with {data[:8]!r}; expected JPEG, PNG, WebP, GIF, BMP or TIFF; try another "
            "--revision"
        )
    path = out / "images" / f"{hashlib.sha256(data).hexdigest()[:32]}.{ending}"
    if not path.exists():
        temporary = (
            parts / "picture"
        )  # not synced to the disk one by one: each run checks pictures against their names
        temporary.write_bytes(data)
        os.replace(temporary, path)
    elif path.read_bytes() != data:
        raise Wrong(
            f"{path}: differs from what its name stands for; expected the hub's picture: remove it, {GO_ON}"
        )
    return f"images/{path.name}"


def rows_of(parquet, config: str, out: Path, parts: Path, where: str):
    """One dict a row, pictures written and named; row group by row group, so memory is about two of them."""
    nullable = SCHEMA["nullable"].get(SCHEMA["configs"][config]["kind"], ())
    number = 0
    for group in range(parquet.num_row_groups):
        for batch in parquet.iter_batches(batch_size=32, row_groups=[group], use_threads=False):
            for row in batch.to_pylist():
                number += 1
                if "image" in row:
                    image = row["image"] or {"bytes": None, "path": None}
                    if image["bytes"] is None and (
                        image["path"] is not None or "image" not in nullable
                    ):
                        raise Failed(
                            f"{where}: row {number} has a picture ({image['path']}) without its bytes; expected "
                            "them; try another --revision"
                        )
                    data = image["bytes"]
                    row["image"] = (
                        None
                        if data is None
                        else picture(data, out, parts, f"{where}: row {number}")
                    )
                yield row


def kinds_of(schema) -> dict:
    """{column: text, texts, picture or the Arrow type's name} of a parquet file."""
    from pyarrow import types

    def kind(of):
        if types.is_string(of) or types.is_large_string(of):
            return "text"
        if (types.is_list(of) or types.is_large_list(of)) and kind(of.value_type) == "text":
            return "texts"
        if types.is_struct(of) and {field.name for field in of} == {"bytes", "path"}:
            return "picture"
        return one_line(of)

    return {field.name: kind(field.type) for field in schema}


def convert(files: list[dict], out: Path, parts: Path, target: str) -> tuple[Path, dict]:
    """(complete rows.jsonl under another name, its record) of a config's parquet files, all of them checked first."""
    import pyarrow
    from pyarrow import parquet as pq

    config, temporary, n, pictures = target.removesuffix("/rows.jsonl"), parts / "rows", 0, set()
    try:
        with contextlib.ExitStack() as stack:
            readers = [
                (
                    stack.enter_context(
                        pq.ParquetFile(parts / path, pre_buffer=False, buffer_size=1 << 20)
                    ),
                    path,
                )
                for path in (file["path"] for file in files)
            ]
            for reader, path in readers:
                check_columns(kinds_of(reader.schema_arrow), config, path)
            (out / "images").mkdir(parents=True, exist_ok=True)
            text = stack.enter_context(open(temporary, "w", encoding="utf-8", newline="\n"))
            for reader, path in readers:
                for row in rows_of(reader, config, out, parts, path):
                    text.write(json.dumps(row, ensure_ascii=False) + "\n")
                    n += 1
                    pictures |= {row["image"]} if row.get("image") else set()
            text.flush()
            os.fsync(text.fileno())
    except pyarrow.ArrowException as error:
        raise Failed(
            f"{target}: pyarrow cannot read {', '.join(file['path'] for file in files)} ({one_line(error)}); try "
            "another pyarrow (constraints.txt) or --revision"
        ) from None
    return temporary, record_of(temporary, rows=n, pictures=len(pictures))


def lines_checked(path: Path, target: str) -> dict:
    """The record of a JSON Lines file; Failed for a line that is no object with the config's columns."""
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        where = f"{target}: line {number} of the hub's file"
        try:
            names = json.loads(line).keys()
        except (ValueError, AttributeError):
            raise Failed(
                f"{where} is no JSON object; expected JSON Lines; try another --revision"
            ) from None
        check_columns(dict.fromkeys(names, "any"), target.removesuffix("/rows.jsonl"), where)
    return record_of(path, rows=len(lines))


class Fetch:
    """One item on its way to a directory."""

    def __init__(self, settings):
        item = settings.item
        self.settings, self.kind = settings, "dataset" if item in DATA_SETS else "model"
        repository = {**DATA_SETS, **CHECKPOINTS}.get(item, item)
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
            raise Wrong(
                f"{item!r} is unknown; expected {', '.join([*DATA_SETS, *CHECKPOINTS])} or a checkpoint as OWNER/NAME"
            )
        self.out = Path(
            settings.out
            or Path("hub") / ("clear" if self.kind == "dataset" else item.split("/")[-1])
        )
        self.name = item if self.kind == "dataset" else "checkpoint"
        self.parts, self.manifest_path = (
            self.out / "fetched/parts" / self.name,
            self.out / "fetched" / f"{self.name}.json",
        )
        there = next(filter(os.path.lexists, (self.parts, *self.parts.parents)), Path("."))
        if not there.is_dir():
            raise Wrong(
                f"{there} is in the way and no directory; expected a directory or a free name: choose another --out, "
                "or move it away"
            )
        self.progress = Progress(settings.quiet)
        self.hub = Hub(repository, self.kind, settings, self.progress)
        self.checked = set()  # pictures found whole in this run
        if item == "clear" and not settings.dry_run and importlib.util.find_spec("pyarrow") is None:
            raise Wrong(
                "clear comes as parquet files and pyarrow is not installed; expected it: pip install pyarrow"
            )

    def manifest_of(self, asked: str | None) -> dict:
        """The manifest of earlier runs, or a new one from the hub's listing; Wrong where the directory holds something else."""
        repository = self.hub.repository
        if self.manifest_path.exists():
            try:
                found = json.loads(self.manifest_path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                found = None
            if not is_manifest(found):
                raise Wrong(
                    f"{self.manifest_path}: not a manifest of this script; expected one: remove it, {GO_ON}"
                )
            if found["repository"] == repository and asked in (
                None,
                found["commit"],
                found["revision"],
            ):
                return found
            if found["files"] and found["written"]:
                holds = f"{found['repository']} at {found['revision']} ({found['commit']})"
                raise Wrong(
                    f"{self.out} holds {holds}; asked for {repository} at {asked or 'main'}; choose another --out, or "
                    "remove the directory"
                )
        commit, files = self.hub.listing(asked or "main")
        return {
            "repository": repository,
            "kind": self.kind,
            "endpoint": self.hub.endpoint,
            "revision": asked or "main",
            "commit": commit,
            "files": files,
            "written": {},
        }

    def plan(self) -> dict[str, list[dict]]:
        """{target: the hub's files that it is made of}, as --only picks."""
        only = self.settings.only
        if self.kind == "model":
            if only:
                raise Wrong(
                    f"--only {','.join(only)}: a checkpoint comes whole; expected clear or tofu, or no --only"
                )
            self.manifest = self.manifest_of(self.settings.revision)
            return checkpoint_targets(self.manifest["files"])
        known = {f"tofu/{name}" for name in TOFU} if self.name == "tofu" else CLEAR
        wanted = [
            f"tofu/{name.removeprefix('tofu/')}" if self.name == "tofu" else name for name in only
        ] or sorted(known)
        if unknown := [name for name in wanted if name not in known]:
            raise Wrong(
                f"--only {unknown[0]}: no config of {self.name}; expected some of {', '.join(sorted(known))}"
            )
        self.manifest = self.manifest_of(self.settings.revision)
        targets = (tofu_targets if self.name == "tofu" else clear_targets)(self.manifest["files"])
        if missing := [name for name in wanted if f"{name}/rows.jsonl" not in targets]:
            raise Failed(
                f"{self.hub.repository} at {self.manifest['commit']} has no file for {', '.join(missing)}; name "
                "those you want with --only, or try another --revision"
            )
        return {
            target: complete(targets[target], target)
            for target in (f"{name}/rows.jsonl" for name in wanted)
        }

    def there(self, target: str, files: list[dict]) -> bool:
        """Whether a target is there, whole and right; Wrong if something else has its name."""
        path, made = (
            self.out / target,
            self.manifest["written"].get(target, {"sha256": " none, no run here made it"}),
        )
        if not path.exists():
            return False
        self.progress.show(f"checking {path}")
        right = "sha256:" + made["sha256"] if self.name == "clear" else expected(files[0])
        found = "sha256:" + digest(path) if self.name == "clear" else fingerprint(path, files[0])
        if found != right:
            raise Wrong(
                f"{path}: its hash is {found}; expected {right}; it is not overwritten: move it away, or choose another "
                "--out"
            )
        return self.name != "clear" or all(
            map(self.whole_picture, filter(None, path.read_bytes().split(b"\n")))
        )

    def whole_picture(self, line: bytes) -> bool:
        """Whether the picture of a row of ours is there; Wrong if its bytes are not those that its name stands for."""
        image = json.loads(line).get("image")
        if image is None or image in self.checked:
            return True
        path = self.out / image
        if not path.exists():
            return False
        if not digest(path).startswith(path.stem):
            raise Wrong(
                f"{path}: differs from what its name stands for; expected the hub's picture: remove it, {GO_ON}"
            )
        self.checked.add(image)
        return True

    def here(self, file: dict) -> int:
        """Bytes of a file that earlier runs brought."""
        part = self.parts / file["path"]
        return min(part.stat().st_size, file["size"]) if part.exists() else 0

    def run(self) -> None:
        """Everything: plan, look at what is there, fetch the rest."""
        targets = self.plan()
        todo = {target: files for target, files in targets.items() if not self.there(target, files)}
        sizes = {target: sum(file["size"] for file in files) for target, files in targets.items()}
        here = {target: sum(map(self.here, files)) for target, files in todo.items()}
        self.progress.total, self.progress.done = sum(map(sizes.get, todo)), sum(here.values())
        left = need = self.progress.total - self.progress.done
        if (
            self.name == "clear"
        ):  # parquet goes once it is rows and pictures, and configs share pictures
            need = min(2 * self.progress.total, 3 * max(map(sizes.get, todo), default=0))
        free = shutil.disk_usage(
            next(folder for folder in (self.out, *self.out.absolute().parents) if folder.exists())
        ).free
        if self.settings.dry_run:
            for target in targets:
                print(
                    f"{target:40} {amount(sizes[target]):>10}  {amount(here[target]) + ' here' if target in todo else 'there'}"
                )
            print(
                f"{self.hub.repository} at {self.manifest['commit']}: {amount(left)} to fetch, {amount(free)} free"
            )
            return
        if need > free:
            raise Failed(
                f"{self.out}: {amount(free)} free; expected {amount(need)} for what is to come; make room, {GO_ON}"
            )
        self.parts.mkdir(parents=True, exist_ok=True)
        self.remember()
        for target, files in todo.items():
            self.make(target, files)
        for target in targets.keys() - self.manifest["written"].keys():  # there before, and right
            self.manifest["written"][target] = record_of(self.out / target)
        self.remember()
        self.clear_away(
            ["rows", "picture", *(file["path"] for files in targets.values() for file in files)]
        )
        for folder in sorted(
            (self.out / "fetched").glob("**/"), reverse=True
        ):  # what has come of other configs stays
            with contextlib.suppress(OSError):
                folder.rmdir()
        print(
            f"{self.hub.repository} at {self.manifest['commit']}: {len(targets)} of {len(targets)} files right in {self.out} "
            f"({len(todo)} new); {self.manifest_path} has their hashes"
        )

    def remember(self) -> None:
        """Write the manifest, whole."""
        temporary = self.parts / "manifest"
        temporary.write_text(json.dumps(self.manifest, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.manifest_path)

    def clear_away(self, names) -> None:
        """Remove these of the parts, if they are there."""
        for name in names:
            (self.parts / name).unlink(missing_ok=True)
            (self.parts / f"{name}.etag").unlink(missing_ok=True)

    def make(self, target: str, files: list[dict]) -> None:
        """Fetch a target's files and give it its name."""
        for file in files:
            self.hub.download(file, self.manifest["commit"], self.parts / file["path"])
        path = self.parts / files[0]["path"]
        if self.name == "clear":
            path, record = convert(files, self.out, self.parts, target)
        elif self.name == "tofu":
            record = lines_checked(path, target)
        else:
            record = record_of(path)
        self.manifest["written"][target] = (
            record  # before the file has its name, so that a kill between leaves a file we know
        )
        self.remember()
        (self.out / target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, self.out / target)
        self.clear_away(file["path"] for file in files)
        counts = "".join(
            f", {record[what]} {what}" for what in ("rows", "pictures") if what in record
        )
        self.progress.show()
        print(f"{target}  {amount(sum(file['size'] for file in files))}{counts}", flush=True)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, exit status 2."""
        raise Wrong(f"{message}; --help shows what is expected")


def number(kind, least: float, most: float, above: bool = False):
    """The reader of a number option: of least (above: not itself) to most; the parser's error for anything else."""

    def read(text):
        with contextlib.suppress(ValueError):
            if least <= (value := kind(text)) <= most and not (above and value == least):
                return value
        whole = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(
            f"{one_line(text)!r} found; expected {whole} {'above' if above else 'from'} {least}, at "
            f"most {most}"
        )

    return read


def filled(text: str) -> str:
    """An option's text; the parser's error if nothing is in it."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} found; expected a name, or the option left out")
    return text


def names(text: str) -> list[str]:
    """The names of "one,two"; the parser's error if there is none."""
    return [name for name in filled(text.strip(",")).split(",") if name]


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python data_fetch.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "item",
        help=f"{', '.join(DATA_SETS)}, {', '.join(CHECKPOINTS)}, or a checkpoint as OWNER/NAME",
    )
    made.add_argument(
        "--out",
        type=filled,
        help="directory (default: hub/clear for clear and tofu, hub/NAME for a checkpoint)",
    )
    made.add_argument(
        "--revision",
        type=filled,
        help="branch, tag or commit (default: the commit in the manifest, else main)",
    )
    made.add_argument(
        "--only",
        type=names,
        default=[],
        metavar="CONFIG,...",
        help="these configs of clear or tofu (default: all)",
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be fetched, with sizes; write nothing",
    )
    made.add_argument(
        "--retries",
        type=number(int, 0, MOST_RETRIES),
        default=5,
        help="tries in a row that bring nothing before giving up (default: 5)",
    )
    made.add_argument(
        "--wait",
        type=number(float, 0, LONGEST_WAIT),
        default=1.0,
        help="seconds before the second try, doubled each time (default: 1)",
    )
    made.add_argument(
        "--timeout",
        type=number(float, 0, LONGEST_TIMEOUT, above=True),
        default=30.0,
        help="seconds without a byte that end a connection (default: 30)",
    )
    made.add_argument("--quiet", action="store_true", help="no progress line")
    return made


def main(argv=None) -> int:
    """Exit status; see the top of the file."""
    try:
        Fetch(parser().parse_args(argv)).run()
        return 0
    except (Wrong, Failed) as error:
        line, status = str(error), 2 if isinstance(error, Wrong) else 1
    except KeyboardInterrupt:
        line, status = f"stopped; {GO_ON}", 130
    except OSError as error:
        line, status = (
            f"{error.filename or 'a file'}: cannot be read or written ({error.strerror or error})",
            2,
        )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            line, status = (
                f"the disk is full ({error.strerror}); expected room for what is still to come: make some, {GO_ON}",
                1,
            )
    print("\r\x1b[K" * sys.stderr.isatty() + f"data_fetch: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
