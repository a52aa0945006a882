"""Connections that live in another program: commands go to it, events come from it, both as JSON objects.

The commands are `send` (`data`, and `fin`, whether it is the last fragment), `text`, `ping`, `close` (`code`, `reason`)
and `raw`; the events `open` (`subprotocol`, `extensions`), `refused` (`status`), `binary`, `text`, `pong` and `close`.
Bytes are in base64.
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from support.foreign.connection import Closed, FrameConnection, Refused

Event = dict[str, Any]
Command = Callable[[Event], Awaitable[None]]


class RemoteConnection(FrameConnection):
    """Whoever makes one calls `take` with every event.

    Args:
        command: sends a command.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self._opened = anyio.Event()
        self._is_open = False
        self._refused: Refused | None = None
        self._closed: Closed | None = None
        self._put_message, self._messages = anyio.create_memory_object_stream[bytes | str](math.inf)
        self._put_pong, self._pongs = anyio.create_memory_object_stream[bytes](math.inf)

    def take(self, event: Event) -> None:
        match event:
            case {"event": "open", "subprotocol": subprotocol, "extensions": extensions}:
                self.subprotocol, self.extensions = subprotocol or None, extensions
                self._is_open = True
                self._opened.set()
            case {"event": "refused", "status": status}:
                self._refused = Refused(status)
                self._opened.set()
            case {"event": "binary", "data": data}:
                self._put_message.send_nowait(b64decode(data))
            case {"event": "text", "text": text}:
                self._put_message.send_nowait(text)
            case {"event": "pong", "data": data}:
                self._put_pong.send_nowait(b64decode(data))
            case {"event": "close", "code": code, "reason": reason}:
                self._closed = Closed(code, reason)
                self.end()
            case _:
                raise ValueError(f"an event of an unknown kind: {event}")

    def end(self) -> None:
        """Take no more events. Idempotent."""
        self._opened.set()
        self._put_message.close()
        self._put_pong.close()

    def abandon(self) -> None:
        """Drop what was not received. Idempotent."""
        self.end()
        self._messages.close()
        self._pongs.close()

    async def opened(self) -> None:
        """Wait until it is open. Raises `Refused`."""
        await self._opened.wait()
        if self._refused is not None:
            raise self._refused
        if not self._is_open:
            raise _ended()

    async def send(self, message: bytes | str) -> None:
        if isinstance(message, str):
            await self._command({"do": "text", "text": message})
        else:
            await self.send_part(message, last=True)

    async def send_part(self, part: bytes, *, last: bool) -> None:
        await self._command({"do": "send", "data": b64encode(part).decode(), "fin": last})

    async def receive(self) -> bytes | str:
        try:
            return await self._messages.receive()
        except anyio.EndOfStream:
            raise (self._closed or _ended()) from None

    async def ping(self, payload: bytes) -> None:
        await self._command({"do": "ping", "data": b64encode(payload).decode()})
        assert await self._pongs.receive() == payload

    async def close(self, code: int, reason: str = "") -> None:
        await self._command({"do": "close", "code": code, "reason": reason})

    async def send_raw(self, data: bytes) -> None:
        await self._command({"do": "raw", "data": b64encode(data).decode()})


def _ended() -> EOFError:
    return EOFError("the other program has ended")
