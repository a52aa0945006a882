"""Subscribers that never read, among a thousand that do; and subscribers that resume again and again."""

import json
from itertools import count

import pytest
import trio
from support.raw import TEXT, RawPeer, frame, open_raw

from rayforce_trio import Position, WSClient
from rayforce_trio._codec import encode_update
from rayforce_trio._protocol import (
    SUBSCRIPTIONS,
    Update,
    dump_hello,
    dump_subscribe,
    dump_unsubscribe,
    parse_update,
    update_frame,
)
from rayforce_trio._protocol._topics import MAX_HISTORY_UPDATES

from . import _servers
from .harness import ServerProcess, assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

SUBSCRIBERS, SILENT = 1000, 10
BUFFER = 1024**2  # bytes; with less than the default, the silent ones fill their buffers soon
TOPIC, VALUE = "prices", "x" * 8000
BURST, BURSTS = 20, 40  # more than the buffers of the server and the operating system can hold for a silent one
SIZE = len(frame(update_frame(Update(1, 1, 0, bytes(encode_update(VALUE)))), masked=False))
TIMEOUT = 120.0


async def subscribed(port: int, receive_buffer: int | None = None) -> RawPeer:
    """Return a peer that has subscribed to the topic with the id 1."""
    peer = await open_raw(port, receive_buffer=receive_buffer)
    for notice in {"hello": {"features": [SUBSCRIPTIONS]}}, {"subscribe": {"id": 1, "topic": TOPIC}}:
        await peer.send_frame(json.dumps(notice).encode(), TEXT)
        await peer.receive_frame()
    return peer


class Readers:
    """Peers that read what arrives, and count the bytes."""

    def __init__(self, peers: list[RawPeer]) -> None:
        self.received = dict.fromkeys(peers, 0)
        self._changed = trio.Event()

    async def read(self, peer: RawPeer) -> None:
        """Read until cancelled. A checkpoint."""
        while True:
            data = await peer.receive_some()
            assert data, "the server has closed the connection of a peer that reads"
            self.received[peer] += len(data)
            if self.received[peer] % SIZE == 0:
                self._changed.set()

    async def wait_for(self, updates: int) -> None:
        """Wait until each has so many updates. A checkpoint."""
        while min(self.received.values()) < updates * SIZE:
            self._changed = trio.Event()
            await self._changed.wait()


async def lost_by(peer: RawPeer, last: int) -> int:
    """Read a peer's updates up to the number `last`; return how many the server reports as lost."""
    sequence = lost = 0
    while sequence < last:
        update = parse_update((await peer.receive_frame())[1])
        assert update is not None
        assert update.sequence == sequence + 1 + update.lost
        sequence = update.sequence
        lost += update.lost
    return lost


async def publish_beside_silent_subscribers(server: ServerProcess) -> int:
    """Return how many bytes the server's memory grows by because of the silent ones."""
    silent = [await subscribed(server.port, receive_buffer=4096) for _ in range(SILENT)]
    readers = Readers([await subscribed(server.port) for _ in range(SUBSCRIBERS - SILENT)])
    before = server.held().memory
    with trio.fail_after(TIMEOUT):
        async with WSClient("127.0.0.1", server.port).connect() as publisher, trio.open_nursery() as nursery:
            for peer in readers.received:
                nursery.start_soon(readers.read, peer)
            for burst in range(1, BURSTS + 1):
                for _ in range(BURST):
                    await publisher.publish(TOPIC, VALUE)
                await readers.wait_for(burst * BURST)
            grown = server.held().memory - before
            nursery.cancel_scope.cancel()
        assert {*readers.received.values()} == {BURST * BURSTS * SIZE}
        for peer in silent:
            lost = await lost_by(peer, BURST * BURSTS)
            assert 0 < lost < BURST * BURSTS
    for peer in [*silent, *readers.received]:
        peer.close()
    return grown


def test_subscribers_that_never_read_cost_their_buffers_and_nobody_else_loses_an_update() -> None:
    with served(
        _servers.in_process,
        max_subscription_buffer=BUFFER,
        max_topic_history=0,
        max_connections=None,
        max_connections_per_address=None,
        max_unauthenticated=None,
        write_timeout=TIMEOUT,
    ) as server:
        grown = trio.run(publish_beside_silent_subscribers, server)
    print(f"the server's memory grew by {grown / 1e6:.1f} MB; the ten buffers may hold {SILENT * BUFFER / 1e6:.1f} MB")
    assert grown <= SILENT * BUFFER


async def resume_again_and_again(port: int, peers: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Fill the history of a topic. Then have `peers` connections resume from its beginning and leave, all the time."""
    client = WSClient("127.0.0.1", port)
    async with client.connect() as publisher, publisher.subscribe(TOPIC, overflow="drop_oldest") as updates:
        position = updates.position
        for _ in range(MAX_HISTORY_UPDATES // 64):
            async with trio.open_nursery() as calls:
                for number in range(64):
                    calls.start_soon(publisher.publish, TOPIC, number)
        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                nursery.start_soon(_resume, await open_raw(port), position)
            task_status.started()


async def _resume(peer: RawPeer, position: Position) -> None:
    with peer:
        await peer.send_frame(dump_hello([SUBSCRIPTIONS]).encode(), TEXT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discard, peer)
            for number in count(1):
                await peer.send_frame(dump_subscribe(number, TOPIC, position).encode(), TEXT)
                await peer.send_frame(dump_unsubscribe(number).encode(), TEXT)


async def _discard(peer: RawPeer) -> None:
    while await peer.receive_some():
        pass


def test_peers_that_resume_again_and_again_delay_nobody() -> None:
    with served(_servers.in_process) as server:
        undisturbed = server.measure(seconds=3)
        with attacked(resume_again_and_again, server, peers=4):
            disturbed = server.measure(seconds=3)
    assert_added_delay(undisturbed, disturbed, 0.010)
