"""A client of a native server that sends frames and waits for their replies, without this package's client."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rayforce_trio._protocol import HEADER_SIZE, Result, parse_header

_TIMEOUT = 30.0


class NativeClient:
    """One connection to a native server; a password is for one that asks for it."""

    def __init__(self, connection: socket.socket, password: str = "") -> None:
        self._connection = connection
        self._received = connection.makefile("rb")
        connection.sendall(b"\3\0")
        assert self._received.read(2) == bytes([3, bool(password)])
        if password:
            credentials = f"user:{password}\0".encode()
            connection.sendall(bytes([len(credentials)]) + credentials)
            assert self._received.read(1) == b"\0"

    def request(self, *frames: bytes) -> list[Result]:
        """Send frames all at once, and return the replies to them. The replies must be short."""
        self._connection.sendall(b"".join(frames))
        return [self.receive() for _ in frames]

    def receive(self) -> Result:
        """Return the next frame: a reply, or what the server pushes."""
        header = self._received.read(HEADER_SIZE)
        return Result(header + self._received.read(parse_header(header).size))

    def close(self) -> None:
        self._received.close()


@contextmanager
def native_client(port: int, password: str = "") -> Iterator[NativeClient]:
    """Connect to the native server on a port of the loopback interface."""
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection:
        client = NativeClient(connection, password)
        try:
            yield client
        finally:
            client.close()
