"""Native servers on other hosts compress what they reply; nobody beyond the gateway is to notice."""

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
import trio.testing
from support.engine_contract import request
from support.fake_engine import FakeSession, announce, fake_engine, frame
from support.far_client import ask_as_baseline, ask_from, digest
from support.frames import whole_frame
from support.namespaces import Host, two_hosts
from support.recorded import RECORDED, RECORDED_VERBOSE, Recorded, payload_of

from rayforce_trio import NativeEngine, WSClient, WSClientConnection, WSServer
from rayforce_trio._codec import evaluate, native_server
from rayforce_trio._protocol import HEADER_SIZE, Result
from rayforce_trio.errors import RayforceWSError

LOCAL = "127.0.0.1"
PORT = 7700  # in a namespace of its own every port is free

# Of some MB; the first is hardly smaller compressed, the second a hundredth.
LARGE = ["(% (* (til 500000) 2654435761) 1000003)", "(take 0x00 5000000)", "(til 1000000)"]

Deliver = Callable[[FakeSession, bytes], Awaitable[None]]

BY_REQUEST = {recorded.request: recorded.frame for recorded in [*RECORDED, RECORDED_VERBOSE]}


async def in_one_piece(session: FakeSession, reply: bytes) -> None:
    await session.send(reply)


async def byte_by_byte(session: FakeSession, reply: bytes) -> None:
    """Send every byte after the one before it has been taken."""
    for byte in reply:
        await trio.testing.wait_all_tasks_blocked()
        await session.send(bytes([byte]))


def replay(deliver: Deliver = in_one_piece) -> Callable[[FakeSession], Awaitable[None]]:
    """Return a script that answers with what was recorded."""

    async def script(session: FakeSession) -> None:
        while True:
            await deliver(session, BY_REQUEST[await session.receive_request()])

    return script


# A real server, on another host


@dataclass(frozen=True)
class Far:
    """A native server, the queries it can answer, and what goes before a command to run it on another host."""

    host: str
    port: int
    queries: list[str]
    prefix: list[str]


@asynccontextmanager
async def far_server() -> AsyncIterator[Far]:
    """Run a native server on a host of its own; where there is but one, replay what such a server has sent."""
    queries = [recorded.query for recorded in RECORDED]
    with two_hosts() as hosts:
        if hosts is not None:
            far, near = hosts
            async with native_server_on(far):
                yield Far(far.address, PORT, queries + LARGE, near.command())
            return
    async with fake_engine(replay()) as engine:
        yield Far(LOCAL, engine.port, queries, [])


@asynccontextmanager
async def native_server_on(host: Host) -> AsyncIterator[None]:
    command = host.command(str(native_server()), "-p", f"{host.address}:{PORT}")
    run = partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        assert process.stdout is not None
        async with process.stdout:
            printed = b""
            while b"listening on " not in printed:
                data = await process.stdout.receive_some()
                assert data, f"it ended: {printed!r}"
                printed += data
            yield
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_replies_from_another_host_arrive_whole_and_plain() -> None:
    with trio.fail_after(60):
        async with far_server() as far:
            answers = await ask_from(far.prefix, far.host, far.port, far.queries)
    for query, answer in zip(far.queries, answers, strict=True):
        expected = evaluate(request(query))
        assert isinstance(expected, Result)
        assert answer.compressed
        frame = whole_frame(expected.frame)
        assert answer.size < len(frame)
        assert answer.baseline == digest(frame)
        assert answer.extended == digest(frame[HEADER_SIZE:])


# What one has sent, replayed


@asynccontextmanager
async def gateway_to(script: Callable[[FakeSession], Awaitable[None]]) -> AsyncIterator[int]:
    """Run a server in front of a fake engine; yields its port."""
    with trio.fail_after(60):
        async with (
            fake_engine(script) as engine,
            WSServer(port=0, host=LOCAL, engine=NativeEngine(LOCAL, engine.port)) as server,
        ):
            yield server.port


slowly = [(recorded, byte_by_byte) for recorded in RECORDED if recorded.file in ("i64", "list", "u8_2175_bytes")]
each_delivery = pytest.mark.parametrize(
    ("recorded", "deliver"),
    [(recorded, in_one_piece) for recorded in RECORDED] + slowly,
    ids=lambda value: value.__name__ if callable(value) else str(value),
)


@pytest.mark.trio
@each_delivery
async def test_a_client_gets_the_value_of_a_compressed_reply(recorded: Recorded, deliver: Deliver) -> None:
    async with gateway_to(replay(deliver)) as port, WSClient(LOCAL, port).connect() as connection:
        value = await connection.execute(recorded.query)
    assert payload_of(value) == recorded.plain[HEADER_SIZE:]


@pytest.mark.trio
@each_delivery
async def test_a_baseline_client_gets_a_compressed_reply_plain(recorded: Recorded, deliver: Deliver) -> None:
    async with gateway_to(replay(deliver)) as port:
        assert await ask_as_baseline(port, recorded.request) == recorded.plain


@pytest.mark.trio
@pytest.mark.parametrize("deliver", [in_one_piece, byte_by_byte])
async def test_a_compressed_reply_tells_what_was_printed(deliver: Deliver) -> None:
    async with gateway_to(replay(deliver)) as port, WSClient(LOCAL, port).connect() as connection:
        result = await connection.execute_verbose(RECORDED_VERBOSE.query)
    assert (result.output, result.error) == ("[0 1 2]\n", None)
    assert result.value.to_python() == list(range(250))


@pytest.mark.trio
async def test_compressed_replies_of_one_connection_keep_their_order() -> None:
    values: dict[str, bytes] = {}

    async def ask_for(recorded: Recorded) -> None:
        values[str(recorded)] = payload_of(await connection.execute(recorded.query))

    async with (
        gateway_to(replay()) as port,
        WSClient(LOCAL, port).connect() as connection,
        trio.open_nursery() as nursery,
    ):
        for recorded in RECORDED * 3:
            nursery.start_soon(ask_for, recorded)
    assert values == {str(recorded): recorded.plain[HEADER_SIZE:] for recorded in RECORDED}


# Damaged replies


def damaged(size: int, runs: bytes, *, more: int = 0) -> bytes:
    """Return a compressed reply that announces `size` bytes, and another `more` of its own than follow."""
    payload = size.to_bytes(4, "little") + runs
    return announce(len(payload) + more, flags=1) + payload


LITERAL = bytes([256 - 100]) + bytes(100)  # a run that makes 100 bytes

DAMAGED = {
    "too short to tell its size": frame(b"\1\2\3", flags=1),
    "announces nothing": damaged(0, b""),
    "announces nothing, and has something": damaged(0, LITERAL),
    "less than announced": damaged(101, LITERAL),
    "more than announced": damaged(99, LITERAL),
    "cut short": damaged(100, LITERAL[:-1]),
    "goes on after its end": damaged(100, LITERAL, more=2),
}


@pytest.mark.trio
@pytest.mark.parametrize("reply", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_reply_ends_its_session_and_no_other(reply: bytes, caplog: pytest.LogCaptureFixture) -> None:
    recorded = RECORDED[0]

    async def ask_twice(connection: WSClientConnection) -> None:
        for _ in range(2):
            await connection.execute(recorded.query)

    async def script(session: FakeSession) -> None:
        if len(engine.sessions) > 1:
            await replay()(session)
        await session.receive_request()
        await session.send(reply)
        await session.receive_request()
        await session.send(b"\1a" + recorded.frame)  # what could be missing of the one reply, and then another
        await session.until_hung_up()

    with trio.fail_after(60):
        async with (
            fake_engine(script) as engine,
            WSServer(port=0, host=LOCAL, engine=NativeEngine(LOCAL, engine.port)) as server,
            WSClient(LOCAL, server.port).connect() as connection,
            WSClient(LOCAL, server.port).connect() as other,
        ):
            with pytest.raises(RayforceWSError, match=r"the engine at .* sent a damaged reply: "):
                await ask_twice(connection)
            assert payload_of(await other.execute(recorded.query)) == recorded.plain[HEADER_SIZE:]
    assert "internal error" not in caplog.text
