"""Engines that a test asks directly, without a server of ours and without an event loop."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rayforce_trio._codec import evaluate
from rayforce_trio._protocol import HEADER_SIZE, Header, MessageType, Reply, Result
from rayforce_trio._values._payloads import Buffer
from support.native import HOST, native_server


def request_frame(payload: Buffer) -> bytes:
    """Return the frame of a request that carries an expression."""
    return Header(0, MessageType.SYNC, len(payload)).pack() + payload


class InProcess:
    """The engine in this process."""

    def ask(self, frame: bytes) -> Reply:
        return evaluate(frame)


class Native:
    """A connection to a native server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=60)
        self._socket.sendall(bytes([3, 0]))
        assert self._receive(2) == bytes([3, 0])

    def __enter__(self) -> "Native":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._socket.close()

    def ask(self, frame: bytes) -> Reply:
        self._socket.sendall(frame)
        header = self._receive(HEADER_SIZE)
        return Result(header + self._receive(int.from_bytes(header[8:], "little")))

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(min(size - len(data), 1 << 20))
            assert chunk, "the server closed the connection"
            data += chunk
        return bytes(data)


@contextmanager
def native_engine(*options: str, script: str | None = None) -> Iterator[Native]:
    """Run a native server, and connect to it; the arguments are those of `native_server`."""
    with native_server(*options, script=script) as server, Native(server.port) as connection:
        yield connection
