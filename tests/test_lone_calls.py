"""Calls that are alone on a connection, and therefore receive their own replies, on both event loops."""

import math
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
from support.connected import connected_to, exchange_of
from support.polling import until
from support.raw import BINARY, PING, PONG, RawPeer, frame
from support.scripted_server import connected, failure_of
from support.streams import EVENT_LOOPS, tcp_pair, tls_pair
from support.websockets import websocket

from rayforce_trio import WSClientConnection, errors
from rayforce_trio._client._exchange import Exchange
from rayforce_trio._client._reading import Receiver
from rayforce_trio._protocol import SUBPROTOCOL, Frame, Header, LazyFrame, MessageType, dump_error, string_frame
from rayforce_trio._streams import ByteStream
from rayforce_trio._transports import Transport
from rayforce_trio._transports._memory import MemoryTransport, memory_pair

PUSH = Header(0, MessageType.ASYNC, 1).pack() + b"\x7e"
REQUEST = Header(0, MessageType.SYNC, 1).pack() + b"\x7e"


@pytest.fixture(autouse=True)
def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that follow each other are in steady use, and the reader task stands by, however slow the machine is."""
    monkeypatch.setattr("rayforce_trio._client._reading.STANDBY", 60.0)
    monkeypatch.setattr("rayforce_trio._client._exchange.STANDBY", 0.25)


def receiver(connection: WSClientConnection) -> Receiver:
    return exchange_of(connection)._reading.receiver


async def use_steadily(connection: WSClientConnection) -> None:
    """Send one request after the other until the calls receive their replies."""
    with anyio.fail_after(5):
        while receiver(connection) is not Receiver.NOBODY:
            await connection.execute("(+ 1 2)")


class Server:
    """The other end of a connection: answers requests until `paused`, then keeps them for the test."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.paused = False
        self.received: list[Frame | str] = []
        self.got = anyio.Event()

    async def run(self) -> None:
        while True:
            message = await self.transport.receive()
            if self.paused:
                self.received.append(message)
                self.got.set()
            else:
                await self.transport.send(string_frame("steady"))

    async def until_received(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.received) < count:
                self.got = anyio.Event()
                await self.got.wait()


@asynccontextmanager
async def steady() -> AsyncIterator[tuple[WSClientConnection, Server]]:
    """Yield a connection whose next lone call receives, and its server, which is paused."""
    mine, others = memory_pair(SUBPROTOCOL)
    connection = WSClientConnection(Exchange(mine))
    server = Server(others)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection._exchange.run)
            async with anyio.create_task_group() as serving:

                async def serve() -> None:
                    with suppress(errors.RayforceWSError):
                        await server.run()

                serving.start_soon(serve)
                await use_steadily(connection)
                server.paused = True
                try:
                    yield connection, server
                finally:
                    others.abort()
            await connection.close()


class Call:
    """A call in a task of its own, which can be cancelled."""

    def __init__(self, connection: WSClientConnection, query: str = "query") -> None:
        self._connection = connection
        self._query = query
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.outcome: object = None

    async def run(self) -> None:
        try:
            with self.scope:
                self.outcome = (await self._connection.execute(self._query)).value
        except errors.RayforceWSError as error:
            self.outcome = error
        if self.scope.cancelled_caught:
            self.outcome = "cancelled"
        self.ended.set()


@pytest.mark.anyio
async def test_a_call_receives_its_own_reply_in_steady_use() -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        call = Call(connection)
        tasks.start_soon(call.run)
        await server.until_received(1)
        assert receiver(connection) is Receiver.CALL
        await server.transport.send(string_frame("reply"))
        await call.ended.wait()
        assert call.outcome == "reply"
        assert receiver(connection) is Receiver.NOBODY
        with anyio.fail_after(5):
            await until(lambda: receiver(connection) is Receiver.READER)


@pytest.mark.anyio
async def test_the_reader_task_receives_while_requests_are_rare(
    in_process_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._client._reading.STANDBY", 0.0)
    async with connected_to(in_process_port) as connection:
        for _ in range(5):
            await connection.execute("(+ 1 2)")
            assert receiver(connection) is Receiver.READER


@pytest.mark.anyio
async def test_other_messages_before_the_reply_are_not_the_reply() -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        call = Call(connection)
        tasks.start_soon(call.run)
        await server.until_received(1)
        for message in (PUSH, '{"hello": {}}', string_frame("reply")):
            await server.transport.send(message)
        await call.ended.wait()
        assert call.outcome == "reply"


@pytest.mark.anyio
async def test_calls_that_join_a_lone_call_get_their_replies_after_its_own() -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        calls = [Call(connection) for _ in range(3)]
        tasks.start_soon(calls[0].run)
        await server.until_received(1)
        for number, call in enumerate(calls[1:], 2):
            tasks.start_soon(call.run)
            await server.until_received(number)
        assert receiver(connection) is Receiver.CALL
        for text in ("first", "second", "third"):
            await server.transport.send(string_frame(text))
        for call in calls:
            await call.ended.wait()
        assert [call.outcome for call in calls] == ["first", "second", "third"]


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_leaves_the_others_their_replies() -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        first, second = Call(connection), Call(connection)
        tasks.start_soon(first.run)
        await server.until_received(1)
        number = exchange_of(connection)._protocol._last_number
        tasks.start_soon(second.run)
        await server.until_received(2)
        first.scope.cancel()
        await first.ended.wait()
        assert first.outcome == "cancelled"
        await server.until_received(3)
        assert server.received[2] == f'{{"cancel": {number}}}'
        await server.transport.send(dump_error(number, "cancel", ""))
        await server.transport.send(string_frame("second"))
        await second.ended.wait()
        assert second.outcome == "second"
        assert connection.stopped_queries == 1


@pytest.mark.anyio
async def test_a_call_while_a_cancelled_one_is_unanswered_gets_its_own_reply() -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        first, second = Call(connection), Call(connection)
        tasks.start_soon(first.run)
        await server.until_received(1)
        first.scope.cancel()
        await first.ended.wait()
        await server.until_received(2)
        tasks.start_soon(second.run)
        await server.until_received(3)
        await server.transport.send(string_frame("too late"))
        await server.transport.send(string_frame("second"))
        await second.ended.wait()
        assert second.outcome == "second"


@pytest.mark.anyio
async def test_a_request_behind_a_post_that_is_being_sent_wakes_the_reader_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        mine = exchange_of(connection)._transport
        send, unclogged = mine.send, anyio.Event()

        async def wait_and_send(message: Frame | LazyFrame | str) -> None:
            await unclogged.wait()
            await send(message)

        monkeypatch.setattr(mine, "send", wait_and_send)
        tasks.start_soon(connection.post, "post")
        while exchange_of(connection)._unsent is None:
            await anyio.lowlevel.checkpoint()
        assert receiver(connection) is Receiver.NOBODY
        call = Call(connection)
        tasks.start_soon(call.run)
        while not exchange_of(connection)._protocol.has_outgoing:
            await anyio.lowlevel.checkpoint()
        assert receiver(connection) is Receiver.READER
        unclogged.set()
        await server.until_received(2)
        await server.transport.send(string_frame("reply"))
        await call.ended.wait()
        assert call.outcome == "reply"


@pytest.mark.anyio
@pytest.mark.parametrize("abort", [False, True], ids=["close", "abort"])
async def test_a_call_that_receives_fails_when_the_connection_is_closed(abort: bool) -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        call = Call(connection)
        tasks.start_soon(call.run)
        await server.until_received(1)
        if abort:
            connection.abort()
        else:
            await connection.close()
        await call.ended.wait()
        assert isinstance(call.outcome, errors.ConnectionClosed)
        assert not call.outcome.by_peer


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (REQUEST, "^the server broke the protocol: a request from the server$"),
        (b"garbage", "^the server broke the protocol: a frame needs a header"),
        ("{", "^the server broke the protocol: a text message that is not JSON$"),
    ],
)
@pytest.mark.anyio
async def test_a_violation_that_a_call_receives_ends_the_connection(message: bytes | str, text: str) -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        calls = [Call(connection), Call(connection)]
        for number, call in enumerate(calls, 1):
            tasks.start_soon(call.run)
            await server.until_received(number)
        await server.transport.send(message)
        for call in calls:
            await call.ended.wait()
            with pytest.raises(errors.ProtocolError, match=text):
                raise call.outcome  # type: ignore[misc]  # an exception
        assert isinstance(connection.closed, errors.ProtocolError)


@pytest.mark.anyio
async def test_a_bug_that_a_call_meets_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        monkeypatch.setattr(exchange_of(connection)._protocol, "receive", lambda _: 1 / 0)
        call = Call(connection)
        tasks.start_soon(call.run)
        await server.until_received(1)
        await server.transport.send(string_frame("reply"))
        await call.ended.wait()
        with pytest.raises(errors.RayforceWSError, match="internal error in the client: ZeroDivisionError"):
            raise call.outcome  # type: ignore[misc]  # an exception


@pytest.mark.anyio
async def test_an_error_that_is_reported_while_the_writer_task_sends_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayforce_trio._client._exchange.STANDBY", 60.0)  # otherwise the reader task would raise it
    async with steady() as (connection, _), anyio.create_task_group() as tasks:
        exchange, sending, taken = exchange_of(connection), anyio.Event(), anyio.Event()

        async def wait(_: Frame | LazyFrame | str) -> None:
            sending.set()
            await taken.wait()

        monkeypatch.setattr(exchange._transport, "send", wait)
        tasks.start_soon(connection.post, "post")
        await sending.wait()
        exchange._report(errors.ConnectionLost("gone"))
        exchange._outgoing.set()
        taken.set()
        with anyio.fail_after(5):
            await exchange._closed.wait()
        assert isinstance(connection.closed, errors.ConnectionLost)


@pytest.mark.anyio
async def test_a_call_raises_the_code_with_which_the_server_closes() -> None:
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        call = Call(connection)
        tasks.start_soon(call.run)
        await server.until_received(1)
        await server.transport.aclose(1001, "going")
        await call.ended.wait()
        assert isinstance(call.outcome, errors.ConnectionClosed)
        assert (call.outcome.code, call.outcome.by_peer) == (1001, True)


@pytest.mark.anyio
async def test_the_end_of_a_cancelled_connection_ends_a_call_that_receives() -> None:
    mine, others = memory_pair(SUBPROTOCOL)
    connection = WSClientConnection(Exchange(mine))
    server = Server(others)
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as running:
            running.start_soon(connection._exchange.run)
            async with anyio.create_task_group() as serving:
                serving.start_soon(server.run)
                await use_steadily(connection)
                server.paused = True
                call = Call(connection)
                tasks.start_soon(call.run)
                await server.until_received(1)
                serving.cancel_scope.cancel()
            running.cancel_scope.cancel()
        await call.ended.wait()
        assert isinstance(call.outcome, errors.ConnectionClosed)
    others.abort()


# With a network


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", EVENT_LOOPS)
@pytest.mark.parametrize("pair", [tcp_pair, tls_pair])
@pytest.mark.parametrize("cancelled", [False, True], ids=["close", "cancel"])
async def test_a_call_that_receives_fails_before_the_server_answers_the_close(
    pair: Callable[[], Awaitable[tuple[ByteStream, ByteStream]]], cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("_base.SHIELDED_CLOSE_TIMEOUT", "_websocket.CLOSE_TIMEOUT"):
        monkeypatch.setattr(f"rayforce_trio._transports.{module}", math.inf)
    one, other = await pair()
    connection = WSClientConnection(Exchange(websocket(one, client=True, subprotocol=SUBPROTOCOL)))
    transport = websocket(other, client=False)
    server = Server(transport)
    call = Call(connection)
    running = anyio.CancelScope()
    closes = anyio.Event()

    async def run() -> None:
        with running:
            await connection._exchange.run()

    async def serve() -> None:
        with suppress(errors.ConnectionClosed):
            await server.run()
        closes.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            tasks.start_soon(serve)
            try:
                await use_steadily(connection)
                server.paused = True
                tasks.start_soon(call.run)
                await server.until_received(1)
                if cancelled:
                    running.cancel()
                else:
                    tasks.start_soon(connection.close)
                await call.ended.wait()
                await closes.wait()
                assert not connection._exchange.closed
                transport._connection.close(1000)
                transport.flush()
                await exchange_of(connection)._closed.wait()
            finally:
                transport.abort()
    assert isinstance(call.outcome, errors.ConnectionClosed)
    assert not call.outcome.by_peer


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 2, 3, 10])
async def test_a_surplus_reply_is_not_the_reply_to_the_next_request(count: int) -> None:
    """Whoever receives the reply before it: the reader task, or the call."""

    async def play(peer: RawPeer) -> None:
        await answer_until(peer, count - 1)
        await peer.receive_frame()
        replies = (frame(string_frame(text), masked=False) for text in ("reply", "one too many"))
        await peer.send(b"".join(replies))
        assert await peer.receive_close() == 1002

    async with connected(play) as connection:
        for _ in range(count - 1):
            await connection.execute("(+ 1 2)")
        assert (await connection.execute("(+ 1 2)")).value == "reply"
        assert isinstance(await failure_of(connection.execute("(+ 1 2)")), errors.ProtocolError)


@pytest.mark.anyio
@pytest.mark.parametrize("count", [64, 65, 5000])
async def test_a_call_leaves_many_messages_behind_its_reply_to_the_reader_task(count: int) -> None:
    """The reader task lets other tasks run in between."""
    async with steady() as (connection, server), anyio.create_task_group() as tasks:
        call = Call(connection)
        tasks.start_soon(call.run)
        await server.until_received(1)
        transport = server.transport
        assert isinstance(transport, MemoryTransport)
        transport._outgoing.send_nowait(string_frame("reply"))
        for _ in range(count - 1):
            transport._outgoing.send_nowait("{}")
        await call.ended.wait()
        assert call.outcome == "reply"
        assert receiver(connection) is (Receiver.NOBODY if count < 65 else Receiver.READER)
        server.paused = False
        for _ in range(3):
            assert (await connection.execute("(+ 1 2)")).value == "steady"


@pytest.mark.anyio
async def test_a_close_of_the_server_is_noticed_while_the_reader_task_stands_by() -> None:
    async def play(peer: RawPeer) -> None:
        await answer_until(peer, 20)
        await peer.send_close(1001)
        await peer.receive_close()

    async with connected(play) as connection:
        for _ in range(20):
            await connection.execute("(+ 1 2)")
        assert receiver(connection) is Receiver.NOBODY
        with anyio.fail_after(5):
            await until(lambda: bool(connection.closed))
        assert isinstance(connection.closed, errors.ConnectionClosed)
        assert isinstance(await failure_of(connection.execute("1")), errors.ConnectionClosed)


@pytest.mark.anyio
async def test_a_ping_is_answered_while_a_call_receives_and_while_the_reader_task_stands_by() -> None:
    pongs: list[bytes] = []

    async def play(peer: RawPeer) -> None:
        await answer_until(peer, 20)
        for place in (b"standby", b"call"):
            if place == b"call":
                await peer.receive_frame()
            await peer.send_frame(place, PING)
            opcode, payload = await peer.receive_frame()
            assert opcode == PONG
            pongs.append(payload)
        await peer.send_frame(string_frame("reply"))
        await peer.receive_close()
        await peer.send_close(1000)

    async with connected(play) as connection:
        for _ in range(20):
            await connection.execute("(+ 1 2)")
        assert receiver(connection) is Receiver.NOBODY
        with anyio.fail_after(5):
            await until(lambda: bool(pongs))
        assert (await connection.execute("(+ 1 2)")).value == "reply"
    assert pongs == [b"standby", b"call"]


async def answer_until(peer: RawPeer, count: int) -> None:
    for _ in range(count):
        opcode, _ = await peer.receive_frame()
        assert opcode == BINARY
        await peer.send_frame(string_frame("steady"))


@pytest.mark.anyio
async def test_a_silent_server_is_given_up_while_a_call_receives() -> None:
    async def play(peer: RawPeer) -> None:
        await answer_until(peer, 20)
        await anyio.sleep_forever()

    async with connected(play, ping_interval=0.2, ping_timeout=0.2) as connection:
        for _ in range(20):
            await connection.execute("(+ 1 2)")
        assert isinstance(await failure_of(connection.execute("1")), errors.ConnectionLost)


@pytest.mark.anyio
async def test_long_requests_and_replies_in_steady_use(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:
        for _ in range(3):
            await use_steadily(connection)
            assert (await connection.execute("(+ 1 2)" + " " * 2_000_000)).value == 3
            await use_steadily(connection)
            assert len(await connection.execute("(til 300000)")) == 300_000


INTERRUPTED = """
import os, random, signal, sys, threading, trio
from rayforce_trio import WSClient

async def main(port):
    async with WSClient("127.0.0.1", port).connect() as connection:
        number = 0
        for _ in range(100):
            try:
                threading.Timer(random.uniform(0.0005, 0.003), os.kill, (os.getpid(), signal.SIGINT)).start()
                while True:
                    number += 1
                    assert (await connection.execute(f"(+ {number} 1)")).value == number + 1
            except KeyboardInterrupt:
                pass
            assert (await connection.execute("(+ 1 2)")).value == 3

trio.run(main, int(sys.argv[1]))
print("in step")
"""


def test_interrupts_on_trio_leave_the_connection_in_step(in_process_port: int) -> None:
    """They are raised at checkpoints only, like cancellations, while a message is on its way through the client."""
    program = [sys.executable, "-c", INTERRUPTED, str(in_process_port)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in step\n", "")
