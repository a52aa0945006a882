"""The opening handshake under trio, which trio-websocket does.

trio-websocket's own connection is left after the handshake, since one bad peer can end a process that serves on it,
pings wait behind whole messages, and nothing bounds a close. Its reader task is cancelled while it waits in a stream of
ours, which keeps every byte after the HTTP head; the same socket then goes on in a `TrioWebSocket`.
"""

import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import h11
import trio
import trio_websocket
import wsproto.utilities

from .._addresses import authority_of, why
from .._tasks import ungrouped
from .._tcp import TcpStream
from ..errors import ConnectError, ConnectionRejected, HandshakeError
from ._base import no_websocket_server
from ._head_stream import HeadStream, HeadTooLong
from ._keepalive import KeepAlive
from ._trio_websocket import TrioWebSocket

_LINGER_TIMEOUT = 1.0  # seconds a refused peer has to read why, before the socket is closed

_DECISIVE_HEADERS = frozenset({"authorization", "host", "origin"})

# What trio-websocket and what it stands on raise for a handshake that makes no sense. UnicodeError is a ValueError.
_HANDSHAKE_ERRORS = (
    ValueError,
    h11.ProtocolError,
    wsproto.utilities.ProtocolError,
    trio_websocket.ConnectionClosed,
    trio_websocket.HandshakeError,
)


@dataclass(frozen=True, slots=True)
class OpeningRequest:
    """What a client asks for.

    Attributes:
        path: of the URL.
        headers: the HTTP headers, names in lower case; one that decides who is let in is there once at most.
        subprotocols: those it proposes, in its order. They are not among the headers.
        peer: the client's IP address.
        own_address: the IP address and port it connected to.
    """

    path: str
    headers: dict[str, str] = field(repr=False)  # with secrets among them
    peer: str
    own_address: tuple[str, int]
    subprotocols: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client is refused: an HTTP status of 400-599, a sentence for the person who reads it, and more headers."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Those, and the ones that every refusal has."""
        all_ = (("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"), *self.headers)
        return [(name.encode(), value.encode()) for name, value in all_]

    @property
    def body(self) -> bytes:
        return self.reason.encode() + b"\n"


async def connect(
    host: str,
    port: int,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]] = (),
    max_message_size: int,
    keepalive: KeepAlive,
) -> TrioWebSocket:
    """Open a connection to `ws://host:port/`. A checkpoint; if cancelled, nothing is left open.

    Args:
        headers: what the opening request has beside the headers of its own.

    Raises:
        ConnectError: nobody answers there.
        ConnectionRejected: the server refused, with an HTTP status.
        HandshakeError: what answers is no WebSocket server.
    """
    authority = authority_of(host, port)
    try:
        stream = TcpStream(await trio.open_tcp_stream(host, port))
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"could not connect to {authority}: {why(error)}") from error
    try:
        return await _upgrade_client(stream, authority, subprotocols, headers, max_message_size, keepalive)
    except BaseException:
        stream.close()
        raise


async def _upgrade_client(
    stream: TcpStream,
    authority: str,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
    keepalive: KeepAlive,
) -> TrioWebSocket:
    head = HeadStream(stream, with_body=True)
    subprotocol: str | None = None

    async def shake_hands(nursery: trio.Nursery) -> None:
        nonlocal subprotocol
        # The annotation asks for a socket; trio-websocket calls nothing of it that trio.abc.Stream lacks.
        websocket = await trio_websocket.wrap_client_stream(
            nursery,
            head,  # type: ignore[arg-type]
            authority,
            "/",
            subprotocols=subprotocols,
            extra_headers=[(name.encode(), value.encode()) for name, value in headers],
        )
        subprotocol = websocket.subprotocol

    try:
        await _borrow_trio_websocket(shake_hands)
    except trio_websocket.ConnectionRejected as error:
        raise _refused(authority, error.status_code, (error.body or b"").decode("utf-8", "replace")) from None
    except ConnectionRejected as error:
        raise _refused(authority, error.status, error.body) from None
    except (HandshakeError, *_HANDSHAKE_ERRORS) as error:
        raise no_websocket_server(authority, error) from error
    return TrioWebSocket(
        stream,
        client=True,
        leftover=head.leftover,
        subprotocol=subprotocol,
        peer=authority,
        max_message_size=max_message_size,
        keepalive=keepalive,
    )


def _refused(authority: str, status: int, body: str) -> ConnectError:
    return (
        ConnectionRejected(status, body) if status >= 300 else no_websocket_server(authority, f"HTTP status {status}")
    )


async def accept(
    stream: trio.SocketStream,
    *,
    decide: Callable[[OpeningRequest], Awaitable[Refusal | None]],
    subprotocols: Sequence[str],
    max_message_size: int,
    keepalive: KeepAlive,
) -> TrioWebSocket:
    """Do the server's part of the opening handshake. A checkpoint; if it raises or is cancelled, nothing is left open.

    Args:
        stream: a connection just accepted; it is of no more use to the caller.
        decide: called with the request; returns why it is refused, or `None`.
        subprotocols: those this server speaks, the preferred one first.

    Raises:
        ConnectionRejected: the request was refused.
        HandshakeError: the peer sent no proper request, and was told so, or went away meanwhile.
    """
    try:
        peer, own = stream.socket.getpeername(), stream.socket.getsockname()
    except OSError as error:
        stream.socket.close()
        raise HandshakeError("the peer was gone before it was served") from error
    lean = TcpStream(stream)
    try:
        return await _upgrade_server(lean, peer, own, decide, subprotocols, max_message_size, keepalive)
    except BaseException:
        lean.close()
        raise


async def _upgrade_server(
    stream: TcpStream,
    peer: tuple[str, int],
    own: tuple[str, int],
    decide: Callable[[OpeningRequest], Awaitable[Refusal | None]],
    subprotocols: Sequence[str],
    max_message_size: int,
    keepalive: KeepAlive,
) -> TrioWebSocket:
    head = HeadStream(stream)
    chosen: str | None = None

    async def shake_hands(nursery: trio.Nursery) -> None:
        nonlocal chosen
        request = await trio_websocket.wrap_server_stream(nursery, head)
        _check_request(head.head)
        headers = {"host": _host(head.head), **_unambiguous(request.headers)}
        proposed = tuple(request.proposed_subprotocols)
        refusal = await decide(OpeningRequest(request.path, headers, peer[0], (own[0], own[1]), proposed))
        if refusal is not None:
            await request.reject(refusal.status, extra_headers=refusal.all_headers, body=refusal.body)
            raise ConnectionRejected(refusal.status, refusal.reason)
        chosen = next((name for name in subprotocols if name in proposed), None)
        await request.accept(subprotocol=chosen)

    try:
        await _borrow_trio_websocket(shake_hands)
    except ConnectionRejected:
        await _linger(stream)
        raise
    except HeadTooLong:
        await _refuse_plainly(stream, b"431 Request Header Fields Too Large")
        raise
    except HandshakeError:
        await _refuse_plainly(stream, b"400 Bad Request")
        raise
    except _HANDSHAKE_ERRORS as error:
        await _refuse_plainly(stream, b"400 Bad Request")
        raise HandshakeError(f"the peer's opening handshake makes no sense: {error}") from error
    return TrioWebSocket(
        stream,
        client=False,
        leftover=head.leftover,
        subprotocol=chosen,
        peer=authority_of(peer[0], peer[1]),
        max_message_size=max_message_size,
        keepalive=keepalive,
    )


def _check_request(head: bytes) -> None:
    """Refuse what RFC 6455, section 4.2.1, tells a server to refuse and trio-websocket lets through."""
    if not head.partition(b"\r\n")[0].endswith(b" HTTP/1.1"):
        raise HandshakeError("the peer's request is not of HTTP/1.1")
    key = re.search(rb"(?im)^sec-websocket-key:[ \t]*(\S*)", head)
    if key is None or len(base64.b64decode(key[1], validate=True)) != 16:
        raise HandshakeError("the peer's Sec-WebSocket-Key is not 16 bytes in base64")


def _host(head: bytes) -> str:
    """Return the Host header as it came, of which there is one; trio-websocket keeps it to itself."""
    found = re.search(rb"(?im)^host:[ \t]*([^\r\n]*)", head)
    return "" if found is None else found[1].decode("ascii").strip()


def _unambiguous(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.decode("ascii").lower()
        if name in found and name in _DECISIVE_HEADERS:
            raise HandshakeError(f"the peer's request has more than one header {name}")
        found[name] = value.decode("ascii")
    return found


async def refuse(stream: trio.SocketStream, refusal: Refusal) -> None:
    """Refuse a peer before it has asked for anything, within a second. A checkpoint.

    Args:
        stream: a connection just accepted; it is closed afterwards, whatever happens.
    """
    head = [b"HTTP/1.1 %d %s" % (refusal.status, HTTPStatus(refusal.status).phrase.encode())]
    head += [name + b": " + value for name, value in refusal.all_headers]
    head += [b"Content-Length: %d" % len(refusal.body), b"", refusal.body]
    lean = TcpStream(stream)
    try:
        await lean.send_all(b"\r\n".join(head))
        await _linger(lean)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        lean.close()


async def _borrow_trio_websocket(shake_hands: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Run a handshake in a nursery for trio-websocket's reader task, and end that task; raises single exceptions."""
    with ungrouped(*_HANDSHAKE_ERRORS):
        async with trio.open_nursery() as nursery:
            await shake_hands(nursery)
            nursery.cancel_scope.cancel()


async def _refuse_plainly(stream: TcpStream, status: bytes) -> None:
    """Answer a peer whose request trio-websocket could not read; it may have answered some of them itself by now."""
    try:
        await stream.send_all(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    await _linger(stream)


async def _linger(stream: TcpStream) -> None:
    """Let a refused peer read why: closing a socket with unread bytes resets the connection, and the answer is lost."""
    with trio.move_on_after(_LINGER_TIMEOUT):
        try:
            await stream.send_eof()
            while await stream.receive_some():
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
