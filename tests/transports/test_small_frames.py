"""Peers that send thousands of small frames: other tasks run in between, and a close comes to an end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from support.raw import BINARY, CONTINUATION, PING, PONG, TEXT, RawPeer, close_frame, frame
from support.streams import EVENT_LOOPS, socket_of, tcp_pair
from support.websockets import websocket

from rayforce_trio import _tasks
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio._websocket import _connection
from rayforce_trio.errors import ConnectionClosed, ProtocolError

pytestmark = pytest.mark.anyio

TIMEOUT = 8  # seconds; below CLOSE_TIMEOUT
COUNT = 500
ALLOWED = 100_000  # bytes that a peer may send while the connection closes, besides a message
NETWORK = 16 * 1024 * 1024  # bytes; more than the network's buffers hold


@pytest.fixture(params=EVENT_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run the tests on each event loop."""
    return request.param


@pytest.fixture(params=[True, False], ids=["client", "server"])
def client(request: pytest.FixtureRequest) -> bool:
    """Whether the transport that is tested is the client's end."""
    return bool(request.param)


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time slices are used up at once, so that the tests do not depend on the speed of the machine."""
    monkeypatch.setattr(_tasks, "TIME_SLICE", 0.0)


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that closes accepts few bytes."""
    monkeypatch.setattr(_connection, "CLOSING_ALLOWANCE", ALLOWED)


@asynccontextmanager
async def with_raw_peer(*, client: bool, leftover: bytes = b"") -> AsyncIterator[tuple[WebSocketTransport, RawPeer]]:
    """Connect a transport with a peer that is made by hand; `client` says what the transport is."""
    one, other = await tcp_pair()
    transport = websocket(one, client=client, leftover=leftover)
    with anyio.fail_after(TIMEOUT), RawPeer(socket_of(other), is_client=not client) as peer:
        try:
            yield transport, peer
        finally:
            transport.abort()


class RoundCounter:
    """Counts how often another task runs."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.count += 1


@asynccontextmanager
async def counted_rounds() -> AsyncIterator[RoundCounter]:
    async with anyio.create_task_group() as tasks:
        rounds = RoundCounter()
        tasks.start_soon(rounds.run)
        yield rounds
        tasks.cancel_scope.cancel()


def small_frames(kind: str, *, masked: bool) -> bytes:
    """Return `COUNT` small frames, the last of which ends a message if they have one."""
    if kind in ("empty fragments", "fragments"):
        payload = b"x" if kind == "fragments" else b""
        parts = [frame(payload, CONTINUATION if at else TEXT, fin=False, masked=masked) for at in range(COUNT - 1)]
        return b"".join(parts) + frame(b"", CONTINUATION, masked=masked)
    opcode, payload = {
        "empty pings": (PING, b""),
        "long pings": (PING, bytes(125)),
        "pongs": (PONG, b""),
        "empty messages": (BINARY, b""),
    }[kind]
    return frame(payload, opcode, masked=masked) * COUNT


KINDS = ["empty pings", "long pings", "pongs", "empty fragments", "fragments"]


@pytest.mark.parametrize("kind", KINDS)
async def test_other_tasks_run_while_small_frames_are_received(kind: str, client: bool) -> None:
    masked = not client
    leftover = small_frames(kind, masked=masked) + frame(b"done", masked=masked)
    async with with_raw_peer(client=client, leftover=leftover) as (transport, _), counted_rounds() as rounds:
        if "fragments" in kind:
            assert await transport.receive() == ("" if kind == "empty fragments" else "x" * (COUNT - 1))
        assert await transport.receive() == b"done"
        assert rounds.count >= COUNT - 2


@pytest.mark.parametrize("kind", KINDS)
async def test_receiving_without_waiting_reads_one_frame(kind: str, client: bool) -> None:
    """The caller calls `receive` next, which yields to other tasks. Nothing is lost."""
    masked = not client
    leftover = small_frames(kind, masked=masked) + frame(b"done", masked=masked)
    async with with_raw_peer(client=client, leftover=leftover) as (transport, _):
        size = len(transport._connection.reader._data)
        longest = 131 + 2  # the longest control frame, and the end of the frame before it
        for _ in range(20):
            before = transport._connection.reader._at
            assert transport.receive_nowait() is None
            assert transport._connection.reader._at - before <= longest
        if "fragments" in kind:
            assert isinstance(await transport.receive(), str)
        assert await transport.receive() == b"done"
        assert transport._connection.reader._at == size


@pytest.mark.parametrize("kind", [*KINDS, "empty messages"])
@pytest.mark.parametrize("receiving", [True, False])
async def test_other_tasks_run_while_a_close_reads_small_frames(kind: str, receiving: bool, client: bool) -> None:
    async def receive(transport: WebSocketTransport) -> None:
        with suppress(ConnectionClosed):
            while True:
                await transport.receive()

    masked = not client
    async with (
        with_raw_peer(client=client) as (transport, peer),
        counted_rounds() as rounds,
        anyio.create_task_group() as tasks,
    ):
        if receiving:
            tasks.start_soon(receive, transport)
        tasks.start_soon(transport.aclose)
        assert await peer.receive_close() == 1000
        before = rounds.count
        await peer.send(small_frames(kind, masked=masked) + close_frame(1000, masked=masked))
        assert await peer.receive_rest() == b""
        assert rounds.count - before >= COUNT - 2


# A peer that never stops sending


async def flood(peer: RawPeer, data: bytes) -> int:
    """Send the same bytes until the other side is gone; return how many it took."""
    taken = 0
    while (count := await peer.send(data)) == len(data):
        taken += count
    return taken


@pytest.mark.parametrize("case", ["own close", "own error", "violation"])
@pytest.mark.parametrize("kind", ["empty pings", "pongs", "empty messages", "empty fragments", "one message"])
async def test_a_close_ends_although_the_peer_keeps_sending(case: str, kind: str, client: bool) -> None:
    """The peer gets the close frame, and is disconnected when it has sent too much."""
    masked = not client
    data = frame(bytes(1000), masked=masked) if kind == "one message" else small_frames(kind, masked=masked)
    code = {"own close": 1000, "own error": 1008, "violation": 1002}[case]
    async with with_raw_peer(client=client) as (transport, peer):
        if case == "violation":
            await peer.send_frame(opcode=3)
            with pytest.raises(ProtocolError):
                await transport.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.aclose, code)
            assert await peer.receive_close() == code
            assert await flood(peer, data) < NETWORK


async def test_the_frames_that_a_close_reads_are_limited_too(client: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "CLOSING_ALLOWANCE", 1 << 40)
    monkeypatch.setattr(_connection, "MAX_CLOSING_FRAMES", 1000)
    async with with_raw_peer(client=client) as (transport, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(transport.aclose)
        assert await peer.receive_close() == 1000
        assert await flood(peer, small_frames("empty pings", masked=not client)) < NETWORK


@pytest.mark.parametrize("case", ["own error", "violation"])
async def test_nothing_is_read_after_an_error(case: str, client: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    masked = not client
    async with with_raw_peer(client=client) as (transport, peer):
        if case == "violation":
            await peer.send_frame(opcode=3)
            with pytest.raises(ProtocolError):
                await transport.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(transport.aclose, 1002))
            await anyio.wait_all_tasks_blocked()
            monkeypatch.setattr(transport._connection.reader, "_begin_frame", None)
            await peer.send(small_frames("empty pings", masked=masked) + close_frame(1002, masked=masked))
            assert await peer.receive_close() == 1002
            assert await peer.receive_rest() == b""
            peer.close()


@pytest.mark.parametrize("code", [1008, 1013])
async def test_a_receive_ends_when_another_task_closes_with_an_error(code: int, client: bool) -> None:
    """It does not return a message that arrives later."""

    async def receive() -> None:
        with pytest.raises(ConnectionClosed):
            await transport.receive()

    async with with_raw_peer(client=client) as (transport, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(transport.aclose, code)
        assert await peer.receive_close() == code
        await peer.send_frame(b"late")
        assert await peer.receive_rest() == b""
        peer.close()
