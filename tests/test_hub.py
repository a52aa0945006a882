"""Subscriptions at a server, with a client that is made by hand."""

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from support.native import native_server
from support.native_client import NativeClient, native_client
from support.raw import BINARY, TEXT, RawPeer, open_raw
from support.sweep import cancelled_at, swept

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess, WSServer, auth, errors
from rayforce_trio._codec import encode
from rayforce_trio._engines import Engine, Feed, FeedHandler
from rayforce_trio._protocol import (
    PUBLISH,
    SNAPSHOT,
    ErrorNotice,
    Failure,
    Header,
    MessageType,
    Notice,
    Position,
    Push,
    StoredUpdate,
    SubscribedNotice,
    UnsubscribedNotice,
    Update,
    dump_hello,
    dump_subscribe,
    dump_unsubscribe,
    parse_control,
    parse_update,
    response_frame,
)
from rayforce_trio._server._counters import Counters
from rayforce_trio._server._hub import Hub, SharedUpdate
from rayforce_trio._server._options import SubscriptionOptions
from rayforce_trio._values._payloads import NULL, call, i64, list_of, name, string, symbol
from rayforce_trio.errors import EngineError
from rayforce_trio.statistics import Topic

pytestmark = pytest.mark.trio


class Subscriber:
    """A client that reads notices, updates and replies in order."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer

    async def subscribe(self, number: int, topic: str, resume: Position | None = None) -> None:
        await self.peer.send_frame(dump_subscribe(number, topic, resume).encode(), TEXT)

    async def unsubscribe(self, number: int) -> None:
        await self.peer.send_frame(dump_unsubscribe(number).encode(), TEXT)

    async def hello(self) -> None:
        hello = dump_hello(["rows", "streams", "subscriptions"]).encode()
        await self.peer.send_frame(hello, TEXT)
        assert await self.peer.receive_frame() == (TEXT, hello)

    async def call(self, function: str, *arguments: bytes) -> None:
        payload = call(function, *arguments)
        await self.peer.send_frame(Header(0, MessageType.SYNC, len(payload)).pack() + payload)

    async def request(self, query: str) -> None:
        await self.peer.send_frame(encode(query, MessageType.SYNC))

    async def receive(self) -> Notice | Update | bytes:
        """Return the next notice, update or reply."""
        with trio.fail_after(20):
            opcode, payload = await self.peer.receive_frame()
            while not self.peer.fin:
                payload += (await self.peer.receive_frame())[1]
        if opcode == TEXT:
            [notice] = parse_control(payload.decode())
            return notice
        assert opcode == BINARY
        return parse_update(payload) or payload

    async def subscribed(self, number: int) -> Position:
        notice = await self.receive()
        assert isinstance(notice, SubscribedNotice), notice
        assert notice.id == number
        return notice.position

    async def refused(self, number: int) -> str:
        notice = await self.receive()
        assert isinstance(notice, UnsubscribedNotice), notice
        assert notice.id == number
        return notice.code

    async def update(self) -> Update:
        update = await self.receive()
        assert isinstance(update, Update), update
        return update


@asynccontextmanager
async def serving(engine: Engine, **options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(60):
        async with WSServer(port=0, host="127.0.0.1", engine=engine, **options) as server:
            yield server


@asynccontextmanager
async def connected(server: WSServer, headers: Mapping[str, str] | None = None) -> AsyncIterator[Subscriber]:
    with await open_raw(server.port, headers=headers) as peer:
        client = Subscriber(peer)
        await client.hello()
        yield client


class FakeFeed(Feed):
    """A feed that the test plays."""

    handler: FeedHandler

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = False
        self.started = trio.Event()
        self._error: Exception | None = None
        self._lost = trio.Event()

    def subscribe(self, topic: str) -> None:
        self.asked.append(f"+{topic}")

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(f"-{topic}")

    def lose(self, error: Exception) -> None:
        self._error = error
        self._lost.set()

    async def run(self, handler: FeedHandler) -> None:
        self.handler = handler
        self.started.set()
        try:
            await self._lost.wait()
            assert self._error is not None
            raise self._error
        finally:
            self.closed = True


class FakeEngine(InProcessEngine):
    """An engine that pushes what the test wants."""

    def __init__(self) -> None:
        self.feeds: list[FakeFeed] = []

    @property
    def pushes(self) -> bool:
        return True

    def open_feed(self) -> Feed:
        self.feeds.append(FakeFeed())
        return self.feeds[-1]

    async def running(self) -> FakeFeed:
        """Return the latest feed when it runs."""
        await self.feeds[-1].started.wait()
        return self.feeds[-1]


class FakeSubscriber:
    """Notes the positions, the numbers of updates, and the codes of ends that it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def confirmed(self, position: Position) -> None:
        self.events.append(position)

    def updated(self, update: SharedUpdate) -> None:
        self.events.append(update.sequence)

    def replayed(self, updates: list[StoredUpdate], size: int) -> None:
        assert size == sum(update.size for update in updates)
        self.events += [update.sequence for update in updates]

    def ended(self, reason: Failure) -> None:
        self.events.append(reason.code)


def publish(client: NativeClient, topic: str, value: int) -> None:
    client.request(encode(f'(.mc.pub "{topic}" {value})', MessageType.SYNC))


async def test_a_native_engine_pushes_to_all_subscribers() -> None:
    with native_server() as native, native_client(native.port) as publisher:
        engine = NativeEngine("127.0.0.1", native.port)
        async with serving(engine) as server, connected(server) as one, connected(server) as other:
            await one.subscribe(1, "tré")
            position = await one.subscribed(1)
            assert position.sequence == 0
            publish(publisher, "tré", 10)
            assert await one.update() == Update(1, 1, 0, i64(10))
            await other.subscribe(7, "tré")
            assert await other.subscribed(7) == Position(position.epoch, 1)
            await other.subscribe(8, "tré", position)
            assert await other.subscribed(8) == position
            assert await other.update() == Update(8, 1, 0, i64(10))
            publish(publisher, "tré", 11)
            assert await one.update() == Update(1, 2, 0, i64(11))
            assert await other.update() == Update(7, 2, 0, i64(11))
            assert await other.update() == Update(8, 2, 0, i64(11))


async def test_a_process_that_restarts_ends_the_epoch() -> None:
    engine = NativeProcess()
    async with serving(engine) as server:
        async with connected(server) as client:
            await client.subscribe(1, "t")
            position = await client.subscribed(1)
            await client.request('(.mc.pub "t" 1)')
            received = [await client.receive(), await client.receive()]  # the reply may come first
            assert Update(1, 1, 0, i64(1)) in received
            await client.request("(.sys.exit 1)")
            await client.peer.receive_rest()
        async with connected(server) as client:
            await client.subscribe(1, "t", position)
            assert await client.refused(1) == "gap"
            await client.subscribe(2, "t")
            assert (await client.subscribed(2)).epoch != position.epoch
            await client.request('(.mc.pub "t" 2)')
            assert Update(2, 1, 0, i64(2)) in [await client.receive(), await client.receive()]


@pytest.mark.parametrize("engine", [InProcessEngine])
async def test_a_client_that_unsubscribes_gets_no_more(engine: type[Engine]) -> None:
    async with serving(engine()) as server, connected(server) as client:
        await client.subscribe(1, "t")
        await client.subscribed(1)
        await client.unsubscribe(1)
        await client.request("7")
        assert isinstance(await client.receive(), bytes)


async def test_the_host_program_publishes() -> None:
    async with serving(InProcessEngine()) as server, connected(server) as client:
        assert await server.publish("t", 1) == 0
        await client.subscribe(1, "t")
        await client.subscribed(1)
        assert await server.publish("t", [1, "a"]) == 1
        assert await server.publish("u", 2) == 0
        assert await server.publish("t", 3) == 2
        assert bytes((await client.update()).payload) == list_of([i64(1), symbol("a")])
        assert await client.update() == Update(1, 2, 0, i64(3))


async def test_the_host_program_publishes_in_a_native_engine() -> None:
    with native_server() as native:
        async with serving(NativeEngine("127.0.0.1", native.port)) as server, connected(server) as client:
            assert await server.publish("t", 1) == 0
            await client.subscribe(1, "t")
            await client.subscribed(1)
            assert await server.publish("t", [1, "a"]) == 1
            assert bytes((await client.update()).payload) == list_of([i64(1), symbol("a")])


async def test_nothing_can_be_published_in_a_read_only_engine() -> None:
    async with serving(NativeProcess(read_only=True)) as server, connected(server) as client:
        await client.subscribe(1, "t")
        await client.subscribed(1)
        with pytest.raises(errors.RayforceError, match="access: the engine is read-only"):
            await server.publish("t", 1)
        await client.call(PUBLISH, string("t"), i64(1))
        notice = await client.receive()
        assert isinstance(notice, ErrorNotice)
        assert notice.code == "access"


@pytest.mark.parametrize(
    ("topic", "value", "message"),
    [
        ("", 1, "must not be empty"),
        (5, 1, "Must be a str"),
        ("a\0", 1, "must not contain NUL"),
        ("t", None, "null cannot be published"),
        ("t", object(), "object"),
    ],
)
async def test_what_cannot_be_published(topic: Any, value: Any, message: str) -> None:
    async with serving(InProcessEngine()) as server:
        with pytest.raises(errors.RayforceError, match=message):
            await server.publish(topic, value)
    with pytest.raises(errors.RayforceWSError, match="not started"):
        await server.publish("t", 1)


@pytest.mark.parametrize("native", [True, False])
async def test_clients_publish(native: bool) -> None:
    async with serving(NativeProcess() if native else InProcessEngine()) as server, connected(server) as client:
        await client.subscribe(1, "t")
        await client.subscribed(1)
        await client.call(PUBLISH, string("t"), list_of([name("+"), i64(1)]))  # data, although it looks like code
        received = [await client.receive(), await client.receive()]
        assert Update(1, 1, 0, list_of([name("+"), i64(1)])) in received
        assert response_frame(i64(1)) in received
        await client.call(PUBLISH, string("t"), NULL)
        assert await client.receive() == ErrorNotice(2, "type", "null cannot be published")


@pytest.mark.parametrize("engine", ["native", "read-only", "in process"])
async def test_snapshots_say_which_updates_they_contain(engine: str) -> None:
    chosen = InProcessEngine() if engine == "in process" else NativeProcess(read_only=engine == "read-only")
    async with serving(chosen) as server, connected(server) as client:
        await client.call(SNAPSHOT, i64(1), string("(+ 1 2)"))
        assert isinstance(await client.receive(), ErrorNotice)
        await client.subscribe(1, "t")
        await client.subscribed(1)
        if engine == "native" or engine == "in process":
            await server.publish("t", 1)
        following = 1
        if engine != "read-only":
            assert await client.update() == Update(1, 1, 0, i64(1))
            following = 2
        for query in (string("(+ 1 2)"), call("+", i64(1), i64(2))):
            await client.call(SNAPSHOT, i64(1), query)
            assert await client.receive() == response_frame(list_of([i64(following), NULL, i64(3)]))
        await client.call(SNAPSHOT, i64(1), string('(+ 1 "a")'))
        assert isinstance(await client.receive(), ErrorNotice)
        if engine != "read-only":  # the subscription goes on
            assert await server.publish("t", 2) == 2
            assert await client.update() == Update(1, 2, 0, i64(2))


async def test_a_principal_subscribes_only_to_its_topics() -> None:
    authenticate = auth.password("secret", principal=auth.Principal("ann", topics=["prices.*", "news"]))
    headers = {"Authorization": "Basic " + b64encode(b"ann:secret").decode()}
    async with (
        serving(InProcessEngine(), authenticate=authenticate) as server,
        connected(server, headers) as client,
    ):
        for number, topic in enumerate(["prices.eu", "prices.", "news"], 1):
            await client.subscribe(number, topic)
            await client.subscribed(number)
        for number, topic in enumerate(["prices", "news2", "trades"], 10):
            await client.subscribe(number, topic)
            assert await client.refused(number) == "access"


async def test_there_are_limits() -> None:
    async with (
        serving(InProcessEngine(), max_subscriptions=2, max_topics=3) as server,
        connected(server) as one,
        connected(server) as other,
    ):
        for number in (1, 2):
            await one.subscribe(number, f"t{number}")
            await one.subscribed(number)
        await one.subscribe(3, "t1")
        assert await one.refused(3) == "limit"
        await other.subscribe(1, "t3")
        await other.subscribed(1)
        await other.subscribe(2, "t4")
        assert await other.refused(2) == "limit"
        await other.unsubscribe(1)
        await other.subscribe(3, "t4")  # t3 has no subscribers and gives way
        await other.subscribed(3)


async def test_a_topic_that_gives_way_may_be_the_last_one_of_its_engine() -> None:
    async with serving(InProcessEngine(), max_topics=1) as server, connected(server) as client:
        await client.subscribe(1, "t")
        await client.subscribed(1)
        await client.unsubscribe(1)
        await client.subscribe(2, "u")
        await client.subscribed(2)
        assert await server.publish("u", 7) == 1
        assert await client.update() == Update(2, 1, 0, i64(7))


async def test_a_feed_whose_last_topic_gives_way_is_opened_again() -> None:
    hub = Hub(SubscriptionOptions(max_topics=1), Counters())
    engine, first, second = FakeEngine(), FakeSubscriber(), FakeSubscriber()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        hub.subscribe(engine, "t", first)
        old = await engine.running()
        old.handler.subscribed("t", 1)
        hub.unsubscribe(first)
        hub.subscribe(engine, "u", second)
        new = await engine.running()
        assert (old.closed, new is old, new.asked) == (True, False, ["+u"])
        new.handler.subscribed("u", 1)
        new.handler.pushed(Push("u", 1, b"one"))
        assert second.events[1:] == [1]
        nursery.cancel_scope.cancel()


async def test_the_updates_that_are_kept_for_all_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topic that has most gives way."""
    monkeypatch.setattr("rayforce_trio._server._hub.MAX_KEPT", 10_000)
    hub = Hub(SubscriptionOptions(max_topic_history=8000), Counters())
    engine = InProcessEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        positions = {}
        for name in "ab":
            subscriber = FakeSubscriber()
            hub.subscribe(engine, name, subscriber)
            [positions[name]] = subscriber.events

        def can_resume(name: str) -> bool:
            position = positions[name]
            assert isinstance(position, Position)
            hub.subscribe(engine, name, resumed := FakeSubscriber(), position)
            return resumed.events[0] != "gap"

        hub.publish("a", bytes(1000))
        for number in range(1, 40):
            hub.publish("b", bytes(1000))
            assert can_resume("a")
            assert can_resume("b") == (number <= 7)
        for _ in range(3):
            hub.publish("a", bytes(1000))
            assert hub._total_kept.size <= 10_000
        assert can_resume("a")
        nursery.cancel_scope.cancel()


async def test_a_topic_is_kept_for_the_resume_window(autojump_clock: trio.testing.MockClock) -> None:
    hub = Hub(SubscriptionOptions(resume_window=60.0), Counters())
    engine = FakeEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        first, second, third = FakeSubscriber(), FakeSubscriber(), FakeSubscriber()
        hub.subscribe(engine, "t", first)
        feed = await engine.running()
        feed.handler.subscribed("t", 5)
        feed.handler.pushed(Push("t", 5, b"five"))
        [position, *updates] = first.events
        assert updates == [5]
        assert isinstance(position, Position)
        hub.unsubscribe(first)
        await trio.sleep(59)
        hub.subscribe(engine, "t", second, position)
        assert second.events == [position, 5]
        hub.unsubscribe(second)
        await trio.sleep(61)
        assert feed.closed
        hub.subscribe(engine, "t", third, position)
        assert third.events == ["gap"]
        nursery.cancel_scope.cancel()


async def test_a_feed_that_is_lost_ends_the_subscriptions_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(SubscriptionOptions(), Counters())
    engine = FakeEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        first, second, third = FakeSubscriber(), FakeSubscriber(), FakeSubscriber()
        hub.subscribe(engine, "t", first)
        hub.subscribe(engine, "u", second)
        feed = await engine.running()
        assert feed.asked == ["+t", "+u"]
        feed.handler.subscribed("t", 1)
        feed.lose(EngineError("it is gone"))
        await trio.testing.wait_all_tasks_blocked()
        assert first.events[1:] == ["gap"]
        assert second.events == ["engine"]
        assert "it is gone; all subscriptions to its topics are ended" in caplog.text
        hub.subscribe(engine, "t", third)
        feed = await engine.running()
        feed.handler.refused("t", "no")
        assert third.events == ["engine"]
        await trio.testing.wait_all_tasks_blocked()
        assert feed.closed
        nursery.cancel_scope.cancel()
    late = FakeSubscriber()
    hub.subscribe(engine, "t", late)
    assert late.events == ["engine"]


async def test_a_subscriber_that_reads_nothing_delays_nobody_and_learns_what_it_lost() -> None:
    text = "x" * 8000
    async with serving(InProcessEngine(), max_subscription_buffer=1_000_000) as server:
        with await open_raw(server.port, receive_buffer=4096) as slow_peer:
            slow, quick = Subscriber(slow_peer), Subscriber(await open_raw(server.port))
            with quick.peer:
                for one in (slow, quick):
                    await one.hello()
                    await one.subscribe(1, "t")
                    await one.subscribed(1)
                for sequence in range(1, 2001):
                    assert await server.publish("t", text) == sequence
                    assert (await quick.update())[:3] == (1, sequence, 0)
                counted = server.statistics().topics["t"]
                assert (counted.subscribers, counted.updates) == (2, 4000)
                expected = lost = 0
                while expected < 2000:
                    update = await slow.update()
                    assert update.sequence == expected + 1 + update.lost
                    expected, lost = update.sequence, lost + update.lost
                assert lost == counted.lost > 500


@pytest.mark.parametrize("native", [True, False])
async def test_updates_do_not_cut_a_long_reply(native: bool) -> None:
    async with serving(NativeProcess() if native else InProcessEngine()) as server:
        with await open_raw(server.port, receive_buffer=4096) as peer:
            client = Subscriber(peer)
            await client.hello()
            await client.subscribe(1, "t")
            await client.subscribed(1)
            await client.request("(til 4000000)")
            for sequence in range(1, 51):
                assert await server.publish("t", 7) == sequence
            updates, replies = list[Update](), 0
            while replies < 1 or len(updates) < 50:
                received = await client.receive()
                if isinstance(received, Update):
                    updates.append(received)
                else:
                    assert isinstance(received, bytes)
                    replies += 1
                    assert len(received) > 32_000_000
            assert updates == [Update(1, sequence, 0, i64(7)) for sequence in range(1, 51)]


async def test_long_updates_arrive_whole() -> None:
    async with (
        serving(InProcessEngine(), max_subscription_buffer=64 * 1024**2) as server,
        connected(server) as one,
        connected(server) as other,
    ):
        for client in (one, other):
            await client.subscribe(1, "t")
            await client.subscribed(1)
        texts = ["x" * size for size in (100_000, 3_000_000, 20_000_000, 5)]
        for text in texts:
            await server.publish("t", text)
        for client in (one, other):
            expected = [symbol(text) for text in texts]
            received = [await client.update() for _ in texts]
            assert [update.lost for update in received] == [0, 0, 0, 0]
            assert [bytes(update.payload) for update in received] == expected


async def test_a_busy_engine_confirms_later_and_waiting_can_be_given_up() -> None:
    async with serving(NativeProcess()) as server, connected(server) as client, connected(server) as other:
        await other.request("(do (set x 0) (while (< x 1000000) (set x (+ x 1))))")
        await client.subscribe(1, "t")
        await client.unsubscribe(1)
        await client.subscribe(2, "t")
        assert (await client.subscribed(2)).sequence == 0


async def test_an_id_that_is_in_use_is_a_violation() -> None:
    async with serving(InProcessEngine()) as server, connected(server) as client:
        await client.subscribe(1, "t")
        await client.subscribed(1)
        await client.subscribe(1, "u")
        assert await client.peer.receive_close() == 1002


async def test_many_subscribers_of_two_topics() -> None:
    async with serving(NativeProcess(), max_connections_per_address=60) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(50)]
        for client in clients:
            await client.subscribe(1, "t")
            await client.subscribe(2, "u")
        for client in clients:
            await client.subscribed(1)
            await client.subscribed(2)
        for sequence in range(1, 21):
            await server.publish("t", sequence)
            await server.publish("u", -sequence)
        for client in clients:
            received = [await client.update() for _ in range(40)]
            assert received[::2] == [Update(1, sequence, 0, i64(sequence)) for sequence in range(1, 21)]
            assert received[1::2] == [Update(2, sequence, 0, i64(-sequence)) for sequence in range(1, 21)]
        topics = server.statistics().topics
        assert topics == {"t": Topic(50, 1000, 0), "u": Topic(50, 1000, 0)}
    assert {one.subscribers for one in server.statistics().topics.values()} == {0}


@pytest.mark.parametrize("native", [True, False])
async def test_publishing_can_be_cancelled_at_every_step(native: bool) -> None:
    async with serving(NativeProcess() if native else InProcessEngine()) as server, connected(server) as client:
        await client.subscribe(1, "t")
        await client.subscribed(1)

        async def run(step: int) -> bool:
            before = server.statistics().topics["t"].updates
            with cancelled_at(step, of_all_tasks=False) as [scope]:
                await server.publish("t", 0)
            marker = await server.publish("t", step)  # works, and comes behind what was published all the same
            updates = [await client.update()]
            while updates[-1].sequence < marker:
                updates.append(await client.update())
            assert len(updates) <= 2
            assert updates[-1] == Update(1, marker, 0, i64(step))
            assert [update.lost for update in updates] == [0] * len(updates)
            assert server.statistics().topics["t"].updates == before + len(updates)
            return scope.cancelled_caught

        assert await swept(run) >= 1


async def test_requests_of_the_server_end_with_their_engine() -> None:
    with native_server() as native:
        async with serving(NativeEngine("127.0.0.1", native.port)) as server:
            assert await server.publish("t", 1) == 0
            native.kill()
            with pytest.raises(EngineError):
                await server.publish("t", 2)
            with pytest.raises(EngineError, match="cannot be reached"):
                await server.publish("t", 3)


async def test_a_server_that_is_cancelled_leaves_no_subscription() -> None:
    with native_server() as native:
        server = WSServer(port=0, host="127.0.0.1", engine=NativeEngine("127.0.0.1", native.port))
        for _ in range(2):  # it can serve again
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    await nursery.start(server.serve)
                    async with connected(server) as client:
                        await client.subscribe(1, "t")
                        assert (await client.subscribed(1)).sequence == 0
                        assert await server.publish("t", 1) == 1
                        nursery.cancel_scope.cancel()
