#!/usr/bin/env python3
"""Fetches CLEAR, TOFU and checkpoints from the hub as plain files.

  python data_fetch.py clear          DIR/CONFIG/rows.jsonl and DIR/images/; the pictures have the
                                      bytes that the hub has
  python data_fetch.py tofu           DIR/tofu/CONFIG/rows.jsonl, the hub's files unchanged
  python data_fetch.py llava-1.5-7b   DIR/config.json, *.safetensors, ...: the files that
                                      clear_ref.load reads, unchanged
  python data_fetch.py OWNER/NAME     any checkpoint of the hub

Runs from a clone with only Python; clear also needs pyarrow. HF_ENDPOINT names another hub.
HF_TOKEN is sent to the hub only.

The first run writes the commit of --revision and its listing to DIR/fetched/ITEM.json; later runs
use that commit. A file gets its name only when it is complete and has the listed hash; until then
its bytes are in DIR/fetched/parts/. After any failure, also after a kill, the same command
resumes. A file that differs is never overwritten.

Exit status: 0 done, 1 the fetch failed, 2 the input is wrong (a name, the token, a file in the
way), 130 stopped.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, NotRequired, TypedDict, TypeGuard, TypeVar

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet as pq

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "clear_ref" / "data" / "schema.json").read_text(encoding="utf-8")
)
# The configs without a published number of rows belong to the embedded world.
PUBLISHED = {name for name, config in SCHEMA["configs"].items() if config["rows"] is not None}
TOFU = {name.removeprefix("tofu/") for name in PUBLISHED if name.startswith("tofu/")}
CLEAR = {name for name in PUBLISHED if not name.startswith("tofu/")}
DATA_SETS = {"clear": "therem/CLEAR", "tofu": "locuslab/TOFU"}
CHECKPOINTS = {
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "llama-2-7b": "meta-llama/Llama-2-7b-chat-hf",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
}
# The files of a checkpoint that clear_ref.load reads. None of them is a pickle.
WANTED = re.compile(
    r"(generation_|preprocessor_|processor_|tokenizer_|adapter_)?config\.json|"
    r"tokenizer\.(json|model)|chat_template\.(json|jinja)|special_tokens_map\.json|"
    r"added_tokens\.json|vocab\.json|merges\.txt|model(-\d{5}-of-\d{5})?\.safetensors|"
    r"model\.safetensors\.index\.json|adapter_model\.safetensors"
)
# (first bytes of a picture, ending of its file name)
MAGIC = (
    (rb"\xff\xd8\xff", "jpg"),
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"RIFF....WEBP", "webp"),
    (rb"GIF8", "gif"),
    (rb"BM", "bmp"),
    (rb"II\*\0|MM\0\*", "tif"),
)
LONGEST_WAIT = 600  # seconds; the run ends if a server asks for a longer wait
LONGEST_BACKOFF = 60  # seconds; longest wait that the run chooses itself
LONGEST_TIMEOUT = 86_400  # seconds
MOST_RETRIES = 1000
BLOCK = 1 << 18  # bytes read from the network at once
RESUMES = "the same command resumes from here"

Answer = TypeVar("Answer")


class ListedFile(TypedDict):
    """A file in the hub's listing.

    sha256  of large files, else None
    git     git's blob id of small files, else None
    """

    path: str
    size: int
    sha256: str | None
    git: str | None


class WrittenFile(TypedDict):
    """A file that this script has written."""

    sha256: str
    size: int
    rows: NotRequired[int]
    pictures: NotRequired[int]


class Manifest(TypedDict):
    """The content of DIR/fetched/ITEM.json."""

    repository: str
    kind: str
    endpoint: str
    revision: str
    commit: str
    files: list[ListedFile]
    written: dict[str, WrittenFile]


class Wrong(Exception):
    """The input is wrong; exit status 2."""


class Failed(Exception):
    """The fetch failed; exit status 1."""


class Retry(Exception):
    """A request failed and may succeed later.

    wait      seconds that the server asks to wait, or None
    received  True if bytes arrived since the last failure
    """

    def __init__(self, message: str, wait: float | None = None, received: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.received = received


class RangeRefused(Retry):
    """The server answered 416: it does not have the range of bytes that was asked for."""


class Progress:
    """One line on stderr: bytes done, total, speed, time left.

    Nothing is written if stderr is no terminal, or if `quiet` is true.
    """

    def __init__(self, quiet: bool) -> None:
        self.visible = sys.stderr.isatty() and not quiet
        self.what = ""
        self.total = 0
        self.done = 0
        self.new = 0  # bytes received in this run
        self.started = time.monotonic()
        self.drawn = 0.0

    def add(self, n: int) -> None:
        """Count n more bytes (negative: discarded); redraw at most ten times a second."""
        self.done += n
        self.new += max(n, 0)
        now = time.monotonic()
        if now - self.drawn > 0.1:
            self.drawn = now
            rate = self.new / max(now - self.started, 1e-9)
            left = f"{(self.total - self.done) / rate:.0f} s left" if rate else ""
            done = f"{amount(self.done)} of {amount(self.total)}"
            self.show(f"{self.what}  {done}  {amount(rate)}/s  {left}")

    def show(self, line: str = "") -> None:
        """Replace the line; an empty text removes it."""
        if self.visible:
            sys.stderr.write("\r\x1b[K" + line[:150])
            sys.stderr.flush()


class Settings(argparse.Namespace):
    """The command line's values; see parser()."""

    item: str
    out: str | None
    revision: str | None
    only: list[str]
    dry_run: bool
    retries: int
    wait: float
    timeout: float
    quiet: bool


def amount(n: float) -> str:
    """A number of bytes for people (1 MB = 10^6 bytes)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def one_line(text: object, most: int = 200) -> str:
    """`text` on one line of at most `most` characters, to quote unknown text in a message."""
    line = " ".join(str(text).split())
    if not line.isprintable():
        line = ascii(line)[1:-1]
    return line if len(line) <= most else line[:most] + "..."


def host(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_address(text: str) -> bool:
    """True for a web address with a host and without a query."""
    try:
        return bool(re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text) and host(text))
    except ValueError:  # for example a [ without its ]
        return False


class KeepToken(urllib.request.HTTPRedirectHandler):
    """Follows redirects without sending the token to another host.

    urllib sends every header of a request also to the address of a redirect.
    """

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and host(new.full_url) != host(req.full_url):
            new.remove_header("Authorization")
        return new


def asked_wait(headers: Message | Mapping[str, str]) -> float | None:
    """The seconds that a 429 or 503 asks to wait.

    From Retry-After (seconds or a date), else from the t= of a RateLimit header; None if neither
    is given.
    """
    text = (headers.get("Retry-After") or "").strip()
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    found = re.search(r";\s*t=(\d+)", headers.get("RateLimit") or "")
    return float(found[1]) if found else None


class Hub:
    """One repository on a hub, through the hub's HTTP API."""

    def __init__(self, repository: str, kind: str, settings: Settings, progress: Progress) -> None:
        self.endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        self.token = os.environ.get("HF_TOKEN", "")
        if not is_address(self.endpoint):
            raise Wrong(
                f"HF_ENDPOINT is {one_line(self.endpoint)!r}; expected an address such as "
                "https://huggingface.co"
            )
        if not re.fullmatch(r"[!-~]*", self.token):
            raise Wrong(
                "HF_TOKEN holds a blank or a character that no token has; expected a text such as "
                "hf_..."
            )
        self.repository = repository
        self.settings = settings
        self.progress = progress
        self.api = f"{self.endpoint}/api/{kind}s/{repository}"
        self.page = f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}"
        self.opener = urllib.request.build_opener(KeepToken)

    def open(self, url: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """The response to a GET request.

        raises  RangeRefused for the status 416; Retry, Wrong or Failed for every other error
        """
        all_headers = {"User-Agent": "clear_ref", "Accept-Encoding": "identity", **(headers or {})}
        if self.token and host(url) == host(self.endpoint):
            all_headers["Authorization"] = f"Bearer {self.token}"
        try:
            request = urllib.request.Request(url, headers=all_headers)
            return self.opener.open(request, timeout=self.settings.timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise self.refusal(error) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = one_line(getattr(error, "reason", error))
            raise Retry(
                f"cannot reach {host(url)} ({why}); check the network and HF_ENDPOINT"
            ) from None

    def refusal(self, error: urllib.error.HTTPError) -> Exception:
        """The exception for an HTTP error status: what it means, and what to do."""
        status = error.code
        message = f"{status} {one_line(error.headers.get('X-Error-Message') or error.reason)}"
        if status == 416:
            return RangeRefused(f"{host(error.url)}: {message}")
        if status in (401, 403):
            return self.access_refusal(error, message)
        if status == 404:
            return self.missing(error, message)
        if status in (408, 425, 429) or status >= 500:
            return Retry(f"{host(error.url)}: {message}", asked_wait(error.headers))
        return Failed(f"{one_line(error.url)}: {message}; expected 200; {RESUMES}")

    def access_refusal(self, error: urllib.error.HTTPError, message: str) -> Exception:
        """The exception for the status 401 or 403."""
        name = self.repository
        if host(error.url) != host(self.endpoint):
            # A signed address has expired; the hub gives a new one.
            return Retry(f"{host(error.url)}: {message}")
        if error.headers.get("X-Error-Code") == "GatedRepo":
            no_access = ", HF_TOKEN has no access" if self.token else ""
            return Wrong(
                f"{name} is gated ({error.code}{no_access}): accept its licence at {self.page} and "
                "set HF_TOKEN to a token of the account that accepted it "
                f"({self.endpoint}/settings/tokens)"
            )
        if self.token:
            return Wrong(
                f"{name}: the hub refuses HF_TOKEN ({message}); expected a token that may read "
                f"{self.page}: make one at {self.endpoint}/settings/tokens, or unset HF_TOKEN if "
                "the repository is public"
            )
        return Wrong(
            f"{name}: does not exist, or is not public ({message}); check the name, or accept what "
            f"{self.page} asks for and set HF_TOKEN"
        )

    def missing(self, error: urllib.error.HTTPError, message: str) -> Exception:
        """The exception for the status 404."""
        name = self.repository
        why = error.headers.get("X-Error-Code")
        if why == "RevisionNotFound":
            return Wrong(
                f"{name} has no such revision ({message}); expected a branch, tag or commit of "
                f"{self.page}/commits/main"
            )
        if why == "EntryNotFound":
            return Failed(
                f"{name}: a listed file is missing ({message}: {one_line(error.url)}); try another "
                "--revision"
            )
        return Wrong(
            f"{name}: no such repository ({message}); check the name and HF_ENDPOINT: {self.page}"
        )

    def with_retries(self, request: Callable[[], Answer]) -> Answer:
        """request(), repeated after each Retry.

        The wait doubles each time. The count of failures restarts whenever bytes have arrived.
        """
        failures = 0
        while True:
            try:
                return request()
            except Retry as error:
                failures = 1 if error.received else failures + 1
                if error.wait is None:
                    wait = min(self.settings.wait * 2 ** (failures - 1), LONGEST_BACKOFF)
                    asked = ""
                else:
                    wait = error.wait
                    asked = f", asks to wait {wait:.0f} s"
                if failures > self.settings.retries or wait > LONGEST_WAIT:
                    raise Failed(
                        f"{error}{asked}; gave up after {failures} tries in a row, {RESUMES}"
                    ) from None
                self.progress.show(
                    f"{error}; again in {wait:.0f} s ({failures} of {self.settings.retries})"
                )
                time.sleep(wait)

    def json(self, url: str) -> tuple[Any, str | None]:
        """(parsed answer, address of the next page or None) of an API call."""

        def request() -> tuple[bytes, str]:
            with self.open(url) as answer:
                try:
                    return answer.read(), answer.headers.get("Link", "")
                except (OSError, http.client.HTTPException) as error:
                    raise Retry(f"{url}: the answer is not complete ({one_line(error)})") from None

        text, link = self.with_retries(request)
        try:
            found = json.loads(text)
        except ValueError:
            raise Failed(
                f"{url}: the answer is no JSON ({one_line(text[:80])}); check that HF_ENDPOINT is "
                "a hub and that no login page answers"
            ) from None
        next_page = re.search(r'<([^>]+)>;\s*rel="?next', link)
        return found, urllib.parse.urljoin(url, next_page[1]) if next_page else None

    def listing(self, revision: str) -> tuple[str, list[ListedFile]]:
        """(commit, files) of a revision."""
        url: str | None = f"{self.api}/revision/{urllib.parse.quote(revision, safe='')}"
        files: list[ListedFile] = []
        try:
            commit = self.json(str(url))[0]["sha"]
            if not re.fullmatch(r"[0-9a-f]{40}", commit):
                raise ValueError(commit)
            url = f"{self.api}/tree/{commit}?recursive=true"
            while url:
                page, url = self.json(url)
                files += [listed_file(entry) for entry in page if entry["type"] == "file"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Failed(
                f"{url}: not an answer of the hub's API ({one_line(repr(error))}); check "
                "HF_ENDPOINT"
            ) from None
        return commit, files

    def download(self, file: ListedFile, commit: str, part: Path) -> None:
        """Fetch one file to `part`, complete and with the listed hash.

        Bytes that an earlier run left in `part` are kept.
        """
        url = f"{self.page}/resolve/{commit}/{urllib.parse.quote(file['path'])}"
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        self.progress.what = file["path"]
        self.with_retries(lambda: self.receive(url, file, part))
        found = fingerprint(part, file)
        if found == expected(file):
            return
        part.unlink()
        self.progress.add(-file["size"])
        if resumed:  # the bytes of the earlier run may be wrong: fetch all of it once more
            self.download(file, commit, part)
            return
        raise Failed(
            f"{file['path']}: its hash is {found}; expected {expected(file)}; the bytes were "
            "discarded, the same command fetches them again"
        )

    def receive(self, url: str, file: ListedFile, part: Path) -> None:
        """One request for the missing bytes of a file.

        raises  Retry if the connection ends before the file does
        """
        size = file["size"]
        tag_file = part.with_name(part.name + ".etag")
        have = part.stat().st_size if part.exists() else 0
        if have == size and part.exists():
            return
        headers = {}
        if 0 < have < size:
            headers["Range"] = f"bytes={have}-"
            tag = tag_file.read_text() if tag_file.exists() else ""
            if tag.startswith('"'):  # If-Range allows only a strong ETag
                headers["If-Range"] = tag
        asked_for = headers.get("Range", "the whole file")
        try:
            answer = self.open(url, headers)
        except RangeRefused:
            self.progress.add(-have)
            part.unlink(missing_ok=True)
            raise Retry(f"{file['path']}: 416 in answer to {asked_for}") from None
        with answer:
            start = f"bytes {have}-"
            is_rest = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
                start
            )
            if not is_rest:
                self.progress.add(-have)
                have = 0
                if answer.status != 200:
                    part.unlink(missing_ok=True)
                    raise Retry(f"{file['path']}: {answer.status} in answer to {asked_for}")
            if answer.length is not None and have + answer.length != size:
                raise Failed(
                    f"{file['path']}: the hub sends {have + answer.length} bytes; its listing says "
                    f"{size}; try again later, or another --revision"
                )
            tag_file.write_text(answer.headers.get("ETag", ""))
            received, why = self.copy(answer, part, "ab" if is_rest else "wb", size - have)
        have += received
        if have < size:
            raise Retry(
                f"{file['path']}: {have} of {size} bytes arrived ({why})", received=received > 0
            )

    def copy(
        self, answer: http.client.HTTPResponse, part: Path, mode: str, n: int
    ) -> tuple[int, str]:
        """Write up to n bytes of an answer to a file; (bytes received, why it ended)."""
        received = 0
        why = "the connection ended"
        with open(part, mode) as out:
            while received < n:
                try:
                    block = answer.read1(min(BLOCK, n - received))
                except (OSError, http.client.HTTPException) as error:
                    why = one_line(error) or type(error).__name__
                    break
                if not block:
                    break
                out.write(block)
                received += len(block)
                self.progress.add(len(block))
            out.flush()
            os.fsync(out.fileno())
        return received, why


def listed_file(entry: dict[str, Any]) -> ListedFile:
    """A file of the API's listing; ValueError, KeyError or TypeError if it is malformed."""
    large = entry.get("lfs")
    object_id = (large or entry)["oid"]
    if not re.fullmatch(r"[0-9a-f]{64}" if large else r"[0-9a-f]{40}", object_id):
        raise ValueError(object_id)
    return {
        "path": str(entry["path"]),
        "size": int(entry["size"]),
        "sha256": object_id if large else None,
        "git": None if large else object_id,
    }


def digest(path: Path, kind: str = "sha256", head: bytes = b"") -> str:
    """Hash of `head` followed by a file's bytes, in hex."""
    found = hashlib.new(kind, head)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def written_file(path: Path) -> WrittenFile:
    """A file's entry in the manifest."""
    return {"sha256": digest(path), "size": path.stat().st_size}


def fingerprint(path: Path, file: ListedFile) -> str:
    """The hash of a file on disk, to compare with `expected`.

    SHA-256, or git's blob id if the listing has no SHA-256.
    """
    if file["sha256"]:
        return "sha256:" + digest(path)
    return "git:" + digest(path, "sha1", f"blob {path.stat().st_size}\0".encode())


def expected(file: ListedFile) -> str:
    """The listed hash."""
    return f"sha256:{file['sha256']}" if file["sha256"] else f"git:{file['git']}"


def is_text(value: object, pattern: str = ".+") -> bool:
    """True for a text that matches the pattern."""
    return isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None


def is_listed_file(value: object) -> bool:
    """True for JSON of the form of ListedFile."""
    if not isinstance(value, dict) or not is_text(value.get("path")):
        return False
    if type(value.get("size")) is not int or value["size"] < 0:
        return False
    if value.get("sha256") is None:
        return is_text(value.get("git"), "[0-9a-f]{40}")
    return is_text(value["sha256"], "[0-9a-f]{64}")


def is_written_file(value: object) -> bool:
    """True for JSON that has what is read of a WrittenFile."""
    return isinstance(value, dict) and is_text(value.get("sha256"), "[0-9a-f]{64}")


def is_manifest(value: object) -> TypeGuard[Manifest]:
    """True for JSON that has everything that this script reads of a manifest."""
    if not isinstance(value, dict):
        return False
    files = value.get("files")
    written = value.get("written")
    if not isinstance(files, list) or not isinstance(written, dict):
        return False
    return (
        is_text(value.get("repository"))
        and is_text(value.get("revision"))
        and is_text(value.get("commit"), "[0-9a-f]{40}")
        and all(map(is_listed_file, files))
        and all(map(is_written_file, written.values()))
    )


Targets = dict[str, list[ListedFile]]


def complete(parts: Sequence[ListedFile], target: str) -> list[ListedFile]:
    """The shards of a target in order; Failed if some of NNNNN-of-NNNNN are not listed."""
    ordered = sorted(parts, key=lambda file: file["path"])
    for file in ordered:
        total = re.search(r"-of-(\d{5})\.", file["path"])
        if total and int(total[1]) != len(ordered):
            raise Failed(
                f"{target}: the hub lists {len(ordered)} files of {int(total[1])}; try another "
                "--revision"
            )
    return ordered


def clear_targets(files: Iterable[ListedFile]) -> Targets:
    """{"CONFIG/rows.jsonl": its parquet files}.

    The files of `default` are in data/; the hub's own conversions are in CONFIG/train/.
    """
    found: Targets = {}
    for file in files:
        match = re.fullmatch(r"([^/]+)/train(?:-\d{5}-of-\d{5}|/\d+)\.parquet", file["path"])
        if match is None:
            continue
        config = "default" if match[1] == "data" else match[1]
        if config in CLEAR:
            found.setdefault(f"{config}/rows.jsonl", []).append(file)
    return found


def tofu_targets(files: Iterable[ListedFile]) -> Targets:
    """{"tofu/CONFIG/rows.jsonl": [its file]}."""
    found: Targets = {}
    for file in files:
        name = file["path"].removesuffix(".json")
        if name in TOFU:
            found[f"tofu/{name}/rows.jsonl"] = [file]
    return found


def checkpoint_targets(files: Sequence[ListedFile]) -> Targets:
    """{path: [the file]} of the files that load reads, small files first.

    raises  Failed if there are no safetensors
    """
    found = {file["path"]: [file] for file in files if WANTED.fullmatch(file["path"])}
    if "model.safetensors" in found:  # load takes the whole file, as transformers does
        shards = re.compile(r"model-.*\.safetensors|model\.safetensors\.index\.json")
        found = {path: each for path, each in found.items() if not shards.fullmatch(path)}
    weights = [
        file
        for path, (file,) in found.items()
        if path.startswith("model") and path.endswith(".safetensors")
    ]
    is_model = "config.json" in found and len(weights) > 0
    is_adapter = {"adapter_config.json", "adapter_model.safetensors"} <= set(found)
    if not is_model and not is_adapter:
        have = one_line(", ".join(sorted(file["path"] for file in files))) or "nothing"
        raise Failed(
            "expected config.json and model.safetensors, whole or in numbered parts; the hub lists "
            f"{have}; name a checkpoint in safetensors form (nothing pickled is fetched)"
        )
    complete(weights, "model.safetensors")
    return dict(sorted(found.items(), key=lambda item: item[1][0]["size"]))


def check_columns(kinds: Mapping[str, str], config: str, where: str) -> None:
    """Failed unless the columns are those of the config.

    kinds  {column: text, texts, picture, any, or the name of another type}
    """
    columns = SCHEMA["kinds"][SCHEMA["configs"][config]["kind"]]
    needed = {name for name in columns if not name.endswith("?")}
    known = {name.rstrip("?") for name in columns}
    if not needed <= set(kinds) <= known:
        raise Failed(
            f"{where}: columns are {', '.join(kinds)}; expected {', '.join(columns)}; no row was "
            "written, try another --revision"
        )
    for name, kind in kinds.items():
        if name == "image":
            wanted = "picture"
        else:
            wanted = "texts" if name in SCHEMA["lists"] else "text"
        if kind not in (wanted, "any"):
            raise Failed(
                f"{where}: column {name} holds {kind}; expected {wanted}; no row was written, try "
                "another --revision"
            )


def write_picture(data: bytes, out: Path, parts: Path, where: str) -> str:
    """Write a picture's own bytes under a name made of their hash, unless the file exists.

    returns  its path relative to the data directory
    """
    endings = [ending for magic, ending in MAGIC if re.match(magic, data, re.DOTALL)]
    if not endings:
        raise Failed(
            f"{where}: the picture begins with {data[:8]!r}; expected JPEG, PNG, WebP, GIF, BMP or "
            "TIFF; try another --revision"
        )
    path = out / "images" / f"{hashlib.sha256(data).hexdigest()[:32]}.{endings[0]}"
    if not path.exists():
        # Not synced to disk one by one: each run compares pictures with their names.
        temporary = parts / "picture"
        temporary.write_bytes(data)
        os.replace(temporary, path)
    elif path.read_bytes() != data:
        raise Wrong(
            f"{path}: differs from the hash in its name; expected the hub's picture: remove it, "
            f"{RESUMES}"
        )
    return f"images/{path.name}"


def picture_bytes(image: dict[str, Any] | None, nullable: bool, where: str) -> bytes | None:
    """The bytes of a row's picture; None for a row without one. Failed if they are missing."""
    if image is None:
        image = {"bytes": None, "path": None}
    if image["bytes"] is None and (image["path"] is not None or not nullable):
        raise Failed(
            f"{where} has a picture ({image['path']}) without its bytes; expected them; try "
            "another --revision"
        )
    return image["bytes"]


def rows_of(
    reader: "pq.ParquetFile", config: str, out: Path, parts: Path, where: str
) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file; their pictures are written, and `image` is their path.

    Read row group by row group, so the memory in use is about two row groups.
    """
    nullable = "image" in SCHEMA["nullable"].get(SCHEMA["configs"][config]["kind"], ())
    number = 0
    for group in range(reader.num_row_groups):
        for batch in reader.iter_batches(batch_size=32, row_groups=[group], use_threads=False):
            for row in batch.to_pylist():
                number += 1
                if "image" in row:
                    of_row = f"{where}: row {number}"
                    data = picture_bytes(row["image"], nullable, of_row)
                    row["image"] = None
                    if data is not None:
                        row["image"] = write_picture(data, out, parts, of_row)
                yield row


def kind_of(arrow_type: "pyarrow.DataType") -> str:
    """text, texts, picture, or the name of another Arrow type."""
    from pyarrow import types

    if types.is_string(arrow_type) or types.is_large_string(arrow_type):
        return "text"
    is_list = types.is_list(arrow_type) or types.is_large_list(arrow_type)
    if is_list and kind_of(arrow_type.value_type) == "text":
        return "texts"
    if types.is_struct(arrow_type) and {field.name for field in arrow_type} == {"bytes", "path"}:
        return "picture"
    return one_line(arrow_type)


def write_rows(
    files: Sequence[ListedFile], out: Path, parts: Path, target: str
) -> tuple[Path, WrittenFile]:
    """(a complete rows.jsonl under another name, its entry) of a config's parquet files.

    The columns of all files are checked before anything is written.
    """
    import pyarrow
    from pyarrow import parquet as pq

    config = target.removesuffix("/rows.jsonl")
    temporary = parts / "rows"
    n_rows = 0
    pictures = set()
    try:
        with contextlib.ExitStack() as stack:
            readers = []
            for file in files:
                reader = pq.ParquetFile(parts / file["path"], pre_buffer=False, buffer_size=1 << 20)
                readers.append((stack.enter_context(reader), file["path"]))
            for reader, path in readers:
                kinds = {field.name: kind_of(field.type) for field in reader.schema_arrow}
                check_columns(kinds, config, path)
            (out / "images").mkdir(parents=True, exist_ok=True)
            text = stack.enter_context(open(temporary, "w", encoding="utf-8", newline="\n"))
            for reader, path in readers:
                for row in rows_of(reader, config, out, parts, path):
                    text.write(json.dumps(row, ensure_ascii=False) + "\n")
                    n_rows += 1
                    if row.get("image"):
                        pictures.add(row["image"])
            text.flush()
            os.fsync(text.fileno())
    except pyarrow.ArrowException as error:
        paths = ", ".join(file["path"] for file in files)
        raise Failed(
            f"{target}: pyarrow cannot read {paths} ({one_line(error)}); try another pyarrow "
            "(constraints.txt) or --revision"
        ) from None
    return temporary, {**written_file(temporary), "rows": n_rows, "pictures": len(pictures)}


def check_lines(path: Path, target: str) -> WrittenFile:
    """The entry of a JSON Lines file.

    raises  Failed for a line that is no object with the config's columns
    """
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        where = f"{target}: line {number} of the hub's file"
        try:
            columns = json.loads(line).keys()
        except (ValueError, AttributeError):
            raise Failed(
                f"{where} is no JSON object; expected JSON Lines; try another --revision"
            ) from None
        check_columns(dict.fromkeys(columns, "any"), target.removesuffix("/rows.jsonl"), where)
    return {**written_file(path), "rows": len(lines)}


class Fetch:
    """The fetch of one item into a directory.

    out            the directory
    name           the name of the manifest: clear, tofu or checkpoint
    parts          bytes of files that are not complete yet
    good_pictures  pictures that were compared with their names in this run
    """

    manifest: Manifest

    def __init__(self, settings: Settings) -> None:
        item = settings.item
        self.settings = settings
        self.kind = "dataset" if item in DATA_SETS else "model"
        repository = {**DATA_SETS, **CHECKPOINTS}.get(item, item)
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
            known = ", ".join([*DATA_SETS, *CHECKPOINTS])
            raise Wrong(f"{item!r} is unknown; expected {known} or a checkpoint as OWNER/NAME")
        default = Path("hub") / ("clear" if self.kind == "dataset" else item.split("/")[-1])
        self.out = Path(settings.out) if settings.out else default
        self.name = item if self.kind == "dataset" else "checkpoint"
        self.parts = self.out / "fetched/parts" / self.name
        self.manifest_path = self.out / "fetched" / f"{self.name}.json"
        existing = next(filter(os.path.lexists, (self.parts, *self.parts.parents)), Path("."))
        if not existing.is_dir():
            raise Wrong(
                f"{existing} is in the way and no directory; expected a directory or a free name: "
                "choose another --out, or move it away"
            )
        self.progress = Progress(settings.quiet)
        self.hub = Hub(repository, self.kind, settings, self.progress)
        self.good_pictures: set[str] = set()
        if item == "clear" and not settings.dry_run and importlib.util.find_spec("pyarrow") is None:
            raise Wrong(
                "clear is stored as parquet files and pyarrow is not installed; expected it: pip "
                "install pyarrow"
            )

    def manifest_of(self, revision: str | None) -> Manifest:
        """The manifest of earlier runs, or a new one from the hub's listing.

        raises  Wrong if the directory holds something else
        """
        earlier = self.earlier_manifest()
        if earlier is not None:
            known_revisions = (None, earlier["commit"], earlier["revision"])
            if earlier["repository"] == self.hub.repository and revision in known_revisions:
                return earlier
            if earlier["files"] and earlier["written"]:
                raise Wrong(
                    f"{self.out} holds {earlier['repository']} at {earlier['revision']} "
                    f"({earlier['commit']}); asked for {self.hub.repository} at "
                    f"{revision or 'main'}; choose another --out, or remove the directory"
                )
        commit, files = self.hub.listing(revision or "main")
        return {
            "repository": self.hub.repository,
            "kind": self.kind,
            "endpoint": self.hub.endpoint,
            "revision": revision or "main",
            "commit": commit,
            "files": files,
            "written": {},
        }

    def earlier_manifest(self) -> Manifest | None:
        """The manifest of earlier runs; None if there is none."""
        if not self.manifest_path.exists():
            return None
        try:
            found = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            found = None
        if not is_manifest(found):
            raise Wrong(
                f"{self.manifest_path}: not a manifest of this script; expected one: remove it, "
                f"{RESUMES}"
            )
        return found

    def plan(self) -> Targets:
        """{target: the hub's files that it is made of}, for the configs of --only."""
        only = self.settings.only
        if self.kind == "model":
            if only:
                raise Wrong(
                    f"--only {','.join(only)}: a checkpoint is fetched as a whole; expected clear "
                    "or tofu, or no --only"
                )
            self.manifest = self.manifest_of(self.settings.revision)
            return checkpoint_targets(self.manifest["files"])
        if self.name == "tofu":
            known = {f"tofu/{name}" for name in TOFU}
            wanted = [f"tofu/{name.removeprefix('tofu/')}" for name in only]
        else:
            known = CLEAR
            wanted = list(only)
        if not wanted:
            wanted = sorted(known)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise Wrong(
                f"--only {unknown[0]}: no config of {self.name}; expected some of "
                f"{', '.join(sorted(known))}"
            )
        self.manifest = self.manifest_of(self.settings.revision)
        targets_of = tofu_targets if self.name == "tofu" else clear_targets
        targets = targets_of(self.manifest["files"])
        missing = [name for name in wanted if f"{name}/rows.jsonl" not in targets]
        if missing:
            raise Failed(
                f"{self.hub.repository} at {self.manifest['commit']} has no file for "
                f"{', '.join(missing)}; name those you want with --only, or try another --revision"
            )
        chosen = [f"{name}/rows.jsonl" for name in wanted]
        return {target: complete(targets[target], target) for target in chosen}

    def is_done(self, target: str, files: Sequence[ListedFile]) -> bool:
        """True if a target exists, complete and right; Wrong if another file has its name."""
        path = self.out / target
        if not path.exists():
            return False
        self.progress.show(f"checking {path}")
        if self.name == "clear":
            written = self.manifest["written"].get(target)
            right = f"sha256:{written['sha256']}" if written else "no file, as no run here wrote it"
            found = "sha256:" + digest(path)
        else:
            right = expected(files[0])
            found = fingerprint(path, files[0])
        if found != right:
            raise Wrong(
                f"{path}: its hash is {found}; expected {right}; it is not overwritten: move it "
                "away, or choose another --out"
            )
        if self.name != "clear":
            return True
        lines = path.read_bytes().split(b"\n")
        return all(self.has_picture(line) for line in lines if line)

    def has_picture(self, line: bytes) -> bool:
        """True if the picture of one of our rows exists, or the row has none.

        raises  Wrong if the picture's bytes do not have the hash in its name
        """
        image = json.loads(line).get("image")
        if image is None or image in self.good_pictures:
            return True
        path = self.out / image
        if not path.exists():
            return False
        if not digest(path).startswith(path.stem):
            raise Wrong(
                f"{path}: differs from the hash in its name; expected the hub's picture: remove "
                f"it, {RESUMES}"
            )
        self.good_pictures.add(image)
        return True

    def received(self, file: ListedFile) -> int:
        """The number of bytes of a file that earlier runs received."""
        part = self.parts / file["path"]
        return min(part.stat().st_size, file["size"]) if part.exists() else 0

    def run(self) -> None:
        """Fetch what is missing: plan, compare with the disk, download."""
        targets = self.plan()
        todo = {
            target: files for target, files in targets.items() if not self.is_done(target, files)
        }
        sizes = {target: sum(file["size"] for file in files) for target, files in targets.items()}
        received = {target: sum(map(self.received, files)) for target, files in todo.items()}
        self.progress.total = sum(sizes[target] for target in todo)
        self.progress.done = sum(received.values())
        left = self.progress.total - self.progress.done
        existing = (path for path in (self.out, *self.out.absolute().parents) if path.exists())
        free = shutil.disk_usage(next(existing)).free
        if self.settings.dry_run:
            for target in targets:
                state = amount(received[target]) + " here" if target in todo else "there"
                print(f"{target:40} {amount(sizes[target]):>10}  {state}")
            print(
                f"{self.hub.repository} at {self.manifest['commit']}: {amount(left)} to fetch, "
                f"{amount(free)} free"
            )
            return
        need = left
        if self.name == "clear":
            # A parquet file is removed when its rows and pictures are written, and configs share
            # pictures.
            largest = max((sizes[target] for target in todo), default=0)
            need = min(2 * self.progress.total, 3 * largest)
        if need > free:
            raise Failed(
                f"{self.out}: {amount(free)} free; expected {amount(need)} for the rest of the "
                f"files; make room, {RESUMES}"
            )
        self.fetch(targets, todo)
        print(
            f"{self.hub.repository} at {self.manifest['commit']}: {len(targets)} of {len(targets)} "
            f"files right in {self.out} ({len(todo)} new); {self.manifest_path} has their hashes"
        )

    def fetch(self, targets: Targets, todo: Targets) -> None:
        """Download the targets in `todo`, complete the manifest, remove what is left over."""
        self.parts.mkdir(parents=True, exist_ok=True)
        self.write_manifest()
        for target, files in todo.items():
            self.make(target, files)
        # Targets that were on disk before, and are right.
        for target in targets.keys() - self.manifest["written"].keys():
            self.manifest["written"][target] = written_file(self.out / target)
        self.write_manifest()
        paths = [file["path"] for files in targets.values() for file in files]
        self.remove_parts(["rows", "picture", *paths])
        # Empty folders are removed; bytes of other configs stay.
        for folder in sorted((self.out / "fetched").glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def write_manifest(self) -> None:
        """Write the manifest, completely or not at all."""
        temporary = self.parts / "manifest"
        temporary.write_text(json.dumps(self.manifest, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.manifest_path)

    def remove_parts(self, names: Iterable[str]) -> None:
        """Remove these parts, as far as they exist."""
        for name in names:
            (self.parts / name).unlink(missing_ok=True)
            (self.parts / f"{name}.etag").unlink(missing_ok=True)

    def make(self, target: str, files: Sequence[ListedFile]) -> None:
        """Download a target's files, and give the target its name."""
        for file in files:
            self.hub.download(file, self.manifest["commit"], self.parts / file["path"])
        path = self.parts / files[0]["path"]
        if self.name == "clear":
            path, written = write_rows(files, self.out, self.parts, target)
        elif self.name == "tofu":
            written = check_lines(path, target)
        else:
            written = written_file(path)
        # The manifest is written before the rename. After a kill between the two, the next run
        # knows the file.
        self.manifest["written"][target] = written
        self.write_manifest()
        (self.out / target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, self.out / target)
        self.remove_parts(file["path"] for file in files)
        counts = ""
        if "rows" in written:
            counts += f", {written['rows']} rows"
        if "pictures" in written:
            counts += f", {written['pictures']} pictures"
        self.progress.show()
        print(f"{target}  {amount(sum(file['size'] for file in files))}{counts}", flush=True)


class Once(argparse.Action):
    """An option with a value, given once."""

    given = False

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value; raises ArgumentError if there is one already."""
        if option_string and self.given:
            raise argparse.ArgumentError(self, "given twice; expected it once")
        self.given = True
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are Wrong, and whose options are given once."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for action in (None, "store"):
            self.register("action", action, Once)

    def error(self, message: str) -> NoReturn:
        """One line, exit status 2."""
        raise Wrong(f"{message}; --help shows what is expected")


def number(
    kind: type[int] | type[float], least: float, most: float, above: bool = False
) -> Callable[[str], float]:
    """A function that reads a number option from `least` to `most`.

    above   True: `least` itself is refused
    raises  the parser's error for anything else
    """

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if least <= value <= most and not (above and value == least):
                return value
        whole = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(
            f"{one_line(text)!r} found; expected {whole} {'above' if above else 'from'} {least}, "
            f"at most {most}"
        )

    return read


def filled(text: str) -> str:
    """An option's text; the parser's error if it is empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} found; expected a name, or the option left out")
    return text


def names(text: str) -> list[str]:
    """The names of "one,two"; the parser's error if there is no name."""
    return [name for name in filled(text.strip(",")).split(",") if name]


def parser() -> Parser:
    """The command line."""
    options = Parser(
        prog="python data_fetch.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "item",
        help=f"{', '.join(DATA_SETS)}, {', '.join(CHECKPOINTS)}, or a checkpoint as OWNER/NAME",
    )
    options.add_argument(
        "--out",
        type=filled,
        help="directory (default: hub/clear for clear and tofu, hub/NAME for a checkpoint)",
    )
    options.add_argument(
        "--revision",
        type=filled,
        help="branch, tag or commit (default: the commit in the manifest, else main)",
    )
    options.add_argument(
        "--only",
        type=names,
        default=[],
        metavar="CONFIG,...",
        help="these configs of clear or tofu (default: all)",
    )
    options.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be fetched, with sizes; write nothing",
    )
    options.add_argument(
        "--retries",
        type=number(int, 0, MOST_RETRIES),
        default=5,
        help="failed tries in a row, without a received byte, before the run ends (default: 5)",
    )
    options.add_argument(
        "--wait",
        type=number(float, 0, LONGEST_WAIT),
        default=1.0,
        help="seconds before the second try, doubled each time (default: 1)",
    )
    options.add_argument(
        "--timeout",
        type=number(float, 0, LONGEST_TIMEOUT, above=True),
        default=30.0,
        help="seconds without a byte that end a connection (default: 30)",
    )
    options.add_argument("--quiet", action="store_true", help="no progress line")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status; see the top of the file."""
    try:
        Fetch(parser().parse_args(argv, Settings())).run()
        return 0
    except Wrong as error:
        line, status = str(error), 2
    except Failed as error:
        line, status = str(error), 1
    except KeyboardInterrupt:
        line, status = f"stopped; {RESUMES}", 130
    except OSError as error:
        line, status = os_error(error)
    if sys.stderr.isatty():
        line = f"\r\x1b[Kdata_fetch: {line}"
    else:
        line = f"data_fetch: {line}"
    print(line, file=sys.stderr)
    return status


def os_error(error: OSError) -> tuple[str, int]:
    """(message, exit status) for an error of the operating system."""
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({why}); expected room for the rest of the files: make room, "
            f"{RESUMES}",
            1,
        )
    return f"{error.filename or 'a file'}: cannot be read or written ({why})", 2


if __name__ == "__main__":
    sys.exit(main())
