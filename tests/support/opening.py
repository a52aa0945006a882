"""Openings of connections to a server in this process: by hand, and by our client on either event loop."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from rayforce_trio import WSClient
from rayforce_trio.errors import ConnectionRejected
from support.raw import connect_raw, response, upgrade

LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class HttpResponse:
    """An answer to an opening request; the names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: str


def parse_answer(head: bytes, body: bytes = b"") -> HttpResponse:
    start, *lines = head.decode().rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return HttpResponse(int(start.split()[1]), headers, body.decode())


async def answer_to(port: int, headers: Mapping[str, str | None] | None = None, *, path: str = "/") -> HttpResponse:
    """Return the answer to an opening request. On trio."""
    with trio.fail_after(10), connect_raw(port) as peer:
        await peer.send(upgrade(headers, start=f"GET {path} HTTP/1.1"))
        head = await peer.receive_head()
        upgraded = head.startswith(b"HTTP/1.1 101 ")
        return parse_answer(head, b"" if upgraded else await peer.receive_rest())


async def health_status(port: int) -> int:
    """Return the status of the answer to `GET /healthz`. On trio."""
    with trio.fail_after(10), connect_raw(port) as peer:
        await peer.send(response("GET /healthz HTTP/1.1", {"Host": LOCAL}))
        return parse_answer(await peer.receive_head()).status


async def try_to_connect(loop: str, port: int, *, host: str = LOCAL, **options: Any) -> ConnectionRejected | None:
    """Connect with our client, on trio or, in a thread, on asyncio, and close; returns how it was refused."""

    async def attempt() -> ConnectionRejected | None:
        try:
            async with WSClient(host, port, **options).connect():
                return None
        except ConnectionRejected as rejected:
            return rejected

    with trio.fail_after(30):
        if loop == "trio":
            return await attempt()
        return await trio.to_thread.run_sync(asyncio.run, attempt())
