import errno
import gc
import hashlib
import logging
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import trio
from rayforce import Expression, Operation, String, Vector
from rayforce.network.websocket import WSClient as RayforceClient
from support.engine_contract import ask, check_engine, open_session, post, request, whole
from support.fake_engine import (
    HELLO_ANSWER,
    FakeSession,
    Script,
    announce,
    compressed_frame,
    error_frame,
    fake_engine,
    frame,
)
from support.gateway import descriptors_of, gateway
from support.leaks import descriptors, no_leaks
from support.native import NativeServer, free_port, native_server
from support.polling import until
from support.raw import BINARY, CLOSE, CONTINUATION, RawPeer, open_raw
from support.watched import WatchedQuery, stopped, until_unread
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import NativeEngine, WSClient, WSClientConnection, WSServer
from rayforce_trio._codec import decode, encode
from rayforce_trio._engines import Engine, Session
from rayforce_trio._engines._native_session import NativeSession
from rayforce_trio._engines._reply_spool import ReplySpool
from rayforce_trio._protocol import (
    FLAGS_OFFSET,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    Failure,
    MessageType,
    Reply,
    Result,
    parse_header,
    string_frame,
    too_large,
)
from rayforce_trio._websocket import REASON_LIMIT
from rayforce_trio.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionRejected,
    EngineError,
    HandshakeError,
    RayforceLimitError,
    RayforceValueError,
)

LOCAL = "127.0.0.1"
SESSION = "rayforce_trio._engines._native_session"
MEGABYTE = 1024**2
LARGE = 20 * MEGABYTE

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells so much of another process")


@pytest.fixture(autouse=True)
def _no_internal_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No engine can make this package log a bug of its own."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
def short_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait but shortly for an engine to be reached, and to answer."""
    monkeypatch.setattr("rayforce_trio._engines._native.CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr("rayforce_trio._engines._native.HANDSHAKE_TIMEOUT", 0.2)


@pytest.fixture
def short_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait but shortly for the rest of a reply."""
    monkeypatch.setattr(f"{SESSION}.STALL_TIMEOUT", 0.2)
    monkeypatch.setattr(f"{SESSION}.STOP_TIMEOUT", 0.2)


@asynccontextmanager
async def served(engine: Engine, **options: Any) -> AsyncIterator[int]:
    """Serve an engine; yields the port."""
    with trio.fail_after(30):
        async with WSServer(port=0, host=LOCAL, engine=engine, **options) as server:
            yield server.port


@asynccontextmanager
async def connected(engine: Engine) -> AsyncIterator[WSClientConnection]:
    async with served(engine) as port, WSClient(LOCAL, port).connect() as connection:
        yield connection


def at(port: int) -> NativeEngine:
    return NativeEngine(LOCAL, port)


# The contract, and the arguments


@pytest.mark.trio
async def test_it_keeps_the_contract_of_engines(native_port: int, name: str) -> None:
    await check_engine(lambda: at(native_port), name, stops=True)


@pytest.mark.trio
@pytest.mark.parametrize("option", ["-u", "-U"])
async def test_it_keeps_the_contract_behind_a_password(option: str, name: str) -> None:
    """A server that is read-only lets nobody set a variable, and everything else is as ever."""
    with native_server(option, "secret") as native:
        engine = NativeEngine(LOCAL, native.port, user="anybody", password="secret")
        if option == "-u":
            await check_engine(lambda: engine, name, stops=True)
        else:
            async with open_session(engine) as session:
                with trio.fail_after(10):
                    assert await session.request(request(f"(set {name} 1)")) == Failure("access", "")
                    assert await ask(session, "(+ 1 2)") == 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"host": ""}, "Invalid host"),
        ({"port": 0}, "Invalid port"),
        ({"port": 65536}, "Invalid port"),
        ({"user": "a:b"}, "Invalid user or password. Must not contain NUL, and the user name no colon"),
        ({"in_flight": 0}, "Invalid in_flight: 0. Must be an int between 1 and 8"),
        ({"in_flight": 9}, "Invalid in_flight"),
        ({"in_flight": True}, "Invalid in_flight"),
        ({"password": "p\0w"}, "Invalid user or password. Must not contain NUL"),
        ({"user": "u" * 100, "password": "p" * 154}, "Invalid user or password. .* at most 253 bytes"),
        ({"password": None}, None),
        ({"password": b"bytes"}, None),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], match: str | None) -> None:
    with pytest.raises(RayforceValueError, match=match):
        NativeEngine(**{"host": LOCAL, "port": 5000, **arguments})


def test_its_repr_is_how_it_is_made_but_for_the_password() -> None:
    assert repr(NativeEngine("::1", 5000, user="ann", password="secret")) == "NativeEngine('::1', 5000)"


# Opening


async def refusal_of(engine: NativeEngine) -> str:
    """Return why no session can be opened, which a client that is refused is told, too."""
    with trio.fail_after(20):
        async with no_leaks(within=10):
            with pytest.raises(EngineError) as failed:
                await engine.open_session()
    told = str(failed.value)
    async with served(engine) as port:
        with pytest.raises(ConnectionRejected) as rejected:
            await WSClient(LOCAL, port).connect()
    assert (rejected.value.status, rejected.value.body) == (503, f"The engine is not available: {told}\n")
    name = f"the engine at {engine.host}:{engine.port} "
    assert told.startswith(name)
    return told.removeprefix(name)


@pytest.mark.trio
async def test_a_port_on_which_nobody_listens() -> None:
    why = await refusal_of(at(free_port()))
    assert why.startswith("cannot be reached: ")
    assert why.endswith("connection refused")


@pytest.mark.trio
async def test_a_name_that_can_be_no_hosts() -> None:
    engine = NativeEngine("x" * 64, 5000)
    with pytest.raises(EngineError, match=r"^the engine at x+:5000 cannot be reached: "):
        await engine.open_session()
    async with served(engine) as port:
        with pytest.raises(ConnectionRejected, match="cannot be reached"):
            await WSClient(LOCAL, port).connect()


@on_linux
@pytest.mark.trio
@pytest.mark.usefixtures("short_open")
async def test_a_port_that_takes_no_connection() -> None:
    """As with a host that cannot be reached, nothing at all comes back."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOCAL, 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        assert await refusal_of(at(listener.getsockname()[1])) == "did not accept a connection within 0.2 seconds"


@pytest.mark.trio
@pytest.mark.parametrize("wants_credentials", [False, True], ids=["from the beginning", "once it has the password"])
@pytest.mark.usefixtures("short_open")
async def test_a_server_that_says_nothing_may_be_busy_and_may_be_left(wants_credentials: bool) -> None:
    async def script(session: FakeSession) -> None:
        if wants_credentials:
            await session.shake_hands(b"\x03\x01")
        await session.until_hung_up()

    async with fake_engine(script, hello=None) as fake:
        with trio.fail_after(20):
            async with no_leaks(within=10), open_session(at(fake.port)) as session:
                assert not session.ready
        async with served(at(fake.port)) as port, no_leaks(within=5), WSClient(LOCAL, port).connect() as connection:
            with trio.move_on_after(0.1) as scope:
                await connection.execute("(+ 1 2)")
            assert scope.cancelled_caught


@on_linux
@pytest.mark.trio
async def test_a_server_that_the_system_had_stopped_answers_what_was_asked_meanwhile() -> None:
    with native_server() as native:
        async with served(at(native.port)) as port, trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def ask_it(connection: WSClientConnection, answered: trio.Event) -> None:
                answers.append(await connection.execute("(+ 1 2)"))
                answered.set()

            answered = trio.Event()
            async with stopped(native.pid):
                connection = await WSClient(LOCAL, port).connect(nursery)
                nursery.start_soon(ask_it, connection, answered)
                await wait_all_tasks_blocked()
                assert not answers
            await answered.wait()
            await connection.close()
    assert answers == [3]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x04\x00", "cannot be used: it has wire version 4; only version 3 is supported"),
        (b"SSH-2.0", "cannot be used: it is not a Rayforce server: it answered 53 53"),
        (b"\x03\x01\x01", "cannot be used: it rejected the user name or the password"),
        (
            b"",
            "cannot be used: it closed the connection during the handshake, as servers of another kind or version do",
        ),
    ],
)
@pytest.mark.usefixtures("short_open")
async def test_what_makes_an_engine_useless_is_told_even_if_it_is_known_late_only(answer: bytes, why: str) -> None:
    answer_now = trio.Event()

    async def script(session: FakeSession) -> None:
        await session.take(2)
        await answer_now.wait()
        await session.send(answer)
        if answer:
            await session.until_hung_up()

    async with fake_engine(script, hello=None) as fake, served(at(fake.port)) as port, no_leaks(within=10):
        with await open_raw(port) as peer:
            await peer.send_frame(request("1"))
            answer_now.set()
            await check_that_it_is_closed(peer, f"the engine at {LOCAL}:{fake.port} {why}"[:REASON_LIMIT])


@pytest.mark.trio
@pytest.mark.parametrize("given", [{"password": "wrong"}, {"user": "ann", "password": ""}, {}], ids=str)
@pytest.mark.parametrize("option", ["-u", "-U"])
async def test_a_wrong_password_and_a_missing_one(option: str, given: dict[str, Any]) -> None:
    with native_server(option, "secret") as native:
        engine = NativeEngine(LOCAL, native.port, **given)
        assert await refusal_of(engine) == "cannot be used: it rejected the user name or the password"


@pytest.mark.trio
async def test_a_user_the_servers_own_hook_refuses() -> None:
    hook = '(set .ipc.on.auth (fn [user password] (== user "ann")))'
    with native_server("-u", "secret", script=hook) as native:
        refused = NativeEngine(LOCAL, native.port, user="bob", password="secret")
        assert await refusal_of(refused) == "cannot be used: it rejected the user name or the password"
        with trio.fail_after(20):
            async with open_session(NativeEngine(LOCAL, native.port, user="ann", password="secret")) as session:
                assert await ask(session, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_another_wire_version_than_ours() -> None:
    async with fake_engine(FakeSession.serve, hello=b"\x04\x00") as fake:
        assert await refusal_of(at(fake.port)) == "cannot be used: it has wire version 4; only version 3 is supported"


@pytest.mark.trio
async def test_a_server_that_hangs_up_on_our_version(native_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._protocol._native_exchange.WIRE_VERSION", 4)
    hung_up = "cannot be used: it closed the connection during the handshake, as servers of another kind or version do"
    assert await refusal_of(at(native_port)) == hung_up


async def _speak_ssh(session: FakeSession) -> None:
    await session.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    await session.until_hung_up()


async def _speak_http(session: FakeSession) -> None:
    await session.take(2)
    await session.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


async def _hang_up(session: FakeSession) -> None:
    await session.take(2)


async def _hang_up_in_the_middle(session: FakeSession) -> None:
    await session.take(2)
    await session.send(HELLO_ANSWER[:1])


async def _reset(session: FakeSession) -> None:
    await session.take(2)
    session.reset()


async def _want_credentials_and_hang_up(session: FakeSession) -> None:
    await session.shake_hands(b"\x03\x01")
    await session.take(3)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("script", "why"),
    [
        (_speak_ssh, "cannot be used: it is not a Rayforce server: it answered 53 53"),
        (_speak_http, "cannot be used: it is not a Rayforce server: it answered 48 54"),
        (
            _hang_up,
            "cannot be used: it closed the connection during the handshake, as servers of another kind or version do",
        ),
        (
            _hang_up_in_the_middle,
            "cannot be used: it closed the connection during the handshake, as servers of another kind or version do",
        ),
        (_reset, "closed the connection during the handshake"),
        (_want_credentials_and_hang_up, "cannot be used: it rejected the user name or the password"),
    ],
)
async def test_what_answers_but_is_no_rayforce_server(script: Script, why: str) -> None:
    async with fake_engine(script, hello=None) as fake:
        assert await refusal_of(at(fake.port)) == why


@pytest.mark.trio
async def test_our_own_server_is_no_engine(native_port: int) -> None:
    """It waits for a client that speaks HTTP, and gives up."""
    async with served(at(native_port), open_timeout=0.2) as port:
        with pytest.raises(
            EngineError, match=r"cannot be used: it .* not a Rayforce server|closed the connection during the handshake"
        ):
            async with open_session(at(port)):
                await trio.sleep_forever()


@pytest.mark.trio
async def test_opening_can_be_cancelled_at_any_time() -> None:
    async with fake_engine(FakeSession.until_hung_up, hello=None) as fake:
        with trio.fail_after(20):
            async with no_leaks(within=10), trio.open_nursery() as nursery:
                nursery.start_soon(at(fake.port).open_session)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()


# What goes over the wire


@pytest.mark.trio
@pytest.mark.parametrize("message_type", MessageType)
async def test_whatever_a_client_of_the_baseline_sends_is_a_request(message_type: MessageType) -> None:
    """The message type is adapted, and not another byte."""
    async with fake_engine(FakeSession.serve) as fake, served(at(fake.port)) as port:
        with await open_raw(port, subprotocol=None) as peer:
            for n in range(1, 4):
                await peer.send_frame(encode("(+ 1 2)", message_type))
                assert await peer.receive_frame() == (BINARY, string_frame(str(n)))
        assert fake.sessions[0].requests == [request("(+ 1 2)")] * 3


@pytest.mark.trio
async def test_a_post_goes_through_as_one() -> None:
    """What follows it tells when it was carried out."""
    async with fake_engine(FakeSession.serve) as fake, connected(at(fake.port)) as connection:
        await connection.post("(+ 1 2)")
        assert (await connection.execute("(+ 3 4)")).to_python() == "3"
        first, fence, last = fake.sessions[0].requests
    assert (first, last) == (post("(+ 1 2)"), request("(+ 3 4)"))
    assert parse_header(fence).message_type is MessageType.SYNC
    assert decode(Result(fence)).to_python() == 0


@pytest.mark.trio
@pytest.mark.parametrize("subprotocol", [None, "rayforce.v1"])
async def test_a_compressed_request_never_reaches_the_engine(subprotocol: str | None) -> None:
    compressed = bytearray(request("(+ 1 2)"))
    compressed[FLAGS_OFFSET] = 1
    async with fake_engine(FakeSession.serve) as fake, served(at(fake.port)) as port:
        with await open_raw(port, subprotocol=subprotocol) as peer:
            await peer.send_frame(bytes(compressed))
            assert b"compressed requests are not supported" in (await peer.receive_frame())[1]
            await peer.send_frame(request("(+ 1 2)"))
            assert await peer.receive_frame() == (BINARY, string_frame("1"))
        assert fake.sessions[0].requests == [request("(+ 1 2)")]


@pytest.mark.trio
async def test_a_reply_may_come_byte_by_byte() -> None:
    async def serve_slowly(session: FakeSession) -> None:
        while True:
            await session.receive_request()
            for byte in string_frame("x" * 100):
                await session.send(bytes([byte]))

    async with fake_engine(serve_slowly) as fake, connected(at(fake.port)) as connection:
        for _ in range(5):
            assert (await connection.execute("1")).to_python() == "x" * 100


@pytest.mark.trio
async def test_what_the_engine_pushes_between_replies_is_dropped() -> None:
    def push(size: int) -> bytes:
        return encode("x" * size, MessageType.ASYNC)

    async def push_and_serve(session: FakeSession) -> None:
        await session.send(push(1))
        for n in range(30):
            await session.receive_request()
            await session.send(push(n) + push(300_000) + string_frame(str(n)) + push(1000)[:500])
            await session.send(push(1000)[500:])

    async with fake_engine(push_and_serve) as fake, connected(at(fake.port)) as connection:
        assert [(await connection.execute("1")).to_python() for _ in range(30)] == [str(n) for n in range(30)]


@pytest.mark.trio
async def test_what_a_topic_publishes_is_dropped(native_port: int, name: str) -> None:
    async with (
        served(at(native_port)) as port,
        WSClient(LOCAL, port).connect() as one,
        WSClient(LOCAL, port).connect() as other,
    ):
        await one.execute(f"(.mc.sub '{name})")
        for n in range(20):
            await other.execute(f"(.mc.pub '{name} (til 1000))")
            assert await one.execute(f"(+ 1 {n})") == n + 1


@pytest.mark.trio
@pytest.mark.parametrize("size", [40, 1000, 1_000_000])
async def test_a_post_that_the_engine_answers_at_length_is_followed_by_other_answers(size: int) -> None:
    """Its hooks decide what it answers."""

    async def serve(session: FakeSession) -> None:
        while True:
            if parse_header(await session.receive_request()).message_type is MessageType.ASYNC:
                await session.receive_request()
                answer = string_frame("x" * size)
                await session.send(answer[:70])
                await wait_all_tasks_blocked()
                await session.send(answer[70:])
            else:
                await session.answer(str(len(session.requests)))

    async with fake_engine(serve) as fake, connected(at(fake.port)) as connection:
        for n in range(3, 12, 3):
            await connection.post("1")
            assert (await connection.execute("1")).to_python() == str(n)


@pytest.mark.trio
async def test_posts_to_a_server_whose_hook_answers_at_length() -> None:
    with native_server(script="(set .ipc.on.sync (fn [query] (til 100000)))") as native:
        async with connected(at(native.port)) as connection:
            for _ in range(5):
                await connection.post("1")
                assert len(await connection.execute("1")) == 100_000


@pytest.mark.trio
async def test_an_engine_that_is_lost_while_a_thread_reads_the_long_reply_to_a_post(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread cannot be cancelled, so the post goes on for a while after the session has been closed."""
    get, reading, read = ReplySpool.get, trio.Event(), trio.Event()

    async def get_slowly(spool: ReplySpool) -> bytes:
        monkeypatch.setattr(ReplySpool, "get", get)
        reading.set()
        with trio.CancelScope(shield=True):
            await read.wait()
        return b"x"

    async def serve(session: FakeSession) -> None:
        await session.receive_request()
        await session.receive_request()
        await session.send(announce(300) + bytes(100))
        await session.until_hung_up()

    async def run(session: Session) -> None:
        with suppress(EngineError):
            await session.run()

    async def post_until_cancelled(session: Session) -> None:
        with scope:
            await session.post(request("1"))

    scope = trio.CancelScope()
    monkeypatch.setattr(ReplySpool, "get", get_slowly)
    with trio.fail_after(20):
        async with fake_engine(serve) as fake, trio.open_nursery() as nursery:
            session = await at(fake.port).open_session()
            nursery.start_soon(run, session)
            nursery.start_soon(post_until_cancelled, session)
            await reading.wait()
            scope.cancel()
            await session.aclose()
            read.set()
    assert scope.cancelled_caught


@pytest.mark.trio
@pytest.mark.parametrize("size", [2047, 2048, 2000 + 0x7F, 2048 + 0x7F, 70_000, 400_000])
async def test_a_compressed_reply_reaches_the_client_decompressed(size: int) -> None:
    """Of any size, the ones too whose size begins with the byte that marks an error elsewhere."""
    plain = string_frame("x" * (size - 10))
    assert len(plain) == HEADER_SIZE + size

    async def serve(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(compressed_frame(plain[HEADER_SIZE:]))
        await session.serve()

    async with fake_engine(serve) as fake, open_session(at(fake.port)) as session:
        with trio.fail_after(20):
            assert await whole(session, await session.request(request("1"))) == Result(plain)
            assert await ask(session, "1") == "2"


@pytest.mark.trio
@pytest.mark.parametrize("size", [2_000, 70_000, 2_000_000])
@pytest.mark.parametrize("is_compressed", [False, True])
async def test_a_reply_above_the_limit_is_read_and_replaced_by_an_error(size: int, is_compressed: bool) -> None:
    plain = string_frame("x" * (size - 10))
    sent = compressed_frame(plain[HEADER_SIZE:]) if is_compressed else plain

    async def serve(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(sent[:100])
        await trio.testing.wait_all_tasks_blocked()
        assert not replies  # the session is not usable before the reply has ended
        await session.send(sent[100:])
        await session.serve()

    replies = []
    async with fake_engine(serve) as fake, open_session(at(fake.port)) as session:
        session.max_reply_size = size + HEADER_SIZE - 1
        with trio.fail_after(20):
            replies.append(await session.request(request("1")))
            assert replies == [too_large(size + HEADER_SIZE, size + HEADER_SIZE - 1)]
            assert not session.unread
            assert await ask(session, "1") == "2"


# Sizes


@pytest.mark.trio
async def test_a_request_longer_than_an_engine_takes_is_answered_with_an_error(
    native_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = "(+ 1 2)" + " " * 993
    monkeypatch.setattr(f"{SESSION}.NATIVE_MAX_REQUEST", len(request(longest)) - HEADER_SIZE)
    monkeypatch.setattr(f"{SESSION}._MAX_START_SIZE", len(request(longest)))
    async with no_leaks(within=10), connected(at(native_port)) as connection:
        assert await connection.execute(longest) == 3
        with pytest.raises(RayforceLimitError, match=r"^limit: the engine accepts requests of at most \d+ bytes$"):
            await connection.execute(longest + " ")
        assert await connection.execute(longest) == 3


@pytest.mark.trio
async def test_a_post_longer_than_an_engine_takes_is_an_error_in_the_log(
    native_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{SESSION}.NATIVE_MAX_REQUEST", 1000)
    async with connected(at(native_port)) as connection:
        await connection.post("(+ 1 2)" + " " * 1000)
        assert await connection.execute("(+ 1 2)") == 3
    assert "a post failed: limit: the engine accepts requests of at most 1000 bytes" in caplog.text


@pytest.mark.trio
async def test_large_uploads(native_port: int, name: str) -> None:
    column = Vector.from_numpy(np.arange(LARGE // 8))
    async with connected(at(native_port)) as connection:
        assert await connection.execute("(+ 1 2)" + " " * LARGE) == 3
        assert await connection.execute(Expression(Operation.SUM, column)) == sum(range(LARGE // 8))
        await connection.post(f"(set {name} 1)" + " " * LARGE)
        assert await connection.execute(name) == 1


# Stopping


@pytest.mark.trio
@pytest.mark.parametrize(
    ("size", "is_full"),
    [(100, False), (100, True), (LARGE, False)],
    ids=["the network is free", "the network is full", "the request itself is more than the network takes"],
)
async def test_a_stop_follows_its_request_however_late_the_engine_reads(size: int, is_full: bool) -> None:
    read_on = trio.Event()
    filling = 0

    async def serve(session: FakeSession) -> None:
        await session.shake_hands()  # the second connection, which only repeats stops, never gets past this
        session.receive_stops_inline()
        await read_on.wait()
        await session.receive_request()
        await session.take(filling)
        assert await session.take(1) == b"!"
        await session.send(error_frame("cancel"))
        await session.serve()

    replies: list[Reply] = []

    async def ask_at_length(session: Session) -> None:
        replies.append(await session.request(request(" " * size)))

    async with fake_engine(serve, hello=None) as fake, open_session(at(fake.port)) as session:
        assert isinstance(session, NativeSession)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_at_length, session)
                await wait_all_tasks_blocked()
                if is_full:
                    filling = _fill(session._stream._socket.fileno())
                session.cancel()
                await wait_all_tasks_blocked()
                read_on.set()
            assert replies == [Failure("cancel", "")]
            assert await ask(session, "1") == "2"


def _fill(descriptor: int) -> int:
    """Send on a socket until the network takes no more; returns how many bytes it took."""
    sock = socket.socket(fileno=descriptor)
    taken = 0
    try:
        while True:
            taken += sock.send(bytes(MEGABYTE))
    except BlockingIOError:
        return taken
    finally:
        sock.detach()


@pytest.mark.trio
@pytest.mark.usefixtures("short_open")
async def test_a_request_cancelled_before_the_handshake_is_never_sent() -> None:
    greet = trio.Event()
    replies: list[Reply] = []

    async def serve(session: FakeSession) -> None:
        await session.take(2)
        await greet.wait()
        await session.send(HELLO_ANSWER)
        await session.serve()

    async def ask_for(session: Session, query: str) -> None:
        replies.append(await session.request(request(query)))

    async with fake_engine(serve, hello=None) as fake, open_session(at(fake.port)) as session:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_for, session, "1")
                await wait_all_tasks_blocked()
                session.cancel()
            assert replies == [Failure("cancel", "the request was cancelled before it was started")]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_for, session, "2")
                await wait_all_tasks_blocked()
                assert session.running_since() is None
                greet.set()
            assert replies[1:] == [Result(string_frame("1"))]
        (own,) = [each for each in fake.sessions if each.requests]
        assert own.requests == [request("2")]


@pytest.mark.trio
async def test_a_session_that_waits_for_the_engine_does_not_keep_the_last_reply(native_port: int) -> None:
    replied = trio.Event()
    replies: list[Reply] = []

    def answer(reply: Reply) -> None:
        replies.append(reply)
        replied.set()

    async with open_session(at(native_port)) as session:
        assert session.start(request("(til 5000)"), answer)
        await replied.wait()
        await wait_all_tasks_blocked()
        reply = replies.pop()
        assert isinstance(reply, Result)
        assert len(reply.frame) > 5000
        assert gc.get_referrers(reply.frame) == [reply]


@on_linux
@pytest.mark.trio
async def test_a_query_cancelled_while_the_engine_is_stopped_never_runs(tmp_path: Path) -> None:
    query = WatchedQuery(tmp_path)
    query.release()
    with native_server() as native:
        async with served(at(native.port)) as port, WSClient(LOCAL, port).connect() as one:
            async with stopped(native.pid):
                await _cancel_while_stopped(one, query, native)
                await until_unread(native.pid, len(request(query.text)) + len(b"!"))
            assert await one.execute("(+ 1 2)") == 3
            async with WSClient(LOCAL, port).connect() as other:
                assert await other.execute("(+ 2 2)") == 4
    assert not query.has_begun


@on_linux
@pytest.mark.trio
async def test_a_query_whose_client_has_left_while_the_engine_was_stopped_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._server._connection.CLOSE_TIMEOUT", 0.5)
    query = WatchedQuery(tmp_path)
    query.release()
    with native_server() as native:
        async with served(at(native.port)) as port, WSClient(LOCAL, port).connect() as other:
            assert await other.execute("(+ 1 2)") == 3
            ours, theirs = descriptors(), descriptors_of(native.pid)
            async with WSClient(LOCAL, port).connect() as one, stopped(native.pid):
                await _cancel_while_stopped(one, query, native)
                with trio.fail_after(5):
                    await one.close()
                await until(lambda: not descriptors() - ours)
            assert await other.execute("(+ 1 2)") == 3
            await until(lambda: descriptors_of(native.pid) == theirs)
    assert not query.has_begun


async def _cancel_while_stopped(connection: WSClientConnection, query: WatchedQuery, native: NativeServer) -> None:
    """Ask, wait until the engine could read it, and cancel; that takes no time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.execute, query.text)
        await until_unread(native.pid, len(request(query.text)))
        cancelled_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - cancelled_at < 5


# Bad engines


async def check_that_it_ends_the_session(script: Script, why: str) -> None:
    """The session fails, and a client's connection is closed; both say why, and who comes next is served."""
    async with fake_engine(script) as fake:
        told = f"the engine at {LOCAL}:{fake.port} {why}"
        async with no_leaks(within=10):
            with trio.fail_after(20), pytest.raises(EngineError) as lost:
                async with open_session(at(fake.port)) as session:
                    await whole(session, await session.request(request("1")))
            assert str(lost.value) == told
        async with no_leaks(within=10), served(at(fake.port)) as port:
            async with WSClient(LOCAL, port).connect() as connection:
                with pytest.raises(ConnectionClosed) as closed:
                    await connection.execute("1")
                assert (closed.value.code, closed.value.reason) == (1011, told[:REASON_LIMIT])
            fake.script = FakeSession.serve
            async with WSClient(LOCAL, port).connect() as connection:
                assert (await connection.execute("1")).to_python() == "1"


def _with_header(field: int, byte: int) -> bytes:
    changed = bytearray(string_frame("x" * 100))
    changed[field] = byte
    return bytes(changed)


GARBAGE = b"garbage, and more of it than a frame's header has, and more than is looked at at once"


@pytest.mark.trio
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (GARBAGE, "not a Rayforce frame: it begins with 67617262, not fadeface"),
        (_with_header(4, 4), "wire version 4 is not supported; expected 3"),
        (_with_header(6, 1), "big-endian frames are not supported"),
        (_with_header(MESSAGE_TYPE_OFFSET, 3), "unknown message type 3"),
        (announce(0), "the header announces a payload of 0 bytes"),
        (announce(-1), "the header announces a payload of -1 bytes"),
        (announce(2**40) + bytes(100), "it sent a reply of 1099511627776 bytes; the limit is 17179869184"),
        (request("1"), "it sent a request"),
    ],
)
@pytest.mark.usefixtures("short_stall")
async def test_what_is_no_reply(reply: bytes, why: str) -> None:
    await check_that_it_ends_the_session(_answering(reply), f"broke the protocol: {why}")


@pytest.mark.trio
@pytest.mark.parametrize(
    "reply",
    [
        frame(b"abc", flags=1),
        frame(bytes(4), flags=1),
        frame(bytes(4) + b"\x05a", flags=1),
        frame((50).to_bytes(4, "little") + b"\xcea", flags=1),
        frame(compressed_frame(b"x" * 500)[HEADER_SIZE:] + b"\x05a", flags=1),
        frame(compressed_frame(b"x" * 500)[HEADER_SIZE:-1], flags=1),
    ],
    ids=[
        "shorter than its size",
        "empty",
        "longer than empty",
        "ends in the middle of a run",
        "too long",
        "too short",
    ],
)
@pytest.mark.usefixtures("short_stall")
async def test_a_damaged_compressed_reply(reply: bytes) -> None:
    taken: list[Reply] = []

    async def ask_once(port: int) -> None:
        async with open_session(at(port)) as session:
            taken.append(await whole(session, await session.request(request("1"))))

    async with fake_engine(_answering(reply)) as fake:
        with trio.fail_after(20), pytest.raises(EngineError, match=r"^the engine at .* sent a damaged reply: "):
            await ask_once(fake.port)
    assert not taken


@pytest.mark.trio
async def test_a_compressed_reply_that_goes_on_after_its_end() -> None:
    """With runs of nothing: what comes late must not be taken for the beginning of the next reply."""
    reply = frame(compressed_frame(b"x" * 500)[HEADER_SIZE:] + bytes(100), flags=1)

    async def serve(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(reply[:-100])
        await session.receive_request()
        await session.send(reply[-100:])
        await session.answer("1")
        await session.until_hung_up()

    async def ask_twice(port: int) -> None:
        async with open_session(at(port)) as session:
            for _ in range(2):
                await whole(session, await session.request(request("1")))

    async with fake_engine(serve) as fake:
        with trio.fail_after(20), pytest.raises(EngineError, match=r"^the engine at .* sent a damaged reply: "):
            await ask_twice(fake.port)


@pytest.mark.trio
@pytest.mark.parametrize(
    "reply",
    [string_frame("1")[:1], string_frame("1")[:-1], string_frame("x" * 100_000)[:50_000], announce(2**33)],
    ids=["half a header", "half a short frame", "half a long frame", "a header alone"],
)
@pytest.mark.usefixtures("short_stall")
async def test_half_a_frame_and_then_nothing(reply: bytes) -> None:
    await check_that_it_ends_the_session(_answering(reply), "sent part of a reply, and then nothing for 0.2 seconds")


@pytest.mark.trio
@pytest.mark.parametrize(
    "reply",
    [b"", string_frame("1")[:1], string_frame("1")[:-1], string_frame("x" * 100_000)[:50_000]],
    ids=["nothing", "half a header", "half a short frame", "half a long frame"],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["hangs up", "reset"])
async def test_half_a_frame_and_then_the_end(reply: bytes, is_reset: bool) -> None:
    async def script(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(reply)
        if is_reset:
            session.reset()

    await check_that_it_ends_the_session(script, "disconnected")


def _answering(reply: bytes) -> Script:
    async def script(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(reply)
        await session.until_hung_up()

    return script


@pytest.mark.trio
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (None, "disconnected"),
        (b"", "disconnected"),
        (string_frame("1"), "broke the protocol: it sent a reply without a request"),
        (error_frame("type"), "broke the protocol: it sent a reply without a request"),
        (request("1"), "broke the protocol: it sent a request"),
        (GARBAGE, "broke the protocol: not a Rayforce frame"),
        (post("1")[:9], "sent part of a reply, and then nothing for 0.2 seconds"),
    ],
    ids=["reset", "hang-up", "a reply", "an error", "a request", "garbage", "half a header"],
)
@pytest.mark.usefixtures("short_stall")
async def test_a_client_that_asks_nothing_is_told_too_when_its_engine_is_lost(fault: bytes | None, why: str) -> None:
    answered = trio.Event()

    async def serve_once(session: FakeSession) -> None:
        await session.receive_request()
        await session.answer("1")
        await answered.wait()
        if fault is None:
            session.reset()
        elif fault:
            await session.send(fault)
            await session.until_hung_up()

    async with fake_engine(serve_once) as fake, served(at(fake.port)) as port:
        with await open_raw(port) as peer:
            await peer.send_frame(request("1"))
            assert await peer.receive_frame() == (BINARY, string_frame("1"))
            answered.set()
            with trio.fail_after(10):
                await check_that_it_is_closed(peer, f"the engine at {LOCAL}:{fake.port} {why}")


async def check_that_it_is_closed(peer: RawPeer, why: str) -> None:
    opcode, payload = await peer.receive_frame()
    assert opcode == CLOSE
    assert int.from_bytes(payload[:2]) == 1011
    assert payload[2:].decode().startswith(why)
    await peer.send_close(1011)


@pytest.mark.trio
async def test_a_native_server_that_is_killed(tmp_path: Path) -> None:
    """Who asked and who did not are told at once, and so is who comes later."""
    query = WatchedQuery(tmp_path)
    with native_server() as native:
        async with no_leaks(within=10), served(at(native.port)) as port:
            gone = f"the engine at {LOCAL}:{native.port} disconnected"
            async with WSClient(LOCAL, port).connect() as asking:
                with await open_raw(port) as idle:

                    async def kill() -> None:
                        await query.begun()
                        native.kill()
                        await check_that_it_is_closed(idle, gone)

                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(kill)
                        with pytest.raises(ConnectionClosed) as closed:
                            await asking.execute(query.text)
                    assert (closed.value.code, closed.value.reason) == (1011, gone)
            with pytest.raises(ConnectionRejected, match=r"cannot be reached: .* refused"):
                await WSClient(LOCAL, port).connect()


@pytest.mark.trio
async def test_a_native_server_that_a_client_ends() -> None:
    with native_server() as native:
        gone = rf"with code 1011: the engine at {LOCAL}:{native.port} disconnected$"
        async with (
            no_leaks(within=10),
            served(at(native.port)) as port,
            WSClient(LOCAL, port).connect() as one,
            WSClient(LOCAL, port).connect() as other,
        ):
            for connection, query in ((one, "(exit 3)"), (other, "(+ 1 2)")):
                with pytest.raises(ConnectionClosed, match=gone):
                    await connection.execute(query)


# What the server has to live with


LONG = 300_000_000  # bytes
LONG_QUERY = request(f"(til {LONG // 8})")
SHORTER_QUERY = request("(til 10000000)")  # 80 MB: still much more than sockets hold
LITTLE = 60_000_000


@on_linux
@pytest.mark.trio
@pytest.mark.parametrize("spare", [0, 1])
async def test_a_server_without_a_descriptor_left_serves_those_it_has(
    native_port: int, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With none left, new clients wait to be accepted; with one left, none is for the engine, and they are refused."""
    with gateway(native_port) as server, trio.fail_after(60):
        async with AsyncExitStack() as stack:
            client = WSClient(LOCAL, server.port)
            connections = [await stack.enter_async_context(client.connect()) for _ in range(5)]
            server.leave_descriptors(spare)
            with monkeypatch.context() as patch:
                patch.setattr("rayforce_trio._client._client.OPEN_TIMEOUT", 1.0 if spare == 0 else 20.0)
                for _ in range(2):
                    with pytest.raises(ConnectError) as refused:
                        await client.connect()
                    for connection in connections:
                        assert await connection.execute("(+ 1 2)") == 3
            if spare == 0:
                assert isinstance(refused.value, HandshakeError)
            else:
                assert isinstance(refused.value, ConnectionRejected)
                assert refused.value.status == 503
                assert "too many open files" in refused.value.body
            for connection in connections[:3]:
                await connection.close()
            while True:
                with suppress(ConnectError):
                    async with client.connect() as connection:
                        assert await connection.execute("(+ 1 2)") == 3
                        break


@on_linux
@pytest.mark.trio
async def test_a_reply_for_which_no_file_can_be_had_ends_its_own_connection_alone(native_port: int) -> None:
    with gateway(native_port) as server, trio.fail_after(60):
        async with WSClient(LOCAL, server.port).connect() as other:
            with await open_raw(server.port) as slow:
                server.leave_descriptors(0)
                await slow.send_frame(SHORTER_QUERY)
                await slow.receive_frame()
                assert await other.execute("(+ 1 2)") == 3
                assert await slow.receive_close() == 1011
            assert await other.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_of_a_reply_that_cannot_be_kept_is_told_why(native_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    stored = "sent a reply that cannot be stored in a temporary file: No space left on device"
    told = rf"^the engine at {LOCAL}:{native_port} {stored}$"

    async def ask_and_read_nothing() -> None:
        async with open_session(at(native_port)) as session:
            await session.request(SHORTER_QUERY)
            await trio.sleep_forever()

    with trio.fail_after(20), pytest.raises(EngineError, match=told):
        await ask_and_read_nothing()


@pytest.mark.slow
@on_linux
@pytest.mark.trio
@pytest.mark.parametrize("is_slow", [False, True], ids=["a fast client", "one that does not read for long"])
async def test_a_reply_of_300_mb_costs_the_server_little_memory_and_the_others_nothing(
    native_port: int, is_slow: bool
) -> None:
    with gateway(native_port) as server, trio.fail_after(60):
        async with WSClient(LOCAL, server.port).connect() as other:
            with await open_raw(server.port) as peer:
                before = server.memory
                await peer.send_frame(LONG_QUERY)
                opcode, beginning = await peer.receive_frame()
                assert opcode == BINARY
                if is_slow:
                    with trio.fail_after(15):
                        assert await other.execute("(+ 1 2)") == 3
                assert await _digest_of_rest(peer, beginning) == _digest_of_long_reply()
                await peer.send_frame(request("(+ 1 2)"))
                opcode, answer = await peer.receive_frame()
                assert (opcode, decode(Result(answer))) == (BINARY, 3)
                assert server.peak_memory - before < LITTLE


@on_linux
@pytest.mark.trio
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_client_that_leaves_in_the_middle_of_a_long_reply_leaves_nothing_behind(
    native_port: int, is_reset: bool
) -> None:
    with gateway(native_port) as server, trio.fail_after(60):
        async with WSClient(LOCAL, server.port).connect() as other:
            assert await other.execute("(+ 1 2)") == 3
            before = server.descriptors
            with await open_raw(server.port) as peer:
                await peer.send_frame(SHORTER_QUERY)
                await peer.receive_frame()
                assert await other.execute("(+ 1 2)") == 3
                assert server.descriptors > before + 2  # there is a file
                if is_reset:
                    peer.reset()
            await until(lambda: server.descriptors == before)
            assert await other.execute("(+ 1 2)") == 3


async def _digest_of_rest(peer: RawPeer, beginning: bytes) -> tuple[int, bytes]:
    """Return the length of the reply that begins like this, and the hash of what is in it."""
    left = HEADER_SIZE + parse_header(beginning).size - len(beginning)
    digest = hashlib.blake2b(beginning[HEADER_SIZE + 10 :])
    size = len(beginning)
    while left:
        opcode, data = await peer.receive_frame()
        assert opcode == CONTINUATION
        digest.update(data)
        size += len(data)
        left -= len(data)
    return size, digest.digest()


def _digest_of_long_reply() -> tuple[int, bytes]:
    digest = hashlib.blake2b()
    for start in range(0, LONG // 8, 100_000):
        digest.update(np.arange(start, start + 100_000, dtype="<i8").tobytes())
    return HEADER_SIZE + 10 + LONG, digest.digest()


# The other client


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_rayforce_pys_own_client_is_served(native_port: int, name: str) -> None:
    with gateway(native_port) as server, anyio.fail_after(30):
        async with await RayforceClient(LOCAL, server.port).connect() as connection:
            assert await connection.execute(f"(set {name} 3)") == 3
            assert await connection.execute(Expression(Operation.ADD, 1, 2)) == 3
            for query, code in (('(+ 1 "a")', "type"), ("(foo", "parse"), ("undefined_name", "name")):
                error = await connection.execute(query)
                assert isinstance(error, String)
                assert error.to_python() == code
            assert len(await connection.execute("(til 10000)")) == 10_000
            assert await connection.execute(name) == 3
