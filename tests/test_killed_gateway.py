"""A gateway that is killed again and again, in front of a native server that stays up.

Clients write numbers, each of them once, and subscribe to them. A direct connection to the native server tells which of
them were carried out. Inserting and publishing a number is one expression, so the rows of the table are the updates of
its topic, in the same order.
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

new_numbers = count(1)


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
            written = [*islice(new_numbers, size)]
            try:
                await write(written)
            except errors.ConnectionLost:
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
        """Check that each returned number was written once, each lost one at most once, and that there are no others.

        Args:
            carried_out: the numbers that the native server has.
        """
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
        """Check that each part is an unbroken piece of what was published, and that all but the last end with a gap.

        Args:
            published: what was published, in this order.

        Returns:
            How many updates are in no part, but in a gap. With a table, there are none: snapshots contain them.
        """
        end = missing = 0
        for part in self.parts:
            received = part.snapshot + part.updates
            if self._table is not None or part is self.parts[0]:
                begin = 0
            elif received:
                begin = published.index(received[0])
            else:
                begin = len(published) if part is self.parts[-1] else end
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
    """The native server, asked without the gateway. Its tables are `rows`, which has a topic, and `bulk`.

    Only gateways subscribe to the topic `rows`, so its sequence numbers begin anew with each gateway. Those of the
    topic `events` go on, because this subscribes to it, too.
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
        rows: list[int] = read_columns_at_once(self._request(self._client, table))["number"].tolist()
        return rows

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
    return f'(do (insert \'rows (list {number})) (.mc.pub "rows" {number}))'


async def insert(connection: WSClientConnection, written: list[int]) -> None:
    await connection.execute(insert_and_publish(written[0]))


async def insert_several(connection: WSClientConnection, written: list[int]) -> None:
    assert await connection.insert("bulk", {"number": written}) == len(written)


async def publish(connection: WSClientConnection, written: list[int]) -> None:
    await connection.publish("events", written[0])


class Clients:
    """The clients of a gateway that is killed. Create it in the event loop in which it is used."""

    def __init__(self, server: Restarted, engine: Native) -> None:
        self._server = server
        self._engine = engine
        self._rows, self._bulk, self._events = self._writes = [Writes() for _ in range(3)]
        self._row_followers = [Follower("rows", "rows", lambda: None) for _ in range(TABLE_FOLLOWERS)]
        self._event_followers = [Follower("events", None, self._subscribed) for _ in range(EVENT_FOLLOWERS)]
        self._followers = self._row_followers + self._event_followers
        self._finishing = False

    async def run(self, kills: int, random: Random) -> None:
        """Write and follow while the gateway is killed so many times; let the followers finish. A checkpoint."""
        async with AsyncExitStack() as stack:
            client = WSClient(LOCAL, self._server.port)
            total = len(self._followers) + WRITERS + BULK_WRITERS + PUBLISHERS
            connections = [await stack.enter_async_context(client.connect(reconnect=True)) for _ in range(total)]
            await self._run(kills, random, iter(connections))

    async def _run(self, kills: int, random: Random, connections: Iterator[WSClientConnection]) -> None:
        """Do what `run` does, on these connections. A checkpoint."""
        async with anyio.create_task_group() as followers:
            for follower in self._followers:
                await followers.start(follower.follow, next(connections))
            async with anyio.create_task_group() as writers:
                for connection in islice(connections, WRITERS):
                    for _ in range(AT_ONCE):
                        writers.start_soon(self._rows.repeat, partial(insert, connection))
                for connection in islice(connections, BULK_WRITERS):
                    writers.start_soon(self._bulk.repeat, partial(insert_several, connection), 3)
                for connection in islice(connections, PUBLISHERS):
                    writers.start_soon(self._events.repeat, partial(publish, connection))
                for _ in range(kills):
                    await self._rows.wait_for(random.randint(0, MAX_WRITES))
                    await self._server.kill()
                    await self._server.start()
                for writes in self._writes:
                    await writes.wait_for(MAX_WRITES)
                    writes.stop()
            self._finishing = True
            self._engine.finish_rows()
            self._engine.finish_events()

    def _subscribed(self) -> None:
        """Publish the last event again for one who may have missed it."""
        if self._finishing:
            self._engine.finish_events()

    def check(self) -> str:
        """Check what has become of it all at the native server, and return the figures."""
        rows, bulk, events = self._engine.rows("rows"), self._engine.rows("bulk"), self._engine.events()
        assert rows.pop() == LAST
        for writes, carried_out in zip(self._writes, [rows, bulk, events], strict=True):
            writes.check(carried_out)
        assert sum(follower.check(rows) for follower in self._row_followers) == 0
        missing = sum(follower.check(events) for follower in self._event_followers)
        gaps = sum(len(follower.parts) - 1 for follower in self._followers)
        not_entered = sum(follower.not_entered for follower in self._followers)
        return (
            f"rows: {self._rows}, {len(self._rows.lost.intersection(rows))} of them written; bulk: {self._bulk}; "
            f"events: {self._events}; {gaps} gaps, {missing} events in them; {not_entered} subscriptions not entered"
        )


async def check_killed_gateway(kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a native server and a gateway, and kill the gateway so many times. Print the figures."""
    # Clients that are back soon after the gateway are in the middle of something when it is killed again.
    monkeypatch.setattr("rayforce_trio._client._reconnection.MAX_DELAY", 0.1)
    begun = perf_counter()
    async with no_leaks(within=5):
        with native() as (engine, native_port), restarted("gateway", str(native_port)) as server:
            clients = Clients(server, engine)
            await clients.run(kills, Random(kills))
            figures = clients.check()
    print(f"{kills} kills in {perf_counter() - begun:.0f} s: {figures}")


@pytest.mark.anyio
async def test_no_insert_is_applied_twice_or_lost_and_no_update_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors and gaps are reported for all that may be lost."""
    with anyio.fail_after(100):
        await check_killed_gateway(5, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.trio
async def test_it_is_killed_a_hundred_times(monkeypatch: pytest.MonkeyPatch) -> None:
    with anyio.fail_after(600):
        await check_killed_gateway(100, monkeypatch)
