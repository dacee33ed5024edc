"""A headless Chromium that opens local pages, driven over its remote-debugging pipe.

The pipe is file descriptors 3 (to the browser) and 4 (from it); a message is JSON that ends with a
NUL byte. No package and no port is needed.

source  https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NAME = "chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
HEIGHT = 900
LONGEST_WAIT = 60.0  # seconds for one answer; a busy machine needs a few


def found():
    """The path of the browser; None if there is none."""
    return shutil.which(NAME)


@dataclass
class Tab:
    """One tab of a browser.

    console   messages of the console, of the browser's log and uncaught errors
    requests  every address that the tab has asked for
    """

    browser: "Browser"
    session: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def open(self, path, width, dark=False):
        """Open a file at a width in CSS pixels, and wait until it is loaded."""
        self.console.clear()
        self.requests.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.browser.loaded.discard(self.session)
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.browser.wait(lambda: self.session in self.browser.loaded)

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path):
        """Write the whole page as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def event(self, method, parameters):
        """Keep what the browser reports of this tab."""
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            words = [str(one.get("value", one.get("description"))) for one in parameters["args"]]
            self.console.append(f"{parameters['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Page.loadEventFired":
            self.browser.loaded.add(self.session)


class Browser:
    """A running browser; see `started`."""

    def __init__(self, to_browser, from_browser):
        self.to_browser, self.from_browser = to_browser, from_browser
        self.unread = b""
        self.number = 0
        self.answers, self.tabs, self.loaded = {}, {}, set()

    def call(self, method, session=None, **parameters):
        """The result of one command of the protocol."""
        self.number += 1
        number = self.number
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self.answers)
        answer = self.answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def tab(self):
        """A new empty tab whose console and requests are watched."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.tabs[session] = Tab(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session)
        return self.tabs[session]

    def wait(self, done):
        """Read messages until done() is true."""
        end = time.monotonic() + LONGEST_WAIT
        while not done():
            ready, _, _ = select.select([self.from_browser], [], [], end - time.monotonic())
            assert ready, f"{NAME} has not answered for {LONGEST_WAIT:.0f} s"
            data = os.read(self.from_browser, 1 << 20)
            assert data, f"{NAME} has ended"
            *messages, self.unread = (self.unread + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers[message["id"]] = message
                elif message.get("sessionId") in self.tabs:
                    self.tabs[message["sessionId"]].event(message["method"], message["params"])


@contextmanager
def started():
    """A browser with a new, empty profile; it is ended afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser_reads, we_write = os.pipe()
        we_read, browser_writes = os.pipe()
        quiet = os.open(os.devnull, os.O_RDWR)
        # Copies above 9, so that no copy is overwritten before it is copied to 3 or 4.
        copies = [os.dup(fd) for fd in range(3) for _ in range(3)]
        high_read, high_write = os.dup(browser_reads), os.dup(browser_writes)
        for fd in copies:
            os.close(fd)
        process = os.posix_spawn(
            found(),
            [NAME, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            {**os.environ, "HOME": profile},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, quiet, 1),
                (os.POSIX_SPAWN_DUP2, quiet, 2),
                (os.POSIX_SPAWN_DUP2, high_read, 3),
                (os.POSIX_SPAWN_DUP2, high_write, 4),
            ],
            setsid=True,
        )
        for fd in (browser_reads, browser_writes, high_read, high_write, quiet):
            os.close(fd)
        try:
            yield Browser(we_write, we_read)
        finally:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(we_write)
            os.close(we_read)
