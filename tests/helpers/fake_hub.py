"""A fake hub on 127.0.0.1 with the API, addresses and redirects of the real one, and chosen faults.

Small files are sent by the hub itself. Large ones (parquet, safetensors) are sent by a second
server, the "cdn", after a redirect, as on the real hub. Every request is in `log`. The servers stop
at the end of the `with` block, and at the latest after a minute.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

LIFETIME = 60.0  # seconds
LARGE = (".parquet", ".safetensors", ".bin")


@dataclass
class Fault:
    """A fault of the next `times` requests whose path matches `where`.

    status   sent instead of the answer, with `headers`
    cut      the connection closes after this many bytes of the body
    stall    after this many bytes nothing is sent until the hub stops
    change   bytes -> bytes, applied to the body
    deaf     True: the header Range is ignored
    etag     sent instead of the right ETag
    """

    where: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: int | None = None
    change: Callable[[bytes], bytes] | None = None
    deaf: bool = False
    etag: str = ""


@dataclass(frozen=True)
class Request:
    """A request that was received; server is hub or cdn."""

    server: str
    path: str
    headers: dict[str, str]


class FakeHub:
    """One repository.

    kind      dataset or model
    files     {path: bytes}
    token     needed to fetch files of a gated repository; the listing needs none
    per_page  entries per page of the listing
    """

    def __init__(
        self,
        repository,
        kind,
        files,
        token="",
        faults=(),
        per_page=1000,
        commit="c0ffee" + "0" * 34,
    ):
        self.repository = repository
        self.kind = kind
        self.files = files
        self.token = token
        self.faults = list(faults)
        self.per_page = per_page
        self.commit = commit
        self.log = []
        self.released = threading.Event()
        self.urls = {}

    def requests(self, where):
        """The requests so far whose path matches `where`."""
        return [request for request in self.log if re.search(where, request.path)]

    def listing(self):
        """The entries of the API's tree, folders included."""
        folders = {path.rsplit("/", 1)[0] for path in self.files if "/" in path}
        found = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            for folder in sorted(folders)
        ]
        for path, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "oid": blob, "size": len(data), "path": path}
            if path.endswith(LARGE):
                entry["lfs"] = {
                    "oid": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                }
            found.append(entry)
        return found

    @contextmanager
    def running(self):
        """Runs both servers, on free ports."""
        servers = {}
        for name in ("hub", "cdn"):
            handler = type("BoundHandler", (Handler,), {"hub": self, "server_name": name})
            servers[name] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        timers = []
        for name, server in servers.items():
            server.daemon_threads = True
            self.urls[name] = f"http://127.0.0.1:{server.server_address[1]}"
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            timers.append(threading.Timer(LIFETIME, server.shutdown))
            timers[-1].daemon = True
            timers[-1].start()
        try:
            yield self
        finally:
            self.released.set()
            for timer, server in zip(timers, servers.values(), strict=True):
                timer.cancel()
                server.shutdown()
                server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests to one of the hub's two servers (subclasses set hub and server_name)."""

    hub: FakeHub
    server_name: str

    def log_message(self, *_):
        """Write nothing to stderr."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.log.append(Request(self.server_name, self.path, dict(self.headers)))
        self.fault = self.next_fault()
        self.fault.times -= 1
        if self.fault.status:
            self.answer(self.fault.status, b"", **self.fault.headers)
        elif self.server_name == "cdn":
            self.send_file(unquote(urlsplit(self.path).path).removeprefix("/blob/"))
        else:
            self.answer_as_hub()

    def next_fault(self):
        """The first fault that matches the request; one without effect if there is none."""
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.where, self.path):
                return fault
        return Fault("")

    def answer_as_hub(self):
        hub = self.hub
        url = urlsplit(self.path)
        path = unquote(url.path)
        query = parse_qs(url.query)
        pages = "datasets/" if hub.kind == "dataset" else ""
        api = f"/api/{hub.kind}s/{hub.repository}"
        files = f"/{pages}{hub.repository}/resolve/{hub.commit}/"
        if path.startswith(api + "/revision/"):
            self.send_revision(path.removeprefix(api + "/revision/"))
        elif path == f"{api}/tree/{hub.commit}" and query.get("recursive") == ["true"]:
            self.send_listing(int(query.get("cursor", ["0"])[0]))
        elif path.startswith(files):
            self.send_or_redirect(path.removeprefix(files))
        elif self.headers.get("Authorization"):
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:  # without a token the real hub does not disclose whether a repository exists
            self.refuse(401, "RepoNotFound", "Invalid username or password.")

    def refuse(self, status, code, message):
        """Send an error as the real hub does."""
        self.answer(status, b"", X_Error_Code=code, X_Error_Message=message)

    def send_revision(self, revision):
        if revision in ("main", "v1", self.hub.commit):
            body = {"id": self.hub.repository, "sha": self.hub.commit}
            self.answer(200, json.dumps(body).encode())
        else:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")

    def send_listing(self, cursor):
        entries = self.hub.listing()
        end = cursor + self.hub.per_page
        headers = {}
        if end < len(entries):
            page = f"{self.hub.urls['hub']}{urlsplit(self.path).path}"
            headers["Link"] = f'<{page}?recursive=true&cursor={end}>; rel="next"'
        self.answer(200, json.dumps(entries[cursor:end]).encode(), **headers)

    def send_or_redirect(self, path):
        hub = self.hub
        authorization = self.headers.get("Authorization")
        if hub.token and authorization != f"Bearer {hub.token}":
            status = 403 if authorization else 401
            self.refuse(status, "GatedRepo", "Access to this repository is restricted.")
        elif path not in hub.files:
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif path.endswith(LARGE):
            data = hub.files[path]
            self.answer(
                302,
                b"",
                Location=f"{hub.urls['cdn']}/blob/{quote(path)}?signature=1",
                X_Repo_Commit=hub.commit,
                X_Linked_Size=str(len(data)),
                X_Linked_Etag=f'"{hashlib.sha256(data).hexdigest()}"',
            )
        else:
            self.send_file(path)

    def send_file(self, path):
        data = self.hub.files[path]
        tag = self.fault.etag or f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        status = 200
        start = 0
        headers = {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not self.fault.deaf and self.headers.get("If-Range", tag) == tag:
            start = int(wanted[1])
            if start >= len(data):
                self.answer(416, b"", Content_Range=f"bytes */{len(data)}")
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        commit = self.hub.commit
        self.answer(status, data[start:], ETag=tag, X_Repo_Commit=commit, **headers)

    def answer(self, status, body, **headers):
        """Send an answer, with the body's faults. An underscore in a header's name is a hyphen."""
        if self.fault.change:
            body = self.fault.change(body)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        cuts = [n for n in (self.fault.cut, self.fault.stall) if n is not None]
        if self.command == "HEAD":
            body = b""
        with suppress(ConnectionError):  # the client may have closed the connection
            self.wfile.write(body[: cuts[0]] if cuts else body)
            self.wfile.flush()
        if self.fault.stall is not None:
            self.hub.released.wait(LIFETIME)
        self.close_connection = True
