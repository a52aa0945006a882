"""The JavaScript client, in `node` and in pages of Chromium: both run the checks of pages/checks.js."""

import json
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import trio

import rayforce_trio
from support.foreign.with_chromium import Page

Tell = Callable[[str], Awaitable[None]]
"""Does what a check asks for."""

CLIENT = Path(str(files(rayforce_trio) / "javascript" / "rayforce.js"))

_PROGRAM = Path(__file__).with_name("run_check.mjs")
NODE = ("node", "--experimental-websocket", "--no-warnings")  # before version 22, its WebSocket is experimental


class CheckFailed(AssertionError):
    """A check has failed; its text is the error in JavaScript."""


class Runner(Protocol):
    """Runs a check, and returns its value.

    Args:
        check: the name of its function.
        port: where a server listens that serves the client.
        arguments: what the function takes besides.
        tell: does what it asks for.
    """

    async def __call__(self, check: str, port: int, *arguments: Any, tell: Tell | None = None) -> Any: ...


async def in_node(
    check: str, port: int, *arguments: Any, tell: Tell | None = None, websocket: str | None = None
) -> Any:
    """Run a check in node: a `Runner`. The process must end by itself.

    Args:
        websocket: the package of npm whose WebSocket the client uses; `None`: it uses that of node.
    """
    command = [*NODE, str(_PROGRAM), str(CLIENT), check, f"ws://127.0.0.1:{port}", json.dumps(arguments)]
    command += [] if websocket is None else [websocket]
    result: dict[str, Any] = {"error": "node has ended without a result"}
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process: trio.Process = await nursery.start(run)
        assert process.stdin is not None
        assert process.stdout is not None
        async for event in _events(process.stdout):
            if "tell" not in event:
                result = event
                continue
            assert tell is not None
            await tell(event["tell"])
            await process.stdin.send_all(b"done\n")
    return _value_of(result)


async def _events(stream: trio.abc.ReceiveStream) -> Any:
    begun = b""
    async for data in stream:
        *lines, begun = (begun + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


async def in_page(page: Page, origin: str, check: str, port: int, *arguments: Any, tell: Tell | None = None) -> Any:
    """Run a check in a page of an origin, which loads the client from the server: a `Runner`, given the first two."""
    events, results = trio.open_memory_channel[dict[str, Any]](100)
    page.on_report = events.send_nowait
    await page.visit(f"{origin}/peer.html")
    script = f"""
        (async () => {{
            const tell = (what) => new Promise((resolve) => {{
                window.told = resolve;
                report(JSON.stringify({{ tell: what }}));
            }});
            try {{
                const client = await import("http://127.0.0.1:{port}/rayforce.js");
                const checks = await import("/checks.js");
                const value = await checks.{check}(client, "ws://127.0.0.1:{port}", tell, ...{json.dumps(arguments)});
                report(JSON.stringify({{ value: value ?? null }}));
            }} catch (error) {{
                report(JSON.stringify({{ error: error.stack }}));
            }}
        }})();
        0
    """
    await page.evaluate(script)
    async for event in results:
        if "tell" not in event:
            return _value_of(event)
        assert tell is not None
        await tell(event["tell"])
        await page.evaluate("told()")
    return None


def _value_of(result: dict[str, Any]) -> Any:
    if "error" in result:
        raise CheckFailed(result["error"])
    return result["value"]
