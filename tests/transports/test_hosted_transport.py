"""The transport of hosted connections over a channel that the test controls."""

import math

import pytest
import trio
import trio.testing

from rayforce_trio._transports import HostedTransport, SharedMessage
from rayforce_trio._transports._base import TEXT_LIMIT, closed_by_peer
from rayforce_trio._transports._hosted import (
    SLOWEST_RATE,
    UNKNOWN_CLIENT,
    UNKNOWN_SERVER,
    MessageChannel,
    client_address,
    server_address,
)
from rayforce_trio.errors import ConnectionClosed, ConnectionLost, MessageTooLarge, RayforceWSError

pytestmark = pytest.mark.trio


class Channel(MessageChannel):
    """A channel, whose peer takes messages unless it is stuck.

    Attributes:
        is_stuck: whether the peer takes nothing.
        error: raised by `send` and `receive`.
        sent: the messages that the peer has taken.
        closed: the code and the reason of the close.
    """

    def __init__(self, *, is_stuck: bool = False) -> None:
        self.is_stuck = is_stuck
        self.error: RayforceWSError | None = None
        self.sent: list[bytes | str] = []
        self.closed: tuple[int, str] | None = None
        self.arrive, self._arrived = trio.open_memory_channel[bytes | str](math.inf)

    async def receive(self) -> bytes | str:
        if self.error is not None:
            raise self.error
        return await self._arrived.receive()

    async def send(self, message: bytes | str) -> None:
        if self.is_stuck:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = code, reason


def transport_on(channel: MessageChannel) -> HostedTransport:
    return HostedTransport(channel, subprotocol=None, peer="", max_message_size=100, write_timeout=30.0)


@pytest.mark.parametrize(("size", "seconds"), [(0, 30), (4 * SLOWEST_RATE, 34)])
async def test_a_long_message_may_take_longer(size: int, seconds: int, autojump_clock: trio.testing.MockClock) -> None:
    transport = transport_on(Channel(is_stuck=True))
    with pytest.raises(ConnectionLost, match="has not read a message in time"):
        await transport.send(bytes(size))
    assert autojump_clock.current_time() == seconds
    assert transport.peer_is_gone()
    with pytest.raises(ConnectionLost):
        await transport.send(b"more")
    with pytest.raises(ConnectionLost):
        await transport.send_part(b"more", last=True)
    with pytest.raises(ConnectionLost):
        transport.send_between("more")


@pytest.mark.parametrize("message", ["a" * (TEXT_LIMIT + 1), b"a" * 101], ids=["text", "binary"])
async def test_a_message_beyond_the_limit_is_refused(message: bytes | str) -> None:
    channel = Channel()
    transport = transport_on(channel)
    transport.max_message_size = TEXT_LIMIT * 2 if isinstance(message, str) else 100
    channel.arrive.send_nowait(message)
    with pytest.raises(MessageTooLarge):
        await transport.receive()
    with pytest.raises(MessageTooLarge):
        await transport.receive()
    assert not transport.has_bytes()
    assert transport.receive_nowait() is None


@pytest.mark.parametrize("text", [False, True])
async def test_parts_are_sent_as_one_message(text: bool) -> None:
    channel = Channel()
    transport = transport_on(channel)
    stored: list[int] = []
    transport.on_stored = stored.append
    await transport.send_part("é".encode()[:1], last=False, text=text)
    assert transport.stored == 1
    assert channel.sent == []
    await transport.send_part("é".encode()[1:], last=True, text=text)
    assert channel.sent == ["é" if text else "é".encode()]
    assert transport.stored == 0
    assert sum(stored) == 2


async def test_a_message_between_others_is_sent_by_run() -> None:
    channel = Channel()
    transport = transport_on(channel)
    idle = trio.Event()
    transport.on_idle = idle.set
    assert transport.send_between(SharedMessage(b"first"))
    assert not transport.send_between("second")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run)
        await idle.wait()
        assert channel.sent == [b"first"]
        assert transport.send_between("second")
        await transport.send("third")
        assert channel.sent == [b"first", "second", "third"]
        nursery.cancel_scope.cancel()


async def test_run_ends_a_send_that_a_host_shields(autojump_clock: trio.testing.MockClock) -> None:
    class Shielded(Channel):
        async def send(self, message: bytes | str) -> None:
            with trio.move_on_after(100, shield=True):
                await super().send(message)

    transport = transport_on(Shielded(is_stuck=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, "a")
        with pytest.raises(ConnectionLost, match="has not read a message in time"):
            await transport.run()
        assert 30 <= autojump_clock.current_time() < 31


async def test_the_error_of_the_host_ends_everything() -> None:
    channel = Channel()
    transport = transport_on(channel)
    channel.error = closed_by_peer(1000, "bye")
    with pytest.raises(ConnectionClosed, match="bye"):
        await transport.send("a")
    with pytest.raises(ConnectionClosed, match="bye"):
        await transport.receive()


async def test_a_close_waits_for_a_send_and_ends_a_receive() -> None:
    release = trio.Event()

    class Slow(Channel):
        async def send(self, message: bytes | str) -> None:
            await release.wait()
            await super().send(message)

    channel = Slow()
    transport = transport_on(channel)

    async def receive() -> None:
        with pytest.raises(ConnectionClosed):
            await transport.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(transport.send, "last")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(transport.aclose, 1001, "the server is shutting down")
        await trio.testing.wait_all_tasks_blocked()
        assert channel.closed is None
        release.set()
    assert channel.sent == ["last"]
    assert channel.closed == (1001, "the server is shutting down")
    await transport.aclose()
    with pytest.raises(ConnectionClosed):
        await transport.receive()


async def test_a_close_that_was_begun_keeps_its_code() -> None:
    channel = Channel()
    transport = transport_on(channel)
    assert transport.send_between("dropped")
    transport.begin_close(1013, "too much")
    with pytest.raises(ConnectionClosed):
        await transport.receive()
    await transport.aclose(1000)
    assert channel.closed == (1013, "too much")
    assert channel.sent == []


async def test_an_abort_ends_a_send_and_a_receive() -> None:
    transport = transport_on(Channel(is_stuck=True))

    async def fails(receives: bool) -> None:
        with pytest.raises(RayforceWSError):
            await (transport.receive() if receives else transport.send("a"))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, True)
            nursery.start_soon(fails, False)
            await trio.testing.wait_all_tasks_blocked()
            transport.abort()


async def test_addresses_that_a_host_does_not_know() -> None:
    await trio.lowlevel.checkpoint()
    assert client_address("testclient", 1) is UNKNOWN_CLIENT
    assert server_address("localhost", 80) is UNKNOWN_SERVER
    assert client_address("127.0.0.1", 5).address == "127.0.0.1"
    assert server_address("::1", None) == ("::1", 0)
