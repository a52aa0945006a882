"""A handmade WebSocket peer, which can also do things that no library does: over a plain socket, on any event loop."""

import base64
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType

import anyio

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = base64.b64encode(bytes(16)).decode()
SUBPROTOCOL = "rayforce.v1"
HELLO = b"\x01\x00"
HELLO_REPLY = b"\x01"


def upgrade(headers: Mapping[str, str | None] | None = None, *, start: str = "GET / HTTP/1.1") -> bytes:
    """Return a valid opening request, except for `headers`: they replace its own, and `None` removes one."""
    proper: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    return response(start, proper | dict(headers or {}))


def response(start: str, headers: Mapping[str, str | None], body: bytes = b"") -> bytes:
    """Return an HTTP message; header values are written as Latin-1."""
    lines = [start, *(f"{name}: {value}" for name, value in headers.items() if value is not None), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def upgraded(request: bytes, headers: Mapping[str, str | None] | None = None) -> bytes:
    """Return a server's answer that accepts `request`, with the extended protocol; `headers` as for `upgrade`."""
    key = next(line.split()[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    proper: dict[str, str | None] = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept,
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
    }
    return response("HTTP/1.1 101 Switching Protocols", proper | dict(headers or {}))


def frame(
    payload: bytes = b"",
    opcode: int = BINARY,
    *,
    masked: bool = True,
    fin: bool = True,
    rsv: int = 0,
    size: int | None = None,
) -> bytes:
    """Return a frame; the mask of a masked one is zero, so its payload stands there as it is.

    Args:
        size: the length to announce, if not that of `payload`.
    """
    size = len(payload) if size is None else size
    bit = 0x80 if masked else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65536:
        length = struct.pack("!BH", bit | 126, size)
    else:
        length = struct.pack("!BQ", bit | 127, size)
    return bytes([fin << 7 | rsv << 4 | opcode]) + length + (bytes(4) if masked else b"") + payload


def close_frame(code: int, *, masked: bool = True) -> bytes:
    return frame(struct.pack("!H", code), CLOSE, masked=masked)


class RawPeer:
    """One end of a TCP connection. Network errors read as the end of the stream.

    Attributes:
        ended: whether the other side sends no more.
        fin: whether the frame received last ends its message.
        pause: what it waits after each piece that it receives, in seconds.
    """

    def __init__(self, sock: socket.socket, *, is_client: bool) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.ended = False
        self.fin = True
        self.pause = 0.0
        self._masked = is_client
        self._received = bytearray()

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Break the connection: the other side gets an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    async def send(self, data: bytes) -> int:
        """Send the bytes, or as many as the other side takes before it is gone; return the number of bytes it took."""
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            try:
                sent += self.socket.send(view[sent:])
            except BlockingIOError:
                await anyio.wait_writable(self.socket)
            except OSError:
                break
        await anyio.lowlevel.checkpoint()
        return sent

    async def send_frame(self, payload: bytes = b"", opcode: int = BINARY) -> None:
        await self.send(frame(payload, opcode, masked=self._masked))

    async def send_close(self, code: int) -> None:
        await self.send(close_frame(code, masked=self._masked))

    async def receive_head(self) -> bytes:
        """Return an HTTP head, or the part of it that came before the end."""
        while b"\r\n\r\n" not in self._received and await self._more():
            pass
        head, end, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received[:] = rest
        return head + end

    async def receive_some(self) -> bytes:
        """Return the bytes that have arrived, as soon as there are some; none at the end of the stream."""
        if not self._received:
            await self._more()
        some, self._received = bytes(self._received), bytearray()
        return some

    async def receive_rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        while await self._more():
            pass
        rest, self._received = bytes(self._received), bytearray()
        return rest

    async def receive_frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame. Raises `EOFError` at the end of the stream."""
        first, second = await self._take(2)
        self.fin = first >= 0x80
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self._take(2))
        elif size == 127:
            size = int.from_bytes(await self._take(8))
        mask = await self._take(4) if second & 0x80 else bytes(4)
        payload = await self._take(size)
        if any(mask):
            key = (mask * (size // 4 + 1))[:size]
            payload = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)
        return first & 0x0F, payload

    async def receive_close(self) -> int:
        """Return the code of the close frame. Other frames before it are ignored."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2])

    async def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            if not await self._more():
                raise EOFError("the connection ended")
            await anyio.sleep(self.pause)
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def _more(self) -> bool:
        while True:
            try:
                data = self.socket.recv(1024 * 1024)
            except BlockingIOError:
                await anyio.wait_readable(self.socket)
            except OSError:
                data = b""
                break
            else:
                break
        self._received += data
        self.ended = not data
        return bool(data)


def connect_raw(port: int, *, receive_buffer: int | None = None) -> RawPeer:
    """Connect to a listener on this machine: no wait, as the system completes the connection by itself.

    Args:
        receive_buffer: how many bytes the system keeps that nobody read.
    """
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # bytes do not wait for earlier ones
    sock.connect(("127.0.0.1", port))
    return RawPeer(sock, is_client=True)


async def open_raw(
    port: int,
    *,
    subprotocol: str | None = SUBPROTOCOL,
    hello: bool = True,
    receive_buffer: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawPeer:
    """Connect and shake hands; `hello` says whether Rayforce's handshake follows that of WebSocket."""
    peer = connect_raw(port, receive_buffer=receive_buffer)
    try:
        await peer.send(upgrade({"Sec-WebSocket-Protocol": subprotocol, **(headers or {})}))
        head = await peer.receive_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        if hello:
            await peer.send_frame(HELLO)
            assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
    except BaseException:
        peer.close()
        raise
    return peer


async def accept_raw(
    peer: RawPeer,
    *,
    hello: bytes | None = frame(HELLO_REPLY, masked=False),
    headers: Mapping[str, str | None] | None = None,
) -> None:
    """As a server: answer the opening request, take the greeting, and answer it with `hello`; `None`: no more.

    Args:
        headers: as for `upgraded`.
    """
    await peer.send(upgraded(await peer.receive_head(), headers))
    if hello is not None:
        assert await peer.receive_frame() == (BINARY, HELLO)
        await peer.send(hello)


@asynccontextmanager
async def raw_server(script: Callable[[RawPeer], Awaitable[None]], host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Listen, and play `script` with every client in turn; yields the port. Ends with the block, script or not."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setblocking(False)

        async def serve() -> None:
            while True:
                await anyio.wait_readable(listener)
                with RawPeer(listener.accept()[0], is_client=False) as peer:
                    await script(peer)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(serve)
            yield listener.getsockname()[1]
            task_group.cancel_scope.cancel()
