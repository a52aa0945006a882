"""Connections that come back: what calls get when a connection is lost at each point, on both event loops."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from rayforce import I64
from support.leaks import no_leaks
from support.proxy import proxy
from support.sweep import cancellation_of, cancelled_at, cancelled_on_asyncio, pairs, swept

from rayforce_trio import ClientConnectionState as State
from rayforce_trio import Position, Subscription, WSClient, WSClientConnection, errors
from rayforce_trio._client._pending import PendingConnection
from rayforce_trio._client._reconnecting import MAX_SENDS, ReconnectingExchange, Session
from rayforce_trio._protocol import HEADER_SIZE, SUBPROTOCOL, Header, MessageType, string_frame, update_frame
from rayforce_trio._protocol import Update as ProtocolUpdate
from rayforce_trio._transports._memory import MemoryTransport, memory_pair
from rayforce_trio._values._payloads import NULL, i64, list_of


class Servers:
    """Plays the servers. Connections are accepted in order; `refuse_with` makes the next attempts fail.

    Attributes:
        attempts: which server was asked, each time.
    """

    def __init__(self, count: int = 1) -> None:
        self.attempts: list[int] = []
        self.errors: list[errors.RayforceWSError] = []
        self.subprotocol: str | None = SUBPROTOCOL
        self._count = count
        self._ends: list[MemoryTransport] = []
        self._waiting: list[MemoryTransport] = []
        self._arrived = anyio.Event()

    def refuse_with(self, *reasons: errors.RayforceWSError) -> None:
        self.errors.extend(reasons)

    async def accept(self) -> MemoryTransport:
        """Return the server's end of the next connection."""
        while not self._waiting:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._waiting.pop(0)

    def abort(self) -> None:
        """Abort all connections."""
        for end in self._ends:
            end.abort()

    def connect(self, *, keep_trying: bool = False) -> PendingConnection:
        async def open_() -> WSClientConnection:
            exchange = ReconnectingExchange([self._opener(number) for number in range(self._count)])
            await exchange.open(keep_trying=keep_trying)
            return WSClientConnection(exchange)

        return PendingConnection(open_, None)

    def _opener(self, number: int) -> Callable[[], Awaitable[Session]]:
        async def open_session() -> Session:
            await anyio.lowlevel.checkpoint()
            self.attempts.append(number)
            if self.errors:
                raise self.errors.pop(0)
            mine, theirs = memory_pair(self.subprotocol)
            self._ends.append(theirs)
            self._waiting.append(theirs)
            self._arrived.set()
            return Session(mine)

        return open_session


@asynccontextmanager
async def connected(
    servers: Servers,
) -> AsyncIterator[tuple[WSClientConnection, MemoryTransport, anyio.abc.TaskGroup]]:
    """Yields a connection, the server's end of it, and a task group for calls, in a bounded block."""
    with anyio.fail_after(20):
        async with no_leaks(), servers.connect() as connection, anyio.create_task_group() as calls:
            server = await servers.accept()
            yield connection, server, calls
            await connection.close()
    servers.abort()


class Outcome:
    """What a call came to."""

    def __init__(self, calls: anyio.abc.TaskGroup, call: Awaitable[Any]) -> None:
        self.value: Any = None
        self.error: errors.RayforceError | None = None
        self._call = call
        self._done = anyio.Event()
        calls.start_soon(self._run)

    async def _run(self) -> None:
        try:
            self.value = await self._call
        except errors.RayforceError as error:
            self.error = error
        self._done.set()

    async def get(self) -> Any:
        await self._done.wait()
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def is_done(self) -> bool:
        return self._done.is_set()


async def answer(server: MemoryTransport, text: str = "answer") -> None:
    """Answer the next request."""
    while not isinstance(await server.receive(), bytes):
        pass
    await server.send(string_frame(text))


async def until(connection: WSClientConnection, state: State) -> None:
    changes = connection.state_changes()
    if connection.state is not state:
        async for change in changes:
            if change is state:
                return


DRAINED = (1001, "the server is shutting down")


@pytest.mark.anyio
async def test_calls_before_and_after_a_loss() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        first = Outcome(calls, connection.execute("1"))
        await answer(server)
        assert await first.get() == "answer"
        server.abort()
        await until(connection, State.WAITING)
        assert not connection.closed
        second = Outcome(calls, connection.execute("2"))
        server = await servers.accept()
        await answer(server, "second")
        assert await second.get() == "second"


@pytest.mark.anyio
async def test_a_call_that_was_sent_and_not_answered_raises_connection_lost() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1"))
        await server.receive()
        server.abort()
        with pytest.raises(errors.ConnectionLost, match="may or may not have been carried out"):
            await outcome.get()


@pytest.mark.anyio
async def test_a_close_of_the_server_is_a_loss_to_its_calls() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1"))
        await server.receive()
        await server.aclose(*DRAINED)
        with pytest.raises(errors.ConnectionLost, match="code 1001: the server is shutting down; the query may"):
            await outcome.get()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "call",
    [
        lambda connection: connection.execute("1", idempotent=True),
        lambda connection: connection.call("f", 1, idempotent=True),
    ],
)
async def test_an_idempotent_call_is_sent_again(call: Callable[[WSClientConnection], Awaitable[Any]]) -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, call(connection))
        first = await server.receive()
        server.abort()
        server = await servers.accept()
        assert await server.receive() == first
        await server.send(string_frame("second"))
        assert await outcome.get() == "second"


@pytest.mark.anyio
async def test_an_idempotent_call_is_not_sent_again_without_end() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1", idempotent=True))
        for _ in range(MAX_SENDS - 1):
            await server.receive()
            server.abort()
            server = await servers.accept()
        await server.receive()
        server.abort()
        with pytest.raises(errors.ConnectionLost):
            await outcome.get()


@pytest.mark.anyio
@pytest.mark.parametrize("code", [1008, 1011])
async def test_an_idempotent_call_that_may_have_ended_the_engine_is_not_sent_again(code: int) -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1", idempotent=True))
        await server.receive()
        await server.aclose(code, "the engine is lost")
        with pytest.raises(errors.ConnectionLost, match="the engine is lost"):
            await outcome.get()


@pytest.mark.anyio
async def test_a_call_that_the_server_has_not_started_is_sent_again() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1"))
        first = await server.receive()
        await server.send('{"error": {"request": 1, "code": "closing", "message": "not started"}}')
        await anyio.wait_all_tasks_blocked()
        assert not outcome.is_done
        await server.aclose(*DRAINED)
        server = await servers.accept()
        assert await server.receive() == first
        await server.send(string_frame("second"))
        assert await outcome.get() == "second"


@pytest.mark.anyio
@pytest.mark.parametrize("alone", [True, False])
async def test_a_call_that_could_not_be_sent_completely_is_sent_again(
    alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):

        def break_down(transport: MemoryTransport, message: object) -> bool:
            monkeypatch.undo()
            raise errors.ConnectionLost("broken pipe")

        if alone:
            for _ in range(3):  # then the calls receive their own replies
                outcome = Outcome(calls, connection.execute("0"))
                await answer(server)
                await outcome.get()
        monkeypatch.setattr(MemoryTransport, "send_now", break_down)
        outcome = Outcome(calls, connection.execute("1"))
        next_server = await servers.accept()
        await answer(next_server, "second")
        assert await outcome.get() == "second"
        server.abort()


@pytest.mark.anyio
async def test_a_message_that_is_too_long_is_not_sent_again() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1", idempotent=True))
        await server.receive()
        await server.aclose(1009, "too long")
        with pytest.raises(errors.MessageTooLarge):
            await outcome.get()


@pytest.mark.anyio
async def test_a_post_that_was_not_sent_is_sent_to_the_next_connection() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        server.abort()
        await until(connection, State.WAITING)
        outcome = Outcome(calls, connection.post("1"))
        server = await servers.accept()
        assert isinstance(await server.receive(), bytes)
        assert await outcome.get() is None
        server.abort()


@pytest.mark.anyio
async def test_after_a_drain_there_is_no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 1000.0)
    servers = Servers()
    async with connected(servers) as (connection, server, _):
        changes = connection.state_changes()
        await server.aclose(*DRAINED)
        (await servers.accept()).abort()
        assert await anext(changes) is State.CONNECTING
        assert await anext(changes) is State.CONNECTED


@pytest.mark.anyio
async def test_a_wrong_password_ends_it_and_the_calls_that_wait() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        changes = connection.state_changes()
        servers.refuse_with(errors.ConnectError("down"), errors.ConnectionRejected(401, "who are you?"))
        server.abort()
        await until(connection, State.WAITING)
        outcome = Outcome(calls, connection.execute("1"))
        with pytest.raises(errors.ConnectionRejected, match="401: who are you"):
            await outcome.get()
        assert isinstance(connection.closed, errors.ConnectionRejected)
        assert connection.state is State.CLOSED
        assert [change async for change in changes][-1] is State.CLOSED
        with pytest.raises(errors.ConnectionRejected, match="401: who are you"):
            await connection.execute("1")


@pytest.mark.anyio
async def test_retry_after_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 0.0)
    servers = Servers()
    async with connected(servers) as (_, server, _):
        servers.refuse_with(errors.ConnectionRejected(503, "full", 0.25))
        server.abort()
        while len(servers.attempts) < 2:
            await anyio.lowlevel.checkpoint()
        refused_at = anyio.current_time()
        (await servers.accept()).abort()
        assert anyio.current_time() - refused_at >= 0.24


@pytest.mark.anyio
@pytest.mark.parametrize("close", ["close", "abort"])
async def test_closing_fails_the_calls_that_wait(close: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 1000.0)
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        server.abort()
        await until(connection, State.WAITING)
        outcomes = [Outcome(calls, connection.execute("1")), Outcome(calls, connection.post("1"))]
        await anyio.wait_all_tasks_blocked()
        if close == "close":
            await connection.close()
        else:
            connection.abort()
        for outcome in outcomes:
            with pytest.raises(errors.ConnectionClosed, match="the connection is closed"):
                await outcome.get()
        with pytest.raises(errors.ConnectionClosed, match="Cannot execute on closed connection"):
            await connection.execute("1")
        assert connection.state is State.CLOSED
        assert servers.attempts == [0]


@pytest.mark.anyio
async def test_a_call_that_waits_can_be_cancelled_and_is_never_sent() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        server.abort()
        with anyio.move_on_after(0):
            await connection.execute("1")
        await until(connection, State.CONNECTED)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as others:
                servers.refuse_with(*[errors.ConnectError("down")] * 3)
                server = await servers.accept()
                server.abort()
                await until(connection, State.WAITING)
                others.start_soon(connection.execute, "never")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert connection.stopped_queries == 1
        outcome = Outcome(calls, connection.execute("next"))
        server = await servers.accept()
        request = await server.receive()
        assert isinstance(request, bytes)
        assert b"next" in request
        assert b"never" not in request
        await server.send(string_frame("x"))
        await outcome.get()
        server.abort()


@pytest.mark.anyio
async def test_the_first_connection_fails_at_once_unless_the_caller_is_patient() -> None:
    servers = Servers(2)
    servers.refuse_with(errors.ConnectError("one is down"), errors.ConnectError("two is down"))
    with pytest.raises(errors.ConnectError, match="two is down") as raised:
        await servers.connect()
    assert raised.value.__notes__ == ["Before that: one is down"]
    assert servers.attempts == [0, 1]
    servers.refuse_with(*[errors.ConnectError("down")] * 4)
    async with servers.connect(keep_trying=True):
        assert servers.attempts == [0, 1, 0, 1, 0, 1, 0]
    servers.abort()
    servers.refuse_with(errors.ConnectionRejected(401), errors.ConnectionRejected(403))
    with pytest.raises(errors.ConnectionRejected, match="403"):
        await servers.connect(keep_trying=True)


@pytest.mark.anyio
async def test_the_extended_protocol_may_come_and_go() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        servers.subprotocol = None
        server.abort()
        server = await servers.accept()
        outcome = Outcome(calls, connection.execute("1"))
        await answer(server)
        assert await outcome.get() == "answer"
        with pytest.raises(errors.RayforceWSError, match="speaks only the baseline protocol"):
            await connection.execute_verbose("1")
        server.abort()


@pytest.mark.anyio
async def test_the_state_of_a_connection_that_does_not_come_back(in_process_port: int) -> None:
    async with WSClient("127.0.0.1", in_process_port).connect() as connection:
        changes = connection.state_changes()
        assert connection.state.value == "connected"
        assert await connection.execute("(+ 1 2)", idempotent=True) == I64(3)
    assert connection.state is State.CLOSED
    assert [change async for change in changes] == [State.CLOSED]
    assert [change async for change in connection.state_changes()] == []


@pytest.mark.anyio
async def test_a_cancelled_wait_for_a_change_loses_none() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, _):
        changes = connection.state_changes()
        with anyio.move_on_after(0.01):
            await anext(changes)
        await server.aclose(*DRAINED)
        (await servers.accept()).abort()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(changes)
        assert await anext(changes) is State.CONNECTING


@pytest.mark.anyio
async def test_the_queries_of_all_connections_are_counted() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, _):
        for _ in range(2):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as others:
                    others.start_soon(connection.execute, "1")
                    await server.receive()
                    scope.cancel()
            assert await server.receive() == '{"cancel": 1}'
            await server.send('{"error": {"request": 1, "code": "cancel", "message": ""}}')
            await anyio.wait_all_tasks_blocked()
            server.abort()
            server = await servers.accept()
            await until(connection, State.CONNECTED)
        assert connection.stopped_queries == 2
        server.abort()


# Cancellation at every step


AGAIN = pytest.mark.parametrize("again", [(), (1,)], ids=["once", "twice"])
"""How many steps later to cancel again."""


@AGAIN
@pytest.mark.anyio
async def test_cancelling_the_first_connection_at_every_step_leaves_nothing(again: tuple[int, ...]) -> None:
    async def run(step: int) -> bool:
        servers = Servers()
        servers.refuse_with(*[errors.ConnectError("down")] * 2)
        async with no_leaks():
            pending = servers.connect(keep_trying=True)
            raised = await cancellation_of(use(pending), step, *[step + more for more in again])
            servers.abort()
        return raised is not None

    async def use(pending: PendingConnection) -> None:
        async with pending:
            pass

    assert await swept(run) >= 4


@AGAIN
@pytest.mark.anyio
@pytest.mark.parametrize("drained", [False, True])
async def test_cancelling_a_call_at_every_step_while_the_connection_comes_back(
    drained: bool, again: tuple[int, ...]
) -> None:
    async def run(step: int) -> bool:
        servers = Servers()

        async def serve() -> None:
            server = await servers.accept()
            await server.receive()
            if drained:
                await server.send('{"error": {"request": 1, "code": "closing", "message": ""}}')
                await server.aclose(*DRAINED)
            server.abort()
            server = await servers.accept()
            number = 0
            while True:
                try:
                    message = await server.receive()
                except errors.RayforceWSError:
                    return
                if isinstance(message, bytes):
                    number += 1
                    await server.send(string_frame("next" if b"next" in message else "first"))

        async with no_leaks():
            async with anyio.create_task_group() as serving:
                serving.start_soon(serve)
                async with servers.connect() as connection:
                    steps = [step, *[step + more for more in again]]
                    raised = await cancellation_of(connection.execute("first", idempotent=True), *steps)
                    for _ in range(3):
                        assert await connection.execute("next", idempotent=True) == "next"
                serving.cancel_scope.cancel()
            servers.abort()
        return raised is not None

    assert await swept(run) >= 2


@pytest.mark.trio
@pytest.mark.parametrize("then_again_after", [None, 0, 1, 2])
async def test_cancelling_the_block_at_every_step_of_any_task(
    then_again_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is made, lost, made again, and closed. Whatever is cancelled once or twice, nothing is left."""

    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 0.001)

    async def run(step: int) -> bool:
        servers = Servers()
        steps = (step,) if then_again_after is None else (step, step + then_again_after)
        made: list[WSClientConnection] = []
        async with no_leaks():
            with trio.fail_after(20), cancelled_at(*steps, of_all_tasks=True) as scopes:
                async with servers.connect() as connection, trio.open_nursery() as nursery:
                    made.append(connection)
                    servers.refuse_with(errors.ConnectError("down"))
                    (await servers.accept()).abort()
                    nursery.start_soon(partial(connection.execute, "1", idempotent=True))
                    await answer(await servers.accept())
            servers.abort()
        assert all(connection.state is State.CLOSED for connection in made)
        return any(scope.cancelled_caught for scope in scopes)

    assert await swept(run) >= 20


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_cancelling_the_block_once_and_twice_at_every_suspension_on_asyncio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection is made, lost, made again, and closed. Whatever is cancelled once or twice, nothing is left."""

    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 0.001)
    made: list[WSClientConnection] = []

    async def use(servers: Servers) -> None:
        async with servers.connect() as connection, anyio.create_task_group() as tasks:
            made.append(connection)
            servers.refuse_with(errors.ConnectError("down"))
            (await servers.accept()).abort()
            tasks.start_soon(partial(connection.execute, "1", idempotent=True))
            await answer(await servers.accept())

    async def run(step: int) -> bool:
        reached = False
        for suspensions in pairs(step):
            servers = Servers()
            async with no_leaks():
                reached |= await cancelled_on_asyncio(use(servers), suspensions)
                servers.abort()
        return reached

    assert await swept(run) >= 6
    assert all(connection.state is State.CLOSED for connection in made)


# Subscriptions


async def confirm(server: MemoryTransport, sequence: int, epoch: str = "e") -> dict[str, Any]:
    """Answer the hello and the next subscription; returns what the client asks for."""
    while "subscribe" not in (control := json.loads(await server.receive())):
        assert "hello" in control
        await server.send('{"hello": {"features": ["subscriptions"]}}')
    asked: dict[str, Any] = control["subscribe"]
    await server.send(json.dumps({"subscribed": {"id": asked["id"], "epoch": epoch, "sequence": sequence}}))
    return asked


def update(sequence: int) -> bytes:
    return bytes(update_frame(ProtocolUpdate(1, sequence, 0, string_frame(str(sequence))[HEADER_SIZE:])))


@asynccontextmanager
async def subscribed(
    servers: Servers,
) -> AsyncIterator[tuple[Subscription, MemoryTransport, anyio.abc.TaskGroup]]:
    """Yields a subscription that has taken update 6, and the server's end of the connection."""
    async with connected(servers) as (connection, server, calls):
        asked = Outcome(calls, confirm(server, 5))
        async with connection.subscribe("t") as updates:
            assert await asked.get() == {"id": 1, "topic": "t"}
            await server.send(update(6))
            assert (await anext(updates)).sequence == 6
            yield updates, server, calls


@pytest.mark.anyio
async def test_a_subscription_continues_behind_the_last_update_that_arrived() -> None:
    servers = Servers()
    async with subscribed(servers) as (updates, server, _):
        await server.send(update(7))
        await anyio.wait_all_tasks_blocked()
        for sequence in (7, 8):
            server.abort()
            server = await servers.accept()
            asked = await confirm(server, sequence)
            assert asked == {"id": 1, "topic": "t", "resume": {"epoch": "e", "sequence": sequence}}
            await server.send(update(sequence + 1))
            await anyio.wait_all_tasks_blocked()
        assert [(await anext(updates)).sequence for _ in range(3)] == [7, 8, 9]
        assert updates.position == Position("e", 9)


@pytest.mark.anyio
async def test_a_subscription_that_cannot_be_continued_raises_a_gap() -> None:
    servers = Servers()
    async with subscribed(servers) as (updates, server, calls):
        following = Outcome(calls, anext(updates))
        server.abort()
        server = await servers.accept()
        await server.send('{"hello": {"features": ["subscriptions"]}}')
        await server.send('{"unsubscribed": {"id": 1, "code": "gap", "message": "a new epoch"}}')
        with pytest.raises(errors.SubscriptionGap, match="a new epoch"):
            await following.get()


@pytest.mark.anyio
@pytest.mark.parametrize("subprotocol", [SUBPROTOCOL, None])
async def test_the_next_server_may_lack_subscriptions(subprotocol: str | None) -> None:
    servers = Servers()
    async with subscribed(servers) as (updates, server, calls):
        servers.subprotocol = subprotocol
        following = Outcome(calls, anext(updates))
        server.abort()
        server = await servers.accept()
        if subprotocol is not None:
            await server.send('{"hello": {"features": []}}')
        with pytest.raises(errors.RayforceWSError, match="does not offer subscriptions"):
            await following.get()


@pytest.mark.anyio
async def test_closing_ends_a_subscription_that_waits_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 1000.0)
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        asked = Outcome(calls, confirm(server, 5))
        async with connection.subscribe("t") as updates:
            await asked.get()
            following = Outcome(calls, anext(updates))
            server.abort()
            await until(connection, State.WAITING)
            await connection.close()
            with pytest.raises(errors.ConnectionClosed):
                await following.get()


@pytest.mark.anyio
async def test_a_subscription_that_was_left_does_not_continue() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        asked = Outcome(calls, confirm(server, 5))
        async with connection.subscribe("t"):
            await asked.get()
        server.abort()
        server = await servers.accept()
        assert "hello" in str(await server.receive())
        outcome = Outcome(calls, connection.execute("1"))
        assert isinstance(await server.receive(), bytes)
        await server.send(string_frame("x"))
        await outcome.get()


@AGAIN
@pytest.mark.anyio
async def test_cancelling_the_wait_for_an_update_at_every_step_while_the_connection_comes_back(
    again: tuple[int, ...],
) -> None:
    async def run(step: int) -> bool:
        servers = Servers()
        async with subscribed(servers) as (updates, server, calls):

            async def come_back() -> None:
                server.abort()
                other = await servers.accept()
                await confirm(other, 6)
                for sequence in (7, 8, 9):
                    await other.send(update(sequence))

            taken: list[int] = []

            async def take() -> None:
                async for each in updates:
                    taken.append(each.sequence)
                    if each.sequence == 8:
                        break

            back = Outcome(calls, come_back())
            raised = await cancellation_of(take(), step, *[step + more for more in again])
            await back.get()
            while taken[-1:] != [9]:
                taken.append((await anext(updates)).sequence)
            assert taken == [7, 8, 9]
        return raised is not None

    assert await swept(run) >= 4


@pytest.mark.anyio
async def test_no_update_is_lost_while_the_connection_to_a_real_server_is_cut(
    in_process_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnection.MAX_DELAY", 0.01)
    with anyio.fail_after(60):
        async with (
            proxy(in_process_port) as between,
            WSClient("127.0.0.1", in_process_port).connect() as publisher,
            WSClient("127.0.0.1", between.port).connect(reconnect=True) as connection,
            connection.subscribe("reconnecting_topic") as updates,
        ):
            for number in range(20):
                await until(connection, State.CONNECTED)
                await publisher.publish("reconnecting_topic", 2 * number)
                await between.reset()
                await until(connection, State.WAITING)
                await publisher.publish("reconnecting_topic", 2 * number + 1)
            taken = [await anext(updates) for _ in range(40)]
            assert [update.value for update in taken] == list(range(40))
            assert [update.lost for update in taken] == [0] * 40


async def confirm_and_ask(server: MemoryTransport, sequence: int, epoch: str = "e") -> bytes:
    """Confirm the next subscription; return the request for its snapshot."""
    await confirm(server, sequence, epoch)
    request = await server.receive()
    assert isinstance(request, bytes)
    return request


def snapshot(next_sequence: int, text: str) -> bytes:
    """Return the response with a snapshot."""
    items = [i64(next_sequence), NULL, string_frame(text)[HEADER_SIZE:]]
    payload = list_of(items)
    return Header(0, MessageType.RESPONSE, len(payload)).pack() + payload


@pytest.mark.anyio
async def test_a_subscription_is_entered_on_the_next_connection() -> None:
    """The connection is lost before the subscription is confirmed, then before the snapshot arrives."""
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        updates = connection.subscribe("t", snapshot="s")
        entered = Outcome(calls, updates.__aenter__())
        while "subscribe" not in json.loads(control := str(await server.receive())):
            assert "hello" in control
            await server.send('{"hello": {"features": ["subscriptions"]}}')
        server.abort()
        server = await servers.accept()
        request = await confirm_and_ask(server, 5, "first")
        server.abort()
        server = await servers.accept()
        assert await confirm_and_ask(server, 2, "second") == request
        await server.send(update(3))
        await server.send(snapshot(3, "rows"))
        assert await entered.get() is updates
        assert (updates.snapshot, updates.position) == ("rows", Position("second", 2))
        assert (await anext(updates)).sequence == 3
        await updates.__aexit__(None, None, None)


@pytest.mark.anyio
async def test_a_snapshot_that_the_server_has_not_started_is_asked_for_again() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        updates = connection.subscribe("t", snapshot="s")
        entered = Outcome(calls, updates.__aenter__())
        await confirm_and_ask(server, 5)
        await server.send('{"error": {"request": 1, "code": "closing", "message": "not started"}}')
        await server.aclose(*DRAINED)
        server = await servers.accept()
        await confirm_and_ask(server, 8, "second")
        await server.send(snapshot(9, "rows"))
        await entered.get()
        await updates.__aexit__(None, None, None)


@pytest.mark.anyio
async def test_a_snapshot_that_ends_its_server_is_not_asked_for_without_end() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        entered = Outcome(calls, connection.subscribe("t", snapshot="s").__aenter__())
        for _ in range(MAX_SENDS):
            await confirm_and_ask(server, 5)
            server.abort()
            server = await servers.accept()
        with pytest.raises(errors.ConnectionLost):
            await entered.get()
        assert isinstance(connection._exchange, ReconnectingExchange)
        assert not connection._exchange.subscribers


@pytest.mark.anyio
async def test_closing_ends_the_entering_of_a_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnection.FIRST_DELAY", 1000.0)
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        entered = Outcome(calls, connection.subscribe("t", snapshot="s").__aenter__())
        await confirm_and_ask(server, 5)
        server.abort()
        await until(connection, State.WAITING)
        await connection.close()
        with pytest.raises(errors.ConnectionClosed):
            await entered.get()


@pytest.mark.anyio
async def test_cancelling_the_entering_of_a_subscription_at_every_step_while_the_connection_comes_back() -> None:
    async def run(step: int) -> bool:
        servers = Servers()
        async with connected(servers) as (connection, first, calls):

            async def play(server: MemoryTransport) -> None:
                """Answer everything but the request for the snapshot, and return then."""
                while isinstance(message := await server.receive(), str):
                    if "hello" in message:
                        await server.send('{"hello": {"features": ["subscriptions"]}}')
                    elif '"subscribe"' in message:
                        number = json.loads(message)["subscribe"]["id"]
                        await server.send(json.dumps({"subscribed": {"id": number, "epoch": "e", "sequence": 5}}))

            played = anyio.CancelScope()

            async def play_until_cancelled() -> None:
                with played:
                    await play(first)
                    first.abort()
                    second = await servers.accept()
                    await play(second)
                    await second.send(snapshot(6, "rows"))

            calls.start_soon(play_until_cancelled)
            updates = connection.subscribe("t", snapshot="s")
            raised = await cancellation_of(updates.__aenter__(), step)
            played.cancel()
            await updates.__aexit__(None, None, None)
            exchange = connection._exchange
            assert isinstance(exchange, ReconnectingExchange)
            assert not exchange.subscribers
            session = await exchange.connected()
            assert (session._reading._needed, session._protocol._subscriptions) == (0, {})
        return raised is not None

    assert await swept(run) >= 5


@pytest.mark.anyio
async def test_a_subscription_that_ends_here_is_ended_at_the_server_at_once() -> None:
    """The server need not send updates that nobody takes until the block is left."""
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        asked = Outcome(calls, confirm(server, 5))
        async with connection.subscribe("t", max_buffer=1) as updates:
            await asked.get()
            for sequence in (6, 7):  # only one has room
                await server.send(update(sequence))
            assert await server.receive() == '{"unsubscribe": 1}'
            assert (await anext(updates)).sequence == 6
            with pytest.raises(errors.SlowSubscriber):
                await anext(updates)
        assert isinstance(connection._exchange, ReconnectingExchange)
        assert (await connection._exchange.connected())._reading._needed == 0


@pytest.mark.anyio
async def test_updates_lost_behind_a_snapshot_end_the_subscription_at_the_server_at_once() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        updates = connection.subscribe("t", snapshot="s", max_buffer=1)
        entered = Outcome(calls, updates.__aenter__())
        await confirm_and_ask(server, 5)
        for sequence in (6, 7):
            await server.send(update(sequence))
        await server.send(snapshot(6, "rows"))
        await entered.get()
        assert await server.receive() == '{"unsubscribe": 1}'
        with pytest.raises(errors.SlowSubscriber):
            await anext(updates)
        assert updates.position == Position("e", 5)
        await updates.__aexit__(None, None, None)


# Streams


async def ask_for_stream(server: MemoryTransport) -> bytes:
    """Answer the hello; return the request that opens a stream."""
    while isinstance(message := await server.receive(), str):
        assert "hello" in message
        await server.send('{"hello": {"features": ["streams"]}}')
    return bytes(message)


@pytest.mark.anyio
async def test_a_stream_that_the_server_has_not_started_is_opened_on_the_next_connection() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        stream = connection.stream("t")
        entered = Outcome(calls, stream.__aenter__())
        request = await ask_for_stream(server)
        await server.send('{"error": {"request": 1, "code": "closing", "message": "not started"}}')
        await server.aclose(*DRAINED)
        server = await servers.accept()
        assert await ask_for_stream(server) == request
        server.abort()
        with pytest.raises(errors.ConnectionLost, match="may or may not have been carried out"):
            await entered.get()


@pytest.mark.anyio
async def test_a_stream_is_used_by_one_task_at_a_time() -> None:
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        stream = connection.stream("t")
        entered = Outcome(calls, stream.__aenter__())
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(errors.RayforceWSError, match="used once"):
            await stream.__aenter__()
        with pytest.raises(errors.RayforceWSError, match="another task"):
            await anext(stream)
        await ask_for_stream(server)
        await connection.close()
        with pytest.raises(errors.ConnectionClosed):
            await entered.get()


# The end of a server, and the log


@pytest.mark.anyio
async def test_calls_behind_one_that_was_not_started_are_sent_again() -> None:
    """A server that is stopping answers the first one, and reads no more."""
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcomes = [Outcome(calls, connection.execute(str(number))) for number in range(3)]
        sent = [await server.receive() for _ in outcomes]
        await server.send('{"error": {"request": 1, "code": "closing", "message": "not started"}}')
        await server.aclose(*DRAINED)
        server = await servers.accept()
        again = [await server.receive() for _ in outcomes]
        assert sorted(map(str, again)) == sorted(map(str, sent))
        for _ in outcomes:
            await server.send(string_frame("second"))
        assert [await outcome.get() for outcome in outcomes] == ["second"] * 3


@pytest.mark.anyio
async def test_a_server_that_starts_nothing_and_does_not_close_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._reconnecting.REFUSING_TIMEOUT", 0.01)
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        outcome = Outcome(calls, connection.execute("1"))
        await server.receive()
        await server.send('{"error": {"request": 1, "code": "closing", "message": "not started"}}')
        await answer(await servers.accept(), "second")
        assert await outcome.get() == "second"


@pytest.mark.anyio
async def test_losses_and_their_ends_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rayforce_trio.client")
    servers = Servers()
    async with connected(servers) as (connection, server, calls):
        servers.refuse_with(errors.ConnectError("refused"), errors.ConnectError("refused"))
        await server.aclose(1011, "the engine\x1b[2J is lost")
        await until(connection, State.WAITING)
        outcome = Outcome(calls, connection.execute("1"))
        await answer(await servers.accept())
        await outcome.get()
    lost, back = (record.getMessage() for record in caplog.records)
    assert "; reconnecting: " in lost
    assert "the engine\\x1b[2J is lost" in lost
    assert "reconnected to " in back


@pytest.mark.anyio
async def test_giving_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rayforce_trio.client")
    servers = Servers()
    async with connected(servers) as (connection, server, _):
        servers.refuse_with(errors.ConnectionRejected(401, "wrong password"))
        server.abort()
        await until(connection, State.CLOSED)
    assert "gave up reconnecting to " in caplog.records[-1].getMessage()
