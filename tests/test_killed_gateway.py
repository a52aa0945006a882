"""A gateway that is killed again and again, in front of a native server that stays up, on both event loops.

Clients write numbers, each of them once, and follow them. What has become of them is asked at the native server itself.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from random import Random
from time import perf_counter

import anyio
import pytest
from anyio.abc import TaskStatus
from support.leaks import no_leaks
from support.native import native_server
from support.native_client import NativeClient, native_client
from support.restarted import Restarted, restarted

from rayforce_trio import WSClient, WSClientConnection, errors
from rayforce_trio._client._fetching import read_columns_at_once
from rayforce_trio._codec import decode_payload, encode, reply_payload
from rayforce_trio._protocol import MessageType, Result, parse_push

LOCAL = "127.0.0.1"
WRITERS, BULK_WRITERS, PUBLISHERS = 5, 1, 2
AT_ONCE = 2  # calls of each of the `WRITERS`
TABLE_FOLLOWERS, EVENT_FOLLOWERS = 3, 2
MAX_WRITES = 100  # between two kills
LAST = -1  # the number that ends each topic

numbers = count(1)


class Writes:
    """What became of the calls that write to one place.

    Attributes:
        returned: the numbers whose call has returned.
        lost: those whose call has raised `ConnectionLost`.
    """

    def __init__(self) -> None:
        self.returned: set[int] = set()
        self.lost: set[int] = set()
        self._stopping = False
        self._wanted = 0
        self._reached = anyio.Event()

    async def repeat(self, write: Callable[[list[int]], Awaitable[object]], size: int = 1) -> None:
        """Write new numbers, `size` in each call, until `stop`. A checkpoint.

        Raises:
            RayforceWSError: an error other than `ConnectionLost`.
        """
        while not self._stopping:
            written = [*islice(numbers, size)]
            try:
                await write(written)
            except errors.ConnectionLost as error:
                assert getattr(error, "rows_inserted", 0) == 0
                self.lost.update(written)
            else:
                self.returned.update(written)
                if len(self.returned) >= self._wanted:
                    self._reached.set()

    async def wait_for(self, further: int) -> None:
        """Wait until so many further numbers have been written. A checkpoint if there are any to wait for."""
        if further:
            self._wanted = len(self.returned) + further
            self._reached = anyio.Event()
            await self._reached.wait()

    def stop(self) -> None:
        self._stopping = True

    def check(self, carried_out: list[int]) -> None:
        """Check that each number that has returned was carried out once, and each lost one at most once."""
        assert [number for number, times in Counter(carried_out).items() if times > 1] == []
        assert self.returned - {*carried_out} == set()
        assert {*carried_out} - self.returned - self.lost == set()

    def __str__(self) -> str:
        return f"{len(self.returned)} returned, {len(self.lost)} lost"


@dataclass
class Part:
    """What one subscription has received.

    Attributes:
        snapshot: the numbers that it began with.
        updates: those that followed.
        gap: whether it ended with `SubscriptionGap`.
    """

    snapshot: list[int]
    updates: list[int] = field(default_factory=list)
    gap: bool = False


class Follower:
    """Subscribes to a topic, and again after each gap, until the number `LAST`.

    Args:
        topic: the topic.
        table: the table whose rows are the snapshot; `None`: no snapshot.
        subscribed: called when a subscription is active.

    Attributes:
        parts: the subscriptions.
        not_entered: how many were lost before they were active.
    """

    def __init__(self, topic: str, table: str | None, subscribed: Callable[[], None]) -> None:
        self.parts: list[Part] = []
        self.not_entered = 0
        self._topic = topic
        self._table = table
        self._subscribed = subscribed

    async def follow(self, connection: WSClientConnection, *, task_status: TaskStatus[None]) -> None:
        """Follow the topic to its end; report the first active subscription as the start. A checkpoint."""
        while True:
            part = None
            try:
                async with connection.subscribe(self._topic, snapshot=self._table) as updates:
                    part = Part([] if self._table is None else (await updates.snapshot_columns())["number"].tolist())
                    self.parts.append(part)
                    if len(self.parts) == 1:
                        task_status.started()
                    self._subscribed()
                    if part.snapshot[-1:] == [LAST]:
                        part.snapshot.pop()
                        return
                    position = updates.position.sequence
                    async for update in updates:
                        position += 1
                        assert (update.sequence, update.lost) == (position, 0)
                        if update.value == LAST:
                            return
                        part.updates.append(int(update.value.value))
            except errors.SubscriptionGap:
                assert part is not None
                part.gap = True
            except errors.ConnectionLost:
                assert part is None
                self.not_entered += 1

    def check(self, published: list[int]) -> int:
        """Check that nothing was received twice, and that only gaps cover what is missing.

        Args:
            published: what was published, in this order.

        Returns:
            How many updates came in no snapshot and no subscription.
        """
        end = missing = 0
        for part in self.parts:
            received = part.snapshot + part.updates
            if self._table is not None or part is self.parts[0]:
                begin = 0
            else:  # the gap before it covers what came before its first number
                following = part is self.parts[-1]
                begin = published.index(received[0]) if received else len(published) if following else end
            assert received == published[begin : begin + len(received)]
            if self._table is not None:
                assert end <= len(part.snapshot)
            else:
                assert end <= begin
                missing += begin - end
            end = begin + len(received)
        assert [part.gap for part in self.parts] == [True] * (len(self.parts) - 1) + [False]
        assert end == len(published)
        return missing


class Native:
    """The native server, asked without the gateway. It has a table of numbers and a topic for each, and another table.

    The topic `rows` has only the gateway's subscription, so its sequence numbers begin anew with each gateway. Those of
    `events`, to which nobody but this subscribes directly, go on.
    """

    def __init__(self, client: NativeClient, subscriber: NativeClient) -> None:
        self._client = client
        self._subscriber = subscriber
        for table in ("rows", "bulk"):
            self._request(client, f"(set {table} (table [number] (list (take [0] 0))))")
        self._request(subscriber, "(.mc.sub 'events)")

    def _request(self, client: NativeClient, query: str) -> memoryview:
        [reply] = client.request(encode(query, MessageType.SYNC))
        return reply_payload(reply, query)

    def finish_rows(self) -> None:
        self._request(self._client, insert_and_publish(LAST))

    def finish_events(self) -> None:
        self._request(self._client, f'(.mc.pub "events" {LAST})')

    def rows(self, table: str) -> list[int]:
        numbers: list[int] = read_columns_at_once(self._request(self._client, table))["number"].tolist()
        return numbers

    def events(self) -> list[int]:
        """Return what was published before the first `LAST`."""
        events: list[int] = []
        while LAST not in events[-1:]:
            reply = self._subscriber.receive()
            assert isinstance(reply, Result)
            push = parse_push(reply.frame[:])
            assert push is not None
            events.append(int(decode_payload(push.payload).value))
        return events[:-1]


@contextmanager
def native() -> Iterator[tuple[Native, int]]:
    """Run a native server; yields it and its port."""
    with native_server() as server, native_client(server.port) as client, native_client(server.port) as subscriber:
        yield Native(client, subscriber), server.port


def insert_and_publish(number: int) -> str:
    return f"(do (insert 'rows (list {number})) (.mc.pub \"rows\" {number}))"


async def insert(connection: WSClientConnection, written: list[int]) -> None:
    await connection.execute(insert_and_publish(written[0]))


async def insert_several(connection: WSClientConnection, written: list[int]) -> None:
    assert await connection.insert("bulk", {"number": written}) == len(written)


async def publish(connection: WSClientConnection, written: list[int]) -> None:
    await connection.publish("events", written[0])


async def kill_repeatedly(kills: int, server: Restarted, engine: Native, seed: int) -> str:
    """Kill the gateway while clients write and follow, and check what became of it all. Return the figures."""
    random = Random(seed)
    rows, bulk, events = Writes(), Writes(), Writes()
    finishing = False

    def subscribed_to_events() -> None:
        if finishing:
            engine.finish_events()

    row_followers = [Follower("rows", "rows", lambda: None) for _ in range(TABLE_FOLLOWERS)]
    event_followers = [Follower("events", None, subscribed_to_events) for _ in range(EVENT_FOLLOWERS)]
    async with AsyncExitStack() as stack:

        async def connected() -> WSClientConnection:
            return await stack.enter_async_context(WSClient(LOCAL, server.port).connect(reconnect=True))

        async with anyio.create_task_group() as followers:
            for follower in [*row_followers, *event_followers]:
                await followers.start(follower.follow, await connected())
            async with anyio.create_task_group() as writers:
                for _ in range(WRITERS):
                    connection = await connected()
                    for _ in range(AT_ONCE):
                        writers.start_soon(rows.repeat, partial(insert, connection))
                for _ in range(BULK_WRITERS):
                    writers.start_soon(bulk.repeat, partial(insert_several, await connected()), 3)
                for _ in range(PUBLISHERS):
                    writers.start_soon(events.repeat, partial(publish, await connected()))
                for _ in range(kills):
                    await rows.wait_for(random.randint(0, MAX_WRITES))
                    await server.kill()
                    await server.start()
                for writes in (rows, bulk, events):
                    await writes.wait_for(MAX_WRITES)
                    writes.stop()
            finishing = True
            engine.finish_rows()
            engine.finish_events()
    published = engine.rows("rows")
    assert published.pop() == LAST
    rows.check(published)
    bulk.check(engine.rows("bulk"))
    told = engine.events()
    events.check(told)
    assert all(follower.check(published) == 0 for follower in row_followers)
    missing = sum(follower.check(told) for follower in event_followers)
    all_followers = row_followers + event_followers
    return (
        f"rows: {rows} of which {len(rows.lost.intersection(published))} are there; in bulk: {bulk}; "
        f"events: {events}; {sum(len(follower.parts) - 1 for follower in all_followers)} gaps, which cover {missing} "
        f"events that have no snapshot; {sum(follower.not_entered for follower in all_followers)} subscriptions lost "
        "while they were entered"
    )


@pytest.mark.anyio
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
async def test_a_gateway_that_is_killed(kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No insert is applied twice, none is lost without an error, and no update without a gap that is reported."""
    # Clients that are back soon after the gateway are in the middle of something when it is killed again.
    monkeypatch.setattr("rayforce_trio._client._reconnection.MAX_DELAY", 0.1)
    begun = perf_counter()
    async with no_leaks(within=5):
        with (
            native() as (engine, native_port),
            restarted("gateway", str(native_port)) as server,
            anyio.fail_after(800),
        ):
            figures = await kill_repeatedly(kills, server, engine, seed=kills)
    print(f"{kills} kills in {perf_counter() - begun:.0f} s: {figures}")
