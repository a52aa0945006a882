"""`WSClient` and `WSClientConnection`: every way to connect, every way to end, and that nothing is left of it."""

import asyncio
import re
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

import anyio
import pytest
import trio
from support.clients import check_answers, in_time, is_closed_by_us
from support.leaks import no_leaks
from support.proxy import proxy
from support.raw import CLOSE, RawPeer, accept_raw, frame, raw_server

from rayforce_trio import WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._protocol import string_frame

LOCAL = "127.0.0.1"
RESULT_SIZE = 26 + 8 * 1000  # bytes of the frame that holds (til 1000)


# Connecting


@pytest.mark.anyio
async def test_connect_can_be_entered(in_process_port: int) -> None:
    async with in_time():
        async with WSClient(LOCAL, in_process_port).connect() as connection:
            await check_answers(connection)
        assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_connect_can_be_awaited_and_then_entered(in_process_port: int) -> None:
    async with in_time():
        async with await WSClient(LOCAL, in_process_port).connect() as connection:
            await check_answers(connection)
        assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_connect_can_be_awaited_and_then_closed(in_process_port: int) -> None:
    async with in_time():
        connection = await WSClient(LOCAL, in_process_port).connect()
        await check_answers(connection)
        await connection.close()
        assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_connect_can_use_a_task_group_of_the_callers(in_process_port: int) -> None:
    async with in_time(), anyio.create_task_group() as task_group:
        connection = await WSClient(LOCAL, in_process_port).connect(task_group)
        await check_answers(connection)
        await connection.close()
        async with WSClient(LOCAL, in_process_port).connect(task_group) as connection:
            await check_answers(connection)
        assert is_closed_by_us(connection)


@pytest.mark.trio
async def test_connect_can_use_a_nursery_of_the_callers(in_process_port: int) -> None:
    async with in_time(), trio.open_nursery() as nursery:
        connection = await WSClient(LOCAL, in_process_port).connect(nursery)
        await check_answers(connection)
        await connection.close()


@pytest.mark.anyio
async def test_a_connection_ends_with_the_task_group_it_lives_in(in_process_port: int) -> None:
    async with in_time():
        async with anyio.create_task_group() as task_group:
            connection = await WSClient(LOCAL, in_process_port).connect(task_group)
            await check_answers(connection)
            task_group.cancel_scope.cancel()
        assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_a_client_can_have_several_connections_at_once(in_process_port: int) -> None:
    async with in_time():
        client = WSClient(LOCAL, in_process_port)
        async with client.connect() as one, client.connect() as other, await client.connect() as third:
            for connection in (one, other, third):
                await check_answers(connection)
            await other.close()
            await check_answers(one)
            await check_answers(third)


@pytest.mark.anyio
async def test_where_nobody_listens_connecting_is_a_plain_error() -> None:
    with socket.socket() as unused:
        unused.bind((LOCAL, 0))  # taken, but nobody listens
        port = unused.getsockname()[1]
        client = WSClient(LOCAL, port)
        async with in_time():
            with pytest.raises(
                errors.ConnectError, match=rf"^Failed to connect to ws://127\.0\.0\.1:{port}: connection refused$"
            ):
                await client.connect()
            with pytest.raises(errors.ConnectError, match="Failed to connect"):
                async with client.connect():
                    pass
            async with anyio.create_task_group() as task_group:
                with pytest.raises(errors.ConnectError, match="Failed to connect"):
                    await client.connect(task_group)


HOSTS_THAT_ARE_NONE = [
    "",
    "a b",
    "a\0b",
    "ws://localhost",
    "host/path",
    "user@host",
    "host?",
    "host#",
    "host:80",
    "[::1]",
]


@pytest.mark.parametrize("host", [*HOSTS_THAT_ARE_NONE, 5, None, b"host"])
def test_a_host_that_is_none_is_refused(host: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match="Invalid host"):
        WSClient(host, 8765)


@pytest.mark.parametrize("port", [0, -1, 65536, True, "8765", 80.0])
def test_a_port_that_is_none_is_refused(port: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"Invalid port: .*Must be an int between 1 and 65535"):
        WSClient(LOCAL, port)


@pytest.mark.parametrize("size", [0, -1, True, "1", 1.5])
def test_a_message_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match="Invalid max_message_size"):
        WSClient(LOCAL, 8765, max_message_size=size)


@pytest.mark.parametrize("option", ["ping_interval", "ping_timeout"])
@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_ping_time_that_is_none_is_refused(option: str, seconds: float) -> None:
    options: dict[str, Any] = {option: seconds}
    with pytest.raises(errors.RayforceValueError, match=option):
        WSClient(LOCAL, 8765, **options)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (WSClient("localhost", 8765), "WSClient(ws://localhost:8765)"),
        (WSClient(host="localhost"), "WSClient(ws://localhost)"),
        (WSClient("::1", 8765), "WSClient(ws://[::1]:8765)"),
    ],
)
def test_the_repr_of_a_client_says_where_it_connects(client: WSClient, expected: str) -> None:
    assert repr(client) == expected


# A connection's state


@pytest.mark.anyio
async def test_repr_and_closed_tell_whether_a_connection_can_be_used(in_process_port: int) -> None:
    async with in_time():
        connection = await WSClient(LOCAL, in_process_port).connect()
        assert repr(connection) == "WSClientConnection(open)"
        assert connection.closed is False
        await connection.close()
        assert repr(connection) == "WSClientConnection(closed)"
        assert str(connection.closed) == "the connection is closed"


@pytest.mark.anyio
async def test_close_can_be_called_any_number_of_times(in_process_port: int) -> None:
    async with in_time(), WSClient(LOCAL, in_process_port).connect() as connection:
        for _ in range(3):
            await connection.close()
        async with anyio.create_task_group() as task_group:
            for _ in range(3):
                task_group.start_soon(connection.close)


@pytest.mark.anyio
async def test_a_closed_connection_takes_no_calls(in_process_port: int) -> None:
    async with in_time():
        connection = await WSClient(LOCAL, in_process_port).connect()
        await connection.close()
        for call in (connection.execute, connection.post):
            with pytest.raises(errors.ConnectionClosed, match=r"^Cannot execute on closed connection$"):
                await call("(+ 1 2)")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ending", "cls", "reason"),
    [
        (
            frame(struct.pack("!H", 1011) + b"engine lost", CLOSE, masked=False),
            errors.ConnectionClosed,
            "the peer closed the connection with code 1011: engine lost",
        ),
        (
            frame(b"no reply to anything", masked=False),
            errors.ProtocolError,
            "the server broke the protocol: not a Rayforce .*",
        ),
        (b"", errors.ConnectionLost, "the (peer disconnected without closing the connection|connection broke: .*)"),
    ],
    ids=["closed", "protocol error", "lost"],
)
async def test_a_call_on_a_lost_connection_says_why_it_was_lost(
    ending: bytes, cls: type[errors.RayforceWSError], reason: str
) -> None:
    async def end(peer: RawPeer) -> None:
        await accept_raw(peer)
        await peer.send(ending)

    async with in_time(), raw_server(end) as port, WSClient(LOCAL, port).connect() as connection:
        with pytest.raises(errors.RayforceWSError):
            await connection.execute("1")
        assert re.fullmatch(reason, str(connection.closed))
        for call in (connection.execute, connection.post):
            with pytest.raises(cls, match=f"^Cannot execute on closed connection: {reason}$") as raised:
                await call("(+ 1 2)")
            assert type(raised.value) is cls


@pytest.mark.anyio
async def test_closing_ends_the_calls_that_wait_and_drops_their_late_replies(caplog: pytest.LogCaptureFixture) -> None:
    asked = anyio.Event()

    async def answer_late(peer: RawPeer) -> None:
        await accept_raw(peer)
        for _ in range(10):
            await peer.receive_frame()
        asked.set()
        await peer.receive_close()
        for n in range(10):
            await peer.send_frame(string_frame(str(n)))
        await peer.send_close(1000)

    async def execute(connection: WSClientConnection) -> None:
        with pytest.raises(errors.ConnectionClosed, match="the connection is closed"):
            await connection.execute("1")

    async with (
        in_time(),
        raw_server(answer_late) as port,
        WSClient(LOCAL, port).connect() as connection,
        anyio.create_task_group() as task_group,
    ):
        for _ in range(10):
            task_group.start_soon(execute, connection)
        await asked.wait()
        await connection.close()
    assert caplog.messages == []


@pytest.mark.anyio
@pytest.mark.parametrize("awaited", [False, True])
async def test_the_bodys_exceptions_come_out_as_they_are(in_process_port: int, awaited: bool) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
            async with await pending if awaited else pending as connection:
                await check_answers(connection)
                raise KeyError("mine")
        assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_cancelling_the_body_closes_the_connection(in_process_port: int) -> None:
    async with in_time():
        with anyio.CancelScope() as scope:
            async with WSClient(LOCAL, in_process_port).connect() as connection:
                await check_answers(connection)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert is_closed_by_us(connection)


# Event loops


async def use_every_form(port: int) -> None:
    client = WSClient(LOCAL, port)
    async with no_leaks():
        async with client.connect() as connection:
            await check_answers(connection)
        connection = await client.connect()
        await check_answers(connection)
        await connection.close()


def test_event_loops_can_follow_one_another_in_a_process(in_process_port: int) -> None:
    for _ in range(2):
        trio.run(use_every_form, in_process_port)
        asyncio.run(use_every_form(in_process_port))


FORGETFUL = """
from rayforce_trio import WSClient

async def main():
    connection = await WSClient("127.0.0.1", {port}).connect()
    print(await connection.execute("(+ 1 2)"))

{run}
"""


@pytest.mark.parametrize("run", ["import trio; trio.run(main)", "import asyncio; asyncio.run(main())"])
def test_a_connection_nobody_closes_ends_with_the_run_without_noise(in_process_port: int, run: str) -> None:
    program = [sys.executable, "-c", FORGETFUL.format(port=in_process_port, run=run)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


# Limits


@pytest.mark.anyio
async def test_a_result_may_be_as_long_as_the_limit_and_not_a_byte_longer(in_process_port: int) -> None:
    async with in_time():
        async with WSClient(LOCAL, in_process_port, max_message_size=RESULT_SIZE).connect() as connection:
            assert len(await connection.execute("(til 1000)")) == 1000
        async with WSClient(LOCAL, in_process_port, max_message_size=RESULT_SIZE - 1).connect() as connection:
            await check_answers(connection)
            with pytest.raises(errors.MessageTooLarge, match=rf"longer than the {RESULT_SIZE - 1} bytes allowed here"):
                await connection.execute("(til 1000)")
            assert isinstance(connection.closed, errors.MessageTooLarge)


def query_of_size(size: int) -> str:
    """Return a query whose frame has `size` bytes: 26 of them before the text."""
    text = f'(count "{"x" * (size - 26 - 10)}")'
    assert len(text) == size - 26
    return text


@pytest.mark.trio
async def test_a_query_may_be_as_long_as_the_servers_limit_and_not_a_byte_longer() -> None:
    async with in_time(), WSServer(0, host=LOCAL, max_message_size=10_000) as server:
        async with WSClient(LOCAL, server.port).connect() as connection:
            assert (await connection.execute(query_of_size(10_000))).to_python() == 10_000 - 36
            with pytest.raises(errors.MessageTooLarge, match=r"refused a message as too large: .* 10000 bytes"):
                await connection.execute(query_of_size(10_001))
        async with WSClient(LOCAL, server.port).connect() as connection:
            await check_answers(connection)


@pytest.mark.anyio
async def test_by_default_a_server_takes_64_mib_and_refuses_more(in_process_port: int) -> None:
    limit = 64 * 1024 * 1024
    async with in_time(), WSClient(LOCAL, in_process_port).connect() as connection:
        assert (await connection.execute(query_of_size(limit))).to_python() == limit - 36
        with pytest.raises(errors.MessageTooLarge, match=rf"refused a message as too large: .* {limit} bytes"):
            await connection.execute(query_of_size(limit + 1))
        assert isinstance(connection.closed, errors.MessageTooLarge)


# Addresses


@pytest.mark.anyio
async def test_an_address_of_ipv6() -> None:
    """That what answers is no server shows that the address was understood."""

    async def hang_up(_: RawPeer) -> None:
        pass

    async with in_time(), raw_server(hang_up, "::1") as port:
        client = WSClient("::1", port)
        assert repr(client) == f"WSClient(ws://[::1]:{port})"
        with pytest.raises(
            errors.HandshakeError,
            match=rf"Failed to connect to ws://\[::1\]:{port}: the .* during the opening",
        ):
            await client.connect()


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"], ids=["empty", "long"])
async def test_a_name_that_cannot_be_looked_up(host: str) -> None:
    with pytest.raises(errors.ConnectError, match=r"^Failed to connect to .*: the host name is not valid$") as failed:
        await WSClient(host, 1).connect()
    assert type(failed.value) is errors.ConnectError


def test_a_nursery_that_is_none_is_refused() -> None:
    with pytest.raises(errors.RayforceValueError, match="Invalid nursery: 5"):
        WSClient(LOCAL, 80).connect(5)  # type: ignore[arg-type]  # the wrong type is the test


# Closing


@pytest.mark.anyio
async def test_closing_is_bounded_although_the_server_stopped_reading(
    in_process_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._transports._websocket.CLOSE_TIMEOUT", 0.3)
    async with in_time(), proxy(in_process_port) as between:
        connection = await WSClient(LOCAL, between.port).connect()
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(errors.ConnectionClosed):
                    await connection.execute("(+ 1 1)" + " " * 30_000_000)

            between.to_server.freeze(after=100_000)
            tasks.start_soon(ask)
            await between.to_server.frozen()
            with anyio.fail_after(5):
                await connection.close()


@pytest.mark.anyio
async def test_closing_while_replies_stream_in_is_no_internal_error(
    in_process_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(30):
        connection = await WSClient(LOCAL, in_process_port).connect()
        async with anyio.create_task_group() as tasks:

            async def ask(connection: WSClientConnection = connection) -> None:
                with suppress(errors.ConnectionClosed):
                    while True:
                        await connection.execute("(til 100)")

            for _ in range(20):
                tasks.start_soon(ask)
            await connection.execute("1")
            await connection.close()
    assert caplog.records == []


# Ctrl-C


INTERRUPTED = """
import os, signal, threading, trio
from rayforce_trio import WSClient

async def main():
    {open}
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            await connection.execute("(til 1000)")

for _ in range(5):
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize(
    "form",
    [
        'async with WSClient("127.0.0.1", {port}).connect() as connection:',
        'connection = await WSClient("127.0.0.1", {port}).connect()\n    if True:',
    ],
    ids=["scoped", "bare"],
)
def test_ctrl_c_is_a_keyboard_interrupt_and_nothing_else(in_process_port: int, form: str) -> None:
    program = [sys.executable, "-c", INTERRUPTED.format(open=form.format(port=in_process_port))]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n" * 5, "")
