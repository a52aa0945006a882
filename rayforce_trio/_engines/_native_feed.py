"""The feed of a native server: one connection on which the server subscribes, and receives the pushes of the engine."""

import struct
from collections import deque
from functools import partial
from typing import Protocol

import trio

from .._codec import SIZE_BYTES, Decompressor
from .._protocol import (
    HEADER_SIZE,
    FrameError,
    Header,
    MessageType,
    ProtocolViolation,
    Reply,
    Result,
    parse_header,
    parse_push,
)
from .._tasks import enable_ki_protection, race
from .._values._payloads import call, string
from ..errors import EngineError
from ._base import Feed, FeedHandler
from ._native_session import NativeSession

_I64 = struct.Struct("<BBq")
_I64_ATOM = 0xFB


class _OpenSession(Protocol):
    async def __call__(self, *, on_push: "_OnPush") -> NativeSession:
        """Open a session before the handshake. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: the server cannot be reached.
        """


class _OnPush(Protocol):
    def __call__(self, frame: bytes, /) -> None: ...


class NativeFeed(Feed):
    """Subscribe at a native server.

    Args:
        open_session: opens a session that reports pushes.
        name: the name of the engine in errors.
    """

    def __init__(self, open_session: _OpenSession, name: str) -> None:
        self._open_session = open_session
        self._name = name
        self._requests = deque[tuple[str, str]]()  # functions and topics
        self._request_due = trio.Event()

    def subscribe(self, topic: str) -> None:
        self._add(".mc.sub", topic)

    def unsubscribe(self, topic: str) -> None:
        self._add(".mc.unsub", topic)

    @enable_ki_protection
    async def run(self, handler: FeedHandler) -> None:
        session = await self._open_session(on_push=partial(self._take_push, handler))
        try:
            session.timed = True
            await race(session.run, partial(self._send_requests, session, handler))
        finally:
            await session.aclose()

    def _add(self, function: str, topic: str) -> None:
        self._requests.append((function, topic))
        self._request_due.set()

    async def _send_requests(self, session: NativeSession, handler: FeedHandler) -> None:
        """Send the requests one after the other, until cancelled. A checkpoint; if cancelled, close the session."""
        while True:
            while self._requests:
                function, topic = self._requests.popleft()
                payload = call(function, string(topic))
                frame = Header(0, MessageType.SYNC, len(payload)).pack() + payload
                await session.request_in_order(frame, partial(self._take_reply, handler, function, topic))
            self._request_due = trio.Event()
            await self._request_due.wait()

    def _take_reply(self, handler: FeedHandler, function: str, topic: str, reply: Reply) -> None:
        if function == ".mc.unsub":
            return
        if not isinstance(reply, Result):
            handler.refused(topic, f"{self._name} refused the subscription with the error code {reply.code}")
            return
        payload = reply.frame[HEADER_SIZE:]
        if len(payload) == _I64.size and payload[0] == _I64_ATOM:
            handler.subscribed(topic, _I64.unpack(payload)[2])
        else:
            handler.refused(topic, f"{self._name} cannot publish topics, because .mc.sub has been redefined in it")

    def _take_push(self, handler: FeedHandler, frame: bytes) -> None:
        """Report a push. Pushes that are not updates of topics are ignored.

        Raises:
            EngineError: the push is damaged.
        """
        header = parse_header(frame[:HEADER_SIZE])
        try:
            push = parse_push(_decompressed(header, frame) if header.compressed else frame)
        except (FrameError, ProtocolViolation) as error:
            raise EngineError(f"{self._name} sent a damaged update: {error}") from None
        if push is not None:
            handler.pushed(push)


def _decompressed(header: Header, frame: bytes) -> bytes:
    payload = HEADER_SIZE + SIZE_BYTES
    decompressor = Decompressor(header, frame[HEADER_SIZE:payload])
    return decompressor.header.pack() + decompressor.feed(frame[payload:])
