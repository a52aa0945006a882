"""A client of `rayforce.json.v1` that is not ours: a plain WebSocket, and JSON."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from rayforce_trio import WSServer

_NO_LIMIT = 2**31


class JsonPeer:
    """One connection.

    Attributes:
        socket: the WebSocket.
    """

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket

    async def send(self, *messages: object) -> None:
        """Send messages; text is sent as it is."""
        for message in messages:
            await self.socket.send_message(message if isinstance(message, str) else json.dumps(message))

    async def receive(self) -> Any:
        text = await self.socket.get_message()
        assert isinstance(text, str)
        return json.loads(text, parse_constant=_refuse)

    async def ask(self, **message: Any) -> Any:
        """Send one request, and return its answer without the id."""
        await self.send({"id": "asked", **message})
        answer = await self.receive()
        assert answer.pop("id") == "asked"
        return answer


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


@asynccontextmanager
async def json_peer(server: WSServer, **options: Any) -> AsyncIterator[JsonPeer]:
    """Connect to a server for the block, which is bounded in time."""
    with trio.fail_after(60):
        async with open_websocket_url(
            server.url, subprotocols=["rayforce.json.v1"], max_message_size=_NO_LIMIT, **options
        ) as socket:
            assert socket.subprotocol == "rayforce.json.v1"
            yield JsonPeer(socket)
