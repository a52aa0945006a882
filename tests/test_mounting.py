"""Connections that other servers hand over: each of them keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import hypercorn.asyncio
import pytest
import trio
import trio.testing
import trio_websocket
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError
from starlette.applications import Starlette
from starlette.routing import Mount
from support.engines import GateEngine
from support.hosts import HOSTS, MakeHost, hypercorn_with, on_hypercorn, on_trio_websocket, under_starlette
from support.leaks import no_leaks
from support.polling import until
from support.raw import connect_raw, frame, upgrade

from rayforce_trio import NativeProcess, WSClient, WSClientConnection, WSServer, auth, errors
from rayforce_trio._codec import encode
from rayforce_trio._protocol import HELLO, MessageType
from rayforce_trio._transports import _hosted

MIB = 1024**2


@pytest.fixture(params=HOSTS, ids=lambda host: host.__name__)
def host(request: pytest.FixtureRequest) -> MakeHost:
    made: MakeHost = request.param
    return made


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[WSClientConnection]:
    async with WSClient.from_url(url, **options).connect() as connection:
        yield connection


@pytest.mark.trio
async def test_queries_are_answered(host: MakeHost) -> None:
    async with no_leaks(), host(WSServer(listen=False)) as url:
        for _ in range(2):
            async with connected(url) as connection:
                assert await connection.execute("(+ 1 2)") == 3
                with pytest.raises(errors.RayforceError, match="type"):
                    await connection.execute('(+ 1 "a")')
                assert await connection.execute("(+ 2 2)") == 4


@pytest.mark.trio
async def test_many_queries_of_one_client_are_answered_in_order(host: MakeHost) -> None:
    answers: list[Any] = [None] * 200

    async def ask(n: int) -> None:
        answers[n] = (await connection.execute(f"(+ {n} 1)")).to_python()

    async with host(WSServer(listen=False)) as url, connected(url) as connection, trio.open_nursery() as nursery:
        for n in range(len(answers)):
            nursery.start_soon(ask, n)
    assert answers == [n + 1 for n in range(len(answers))]


@pytest.mark.trio
async def test_large_messages_pass_in_both_directions(host: MakeHost) -> None:
    async with host(WSServer(listen=False)) as url, connected(url) as connection:
        assert len((await connection.execute("x", {"x": "x" * (10 * MIB)})).to_python()) == 10 * MIB
        assert len(await connection.execute("(til 13000000)")) == 13_000_000


@pytest.mark.trio
async def test_a_reply_in_parts_passes(host: MakeHost) -> None:
    async with host(WSServer(listen=False, engine=NativeProcess())) as url, connected(url) as connection:
        assert len(await connection.execute("(til 3000000)")) == 3_000_000


@pytest.mark.trio
async def test_a_cancel_stops_the_query_in_the_engine(host: MakeHost) -> None:
    async with host(WSServer(listen=False, engine=NativeProcess())) as url, connected(url) as connection:
        with trio.move_on_after(0.3) as scope:
            await connection.execute("(while true 1)")
        assert scope.cancelled_caught
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_a_client_that_vanishes_frees_the_engine(host: MakeHost) -> None:
    engine = GateEngine()
    async with host(WSServer(listen=False, engine=engine)) as url:
        port, path = port_and_path(url)
        with connect_raw(port) as peer:
            await peer.send(upgrade(start=f"GET {path} HTTP/1.1"))
            await peer.receive_head()
            await peer.send_frame(HELLO)
            await peer.receive_frame()
            await peer.send(frame(encode("1", MessageType.SYNC), masked=True))
            await engine.until(begun=1)
            peer.reset()
        await engine.until(cancels=1, sessions=0)


@pytest.mark.trio
async def test_too_many_requests_in_flight_are_refused(host: MakeHost) -> None:
    engine = GateEngine()
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            await connection.execute("1")
            outcomes.append("answered")
        except errors.RayforceError as error:
            outcomes.append(str(error))

    async with (
        host(WSServer(listen=False, engine=engine, max_in_flight=1)) as url,
        connected(url) as connection,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask)
        await engine.until(begun=1)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        engine.release()
    assert outcomes[0] == "answered"
    assert "busy" in outcomes[1]


@pytest.mark.trio
async def test_too_long_replies_and_requests_are_refused(host: MakeHost) -> None:
    server = WSServer(listen=False, max_reply_size=MIB, max_message_size=MIB)
    async with host(server) as url, connected(url) as connection:
        with pytest.raises(errors.RayforceError, match="toobig"):
            await connection.execute("(til 1000000)")
        assert await connection.execute("(+ 1 2)") == 3
        with pytest.raises(errors.MessageTooLarge, match="1048576"):
            await connection.execute("x", {"x": "x" * (2 * MIB)})


@pytest.mark.trio
async def test_too_many_connections_are_refused(host: MakeHost) -> None:
    async with host(WSServer(listen=False, max_connections=1)) as url, connected(url):
        with pytest.raises(errors.ConnectionRejected, match="max_connections") as refused:
            async with connected(url):
                pytest.fail("the server was to refuse")
        assert refused.value.status == 503
        assert refused.value.retry_after is not None


@pytest.mark.trio
async def test_clients_are_authenticated(host: MakeHost) -> None:
    authenticate = auth.token("a-token-that-is-long-enough")
    server = WSServer(listen=False, authenticate=authenticate)
    async with host(server) as url:
        with pytest.raises(errors.ConnectionRejected, match="requires authentication") as refused:
            async with connected(url):
                pytest.fail("the server was to refuse")
        assert refused.value.status == 401
        async with connected(url, token="a-token-that-is-long-enough") as connection:
            assert await connection.execute("(+ 1 2)") == 3
        assert server.statistics().connections.refused == {401: 1}


@pytest.mark.trio
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "example.org"}, 421), ({"Origin": "https://example.org"}, 403), ({"Via": "1.1 proxy"}, 403)],
    ids=["host", "origin", "proxy"],
)
async def test_foreign_requests_are_refused(host: MakeHost, headers: dict[str, str], status: int) -> None:
    async with host(WSServer(listen=False)) as url:
        port, path = port_and_path(url)
        with connect_raw(port) as peer:
            await peer.send(upgrade(headers, start=f"GET {path} HTTP/1.1"))
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.trio
async def test_subscribers_receive_updates(host: MakeHost) -> None:
    server = WSServer(listen=False)
    async with host(server) as url, connected(url) as connection, connection.subscribe("prices") as updates:
        for n in range(100):
            await server.publish("prices", n)
        received = []
        async for update in updates:
            received.append(update.value)
            if len(received) == 100:
                break
    assert [value.to_python() for value in received] == list(range(100))


@pytest.mark.trio
async def test_a_client_that_is_silent_after_the_upgrade_is_disconnected(host: MakeHost) -> None:
    server = WSServer(listen=False, open_timeout=0.2)
    async with host(server) as url:
        port, path = port_and_path(url)
        with connect_raw(port) as peer:
            await peer.send(upgrade(start=f"GET {path} HTTP/1.1"))
            assert await peer.receive_rest()
        assert server.statistics().connections.failed == 1


@pytest.mark.trio
async def test_a_client_that_does_not_read_frees_the_engine(host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Hypercorn, its connection ends with the TCP connection: Hypercorn shields its sends."""
    monkeypatch.setattr(_hosted, "SLOWEST_RATE", 1024**3)  # or a reply of megabytes would have half a minute
    server = WSServer(listen=False, write_timeout=0.2)
    async with host(server) as url:
        port, path = port_and_path(url)
        with connect_raw(port, receive_buffer=4096) as peer:
            await peer.send(upgrade(start=f"GET {path} HTTP/1.1"))
            await peer.receive_head()
            await peer.send_frame(HELLO)
            await peer.receive_frame()
            for _ in range(3):
                await peer.send(frame(encode("(til 1000000)", MessageType.SYNC), masked=True))
            async with connected(url) as connection:
                assert await connection.execute("(+ 1 2)") == 3
            if host is on_trio_websocket:
                await until(lambda: server.statistics().connections.open == 0)


@pytest.mark.trio
async def test_a_server_that_stops_drains_and_says_so() -> None:
    engine = GateEngine()
    server = WSServer(listen=False, engine=engine)
    answers: list[Any] = []

    async def ask() -> None:
        answers.append((await connection.execute("1")).to_python())

    async with server, trio.open_nursery() as hosts:
        listening = await hosts.start(trio_websocket.serve_websocket, server.handle, "127.0.0.1", 0, None)
        url = f"ws://127.0.0.1:{listening.port}"
        async with connected(url) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await engine.until(begun=1)
            nursery.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.ConnectionRejected, match="shutting down"):
                async with connected(url):
                    pytest.fail("the server was to refuse")
            engine.release()
        assert answers == ["released"]
        with pytest.raises(errors.ConnectionClosed):
            await connection.execute("1")
        hosts.cancel_scope.cancel()


@pytest.mark.trio
async def test_stop_ends_connections_under_hypercorn() -> None:
    server = WSServer(listen=False)
    async with server, hypercorn_with(server.asgi) as port, connected(f"ws://127.0.0.1:{port}") as connection:
        assert await connection.execute("(+ 1 2)") == 3
        await server.stop()
        with pytest.raises(errors.ConnectionClosed, match="code 1001"):
            await connection.execute("(+ 1 2)")


@pytest.mark.trio
async def test_a_shutdown_of_hypercorn_tells_clients() -> None:
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def stay(url: str) -> None:
            async with connected(url) as connection:
                with pytest.raises(errors.ConnectionClosed, match="code 1001"):
                    await connection.execute("1")
            ended.set()

        engine = GateEngine()
        async with on_hypercorn(WSServer(listen=False, engine=engine)) as url:
            nursery.start_soon(stay, url)
            await engine.until(begun=1)
        await ended.wait()


@pytest.mark.trio
async def test_a_cancelled_handle_stops_the_query_and_tells_the_client() -> None:
    engine = GateEngine()
    scope = trio.CancelScope()

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        with scope:
            await server.handle(request)

    async with trio.open_nursery() as nursery, WSServer(listen=False, engine=engine) as server:
        host = await nursery.start(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
        async with connected(f"ws://127.0.0.1:{host.port}") as connection:

            async def cancel() -> None:
                await engine.until(begun=1)
                scope.cancel()

            nursery.start_soon(cancel)
            with pytest.raises(errors.ConnectionClosed, match="code 1001"):
                await connection.execute("1")
        await engine.until(cancels=1, sessions=0)
        nursery.cancel_scope.cancel()


async def get(url: str, **options: Any) -> tuple[int, bytes]:
    """Return the status and the body of a plain HTTP request."""

    def request() -> tuple[int, bytes]:
        try:
            with urlopen(Request(url.replace("ws://", "http://"), **options)) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    return await trio.to_thread.run_sync(request)


@pytest.mark.trio
@pytest.mark.parametrize("host_", [on_hypercorn, under_starlette], ids=["hypercorn", "starlette"])
async def test_plain_http_requests_are_answered(host_: MakeHost) -> None:
    async with host_(WSServer(listen=False, serve_javascript=True, metrics=True)) as url:
        base = url.rstrip("/")
        assert await get(f"{base}/healthz") == (200, b"ok\n")
        assert await get(f"{base}/healthz", method="HEAD") == (200, b"")
        assert await get(f"{base}/healthz?deep") == (200, b"ok\n")
        assert b"connect" in (await get(f"{base}/rayforce.js"))[1]
        assert b"rayforce_connections" in (await get(f"{base}/metrics"))[1]
        assert (await get(f"{base}/elsewhere"))[0] == 426
        assert (await get(f"{base}/healthz", method="POST", data=b""))[0] == 405


@pytest.mark.trio
async def test_a_server_that_does_not_run_refuses() -> None:
    server = WSServer(listen=False)
    raised: list[Exception] = []

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        try:
            await server.handle(request)
        except errors.RayforceWSError as error:
            raised.append(error)
            await request.reject(503)

    async with trio.open_nursery() as nursery:
        host = await nursery.start(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
        with pytest.raises(errors.ConnectionRejected, match="503"):
            async with connected(f"ws://127.0.0.1:{host.port}"):
                pytest.fail("the server was to refuse")
        nursery.cancel_scope.cancel()
    assert "the server is not running" in str(raised[0])

    async with hypercorn_with(Starlette(routes=[Mount("/", server.asgi)])) as port:
        with pytest.raises(errors.ConnectionRejected, match="not running"):
            async with connected(f"ws://127.0.0.1:{port}"):
                pytest.fail("the server was to refuse")
        status, body = await get(f"http://127.0.0.1:{port}/healthz")
        assert (status, b"not running" in body) == (503, True)


@pytest.mark.trio
async def test_a_listening_server_also_takes_connections_of_hosts(host: MakeHost) -> None:
    server = WSServer(port=0, host="127.0.0.1")
    async with host(server) as url:
        for one in (url, server.url):
            async with connected(one) as connection:
                assert await connection.execute("(+ 1 2)") == 3


def test_a_server_that_listens_nowhere_has_no_url() -> None:
    server = WSServer(listen=False)
    assert (server.url, server.urls, server.port, server.host) == ("", (), 0, "")
    assert repr(server) == "WSServer(listen=False)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 0}, "listen=False contradicts port"),
        ({"host": "127.0.0.1"}, "listen=False contradicts port, host"),
        ({"reuse_port": True}, "reuse_port needs a port"),
        ({"proxy_protocol": True, "trusted_proxies": ["10.0.0.1"]}, "listen=False contradicts proxy_protocol"),
    ],
)
def test_contradicting_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.RayforceValueError, match=message):
        WSServer(listen=False, **options)


@pytest.mark.parametrize("kind", ["websocket", "http"])
def test_asyncio_servers_get_an_error_that_says_what_to_do(kind: str) -> None:
    async def unused(*event: Any) -> None:
        pytest.fail("nothing is to be sent or received")

    with pytest.raises(errors.RayforceWSError, match="Use Hypercorn's trio worker"):
        asyncio.run(WSServer(listen=False).asgi({"type": kind}, unused, unused))  # type: ignore[arg-type]  # unused


def test_the_asyncio_worker_of_hypercorn_does_not_start() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    with pytest.raises(LifespanFailureError, match="Use Hypercorn's trio worker"):
        asyncio.run(hypercorn.asyncio.serve(WSServer(listen=False).asgi, config))  # type: ignore[arg-type]  # its own types


def test_asyncio_servers_do_not_start() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(event: Any) -> None:
        sent.append(event)

    asyncio.run(WSServer(listen=False).asgi({"type": "lifespan"}, receive, send))
    assert [event["type"] for event in sent] == ["lifespan.startup.failed"]
    assert "hypercorn --worker-class trio module:app" in sent[0]["message"]


@pytest.mark.trio
async def test_handle_takes_only_requests_of_trio_websocket() -> None:
    with pytest.raises(errors.RayforceValueError, match="Invalid request: 7"):
        await WSServer(listen=False).handle(7)  # type: ignore[arg-type]  # what is tested


def port_and_path(url: str) -> tuple[int, str]:
    authority, _, path = url.removeprefix("ws://").partition("/")
    return int(authority.rpartition(":")[2]), f"/{path}"
