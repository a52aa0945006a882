"""A client of `rayforce.json.v1` that is not ours: a plain WebSocket, and JSON."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import trio

from rayforce_trio import WSServer
from support.raw import CONTINUATION, PONG, TEXT, RawPeer, connect_raw, upgrade


class JsonPeer:
    """One connection."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer

    async def send(self, *messages: object) -> None:
        """Send messages; text is sent as it is."""
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            await self.peer.send_frame(text.encode(), TEXT)

    async def receive(self) -> Any:
        """Return the next message."""
        parts: list[bytes] = []
        while not parts or not self.peer.fin:
            opcode, payload = await self.peer.receive_frame()
            if opcode != PONG:
                assert opcode == (CONTINUATION if parts else TEXT)
                parts.append(payload)
        return json.loads(b"".join(parts), parse_constant=_refuse)

    async def ask(self, **message: Any) -> Any:
        """Send one request, and return its answer without the id."""
        await self.send({"id": "asked", **message})
        answer = await self.receive()
        assert answer.pop("id") == "asked"
        return answer


def _refuse(text: str) -> NoReturn:
    raise AssertionError(f"{text} is not JSON")


async def open_json(server: WSServer, headers: dict[str, str] | None = None) -> tuple[RawPeer, str]:
    """Send a request for a connection; return the peer and the status line."""
    peer = connect_raw(server.port)
    await peer.send(upgrade({"Sec-WebSocket-Protocol": "rayforce.json.v1", **(headers or {})}))
    head = (await peer.receive_head()).decode()
    accepted = "sec-websocket-protocol: rayforce.json.v1" in head.lower()
    assert accepted == head.startswith("HTTP/1.1 101 ")
    return peer, head.partition("\r\n")[0]


@asynccontextmanager
async def json_peer(server: WSServer, headers: dict[str, str] | None = None) -> AsyncIterator[JsonPeer]:
    """Connect to a server for the block, which is bounded in time."""
    with trio.fail_after(60):
        peer, status = await open_json(server, headers)
        with peer:
            assert status.startswith("HTTP/1.1 101 ")
            yield JsonPeer(peer)
