"""`WSServer.asgi` under an ASGI server that the test plays: every scope, and everything that can go wrong in it."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urljoin

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from rayforce_trio import WSServer, auth
from rayforce_trio._server._handler import _END_TIMEOUT
from rayforce_trio._server._openings import QUEUE_TIMEOUT
from rayforce_trio._transports import AsgiRequest, Refusal
from rayforce_trio.errors import ConnectionClosed, ConnectionLost, HandshakeError, RayforceWSError

pytestmark = pytest.mark.trio

LOCAL = ("127.0.0.1", 5000)
ELSEWHERE = ("192.0.2.1", 5000)


class Host:
    """Plays an ASGI server.

    Attributes:
        sent: the events that the application has sent.
    """

    def __init__(self, *events: dict[str, Any]) -> None:
        self._arrive, self._arrived = trio.open_memory_channel[MutableMapping[str, Any]](math.inf)
        self.sent: list[MutableMapping[str, Any]] = []
        self.error: OSError | None = None
        for event in events:
            self.arrive(event)

    def arrive(self, event: dict[str, Any]) -> None:
        self._arrive.send_nowait(event)

    async def receive(self) -> MutableMapping[str, Any]:
        return await self._arrived.receive()

    async def send(self, event: MutableMapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.sent.append(event)

    async def run(self, server: WSServer, scope: dict[str, Any]) -> list[MutableMapping[str, Any]]:
        with trio.fail_after(10):
            await server.asgi(scope, self.receive, self.send)
        return self.sent


def scope_of(kind: str, **more: Any) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1:8000")]
    return {"type": kind, "path": "/", "headers": headers, "client": LOCAL, "server": LOCAL, **more}


async def status_of(server: WSServer, **more: Any) -> tuple[int, bytes]:
    start, body = await Host().run(server, scope_of("http", **{"method": "GET", **more}))
    return start["status"], body["body"]


async def test_a_lifespan_runs_the_server() -> None:
    server = WSServer(listen=False)
    host = Host({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await host.run(server, {"type": "lifespan"})
    assert [event["type"] for event in host.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_lifespan_leaves_a_server_alone_that_the_program_runs() -> None:
    async with WSServer(listen=False) as server:
        await Host({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}).run(server, {"type": "lifespan"})
        assert (await status_of(server, path="/healthz"))[0] == 200


async def test_a_server_that_cannot_start_says_why() -> None:
    async with WSServer(port=0, host="127.0.0.1") as other:
        server = WSServer(port=other.port, host="127.0.0.1")
        [failed] = await Host({"type": "lifespan.startup"}).run(server, {"type": "lifespan"})
    assert failed["type"] == "lifespan.startup.failed"
    assert "in use" in failed["message"]


async def test_an_unknown_scope_is_an_error() -> None:
    with pytest.raises(RayforceWSError, match="does not serve the ASGI scope 'nonsense'"):
        await Host().run(WSServer(listen=False), {"type": "nonsense"})


async def test_plain_requests() -> None:
    server = WSServer(listen=False)
    assert (await status_of(server, path="/healthz"))[0] == 503
    async with server:
        assert await status_of(server, path="/healthz") == (200, b"ok\n")
        assert await status_of(server, path="/db/healthz", root_path="/db") == (200, b"ok\n")
        assert await status_of(server, path="/healthz", method="HEAD") == (200, b"")
        assert (await status_of(server, path="/healthz", method="POST"))[0] == 405
        twice = [(b"host", b"a"), (b"host", b"b")]
        assert (await status_of(server, path="/healthz", headers=twice))[0] == 400
        assert (await status_of(server, query_string=b"a=b"))[0] == 426


@pytest.mark.parametrize(
    ("path", "root_path"),
    [("/", ""), ("/db", "/db"), ("/db/", "/db"), ("/db/", "/db/"), ("/a/b c:ü", "/a/b c:ü"), ("/", "/stripped")],
)
async def test_a_browser_is_led_to_the_console_wherever_it_is_mounted(path: str, root_path: str) -> None:
    headers = [(b"host", b"127.0.0.1:8000"), (b"accept", b"text/html")]
    scope = scope_of("http", method="GET", path=path, root_path=root_path, headers=headers)
    async with WSServer(listen=False, console=True) as server:
        start, _ = await Host().run(server, scope)
    assert start["status"] == 302
    location = dict(start["headers"])[b"location"].decode("ascii")
    assert unquote(urljoin(f"http://host{path}", location)) == f"http://host{path.rstrip('/')}/console"


@pytest.mark.parametrize("can_answer", [False, True])
async def test_a_refused_client(can_answer: bool) -> None:
    extensions: dict[str, Any] = {"websocket.http.response": {}} if can_answer else {}
    host = Host({"type": "websocket.connect"})
    async with WSServer(listen=False) as server:
        sent = await host.run(server, scope_of("websocket", client=ELSEWHERE, extensions=extensions))
    if can_answer:
        assert [event["type"] for event in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
        assert sent[0]["status"] == 403
    else:
        assert [event["type"] for event in sent] == ["websocket.close"]


@pytest.mark.parametrize("client", [None, ("", 0), ("testclient", 5000)])
async def test_a_client_whose_address_is_unknown_does_not_count_as_local(client: object) -> None:
    host = Host({"type": "websocket.connect"})
    async with WSServer(listen=False) as server:
        [event] = await host.run(server, scope_of("websocket", client=client))
    assert event["type"] == "websocket.close"


async def test_a_client_that_leaves_during_the_opening() -> None:
    async with WSServer(listen=False) as server:
        assert await Host({"type": "websocket.disconnect", "code": 1006}).run(server, scope_of("websocket")) == []
    request = AsgiRequest(scope_of("websocket"), (host := Host({"type": "websocket.disconnect"})).receive, host.send)
    with pytest.raises(HandshakeError, match="disconnected during the opening"):
        await request.accept(None, ())
    not_running = Host({"type": "websocket.disconnect"})
    assert await not_running.run(WSServer(listen=False), scope_of("websocket")) == []


async def test_a_channel() -> None:
    host = Host({"type": "websocket.connect"})
    channel = await AsgiRequest(scope_of("websocket"), host.receive, host.send).accept("rayforce.v1", (("A", "b"),))
    assert host.sent == [{"type": "websocket.accept", "subprotocol": "rayforce.v1", "headers": [(b"a", b"b")]}]
    host.arrive({"type": "websocket.receive", "bytes": bytearray(b"a"), "text": None})
    host.arrive({"type": "websocket.receive", "text": "b"})
    assert [await channel.receive(), await channel.receive()] == [b"a", "b"]
    await channel.send("c")
    assert host.sent[-1] == {"type": "websocket.send", "text": "c"}
    host.error = OSError()
    with pytest.raises(ConnectionLost, match="the client has disconnected"):
        await channel.send("d")
    host.arrive({"type": "websocket.disconnect", "code": 1001, "reason": "bye"})
    with pytest.raises(ConnectionClosed, match="1001: bye"):
        await channel.receive()
    with pytest.raises(ConnectionLost, match="the client has disconnected"):
        await channel.send("e")
    await channel.close(1000, "")


async def test_a_close_waits_for_the_client() -> None:
    host = Host({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "late"})
    channel = await AsgiRequest(scope_of("websocket"), host.receive, host.send).accept(None, ())
    host.arrive({"type": "websocket.disconnect", "code": 1000})
    await channel.close(1001, "stop")
    assert host.sent[-1] == {"type": "websocket.close", "code": 1001, "reason": "stop"}


# Clients that leave


class DeafHost(Host):
    """A host whose client leaves before an event of one type: its function `send` raises an `OSError` from then on."""

    def __init__(self, last: str, *events: dict[str, Any]) -> None:
        super().__init__(*events)
        self.failures = 0
        self._last = last

    async def send(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == self._last:
            self.error = BrokenPipeError("the client is gone")
            self.arrive({"type": "websocket.disconnect", "code": 1006})
        self.failures += self.error is not None
        await super().send(event)


CONNECT = {"type": "websocket.connect"}
HELLO = {"type": "websocket.receive", "bytes": b"\x01\x00"}
NO_HELLO = {"type": "websocket.receive", "bytes": b"nonsense"}
CAN_ANSWER: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


@pytest.mark.parametrize(
    ("last", "events", "scope"),
    [
        ("websocket.accept", [CONNECT], scope_of("websocket")),
        ("websocket.send", [CONNECT, HELLO], scope_of("websocket", subprotocols=["rayforce.v1"])),
        ("websocket.close", [CONNECT, NO_HELLO], scope_of("websocket", subprotocols=["rayforce.v1"])),
        ("websocket.close", [CONNECT], scope_of("websocket", client=ELSEWHERE)),
        ("websocket.http.response.start", [CONNECT], scope_of("websocket", client=ELSEWHERE, **CAN_ANSWER)),
        ("websocket.http.response.body", [CONNECT], scope_of("websocket", client=ELSEWHERE, **CAN_ANSWER)),
        ("http.response.start", [], scope_of("http", method="GET", path="/healthz")),
        ("http.response.body", [], scope_of("http", method="GET", path="/healthz")),
    ],
    ids=["accept", "message", "close", "refusal", "refusal start", "refusal body", "http start", "http body"],
)
@pytest.mark.parametrize("is_running", [True, False])
async def test_a_client_that_leaves_before_an_event_is_sent(
    caplog: pytest.LogCaptureFixture, last: str, events: list[dict[str, Any]], scope: dict[str, Any], is_running: bool
) -> None:
    caplog.set_level("INFO", "rayforce_trio")
    host = DeafHost(last, *events)
    server = WSServer(listen=False)
    if is_running:
        async with server:
            await host.run(server, scope)
            assert server.statistics().connections.opening == server.statistics().connections.open == 0
    else:
        await host.run(server, scope)
    assert host.failures or not is_running
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_a_client_that_leaves_is_reported_to_the_caller() -> None:
    def leaving(last: str) -> tuple[DeafHost, AsgiRequest]:
        host = DeafHost(last, CONNECT)
        return host, AsgiRequest(scope_of("websocket"), host.receive, host.send)

    _, request = leaving("websocket.accept")
    with pytest.raises(HandshakeError, match="disconnected during the opening"):
        await request.accept(None, ())
    _, request = leaving("websocket.close")
    with pytest.raises(HandshakeError, match="disconnected during the opening"):
        await request.refuse(Refusal(403, "no"))
    _, request = leaving("websocket.close")
    channel = await request.accept(None, ())
    with pytest.raises(ConnectionLost, match="the client has disconnected"):
        await channel.close(1000, "")
    await channel.close(1000, "")


# Plain requests under load


class Gate:
    """An `authenticate` that lets everybody in once it is open."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.opened = trio.Event()

    async def __call__(self, _: auth.Request) -> str:
        self.reached.set()
        await self.opened.wait()
        return "somebody"


@asynccontextmanager
async def with_waiting_request(
    max_unauthenticated: int, status: int
) -> AsyncIterator[tuple[WSServer, Gate, trio.Nursery]]:
    """Run a server with a request that waits for `authenticate`; in the end, that request must have this status."""
    gate = Gate()

    async def check_status() -> None:
        assert (await status_of(server, path="/console"))[0] == status

    server = WSServer(listen=False, console=True, authenticate=gate, max_unauthenticated=max_unauthenticated)
    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(check_status)
        await gate.reached.wait()
        yield server, gate, nursery


async def test_plain_requests_beyond_max_unauthenticated_are_refused(autojump_clock: MockClock) -> None:
    async with with_waiting_request(1, 200) as (server, gate, _):
        began_at = trio.current_time()
        start, body = await Host().run(server, scope_of("http", method="GET", path="/healthz"))
        assert trio.current_time() - began_at == pytest.approx(QUEUE_TIMEOUT)
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        assert b"(max_unauthenticated)" in body["body"]
        assert server.statistics().connections.refused == {503: 1}
        gate.opened.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (await status_of(server, path="/healthz"))[0] == 200


async def test_one_network_leaves_slots_to_others(autojump_clock: MockClock) -> None:
    async with with_waiting_request(2, 200) as (server, gate, _):
        assert (await status_of(server, path="/healthz"))[0] == 503
        assert (await status_of(server, path="/healthz", client=ELSEWHERE))[0] == 200
        gate.opened.set()


async def test_a_plain_request_waits_for_a_slot(autojump_clock: MockClock) -> None:
    async with with_waiting_request(1, 200) as (server, gate, nursery):
        statuses = []

        async def ask() -> None:
            statuses.append((await status_of(server, path="/healthz"))[0])

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert statuses == []
        gate.opened.set()
    assert statuses == [200]


async def test_a_plain_request_that_takes_too_long_is_refused(autojump_clock: MockClock) -> None:
    async with with_waiting_request(1, 503) as (server, _, _):
        pass
    assert server.statistics().connections.refused == {503: 1}


async def test_a_plain_request_is_refused_when_the_server_stops(autojump_clock: MockClock) -> None:
    statuses = []

    async def ask() -> None:
        statuses.append(await status_of(server, path="/healthz"))

    async with with_waiting_request(1, 503) as (server, _, nursery):
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        began_at = trio.current_time()
        await server.stop()
    assert trio.current_time() == began_at
    assert statuses == [(503, b"The server is shutting down.\n")]


# Cancellation


async def test_a_request_for_the_console_that_is_cancelled_is_not_answered() -> None:
    async with with_waiting_request(2, 200) as (server, gate, _):
        gate.reached = trio.Event()
        host = Host()
        async with trio.open_nursery() as hosts:
            hosts.start_soon(host.run, server, scope_of("http", method="GET", path="/console", client=ELSEWHERE))
            await gate.reached.wait()
            hosts.cancel_scope.cancel()
        assert host.sent == []
        connections = server.statistics().connections
        assert (connections.failed, connections.opening) == (1, 1)
        assert (await status_of(server, path="/healthz", client=ELSEWHERE))[0] == 200  # its slot is free
        gate.opened.set()


class ShieldingHost(Host):
    """A host that takes some time to accept a connection, and cannot be cancelled meanwhile."""

    def __init__(self, seconds: float) -> None:
        super().__init__({"type": "websocket.connect"})
        self.accepting = trio.Event()
        self._seconds = seconds

    async def send(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "websocket.accept":
            self.accepting.set()
            with trio.CancelScope(shield=True):
                await trio.sleep(self._seconds)
        await super().send(event)
        if event["type"] == "websocket.close":
            self.arrive({"type": "websocket.disconnect", "code": event["code"]})


async def time_to_end(seconds: float, end: Callable[[WSServer, trio.CancelScope], Awaitable[None]]) -> float:
    """Return how long a server takes to end, in seconds, if its host shields a send for so many seconds.

    Args:
        seconds: how long the send takes.
        end: called with the server and its cancel scope once the send has begun; it is cancelled by the scope.
    """
    host = ShieldingHost(seconds)
    async with trio.open_nursery() as hosts:
        with trio.CancelScope() as scope:
            async with WSServer(listen=False) as server:
                hosts.start_soon(server.asgi, scope_of("websocket"), host.receive, host.send)
                await host.accepting.wait()
                began_at = trio.current_time()
                await end(server, scope)
        assert scope.cancelled_caught
        return trio.current_time() - began_at


@pytest.mark.parametrize(("seconds", "until"), [(1.0, 1.0), (1000.0, _END_TIMEOUT)])
async def test_a_server_that_is_cancelled_waits_for_hosts_for_a_while(
    autojump_clock: trio.testing.MockClock, seconds: float, until: float
) -> None:
    async def cancel(_: WSServer, scope: trio.CancelScope) -> None:
        scope.cancel()
        await trio.sleep_forever()

    assert await time_to_end(seconds, cancel) == pytest.approx(until)


@pytest.mark.parametrize(("seconds", "until"), [(6.0, 6.0), (1000.0, 2 * _END_TIMEOUT)])
async def test_cancelling_a_server_that_waits_for_hosts_changes_nothing(
    autojump_clock: trio.testing.MockClock, seconds: float, until: float
) -> None:
    async def cancel_the_wait(server: WSServer, scope: trio.CancelScope) -> None:
        scope.deadline = trio.current_time() + _END_TIMEOUT + 1  # it waits in `end_hosted` by then
        await server.stop(0)

    assert await time_to_end(seconds, cancel_the_wait) == pytest.approx(until)


async def test_without_hosted_connections_there_is_nothing_to_wait_for() -> None:
    async with WSServer(listen=False) as server:
        with trio.testing.assert_no_checkpoints():
            await server._handler.end_hosted()
