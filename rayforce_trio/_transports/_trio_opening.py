"""The opening handshake under trio, which trio-websocket does.

trio-websocket's own connection is left after the handshake, since one bad peer can end a process that serves on it,
pings wait behind whole messages, and nothing bounds a close. Its reader task is cancelled while it waits in a stream of
ours, which keeps every byte after the HTTP head; the same socket then goes on in a `TrioWebSocket`.
"""

import base64
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11
import trio
import trio_websocket
import wsproto.utilities

from .._addresses import Endpoint, authority_of
from .._protocol import MESSAGE_LIMIT_HEADER, parse_message_limit
from .._streams import (
    BrokenResourceError,
    ByteStream,
    ClosedResourceError,
    TlsStream,
    connect_tcp,
    is_plaintext_error,
    stream_of,
)
from .._tasks import collapse_groups
from ..errors import ConnectError, ConnectionRejected, HandshakeError
from ._base import WRITE_STALL_TIMEOUT, connect_failed, no_websocket_server, tls_failed
from ._head_stream import HeadStream, HeadTooLong, PeerGone, SpeaksTls
from ._keepalive import KeepAlive
from ._trio_websocket import TrioWebSocket

_LINGER_TIMEOUT = 1.0  # seconds a refused peer has to read why, before the socket is closed

_TLS_WANTED = b"This port speaks TLS; connect to it with wss:// or https://.\n"
_NO_TLS = b"This port does not speak TLS; connect to it with ws:// or http://.\n"

_PLAIN_REQUEST = re.compile(rb"(?:GET|HEAD) /\S* HTTP/1\.1\r\n")
_UPGRADE = re.compile(rb"^upgrade[ \t]*:", re.IGNORECASE | re.MULTILINE)

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
        headers: the HTTP headers, names in lower case. Those that decide who is let in are there once at most; of
            others that came several times, the values are joined by ", ".
        subprotocols: those it proposes, in its order. They are not among the headers.
        certificate: the client's TLS certificate, as `ssl.SSLSocket.getpeercert` tells it, if it was asked for one.
        peer: the client's IP address.
        own_address: the IP address and port it connected to.
    """

    path: str
    headers: dict[str, str] = field(repr=False)  # with secrets among them
    peer: str
    own_address: tuple[str, int]
    subprotocols: tuple[str, ...] = field(default=(), repr=False)
    certificate: dict[str, Any] | None = field(default=None, repr=False)


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


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a plain HTTP request is answered: an HTTP status, the body and its type."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    @property
    def all_headers(self) -> list[tuple[bytes, bytes]]:
        all_ = (("Content-Type", self.content_type), ("Cache-Control", "no-store"), ("Connection", "close"))
        return [(name.encode(), value.encode()) for name, value in all_]


Decide = Callable[[OpeningRequest], Awaitable[Refusal | None]]
AnswerPlainly = Callable[[OpeningRequest], Awaitable[HttpResponse | Refusal]]


class HttpRequestServed(Exception):
    """The peer wanted no connection: it asked plainly, and was answered."""


class BadRequest(HandshakeError):
    """The peer's opening request makes no sense, and the peer was told so.

    Attributes:
        status: the HTTP status it got.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def connect(
    endpoint: Endpoint,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]] = (),
    max_message_size: int,
    keepalive: KeepAlive,
) -> TrioWebSocket:
    """Open a connection. A checkpoint; if cancelled, nothing is left open.

    Args:
        headers: what the opening request has beside the headers of its own.

    Raises:
        ConnectError: nobody answers there.
        ConnectionRejected: the server refused, with an HTTP status.
        HandshakeError: what answers is no WebSocket server, or its TLS cannot be trusted.
    """
    try:
        stream: ByteStream = await connect_tcp(*endpoint.address)
    except (OSError, UnicodeError) as error:
        raise connect_failed(endpoint, error) from error
    try:
        if endpoint.tls is not None:
            stream = await _secure_client(stream, endpoint, endpoint.tls)
        return await _upgrade_client(stream, endpoint, subprotocols, headers, max_message_size, keepalive)
    except BaseException:
        stream.close()
        raise


async def _secure_client(stream: ByteStream, endpoint: Endpoint, tls: ssl.SSLContext) -> TlsStream:
    try:
        secure = TlsStream(stream, tls, server_hostname=endpoint.host)
        await secure.do_handshake()
    except (HandshakeError, ValueError) as error:
        raise tls_failed(endpoint, error.__cause__ or error) from None
    return secure


async def _upgrade_client(
    stream: ByteStream,
    endpoint: Endpoint,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
    keepalive: KeepAlive,
) -> TrioWebSocket:
    head = HeadStream(stream, with_body=True)
    subprotocol: str | None = None
    message_limit: int | None = None

    async def shake_hands(nursery: trio.Nursery) -> None:
        nonlocal subprotocol, message_limit
        # The annotation asks for a socket; trio-websocket calls nothing of it that trio.abc.Stream lacks.
        websocket = await trio_websocket.wrap_client_stream(
            nursery,
            head,  # type: ignore[arg-type]
            endpoint.authority,
            endpoint.target,
            subprotocols=subprotocols,
            extra_headers=[(name.encode(), value.encode()) for name, value in headers],
        )
        subprotocol = websocket.subprotocol
        name = MESSAGE_LIMIT_HEADER.lower().encode()
        limits = [value for header, value in websocket.handshake_headers if header == name]
        message_limit = parse_message_limit(b", ".join(limits).decode("latin-1"))

    try:
        await _borrow_trio_websocket(shake_hands)
    except trio_websocket.ConnectionRejected as error:
        raise _refused(endpoint, error.status_code, (error.body or b"").decode("utf-8", "replace")) from None
    except ConnectionRejected as error:
        raise _refused(endpoint, error.status, error.body) from None
    except (HandshakeError, *_HANDSHAKE_ERRORS) as error:
        if isinstance(error.__cause__, ssl.SSLError):  # in TLS 1.3 a server refuses a certificate as late as this
            raise tls_failed(endpoint, error.__cause__) from None
        raise no_websocket_server(endpoint, error) from error
    return TrioWebSocket(
        stream,
        client=True,
        leftover=head.leftover,
        subprotocol=subprotocol,
        peer=endpoint.authority,
        max_message_size=max_message_size,
        keepalive=keepalive,
        peer_max_message_size=message_limit,
    )


def _refused(endpoint: Endpoint, status: int, body: str) -> ConnectError:
    return ConnectionRejected(status, body) if status >= 300 else no_websocket_server(endpoint, f"HTTP status {status}")


async def accept(
    stream: trio.SocketStream,
    *,
    tls: ssl.SSLContext | None = None,
    decide: Decide,
    answer: AnswerPlainly | None = None,
    subprotocols: Sequence[str],
    max_message_size: int,
    keepalive: KeepAlive,
    write_timeout: float = WRITE_STALL_TIMEOUT,
) -> TrioWebSocket:
    """Do the server's part of the opening handshake. A checkpoint; if it raises or is cancelled, nothing is left open.

    Args:
        stream: a connection just accepted; it is of no more use to the caller.
        tls: how to speak TLS; `None`: not at all.
        decide: called with the request; returns why it is refused, or `None`.
        answer: called with a plain request instead, a GET or HEAD of HTTP/1.1 that wants no upgrade; returns what it is
            answered, why it is refused, or `None`: such a request makes no sense.
        subprotocols: those this server speaks, the preferred one first.
        max_message_size: the longest message accepted, in bytes; a client that speaks one of them is told.
        write_timeout: a peer that takes nothing for so many seconds is given up.

    Raises:
        HttpRequestServed: it was a plain request, and `answer` had an answer.
        ConnectionRejected: the request was refused.
        BadRequest: the peer sent no proper request, and was told so.
        HandshakeError: TLS could not be agreed on, or the peer went away meanwhile.
    """
    try:
        peer, own = stream.socket.getpeername(), stream.socket.getsockname()
    except OSError as error:
        stream.socket.close()
        raise HandshakeError("the peer was gone before it was served") from error
    lean: ByteStream = stream_of(stream)
    try:
        if tls is not None:
            lean = await _secure_server(lean, tls)
        return await _upgrade_server(
            lean, peer, own, decide, answer, subprotocols, max_message_size, keepalive, write_timeout
        )
    except BaseException:
        lean.close()
        raise


async def _secure_server(stream: ByteStream, tls: ssl.SSLContext) -> TlsStream:
    secure = TlsStream(stream, tls, server_hostname=None)
    try:
        await secure.do_handshake()
    except HandshakeError as error:
        if is_plaintext_error(error.__cause__):
            await _refuse_plainly(stream, 400, _TLS_WANTED)
            raise BadRequest(400, str(error)) from error.__cause__
        raise
    return secure


async def _upgrade_server(
    stream: ByteStream,
    peer: tuple[str, int],
    own: tuple[str, int],
    decide: Decide,
    answer: AnswerPlainly | None,
    subprotocols: Sequence[str],
    max_message_size: int,
    keepalive: KeepAlive,
    write_timeout: float,
) -> TrioWebSocket:
    head = HeadStream(stream)
    certificate = stream.certificate if isinstance(stream, TlsStream) else None
    chosen: str | None = None

    async def shake_hands(nursery: trio.Nursery) -> None:
        nonlocal chosen
        request = await trio_websocket.wrap_server_stream(nursery, head)
        _check_request(head.head)
        headers = {"host": _host(head.head), **_unambiguous(request.headers)}
        proposed = tuple(request.proposed_subprotocols)
        refusal = await decide(OpeningRequest(request.path, headers, peer[0], (own[0], own[1]), proposed, certificate))
        if refusal is not None:
            await request.reject(refusal.status, extra_headers=refusal.all_headers, body=refusal.body)
            raise ConnectionRejected(refusal.status, refusal.reason)
        chosen = next((name for name in subprotocols if name in proposed), None)
        limit = (MESSAGE_LIMIT_HEADER.encode(), b"%d" % max_message_size)
        await request.accept(subprotocol=chosen, extra_headers=None if chosen is None else [limit])

    try:
        await head.receive_head()
        plain = None if answer is None else _plain_request(head.head)
        if answer is not None and plain is not None:
            headers = _unambiguous(list(plain.headers))
            asked = OpeningRequest(plain.target.decode(), headers, peer[0], (own[0], own[1]), (), certificate)
            await _answer_plainly(head, await answer(asked), with_body=plain.method == b"GET")
        await _borrow_trio_websocket(shake_hands)
    except (ConnectionRejected, HttpRequestServed):
        await _linger(stream)
        raise
    except HeadTooLong as error:
        await _refuse_plainly(stream, 431)
        raise BadRequest(431, str(error)) from None
    except SpeaksTls as error:
        await _refuse_plainly(stream, 400, _NO_TLS)
        raise BadRequest(400, str(error)) from None
    except PeerGone:
        await _refuse_bad_request(head, stream)  # it may have sent its last word, and listen yet
        raise
    except HandshakeError as error:
        await _refuse_bad_request(head, stream)
        raise BadRequest(head.answered or 400, str(error)) from None
    except _HANDSHAKE_ERRORS as error:
        await _refuse_bad_request(head, stream)
        raise BadRequest(head.answered or 400, f"the peer's opening handshake makes no sense: {error}") from error
    return TrioWebSocket(
        stream,
        client=False,
        leftover=head.leftover,
        subprotocol=chosen,
        peer=authority_of(peer[0], peer[1]),
        max_message_size=max_message_size,
        keepalive=keepalive,
        write_timeout=write_timeout,
    )


def _plain_request(head: bytes) -> h11.Request | None:
    """Return the request in a head if it is proper, and wants no upgrade; else `None`."""
    if not _PLAIN_REQUEST.match(head) or _UPGRADE.search(head):
        return None
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    return request if isinstance(request, h11.Request) else None


async def _answer_plainly(head: HeadStream, answer: HttpResponse | Refusal, *, with_body: bool) -> None:
    """Send the answer, and raise what it amounts to."""
    await head.send_all(_response(answer.status, answer.all_headers, answer.body, with_body=with_body))
    if isinstance(answer, Refusal):
        raise ConnectionRejected(answer.status, answer.reason)
    raise HttpRequestServed


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
        name, text = raw_name.decode("ascii").lower(), value.decode("ascii")
        if name in found and name in _DECISIVE_HEADERS:
            raise HandshakeError(f"the peer's request has more than one header {name}")
        found[name] = f"{found[name]}, {text}" if name in found else text  # RFC 9110, section 5.3
    return found


async def refuse(stream: trio.SocketStream, refusal: Refusal, *, tls: ssl.SSLContext | None = None) -> None:
    """Refuse a peer before it has asked for anything, within a second or two. A checkpoint.

    Args:
        stream: a connection just accepted; it is closed afterwards, whatever happens.
        tls: how to speak TLS; `None`: not at all.
    """
    lean: ByteStream = stream_of(stream)
    try:
        with trio.move_on_after(_LINGER_TIMEOUT):
            if tls is not None:
                lean = await _secure_server(lean, tls)
            await lean.send_all(_response(refusal.status, refusal.all_headers, refusal.body))
            await _linger(lean)
    except (BrokenResourceError, ClosedResourceError, HandshakeError):
        pass
    finally:
        lean.close()


def _response(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, with_body: bool = True) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body if with_body else b""])


async def _borrow_trio_websocket(shake_hands: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Run a handshake in a nursery for trio-websocket's reader task, and end that task; raises single exceptions."""
    with collapse_groups(*_HANDSHAKE_ERRORS):
        async with trio.open_nursery() as nursery:
            await shake_hands(nursery)
            nursery.cancel_scope.cancel()


async def _refuse_bad_request(head: HeadStream, stream: ByteStream) -> None:
    if head.answered:  # by trio-websocket
        await _linger(stream)
    else:
        await _refuse_plainly(stream, 400)


async def _refuse_plainly(stream: ByteStream, status: int, body: bytes = b"") -> None:
    """Answer a peer whose request trio-websocket could not read."""
    try:
        await stream.send_all(_response(status, [(b"Connection", b"close")], body))
    except (BrokenResourceError, ClosedResourceError):
        return
    await _linger(stream)


async def _linger(stream: ByteStream) -> None:
    """Let a refused peer read why: closing a socket with unread bytes resets the connection, and the answer is lost."""
    with trio.move_on_after(_LINGER_TIMEOUT):
        try:
            await stream.send_eof()
            while await stream.receive_some():
                pass
        except (BrokenResourceError, ClosedResourceError):
            pass
