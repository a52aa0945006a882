"""Headless Chromium: its WebSocket in a page, driven through the DevTools protocol. On trio."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from websockets.trio.client import ClientConnection, connect

from rayforce_trio._tasks import collapse_groups
from support.foreign.connection import ForeignConnection
from support.foreign.remote import Event, RemoteConnection
from support.raw import SUBPROTOCOL

PROGRAMS = ("chromium", "google-chrome")

POINTED_HERE = "pointed-here.example"
"""A name of somebody else's that leads to this machine."""

_PAGES = Path(__file__).with_name("pages")
_LIMIT = 30  # seconds
_POLL = 0.01  # seconds; nobody tells of what is waited for here
_KEY_CODES = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40, "PageDown": 34}
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--remote-debugging-port=0",
    f"--host-resolver-rules=MAP {POINTED_HERE} 127.0.0.1",
)


@contextmanager
def chromium() -> Iterator[str]:
    """Run Chromium, with nothing of earlier runs; yields the URL of its DevTools."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise FileNotFoundError(f"none of {', '.join(PROGRAMS)} is on the PATH")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_OPTIONS, f"--user-data-dir={profile}"]
        silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, start_new_session=True, **silent) as process:
            try:
                port, path = _devtools(process, Path(profile, "DevToolsActivePort"))
                yield f"ws://127.0.0.1:{port}{path}"
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)
                _end_group(process.pid)


def _end_group(group: int) -> None:
    """Wait until no process of a group is left, killing what is."""
    deadline = time.monotonic() + 15
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            time.sleep(_POLL)


def _devtools(process: "subprocess.Popen[bytes]", told: Path) -> list[str]:
    """Return port and path of the DevTools, once Chromium has written both to a file."""
    deadline = time.monotonic() + _LIMIT
    while not told.exists() or len(lines := told.read_text().split()) < 2:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("Chromium does not start")
        time.sleep(_POLL)
    return lines


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def pages() -> Iterator[int]:
    """Serve the pages over HTTP; yields the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(_PAGES))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _ignore(event: Event) -> None:
    pass


class Page:
    """A page in a window of its own."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._session: str | None = None
        self._calls = 0
        self._waiting: dict[int, Callable[[Event], None]] = {}
        self._events: list[Event] = []
        self._changed = trio.Event()
        self.on_report: Callable[[Event], None] = _ignore

    async def run(self) -> None:
        async for message in self._websocket:
            event = json.loads(message)
            if "id" in event:
                self._waiting.pop(event["id"])(event)
            elif event["method"] == "Runtime.bindingCalled":
                self.on_report(json.loads(event["params"]["payload"]))
            else:
                self._events.append(event)
                self._changed.set()
                self._changed = trio.Event()

    async def call(self, method: str, **params: Any) -> Event:
        """Call a method of the DevTools and return its result."""
        self._calls += 1
        call = {"id": self._calls, "method": method, "params": params}
        if self._session is not None:
            call["sessionId"] = self._session
        replies: list[Event] = []
        replied = trio.Event()

        def take(reply: Event) -> None:
            replies.append(reply)
            replied.set()

        self._waiting[self._calls] = take
        await self._websocket.send(json.dumps(call))
        await replied.wait()
        if "error" in replies[0]:
            raise RuntimeError(f"{method}: {replies[0]['error']['message']}")
        result: Event = replies[0]["result"]
        return result

    async def event(self, method: str) -> Event:
        """Return the parameters of the first event of a kind that has come, or comes, and forget it."""
        while True:
            for event in self._events:
                if event["method"] == method:
                    self._events.remove(event)
                    params: Event = event["params"]
                    return params
            await self._changed.wait()

    async def open_window(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call("Runtime.addBinding", name="report")

    async def close_window(self) -> None:
        await self.call("Page.close")

    async def visit(self, url: str) -> None:
        """Return when the page there is loaded."""
        await self.call("Page.navigate", url=url)
        await self.event("Page.loadEventFired")

    async def evaluate(self, script: str) -> Any:
        """Evaluate JavaScript in the page; of a promise, return what it comes to."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    async def type(self, text: str) -> None:
        """Type into what has the focus, and press Enter."""
        await self.call("Input.insertText", text=text)
        await self.press("Enter", text="\r")

    async def press(self, key: str, *, control: bool = False, alt: bool = False, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text,
                modifiers=alt + 2 * control,
                windowsVirtualKeyCode=_KEY_CODES.get(key, 0),
            )

    async def click(self, selector: str) -> None:
        """Click with the mouse on the middle of an element."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.evaluate(f"{found}.scrollIntoView({{ block: 'nearest' }})")
        place = await self.evaluate(
            f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])({found}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show the page in a window of this size, in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self) -> bytes:
        """Return a picture of the window, as PNG."""
        return b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    def requested(self) -> list[str]:
        """Return the URLs of the requests and WebSockets so far."""
        urls = []
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                urls.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                urls.append(event["params"]["url"])
        return urls

    async def until(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds."""
        while not await self.evaluate(condition):  # noqa: ASYNC110
            await trio.sleep(_POLL)

    async def until_shown(self, selector: str, text: str) -> None:
        """Wait until an element has this text."""
        await self.until(f"document.querySelector({json.dumps(selector)}).textContent === {json.dumps(text)}")


@asynccontextmanager
async def window(devtools: str) -> AsyncIterator[Page]:
    """Open a page, empty at first."""
    async with connect(devtools, max_size=None, compression=None, ping_interval=None, proxy=None) as websocket:
        page = Page(websocket)
        with collapse_groups():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(page.run)
                await page.open_window()
                try:
                    yield page
                finally:
                    with trio.move_on_after(_LIMIT, shield=True):
                        await page.close_window()
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def dial_from(
    page: Page,
    origin: str,
    port: int,
    *,
    subprotocol: str | None = SUBPROTOCOL,
    others: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> AsyncIterator[ForeignConnection]:
    """Connect from a page of this origin: a `Dial`, given the first two.

    Args:
        others: further subprotocols to offer.
        host: the name of this machine.
    """

    async def send(command: Event) -> None:
        await page.evaluate(f"command({json.dumps(command)})")

    connection = RemoteConnection(send)
    page.on_report = connection.take
    try:
        await page.visit(f"{origin}/peer.html")
        subprotocols = [*([] if subprotocol is None else [subprotocol]), *others]
        await send({"do": "connect", "url": f"ws://{host}:{port}", "subprotocols": subprotocols})
        await connection.opened()
        yield connection
    finally:
        page.on_report = _ignore
        connection.abandon()
