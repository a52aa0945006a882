"""The feed of a native server: what the real one pushes, and what none should send."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from support.fake_engine import FakeSession, compressed_frame, error_frame, fake_engine, frame
from support.native import native_server
from support.native_client import NativeClient, native_client

from rayforce_trio import InProcessEngine, NativeEngine, RoundRobinEngine
from rayforce_trio._codec import encode
from rayforce_trio._engines import Feed
from rayforce_trio._protocol import HEADER_SIZE, MESSAGE_TYPE_OFFSET, MessageType, Push
from rayforce_trio._values._payloads import call, i64, quoted, string
from rayforce_trio.errors import EngineError

LOCAL = "127.0.0.1"

VALUES = [
    "1",
    '"text"',
    "'sym",
    "[1 2 3]",
    '(list 1 "a" 2.5)',
    "(table [a b] (list [1 2] [3.5 4.5]))",
    "(dict [a] [1])",
]


class Handler:
    """Notes what the feed reports."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self._changed = trio.Event()

    def subscribed(self, topic: str, next_sequence: int) -> None:
        self._add((topic, next_sequence))

    def refused(self, topic: str, reason: str) -> None:
        self._add((topic, reason))

    def pushed(self, push: Push) -> None:
        self._add(push)

    def _add(self, event: object) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, count: int) -> list[object]:
        """Wait for so many events, and return them."""
        with trio.fail_after(20):
            while len(self.events) < count:
                await self._changed.wait()
        return self.events


@asynccontextmanager
async def fed(feed: Feed) -> AsyncIterator[Handler]:
    handler = Handler()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, handler)
            yield handler
            nursery.cancel_scope.cancel()


def ask(client: NativeClient, query: str) -> bytes:
    return bytes(client.request(encode(query, MessageType.SYNC))[0].frame[:])


def push_frame(topic: str, sequence: int, payload: bytes) -> bytes:
    pushed = call("upd", string(topic), i64(sequence), quoted(payload))
    return frame(pushed, message_type=MessageType.ASYNC)


@pytest.mark.trio
async def test_a_feed_reports_what_the_engine_pushes() -> None:
    with native_server() as server, native_client(server.port) as client:
        feed = NativeEngine(LOCAL, server.port).open_feed()
        feed.subscribe("tré")
        async with fed(feed) as handler:
            assert await handler.until(1) == [("tré", 1)]
            for value in VALUES:
                ask(client, f'(.mc.pub "tré" {value})')
            pushes = (await handler.until(1 + len(VALUES)))[1:]
            for sequence, (value, push) in enumerate(zip(VALUES, pushes, strict=True), 1):
                assert push == Push("tré", sequence, ask(client, value)[HEADER_SIZE:])
            feed.unsubscribe("tré")
            feed.subscribe("tré")
            feed.subscribe("other")
            assert (await handler.until(10))[8:] == [("tré", 1), ("other", 1)]


@pytest.mark.trio
async def test_pushes_may_come_in_pieces_between_replies_and_compressed() -> None:
    compressed = bytearray(compressed_frame(push_frame("t", 3, i64(12))[HEADER_SIZE:]))
    compressed[MESSAGE_TYPE_OFFSET] = MessageType.ASYNC
    pushes = push_frame("t", 1, i64(10)) + push_frame("t", 2, string("x" * 300_000)) + bytes(compressed)

    async def script(session: FakeSession) -> None:
        await session.receive_request()
        reply = frame(i64(1))
        for start in range(0, len(pushes), 70_001):
            await session.send((reply if not start else b"") + pushes[start : start + 70_001])
            await trio.testing.wait_all_tasks_blocked()
        await session.until_hung_up()

    async with fake_engine(script) as engine:
        feed = NativeEngine(LOCAL, engine.port).open_feed()
        feed.subscribe("t")
        async with fed(feed) as handler:
            expected = [("t", 1), Push("t", 1, i64(10)), Push("t", 2, string("x" * 300_000)), Push("t", 3, i64(12))]
            assert await handler.until(4) == expected


@pytest.mark.trio
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (error_frame("access"), "refused the subscription with the error code access"),
        (frame(string("no")), "cannot publish topics"),
    ],
)
async def test_an_engine_may_refuse(reply: bytes, reason: str) -> None:
    async def script(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(reply)
        await session.until_hung_up()

    async with fake_engine(script) as engine:
        feed = NativeEngine(LOCAL, engine.port).open_feed()
        feed.subscribe("t")
        async with fed(feed) as handler:
            [refusal] = await handler.until(1)
            assert reason in str(refusal)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "disconnected"),
        (frame(call("upd", string("t\xff"))[:-1], message_type=MessageType.ASYNC), None),
        (push_frame("t", 1, i64(1))[:60], "disconnected"),
        (frame(b"\0\0\5\0\0\0", flags=1, message_type=MessageType.ASYNC), "sent a damaged update"),
        (frame(i64(1), message_type=MessageType.SYNC), "broke the protocol: it sent a request"),
        (
            frame(bytes(10), message_type=MessageType.ASYNC)[:8] + (2**40).to_bytes(8, "little") + bytes(64),
            "it sent an update of 1099511627776",
        ),
    ],
)
async def test_a_feed_ends_if_the_engine_is_lost(sent: bytes, reason: str | None) -> None:
    async def script(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(frame(i64(1)) + sent)
        if reason is None:
            await session.send(push_frame("t", 1, i64(1)))
            await session.until_hung_up()

    async with fake_engine(script) as engine:
        feed = NativeEngine(LOCAL, engine.port).open_feed()
        feed.subscribe("t")
        handler = Handler()
        if reason is None:  # it is not a push of a topic, and is ignored
            async with fed(feed) as handler:
                assert await handler.until(2) == [("t", 1), Push("t", 1, i64(1))]
        else:
            with trio.fail_after(20), pytest.raises(EngineError, match=reason):
                await feed.run(handler)


@pytest.mark.trio
async def test_a_session_knows_the_engine_whose_pushes_belong_to_it() -> None:
    with native_server() as server:
        one, two = NativeEngine(LOCAL, server.port), NativeEngine(LOCAL, server.port, in_flight=2)
        for engine in (one, two, RoundRobinEngine([one]), RoundRobinEngine([RoundRobinEngine([one])])):
            session = await engine.open_session()
            assert session.source is (two if engine is two else one)
            assert engine.pushes
            await session.aclose()
    assert not InProcessEngine().pushes
    with pytest.raises(NotImplementedError):
        InProcessEngine().open_feed()
