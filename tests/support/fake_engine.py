"""A handmade native server, which can also do things that no real one would do. Trio only."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from rayforce_trio._protocol import (
    HEADER_SIZE,
    Header,
    MessageType,
    error_code,
    parse_header,
    string_frame,
)

HELLO = b"\x03\x00"

HELLO_ANSWER = b"\x03\x00"
"""The answer of a native server that requires no credentials."""


STOP = b"!"
"""An urgent byte, which a native server ignores while it has no request."""


class FakeSession:
    """A connection to the fake server, seen from there. Network errors read as the end of the stream.

    Attributes:
        requests: the frames that came, in order.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = bytearray()
        self.requests: list[bytes] = []

    async def shake_hands(self, answer: bytes = HELLO_ANSWER) -> None:
        assert await self.take(len(HELLO)) == HELLO
        await self.send(answer)

    async def receive_request(self) -> bytes:
        """Return the next frame, without stops that come before it. Raises `EOFError` at the end of the stream."""
        first = STOP
        while first == STOP:
            first = await self.take(1)
        header = first + await self.take(HEADER_SIZE - 1)
        frame = header + await self.take(parse_header(header).size)
        self.requests.append(frame)
        return frame

    async def take(self, count: int) -> bytes:
        """Return exactly this number of bytes. Raises `EOFError` at the end of the stream."""
        while len(self._received) < count:
            data = b""
            with suppress(trio.BrokenResourceError):
                data = await self._stream.receive_some()
            if not data:
                raise EOFError("the connection ended")
            self._received += data
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def send(self, data: bytes) -> None:
        """Send the bytes, or as many as the other side takes before it is gone."""
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(data)

    async def answer(self, text: str) -> None:
        """Answer with a String."""
        await self.send(string_frame(text))

    async def serve(self) -> None:
        """Answer every request with the number of requests so far, until the end of the stream."""
        while True:
            frame = await self.receive_request()
            if parse_header(frame).message_type is MessageType.SYNC:
                await self.answer(str(len(self.requests)))

    def reset(self) -> None:
        """Break the connection: the other side gets an RST."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()

    def receive_stops_inline(self) -> None:
        """Receive urgent bytes inline, at their place among the others."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    async def until_hung_up(self) -> None:
        """Wait until the other side hangs up, whatever else it sends."""
        with suppress(EOFError):
            while True:
                await self.take(1)


Script = Callable[[FakeSession], Awaitable[None]]


class FakeEngine:
    """Attributes: `port` to connect to; `script`, for those who do; `sessions`, in the order they were opened."""

    def __init__(self, port: int, script: Script) -> None:
        self.port = port
        self.script = script
        self.sessions: list[FakeSession] = []


@asynccontextmanager
async def fake_engine(script: Script, *, hello: bytes | None = HELLO_ANSWER) -> AsyncIterator[FakeEngine]:
    """Listen, and play `script` with everybody who connects; it ends with the block, or when the other side hangs up.

    Args:
        hello: what the greeting is answered with; `None`: the script sees to it.
    """

    async def handle(stream: trio.SocketStream) -> None:
        session = FakeSession(stream)
        with suppress(EOFError):
            if hello is not None:
                await session.shake_hands(hello)  # which never comes on the connection on which nothing is asked
            engine.sessions.append(session)
            await engine.script(session)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        engine = FakeEngine(listeners[0].socket.getsockname()[1], script)
        await nursery.start(partial(trio.serve_listeners, handle, listeners))
        yield engine
        nursery.cancel_scope.cancel()


def frame(payload: bytes, *, flags: int = 0, message_type: MessageType = MessageType.RESPONSE) -> bytes:
    """Return a frame, a response if nothing else is asked for."""
    return Header(flags, message_type, len(payload)).pack() + payload


def announce(size: int, *, flags: int = 0, message_type: MessageType = MessageType.RESPONSE) -> bytes:
    """Return the header of a frame whose payload has this number of bytes."""
    return Header(flags, message_type, size).pack()


def error_frame(code: str) -> bytes:
    """Return the response for an error of the evaluation."""
    made = frame(b"\x7f" + code.encode().ljust(8, b"\0"))
    assert error_code(made) == code
    return made


def compressed_frame(payload: bytes) -> bytes:
    """Return a response, compressed as a native server may do it: without a single repetition."""
    differences = bytes((byte - before) % 256 for before, byte in zip(b"\0" + payload, payload, strict=False))
    runs = b"".join(
        bytes([256 - len(run)]) + run
        for run in (differences[start : start + 100] for start in range(0, len(differences), 100))
    )
    return frame(len(payload).to_bytes(4, "little") + runs, flags=1)
