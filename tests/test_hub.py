"""Subscriptions at a server, with a client that is made by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.native import native_server
from support.native_client import NativeClient, native_client
from support.raw import BINARY, TEXT, RawPeer, open_raw

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._engines import Engine
from rayforce_trio._protocol import (
    MessageType,
    Notice,
    Position,
    SubscribedNotice,
    UnsubscribedNotice,
    Update,
    dump_hello,
    dump_subscribe,
    dump_unsubscribe,
    parse_control,
    parse_update,
)
from rayforce_trio._values._payloads import i64

pytestmark = pytest.mark.trio


class Subscriber:
    """A client that reads notices, updates and replies in order."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer

    async def subscribe(self, number: int, topic: str, resume: Position | None = None) -> None:
        await self.peer.send_frame(dump_subscribe(number, topic, resume).encode(), TEXT)

    async def unsubscribe(self, number: int) -> None:
        await self.peer.send_frame(dump_unsubscribe(number).encode(), TEXT)

    async def request(self, query: str) -> None:
        await self.peer.send_frame(encode(query, MessageType.SYNC))

    async def receive(self) -> Notice | Update | bytes:
        """Return the next notice, update or reply."""
        with trio.fail_after(20):
            opcode, payload = await self.peer.receive_frame()
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
async def connected(server: WSServer) -> AsyncIterator[Subscriber]:
    peer = await open_raw(server.port)
    with peer:
        await peer.send_frame(dump_hello(["streams", "subscriptions"]).encode(), TEXT)
        assert await peer.receive_frame() == (TEXT, dump_hello(["streams", "subscriptions"]).encode())
        yield Subscriber(peer)


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
