"""A hub on 127.0.0.1: the API, the file addresses and the redirects of the real one, with faults to order.

Small files come from the hub itself; large ones (parquet, safetensors) by redirect from a second port, the "cdn", as on the
real hub. Every request is in `log`. The servers stop at the end of the `with` block, and by themselves after a minute.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

LIFETIME = 60.0  # seconds, however the test ends


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path matches `where`.

    status   answered instead, with `headers`     cut   the connection closes after so many bytes of the body
    stall    after so many bytes nothing comes until the hub stops     change   bytes -> bytes, applied to the body
    deaf     Range is ignored                     etag  sent instead of the right one
    """

    where: str
    times: int = 1
    status: int = 0
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    stall: int | None = None
    change: object = None
    deaf: bool = False
    etag: str = ""


@dataclass(frozen=True)
class Request:
    server: str  # hub or cdn
    path: str
    headers: dict


class FakeHub:
    """One repository. files: {path: bytes}; token: needed for the files (the listing is open), as of a gated repository."""

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
        self.repository, self.kind, self.files, self.token = repository, kind, files, token
        self.faults, self.per_page, self.commit = list(faults), per_page, commit
        self.log, self.released, self.urls = [], threading.Event(), {}

    def requests(self, where):
        """The requests so far whose path matches."""
        return [request for request in self.log if re.search(where, request.path)]

    def listing(self):
        """What the API's tree lists, folders included."""
        folders = {path.rsplit("/", 1)[0] for path in self.files if "/" in path}
        found = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            for folder in sorted(folders)
        ]
        for path, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "oid": blob, "size": len(data), "path": path}
            if path.endswith((".parquet", ".safetensors", ".bin")):
                entry["lfs"] = {
                    "oid": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                }
            found.append(entry)
        return found

    @contextmanager
    def running(self):
        """Both servers, on free ports."""
        servers = {
            name: ThreadingHTTPServer(("127.0.0.1", 0), handler(self, name))
            for name in ("hub", "cdn")
        }
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


def handler(hub, server):
    """The request handler class of one of the hub's two servers."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Silence."""

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            hub.log.append(Request(server, self.path, dict(self.headers)))
            self.fault = next(
                (one for one in hub.faults if one.times > 0 and re.search(one.where, self.path)),
                Fault(""),
            )
            self.fault.times -= 1
            url = urlsplit(self.path)
            path = unquote(url.path)
            pages = "datasets/" if hub.kind == "dataset" else ""
            api, files = (
                f"/api/{hub.kind}s/{hub.repository}",
                f"/{pages}{hub.repository}/resolve/{hub.commit}/",
            )
            if self.fault.status:
                self.answer(self.fault.status, b"", **self.fault.headers)
            elif server == "cdn":
                self.send_file(path.removeprefix("/blob/"))
            elif path.startswith(api + "/revision/"):
                if path.removeprefix(api + "/revision/") in ("main", "v1", hub.commit):
                    self.answer(200, json.dumps({"id": hub.repository, "sha": hub.commit}).encode())
                else:
                    self.answer(
                        404, b"", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id"
                    )
            elif path == f"{api}/tree/{hub.commit}" and parse_qs(url.query).get("recursive") == [
                "true"
            ]:
                self.send_listing(int(parse_qs(url.query).get("cursor", ["0"])[0]))
            elif path.startswith(files):
                self.send_or_redirect(path.removeprefix(files))
            elif self.headers.get("Authorization"):
                self.answer(
                    404, b"", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found"
                )
            else:  # the real hub does not tell strangers what there is
                self.answer(
                    401,
                    b"",
                    X_Error_Code="RepoNotFound",
                    X_Error_Message="Invalid username or password.",
                )

        def send_listing(self, cursor):
            entries = hub.listing()
            more = {}
            if cursor + hub.per_page < len(entries):
                url = urlsplit(self.path)
                more["Link"] = (
                    f'<{hub.urls["hub"]}{url.path}?recursive=true&cursor={cursor + hub.per_page}>; rel="next"'
                )
            self.answer(200, json.dumps(entries[cursor : cursor + hub.per_page]).encode(), **more)

        def send_or_redirect(self, path):
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer(
                    403 if self.headers.get("Authorization") else 401,
                    b"",
                    X_Error_Code="GatedRepo",
                    X_Error_Message="Access to this repository is restricted.",
                )
            if path not in hub.files:
                return self.answer(
                    404, b"", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found"
                )
            if path.endswith((".parquet", ".safetensors", ".bin")):
                data = hub.files[path]
                return self.answer(
                    302,
                    b"",
                    Location=f"{hub.urls['cdn']}/blob/{quote(path)}?signature=1",
                    X_Repo_Commit=hub.commit,
                    X_Linked_Size=str(len(data)),
                    X_Linked_Etag=f'"{hashlib.sha256(data).hexdigest()}"',
                )
            self.send_file(path)

        def send_file(self, path):
            data = hub.files[path]
            tag = self.fault.etag or f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            status, start, more = 200, 0, {}
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and not self.fault.deaf and self.headers.get("If-Range", tag) == tag:
                start = int(wanted[1])
                if start >= len(data):
                    return self.answer(416, b"", Content_Range=f"bytes */{len(data)}")
                status, more = 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            data = data[start:]
            self.answer(status, data, ETag=tag, X_Repo_Commit=hub.commit, **more)

        def answer(self, status, body, **headers):
            body = self.fault.change(body) if self.fault.change else body
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            cuts = [n for n in (self.fault.cut, self.fault.stall) if n is not None]
            body = b"" if self.command == "HEAD" else body
            with suppress(ConnectionError):  # the client may have left
                self.wfile.write(body[: cuts[0]] if cuts else body)
                self.wfile.flush()
            if self.fault.stall is not None:
                hub.released.wait(LIFETIME)
            self.close_connection = True

    return Handler
