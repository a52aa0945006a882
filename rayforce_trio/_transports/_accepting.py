"""The server's part of the opening handshake, on trio.

`parse_request` reads and checks the request; the server decides; trio-websocket then performs the handshake on a head
that has only the headers it needs. trio-websocket's own connection is not used after that: one bad peer can end a
process that serves on it, pings wait behind whole messages, and a close has no time limit.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NoReturn

import trio
import trio_websocket

from .._addresses import ClientAddress
from .._protocol import JSON_SUBPROTOCOL, MESSAGE_LIMIT_HEADER, TRACES_HEADER
from .._streams import (
    BrokenResourceError,
    ByteStream,
    ClosedResourceError,
    TlsStream,
    is_plaintext_error,
    own_address,
    peer_address,
    stream_of,
)
from .._websocket import (
    HttpMethod,
    HttpRequest,
    InvalidRequest,
    UpgradeRequest,
    normalized_request,
    parse_request,
)
from ..errors import ConnectionRejected, HandshakeError
from ._base import WRITE_STALL_TIMEOUT
from ._head_stream import HeadStream, ServerNursery, send_head
from ._keepalive import KeepAlive
from ._step_limiter import StepLimiter
from ._websocket import WebSocketTransport

_LINGER_TIMEOUT = 3.0  # seconds; a peer has this long to read the last response, and to answer by closing

_TLS_REQUIRED = "This port speaks TLS; connect to it with wss:// or https://."
_INCOMPLETE = "The request is not valid: the connection ended before the end of the headers."
_TOO_LATE = "The request took too long: the end of its headers did not arrive in time. Try again later."
_NO_UPGRADE = "The request is not valid: the Upgrade header is missing."

_TEXT_TYPE = "text/plain; charset=utf-8"
_HTML_TYPE = "text/html; charset=utf-8"

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OpeningRequest:
    """A client's request to open a connection, or a plain HTTP request.

    Attributes:
        path: the path of the URL, with its query.
        headers: the HTTP headers, with names in lower case and values in Latin-1. Headers that decide about the
            request occur once at most. The values of a header that occurred several times are joined by ", ".
        peer: the address of the peer. The server replaces it if a proxy reports another one.
        own_address: the IP address and port that the client connected to; for a Unix socket, `unix:` with its
            path and 0.
        subprotocols: the subprotocols that the client proposes, in its order. They are not among the headers.
        certificate: the client's TLS certificate, in the form of `ssl.SSLSocket.getpeercert`, if it has sent one.
        link_prefix: begins a relative link in the answer; the rest of the link is relative to `/`. It is empty, unless
            the client requested the path where an application is mounted, without a slash at its end.
    """

    path: str
    headers: dict[str, str] = field(repr=False)  # with secrets among them
    peer: ClientAddress
    own_address: tuple[str, int]
    subprotocols: tuple[str, ...] = field(default=(), repr=False)
    certificate: dict[str, Any] | None = field(default=None, repr=False)
    link_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a client that is refused.

    Attributes:
        status: an HTTP status, 400 to 599.
        reason: a sentence for the client's user.
        headers: further headers of the answer.
        page: an HTML page to send instead of the reason.
    """

    status: int
    reason: str
    headers: Headers = ()
    page: bytes | None = field(default=None, repr=False)

    @property
    def body(self) -> bytes:
        """The page, or the reason as a line of text."""
        return self.reason.encode() + b"\n" if self.page is None else self.page

    @property
    def all_headers(self) -> Headers:
        """The headers of every refusal, and those of this one."""
        content_type = _TEXT_TYPE if self.page is None else _HTML_TYPE
        return (("Content-Type", content_type), ("Connection", "close"), *self.headers)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The answer to a plain HTTP request: an HTTP status, the body and its type, and the headers about its use."""

    status: int
    body: bytes
    content_type: str = _TEXT_TYPE
    headers: Headers = (("Cache-Control", "no-store"),)

    @property
    def all_headers(self) -> Headers:
        """The headers of the answer."""
        return (("Content-Type", self.content_type), *self.headers, ("Connection", "close"))


Decide = Callable[[OpeningRequest], Awaitable[Refusal | None]]
Answer = Callable[[OpeningRequest], Awaitable[HttpResponse | Refusal]]


class PeerTooSlow(HandshakeError):
    """The peer kept the server waiting for too long during the opening handshake."""


class OpeningProgress:
    """Receives reports on the progress of an opening, and can end waits for the peer. This base class does nothing."""

    def waiting_for_peer(self, *, count_queue_time: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002 - for subclasses
        """Return a context for a wait for bytes of the peer.

        Args:
            count_queue_time: whether the peer could have sent the bytes before anything was read.

        Raises:
            PeerTooSlow: on leaving the context: the wait was ended, or the result comes too late.
        """
        return nullcontext()

    def bad_request(self, status: int, reason: str) -> None:
        """Report that the request is not valid, before the peer is told so."""

    def answering(self) -> None:
        """Report that the last response is about to be sent. From now on, the opening may be cancelled at any time."""


class HttpRequestServed(Exception):
    """The peer sent a plain HTTP request, and was answered."""


class BadRequest(HandshakeError):
    """The peer's request is not valid, and the peer was sent an answer that says so.

    Attributes:
        status: the HTTP status of the answer.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptOptions:
    """The options of a server's connections.

    Attributes:
        subprotocols: the subprotocols that the server speaks, the preferred one first.
        max_message_size: the longest message accepted, in bytes. Clients of `rayforce.v1` are told this number.
        keepalive: when to ping a client.
        tls: the context for TLS; `None`: no TLS.
        write_timeout: the seconds over which the rate is measured at which a peer must take bytes: see `WriteRate`.
        takes_traces: whether clients of `rayforce.v1` are told that the server takes traces.
        limiter: held by an opening for each step of the TLS handshake, and while it parses what it has received.
    """

    subprotocols: Sequence[str]
    max_message_size: int
    keepalive: KeepAlive
    tls: ssl.SSLContext | None = None
    write_timeout: float = WRITE_STALL_TIMEOUT
    takes_traces: bool = False
    limiter: StepLimiter = field(default_factory=StepLimiter)

    def choose(self, proposed: Sequence[str]) -> tuple[str | None, Headers]:
        """Return the subprotocol for a client that proposes some, and the headers that tell it about the server."""
        subprotocol = next((name for name in self.subprotocols if name in proposed), None)
        if subprotocol in (None, JSON_SUBPROTOCOL):  # clients that speak JSON are not told
            return subprotocol, ()
        limit = (MESSAGE_LIMIT_HEADER, str(self.max_message_size))
        return subprotocol, (limit, (TRACES_HEADER, "1")) if self.takes_traces else (limit,)


async def accept(
    socket_stream: trio.SocketStream,
    options: AcceptOptions,
    *,
    peer: ClientAddress | None = None,
    decide: Decide,
    answer: Answer | None = None,
    progress: OpeningProgress | None = None,
) -> WebSocketTransport:
    """Do the server's part of the opening handshake. A checkpoint; if it raises or is cancelled, nothing is left open.

    Args:
        socket_stream: a connection that was just accepted. Do not use it after this call.
        options: the options of the connection.
        peer: the address to report as the peer's. `None`: that of the socket.
        decide: called with a request for a connection; returns why it is refused, or `None`.
        answer: called with a plain HTTP request, GET or HEAD; returns the response, or why it is refused. `None`: plain
            HTTP requests are not valid.
        progress: receives reports on the progress of the opening.

    Raises:
        HttpRequestServed: `answer` returned a response, which was sent.
        ConnectionRejected: the request was refused.
        BadRequest: the request is not valid, and the peer was sent an answer that says so.
        PeerTooSlow: `progress` ended a wait for the peer.
        HandshakeError: the TLS handshake failed, or the peer went away.
    """
    progress = progress or OpeningProgress()
    try:
        peer = peer or peer_address(socket_stream.socket)
        own = own_address(socket_stream.socket)
    except OSError as error:
        socket_stream.socket.close()
        raise HandshakeError("the client disconnected at once") from error
    stream: ByteStream = stream_of(socket_stream)
    try:
        if options.tls is not None:
            stream = await _start_tls(stream, options.tls, options.limiter, progress)
        request = await _receive_request(stream, options.limiter, progress)
        certificate = stream.certificate if isinstance(stream, TlsStream) else None
        proposed = request.subprotocols if isinstance(request, UpgradeRequest) else ()
        opening_request = OpeningRequest(request.target, request.headers, peer, own, proposed, certificate)
        if isinstance(request, HttpRequest):
            await _serve_http_request(stream, request, opening_request, answer, progress)
        await _decide(stream, opening_request, decide, progress)
        subprotocol, headers = options.choose(proposed)
        await send_head(stream, await _handshake(request, subprotocol, headers))
    except (BrokenResourceError, ClosedResourceError) as error:
        stream.close()
        raise HandshakeError("the connection broke during the opening handshake") from error.__cause__
    except BaseException:
        stream.close()
        raise
    return WebSocketTransport(
        stream,
        client=False,
        leftover=request.leftover,
        subprotocol=subprotocol,
        peer=str(peer),
        max_message_size=options.max_message_size,
        keepalive=options.keepalive,
        write_timeout=options.write_timeout,
    )


async def refuse(
    socket_stream: trio.SocketStream,
    refusal: Refusal,
    options: AcceptOptions | None = None,
    *,
    receive_preface: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Refuse a peer that has not sent a request, within about three seconds. A checkpoint.

    Args:
        socket_stream: a connection that was just accepted; it is closed afterwards, even if this is cancelled.
        refusal: the answer.
        options: the options of the connection, if the TLS handshake is still to come.
        receive_preface: receives the bytes before the TLS handshake; may raise `HandshakeError`.
    """
    stream: ByteStream | None = None
    try:
        with trio.move_on_after(_LINGER_TIMEOUT):
            if receive_preface is not None:
                await receive_preface()
            stream = stream_of(socket_stream)
            if options is not None and options.tls is not None:
                stream = await _start_tls(stream, options.tls, options.limiter, OpeningProgress())
            await _answer(stream, refusal, OpeningProgress())
    except HandshakeError:
        pass
    finally:
        if stream is not None:
            stream.close()
        socket_stream.socket.close()


async def _start_tls(
    stream: ByteStream, context: ssl.SSLContext, limiter: StepLimiter, progress: OpeningProgress
) -> TlsStream:
    """Do the TLS handshake. A checkpoint; if it raises or is cancelled, close the stream.

    Raises:
        BadRequest: the peer does not speak TLS, and was told so.
        PeerTooSlow: `progress` ended a wait for the peer.
        HandshakeError: the handshake failed for another reason.
    """
    secure = TlsStream(stream, context, server_hostname=None)
    try:
        with progress.waiting_for_peer(count_queue_time=True):
            await stream.wait_readable()
        await secure.do_handshake(limiter, progress.waiting_for_peer)
    except HandshakeError as error:
        if is_plaintext_error(error.__cause__):
            progress.bad_request(400, str(error))
            await _answer(stream, Refusal(400, _TLS_REQUIRED), progress)
            raise BadRequest(400, str(error)) from error.__cause__
        raise
    return secure


async def _receive_request(
    stream: ByteStream, limiter: StepLimiter, progress: OpeningProgress
) -> UpgradeRequest | HttpRequest:
    """Receive a request. A checkpoint; if it raises or is cancelled, close the stream.

    Raises:
        BadRequest: the request is not valid or not complete in time, and the peer was sent an answer that says so.
        PeerTooSlow: `progress` ended the wait for the first byte.
        HandshakeError: the peer closed the connection.
        BrokenResourceError: the connection broke.
    """
    received = bytearray()
    request = None
    can_send_early = not isinstance(stream, TlsStream)
    while request is None:
        try:
            with progress.waiting_for_peer(count_queue_time=can_send_early):
                data = await stream.receive_some()
        except PeerTooSlow:
            if received:  # a peer that has requested nothing expects no answer
                await _refuse_bad_request(stream, 408, _TOO_LATE, (), progress)
            raise
        if not data:
            if received:  # it may have closed its side only, and still wait for an answer
                await _answer(stream, Refusal(400, _INCOMPLETE), progress)
            raise HandshakeError("the peer closed the connection during the opening handshake")
        received += data
        async with limiter:
            request = parse_request(received)
    if isinstance(request, InvalidRequest):
        await _refuse_bad_request(stream, request.status, request.reason, request.headers, progress)
    return request


async def _serve_http_request(
    stream: ByteStream,
    request: HttpRequest,
    opening_request: OpeningRequest,
    answer: Answer | None,
    progress: OpeningProgress,
) -> NoReturn:
    """Answer a plain HTTP request. A checkpoint; close the stream afterwards, even if this was cancelled.

    Raises:
        HttpRequestServed: the response was sent.
        ConnectionRejected: the request was refused.
        BadRequest: the server answers no plain HTTP requests.
    """
    if answer is None:
        await _refuse_bad_request(stream, 426, _NO_UPGRADE, (("Upgrade", "websocket"),), progress)
    response = await answer(opening_request)
    await _answer(stream, response, progress, with_body=request.method is HttpMethod.GET)
    if isinstance(response, Refusal):
        raise ConnectionRejected(response.status, response.reason)
    raise HttpRequestServed


async def _decide(
    stream: ByteStream, opening_request: OpeningRequest, decide: Decide, progress: OpeningProgress
) -> None:
    """Ask whether to accept the client. A checkpoint if `decide` is; if it raises or is cancelled, close the stream.

    Raises:
        ConnectionRejected: the request was refused, and the peer was sent an answer that says so.
    """
    refusal = await decide(opening_request)
    if refusal is not None:
        await _answer(stream, refusal, progress)
        raise ConnectionRejected(refusal.status, refusal.reason)


async def _refuse_bad_request(
    stream: ByteStream, status: int, reason: str, headers: Headers, progress: OpeningProgress
) -> NoReturn:
    """Tell the peer that its request is not valid, and raise `BadRequest`.

    A checkpoint; close the stream afterwards, even if this was cancelled.
    """
    progress.bad_request(status, reason)
    await _answer(stream, Refusal(status, reason, headers), progress)
    raise BadRequest(status, reason)


async def _handshake(request: UpgradeRequest, subprotocol: str | None, headers: Headers) -> bytes:
    """Have trio-websocket accept the request, and return its response. A checkpoint; if cancelled, nothing was sent."""

    async def receive_head() -> bytes:
        return normalized_request(request)

    stream = HeadStream(receive_head)
    extra = [(name.encode(), value.encode()) for name, value in headers]
    proposal = await trio_websocket.wrap_server_stream(
        ServerNursery(),  # type: ignore[arg-type]  # it needs start_soon only
        stream,
    )
    await proposal.accept(subprotocol=subprotocol, extra_headers=extra)
    return stream.sent


async def _answer(
    stream: ByteStream, response: HttpResponse | Refusal, progress: OpeningProgress, *, with_body: bool = True
) -> None:
    """Send the last response on a connection, and wait until the peer has had a chance to read it. A checkpoint.

    It takes three seconds at most. Does nothing if the peer is gone. If cancelled, the response may have been cut.
    """
    head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
    headers = (*response.all_headers, ("Content-Length", str(len(response.body))))
    head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    progress.answering()
    with trio.move_on_after(_LINGER_TIMEOUT), suppress(BrokenResourceError, ClosedResourceError):
        await stream.send_all(head.encode("latin-1") + (response.body if with_body else b""))
        # Closing a socket with unread bytes resets the connection, and the peer loses the response.
        await stream.send_eof()
        while await stream.receive_some():
            pass
