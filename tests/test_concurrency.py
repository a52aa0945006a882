"""Many tasks on one connection, many connections on one server: to each its own reply, and its turn."""

import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.lowlevel
import trio.testing
from rayforce import I64
from support.engines import GateEngine
from support.frames import whole_frame
from support.processes import server_process
from support.raw import BINARY, frame, open_raw

from rayforce_trio import NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._client._exchange import Exchange
from rayforce_trio._codec import encode, evaluate
from rayforce_trio._engines import Session
from rayforce_trio._protocol import Frame, MessageType, Reply, Result, string_frame
from rayforce_trio._protocol._client import MAX_IN_FLIGHT
from rayforce_trio._server._connection import WSServerConnection
from rayforce_trio._server._log import ConnectionLog
from rayforce_trio._tasks import FLUSH_INTERVAL
from rayforce_trio._transports._memory import MemoryTransport, memory_pair

LOCAL = "127.0.0.1"


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[WSClientConnection]:
    with anyio.fail_after(60):
        async with WSClient(LOCAL, port).connect() as connection:
            yield connection


async def number(connection: WSClientConnection, query: str) -> int:
    result = await connection.execute(query)
    assert isinstance(result, I64)
    value = result.to_python()
    assert value is not None
    return value


async def answer(server: MemoryTransport, request: bytes | str) -> None:
    """Answer a request as a server would."""
    assert isinstance(request, bytes)
    reply = evaluate(request)
    assert isinstance(reply, Result)
    await server.send(reply.frame)


@asynccontextmanager
async def scripted_server() -> AsyncIterator[tuple[WSClientConnection, MemoryTransport]]:
    """A client's connection, and the other end of it for the test to play."""
    ours, theirs = memory_pair("rayforce.v1")
    connection = WSClientConnection(Exchange(ours))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(connection._exchange.run)
            yield connection, theirs
            await connection.close()
    theirs.abort()


# One connection


@pytest.mark.anyio
async def test_hundreds_of_tasks_on_one_connection_get_their_own_replies(our_port: int) -> None:
    async def ask(connection: WSClientConnection, n: int) -> None:
        for m in range(5):
            assert await number(connection, f"(+ {1000 * n} {m})") == 1000 * n + m

    async with connected(our_port) as connection, anyio.create_task_group() as task_group:
        for n in range(300):
            task_group.start_soon(ask, connection, n)


@pytest.mark.anyio
async def test_requests_are_pipelined() -> None:
    """All of them reach the server before it has answered any."""
    replies: dict[int, int] = {}

    async def ask(connection: WSClientConnection, n: int) -> None:
        replies[n] = await number(connection, str(n))

    async with scripted_server() as (connection, server), anyio.create_task_group() as task_group:
        for n in range(100):
            task_group.start_soon(ask, connection, n)
        requests = [await server.receive() for _ in range(100)]
        assert replies == {}
        for request in requests:
            await answer(server, request)
    assert replies == {n: n for n in range(100)}


@pytest.mark.anyio
async def test_results_and_errors_find_their_callers(our_port: int) -> None:
    async def ask(connection: WSClientConnection, n: int) -> None:
        if n % 2:
            with pytest.raises(errors.RayforceUserError, match=rf"\bundefined_{n}\b"):
                await connection.execute(f"undefined_{n}")
        else:
            assert await number(connection, str(n)) == n

    async with connected(our_port) as connection, anyio.create_task_group() as task_group:
        for n in range(200):
            task_group.start_soon(ask, connection, n)


# Posts


@pytest.mark.anyio
async def test_posts_are_carried_out_in_order_even_if_the_client_leaves_at_once(our_port: int, name: str) -> None:
    async with connected(our_port) as connection:
        await connection.execute(f"(set {name} (list))")
    async with connected(our_port) as connection:
        for n in range(200):
            await connection.post(f"(set {name} (concat {name} {n}))")
    async with connected(our_port) as connection:
        while await number(connection, f"(count {name})") < 200:
            await anyio.lowlevel.checkpoint()
        assert (await connection.execute(name)).to_python() == list(range(200))


@pytest.mark.anyio
async def test_posts_and_requests_keep_their_order(our_port: int, name: str) -> None:
    async with connected(our_port) as connection:
        for n in range(50):
            await connection.post(f"(set {name} {n})")
            assert await number(connection, name) == n


@pytest.mark.anyio
async def test_in_a_cancelled_scope_nothing_is_sent_although_others_wait(our_port: int, name: str) -> None:
    async with connected(our_port) as connection:
        await connection.execute(f"(set {name} 0)")
        for _ in range(50):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.execute, "1")
                await anyio.lowlevel.checkpoint()
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await connection.post(f"(set {name} 1)")
        assert await number(connection, name) == 0


@pytest.mark.trio
async def test_replies_are_not_kept_back_while_a_slow_query_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._tasks.FLUSH_INTERVAL", 1000.0)
    post, quick, slow = (
        frame(encode(query, message_type))
        for query, message_type in (
            ("1", MessageType.ASYNC),
            ("2", MessageType.SYNC),
            ("(while true 1)", MessageType.SYNC),
        )
    )
    with trio.fail_after(20):
        async with WSServer(0, host="127.0.0.1", engine=NativeProcess()) as server:
            with await open_raw(server.port) as peer:
                await peer.send(post + 2 * quick + slow)
                for _ in range(2):
                    opcode, _ = await peer.receive_frame()
                    assert opcode == BINARY
                peer.reset()


@pytest.mark.trio
async def test_an_error_in_a_post_appears_in_the_servers_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async with WSServer(0, host=LOCAL) as server, connected(server.port) as connection:
        await connection.post('(+ 1 "a")')
        assert await number(connection, "(+ 1 2)") == 3
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    [message] = [record.getMessage() for record in warnings]
    assert message.startswith("connection 1 (127.0.0.1:")
    assert message.endswith("): a post failed: type: cannot add i64 and str")


# Many connections

FLOOD = """
import sys
import trio
import trio.testing
from rayforce_trio import WSClient

async def main(port, query):
    async def ask():
        while True:
            await connection.execute(query)

    async with WSClient("127.0.0.1", port).connect() as connection, trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(ask)

trio.run(main, int(sys.argv[1]), sys.argv[2])
"""


@contextmanager
def flooded(port: int, query: str) -> Iterator[None]:
    """A process that keeps a thousand requests in flight."""
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(port), query])
    try:
        yield
    finally:
        flood.kill()
        flood.wait()


@pytest.mark.anyio
async def test_a_quiet_client_overtakes_a_thousand_requests_in_flight(name: str) -> None:
    """The server counts the requests of the flood; between two answers to the quiet client, few are evaluated."""
    with server_process("in-process") as port:
        async with connected(port) as quiet:
            await quiet.execute(f"(set {name} 0)")
            with flooded(port, f"(set {name} (+ {name} 1))"):
                while await number(quiet, name) < 2000:  # the first thousand are answered, and asked anew
                    await anyio.lowlevel.checkpoint()
                seen = [await number(quiet, name) for _ in range(101)]
    assert seen[-1] > seen[0]  # the flood went on
    assert statistics.median(after - before for before, after in pairwise(seen)) < 100


@pytest.mark.trio
async def test_of_requests_that_wait_in_the_server_those_of_a_quiet_client_are_not_the_last(name: str) -> None:
    """The same in one process, where the order of events is all that counts."""
    answered = 0

    async def flood(connection: WSClientConnection) -> None:
        nonlocal answered
        await number(connection, "1")
        answered += 1

    async with WSServer(0, host=LOCAL) as server, connected(server.port) as busy, connected(server.port) as quiet:
        await quiet.execute(f"(set {name} 1)")
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(flood, busy)
            while not answered:
                await trio.lowlevel.checkpoint()
            for _ in range(3):
                before = answered
                assert await number(quiet, name) == 1
                assert answered - before < 100


@pytest.mark.trio
async def test_other_tasks_run_while_refused_requests_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 300
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    engine = GateEngine()
    async with WSServer(0, host=LOCAL, engine=engine, max_in_flight=1) as server:
        with await open_raw(server.port) as peer:
            for _ in range(1 + refused):
                await peer.send_frame(encode("1", MessageType.SYNC))
            with trio.fail_after(30):
                while server.statistics().queued < refused:
                    await trio.lowlevel.checkpoint()
                engine.release()
                steps = 0
                while server.statistics().queued:
                    await trio.lowlevel.checkpoint()
                    steps += 1
    assert steps > refused / 2


@pytest.mark.trio
async def test_a_request_is_not_started_if_it_turns_out_then_that_the_client_is_gone() -> None:
    """The server sends what it has buffered before it waits for the engine."""
    gone = False

    def flush() -> None:
        if gone:
            raise errors.ConnectionLost("the connection broke")

    engine = GateEngine()
    client, server = memory_pair("rayforce.v1")
    server.flush = flush  # type: ignore[method-assign]  # like a network that breaks
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            session = await engine.open_session()
            nursery.start_soon(WSServerConnection(ConnectionLog(1, server.peer), server, session).run)
            await trio.testing.wait_all_tasks_blocked()
            gone = True
            await client.send(encode("1", MessageType.SYNC))
    assert engine.begun == []
    client.abort()


class GatedSession(Session):
    """Evaluates once the gate is open."""

    def __init__(self) -> None:
        self.gate = trio.Event()

    async def request(self, frame: Frame) -> Reply:
        await self.gate.wait()
        return evaluate(frame)

    async def post(self, frame: Frame) -> None:
        await self.request(frame)

    def cancel(self) -> None: ...

    async def aclose(self) -> None: ...


class StartingSession(GatedSession):
    """Starts one request at a time without waiting, and answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Callable[[Reply], None]] = []

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:  # noqa: ARG002 - as the interface says
        self.answers.append(answer)
        return True

    def answer(self) -> None:
        self.answers.pop(0)(Result(string_frame("value")))


@pytest.mark.trio
async def test_answers_are_sent_together_but_none_waits_for_a_long_query(autojump_clock: trio.abc.Clock) -> None:
    client, server = memory_pair("rayforce.v1")
    buffered: list[object] = []
    sent: list[tuple[float, int]] = []

    def send_nowait(message: object) -> bool:
        buffered.append(message)
        return True

    def flush() -> None:
        if buffered:
            sent.append((trio.current_time() - start, len(buffered)))
            buffered.clear()

    server.send_nowait = send_nowait  # type: ignore[method-assign]  # the memory transport buffers nothing
    server.flush = flush  # type: ignore[method-assign]
    session = StartingSession()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(WSServerConnection(ConnectionLog(1, server.peer), server, session).run)
        for _ in range(4):
            await client.send(encode("1", MessageType.SYNC))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        session.answer()
        session.answer()
        assert sent == []  # a request is in flight
        await trio.sleep(60)
        ((time, count),) = sent
        assert time == pytest.approx(FLUSH_INTERVAL)
        assert count == 2
        session.answer()
        session.answer()  # the last one
        assert sent[1:] == [(60, 2)]
        await client.send(encode("1", MessageType.SYNC))
        await trio.testing.wait_all_tasks_blocked()
        session.answer()
        assert sent[2:] == [(60, 1)]
        client.abort()


@pytest.mark.trio
async def test_a_flood_of_requests_without_a_limit_on_their_number_is_read_and_all_are_answered() -> None:
    total = 3000
    client, server = memory_pair("rayforce.v1")
    session = GatedSession()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(WSServerConnection(ConnectionLog(1, server.peer), server, session).run)
            for n in range(total):
                await client.send(encode(str(n), MessageType.SYNC))
            await trio.testing.wait_all_tasks_blocked()
            assert server._incoming.statistics().current_buffer_used == 0
            session.gate.set()
            for n in range(total):
                assert await client.receive() == evaluated(n)
            await client.aclose()


def evaluated(n: int) -> bytes:
    reply = evaluate(encode(str(n), MessageType.SYNC))
    assert isinstance(reply, Result)
    return whole_frame(reply.frame)


@pytest.mark.trio
async def test_more_requests_than_the_client_keeps_in_flight_are_all_answered(our_port: int) -> None:
    """And more bytes of replies than it and the network hold."""

    async def ask(connection: WSClientConnection, n: int) -> None:
        assert len(await connection.execute(f"(til {3000 + n})")) == 3000 + n

    async with connected(our_port) as connection, trio.open_nursery() as nursery:
        for n in range(4 * MAX_IN_FLIGHT):
            nursery.start_soon(ask, connection, n)


# The end of a server


@pytest.mark.anyio
async def test_every_call_that_waits_notices_a_lost_server_at_once() -> None:
    async def ask(connection: WSClientConnection) -> None:
        with pytest.raises(errors.ConnectionLost):
            await connection.execute("1")

    with server_process("in-process") as port:
        async with connected(port) as connection, anyio.create_task_group() as task_group:
            await connection.post("(exit 3)")
            for _ in range(50):
                task_group.start_soon(ask, connection)
        assert isinstance(connection.closed, errors.ConnectionLost)


@pytest.mark.anyio
async def test_every_call_that_waits_notices_a_transport_that_ends() -> None:
    caught: list[BaseException] = []

    async def ask(connection: WSClientConnection) -> None:
        with pytest.raises(errors.ConnectionLost, match="the other end was closed") as error:
            await connection.execute("1")
        caught.append(error.value)

    async with scripted_server() as (connection, server), anyio.create_task_group() as task_group:
        for _ in range(50):
            task_group.start_soon(ask, connection)
        await anyio.wait_all_tasks_blocked()
        server.abort()
    assert len({id(error) for error in caught}) == 50  # to each its own, since tracebacks grow on them
