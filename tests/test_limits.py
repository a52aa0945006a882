"""How many connections, and how many failures, a server takes."""

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from rayforce import I64
from support.certificates import client_context, local_certificates, server_context
from support.leaks import no_leaks
from support.opening import LOCAL, answer_to, parse_answer, try_to_connect
from support.raw import BINARY, CLOSE, HELLO, connect_raw, frame, open_raw, upgrade

from rayforce_trio import WSClient, WSServer, auth
from rayforce_trio._addresses import network_of
from rayforce_trio._protocol import HELLO_REPLY
from rayforce_trio._server._failures import _MAX_NETWORKS, FAILURES_PER_SECOND, FailureLimit
from rayforce_trio._server._limits import ConnectionLimits
from rayforce_trio._server._openings import EVICTION_DELAY
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio.errors import RayforceValueError

both_loops = pytest.mark.parametrize("loop", ["trio", "asyncio"])

IN_ALL = "This server has reached its limit of connections (max_connections). Try again later."
OF_ADDRESS = (
    "This server has reached its limit of connections from your address (max_connections_per_address). Try again later."
)
TOO_LATE = "The request took too long: the end of its headers did not arrive in time. Try again later."
OPENING = (
    "This server has reached its limit of connections that are still opening (max_unauthenticated). Try again later."
)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(30):
        async with WSServer(0, host=LOCAL, **options) as server:
            yield server


# Addresses


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


# Connections, counted


def limits(in_all: int | None = None, of_address: int | None = None) -> ConnectionLimits:
    return ConnectionLimits(in_all, of_address)


def test_each_limit_is_reached_by_what_it_counts_and_given_back() -> None:
    counted = limits(in_all=3, of_address=2)
    with counted.connection("192.0.2.7"):
        with counted.connection("192.0.2.7"):
            refusal = counted.refusal("192.0.2.7")
            assert refusal is not None
            assert (refusal.status, refusal.reason, refusal.headers) == (503, OF_ADDRESS, (("Retry-After", "5"),))
            assert counted.refusal("192.0.2.8") is None
            with counted.connection("192.0.2.8"):
                refusal = counted.refusal("192.0.2.9")
                assert refusal is not None
                assert (refusal.status, refusal.reason) == (503, IN_ALL)
            assert counted.refusal("192.0.2.9") is None
        assert counted.refusal("192.0.2.7") is None
    assert not counted._per_network


def test_the_addresses_of_an_ipv6_network_share_a_limit() -> None:
    counted = limits(of_address=1)
    with counted.connection("2001:db8::1"):
        assert counted.refusal("2001:db8::2") is not None
        assert counted.refusal("2001:db8:0:1::1") is None


def test_without_limits_nobody_is_refused() -> None:
    counted = limits()
    with counted.connection("192.0.2.7"):
        assert counted.refusal("192.0.2.7") is None


@pytest.mark.parametrize("name", ["max_connections", "max_connections_per_address", "max_unauthenticated"])
@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "7"])
def test_a_limit_that_is_none_is_an_error_at_once(name: str, limit: Any) -> None:
    with pytest.raises(RayforceValueError, match=f"Invalid {name}: {limit!r}. Must be an int above 0, or None"):
        WSServer(0, **{name: limit})


# Connections, made


def said_of_limits(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says of each refused connection."""
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    found = [re.fullmatch(r"connection \d+ \(127\.0\.0\.1:\d+\): (.*)", record.getMessage()) for record in records]
    return [match[1] for match in found if match is not None]


@pytest.mark.trio
@both_loops
@pytest.mark.parametrize(
    ("option", "reason"), [("max_connections", IN_ALL), ("max_connections_per_address", OF_ADDRESS)]
)
async def test_one_too_many_is_told_so_and_let_in_once_another_has_left(
    loop: str, option: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(**{option: 2}) as server, WSClient(LOCAL, server.port).connect() as first:
        async with WSClient(LOCAL, server.port).connect():
            rejected = await try_to_connect(loop, server.port)
            assert rejected is not None
            assert (rejected.status, rejected.body) == (503, f"{reason}\n")
        assert said_of_limits(caplog) == [f"refused with 503: {reason}"]
        while await try_to_connect(loop, server.port) is not None:
            pass  # the server may be about to hear that the second has left
        assert await first.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_one_too_many_is_told_when_to_try_again() -> None:
    async with served(max_connections=1) as server, WSClient(LOCAL, server.port).connect():
        answer = await answer_to(server.port)
        assert answer.headers == {
            "content-type": "text/plain; charset=utf-8",
            "connection": "close",
            "retry-after": "5",
            "content-length": str(len(IN_ALL) + 1),
        }


@pytest.mark.trio
async def test_by_default_one_address_has_32_connections() -> None:
    async with served() as server, AsyncExitStack() as clients:
        for _ in range(32):
            clients.enter_context(await open_raw(server.port))
        assert (await answer_to(server.port)).body == f"{OF_ADDRESS}\n"


@pytest.mark.trio
async def test_by_default_there_are_128_connections() -> None:
    async with served(max_connections_per_address=None) as server, AsyncExitStack() as clients:
        for _ in range(128):
            clients.enter_context(await open_raw(server.port))
        assert (await answer_to(server.port)).body == f"{IN_ALL}\n"


@pytest.mark.trio
async def test_no_limit_is_none() -> None:
    unlimited = {"max_connections": None, "max_connections_per_address": None, "max_unauthenticated": None}
    async with served(**unlimited) as server, AsyncExitStack() as clients:
        for _ in range(140):
            clients.enter_context(await open_raw(server.port))


# Openings


async def hang(request: auth.Request) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def waiting_for_authenticate(server: WSServer, number: int) -> AsyncIterator[None]:
    """Open connections that wait for `authenticate`, which does not return."""
    async with AsyncExitStack() as peers:
        for _ in range(number):
            peer = peers.enter_context(connect_raw(server.port))
            await peer.send(upgrade())
        await trio.testing.wait_all_tasks_blocked()
        yield


@pytest.mark.trio
@both_loops
async def test_openings_that_wait_for_the_server_keep_out_others_who_are_told_so(
    loop: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._server._openings.QUEUE_TIMEOUT", 0.1)
    async with (
        served(max_unauthenticated=3, authenticate=hang) as server,
        waiting_for_authenticate(server, 2),  # one address has two of three
    ):
        rejected = await try_to_connect(loop, server.port)
        assert rejected is not None
        assert (rejected.status, rejected.body) == (503, f"{OPENING}\n")
        assert (await answer_to(server.port)).headers["retry-after"] == "1"
    assert said_of_limits(caplog) == [f"refused with 503: {OPENING}"] * 2


@pytest.mark.trio
@both_loops
@pytest.mark.parametrize("tls", [False, True])
async def test_openings_that_wait_for_their_peers_make_way_for_a_newcomer(loop: str, tls: bool) -> None:
    """One peer sends nothing, one a part of a request, and one no greeting."""
    contexts = (server_context(local_certificates()), client_context(local_certificates())) if tls else (None, None)
    async with served(max_unauthenticated=2, ssl_context=contexts[0]) as server, AsyncExitStack() as peers:
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" if tls else upgrade(), *[b"", upgrade()[:-2]] * 10):
            await peers.enter_context(connect_raw(server.port)).send(data)
        assert await try_to_connect(loop, server.port, ssl=contexts[1] or False) is None


@pytest.mark.trio
async def test_a_peer_that_makes_way_is_told_so_if_it_has_sent_a_part_of_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with served(max_unauthenticated=1) as server:
        with connect_raw(server.port) as partly, connect_raw(server.port) as silent:
            await partly.send(upgrade()[:-2])
            assert await try_to_connect("trio", server.port) is None
            answer = parse_answer(await partly.receive_head(), await partly.receive_rest())
            assert (answer.status, answer.body) == (408, f"{TOO_LATE}\n")
            assert await silent.receive_rest() == b""
        while server.statistics().connections.opening:
            await trio.lowlevel.checkpoint()
        assert server.statistics().connections.refused == {408: 1}
    said = [re.sub(r".*\): ", "", message) for message in caplog.messages]
    assert sorted(said[:2]) == [
        "not opened: the client took too long while others were waiting (max_unauthenticated)",
        f"refused with 408: {TOO_LATE}",
    ]


@pytest.mark.trio
async def test_a_peer_that_sends_a_byte_now_and_then_makes_way_as_well() -> None:
    async with served(max_unauthenticated=1) as server, trio.open_nursery() as nursery:
        with connect_raw(server.port) as slow:

            async def send_slowly() -> None:
                for byte in upgrade():
                    await slow.send(bytes([byte]))
                    await trio.sleep(0.1)  # the peer's pace: it never keeps the server waiting for long

            nursery.start_soon(send_slowly)
            await trio.testing.wait_all_tasks_blocked()
            assert await try_to_connect("trio", server.port) is None
            assert (await slow.receive_head()).startswith(b"HTTP/1.1 408 ")
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_peer_whose_request_has_arrived_while_the_loop_was_blocked_does_not_make_way() -> None:
    async with served(max_unauthenticated=1) as server, AsyncExitStack() as peers:
        slow = peers.enter_context(connect_raw(server.port))
        await trio.testing.wait_all_tasks_blocked()
        newcomers = [peers.enter_context(connect_raw(server.port)) for _ in range(5)]
        for newcomer in newcomers:
            await newcomer.send(upgrade() + frame(HELLO))
        await trio.testing.wait_all_tasks_blocked()
        await slow.send(upgrade() + frame(HELLO))
        time.sleep(2 * EVICTION_DELAY)  # noqa: ASYNC251 - as an InProcessEngine does
        for peer in (slow, *newcomers):
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.trio
async def test_a_client_that_has_the_reply_to_its_hello_does_not_make_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have sent a query already."""
    monkeypatch.setattr("rayforce_trio._server._openings.EVICTION_DELAY", 0)
    send, replies = WebSocketTransport.send, 0

    async def send_while_a_newcomer_connects(self: WebSocketTransport, message: Any) -> None:
        nonlocal replies
        await send(self, message)
        if message == HELLO_REPLY:
            replies += 1
            if replies == 1:
                assert await try_to_connect("trio", server.port) is None

    monkeypatch.setattr(WebSocketTransport, "send", send_while_a_newcomer_connects)
    async with served(max_unauthenticated=1) as server, WSClient(LOCAL, server.port).connect() as connection:
        assert await connection.execute("(+ 1 2)") == I64(3)
    assert replies == 2


@pytest.mark.trio
async def test_a_client_that_has_the_reply_to_its_hello_is_told_when_the_server_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = WebSocketTransport.send

    async def send_and_cancel_the_server(self: WebSocketTransport, message: Any) -> None:
        await send(self, message)
        if message == HELLO_REPLY:
            scope.cancel()
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(WebSocketTransport, "send", send_and_cancel_the_server)
    async with no_leaks():
        with trio.CancelScope() as scope:
            async with served() as server:
                with trio.CancelScope(shield=True), connect_raw(server.port) as peer:
                    await peer.send(upgrade() + frame(HELLO))
                    await peer.receive_head()
                    assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
                    assert await peer.receive_frame() == (CLOSE, b"\x03\xe9")
                await trio.sleep_forever()
        assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_slow_peer_is_let_in_while_nobody_needs_its_slot() -> None:
    async with served(max_unauthenticated=4) as server:
        with connect_raw(server.port) as slow:
            request = upgrade()
            for part in (request[:20], request[20:-1], request[-1:]):
                await trio.sleep(0.8 * EVICTION_DELAY)  # the peer's pace
                await slow.send(part)
                assert await try_to_connect("trio", server.port) is None
            assert (await slow.receive_head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.trio
async def test_openings_do_not_count_as_connections() -> None:
    async with served(max_connections=1, max_connections_per_address=1) as server, AsyncExitStack() as peers:
        for _ in range(10):
            peers.enter_context(connect_raw(server.port))
        assert await try_to_connect("trio", server.port) is None


@pytest.mark.trio
async def test_clients_that_are_authorized_at_once_do_not_exceed_the_limits() -> None:
    release = trio.Event()

    async def authenticate(request: auth.Request) -> str:
        await release.wait()
        return "ann"

    async with served(max_connections=2, authenticate=authenticate) as server, waiting_for_authenticate(server, 5):
        release.set()
        while server.statistics().connections.opening > 2:  # they have not greeted
            await trio.lowlevel.checkpoint()
        assert server.statistics().connections.refused == {503: 3}


@pytest.mark.trio
async def test_a_burst_is_let_in() -> None:
    async with served(max_connections=None, max_connections_per_address=None) as server, AsyncExitStack() as peers:
        burst = [peers.enter_context(connect_raw(server.port)) for _ in range(200)]
        for peer in burst:
            await peer.send(upgrade() + frame(HELLO))
        for peer in burst:
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
        assert server.statistics().connections.refused == {}


@pytest.mark.trio
@pytest.mark.parametrize("sent", [b"", upgrade()], ids=["silent", "asking"])
async def test_in_a_flood_a_refused_peer_can_read_why(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """More peers than fit into the queue, and more than the server keeps after their refusal."""
    monkeypatch.setattr("rayforce_trio._server._openings.MAX_QUEUED", 3)
    monkeypatch.setattr("rayforce_trio._server._openings.MAX_LINGERING", 2)
    async with (
        served(max_unauthenticated=1, authenticate=hang) as server,
        waiting_for_authenticate(server, 1),
        AsyncExitStack() as peers,
    ):
        flood = [peers.enter_context(connect_raw(server.port)) for _ in range(50)]
        for peer in flood:
            await peer.send(sent)
        for peer in flood[3:]:
            answer = parse_answer(await peer.receive_head(), await peer.receive_rest())
            assert (answer.status, answer.body) == (503, f"{OPENING}\n")


@pytest.mark.trio
async def test_who_comes_with_many_others_is_let_in_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._openings.QUEUE_TIMEOUT", 20.0)
    async with served(max_unauthenticated=1, max_connections_per_address=None) as server, AsyncExitStack() as clients:
        first = clients.enter_context(connect_raw(server.port))
        others = [clients.enter_context(connect_raw(server.port)) for _ in range(40)]
        for other in others:
            await other.send(upgrade())
        await trio.testing.wait_all_tasks_blocked()
        first.close()
        for other in others:
            assert (await other.receive_head()).startswith(b"HTTP/1.1 101 ")
            other.close()


@pytest.mark.trio
async def test_who_is_open_is_no_opening() -> None:
    async with served(max_unauthenticated=1) as server, AsyncExitStack() as clients:
        for _ in range(10):
            clients.enter_context(await open_raw(server.port))


@pytest.mark.trio
async def test_a_server_that_stops_does_not_wait_for_those_who_wait() -> None:
    with trio.fail_after(4):  # less than an opening may take
        async with served(max_unauthenticated=1) as server:
            with connect_raw(server.port), connect_raw(server.port) as waiting:
                await trio.testing.wait_all_tasks_blocked()
                await server.stop()
                assert await waiting.receive_rest() == b""
            await server.start(trio.lowlevel.current_task().parent_nursery or pytest.fail("it has none"))
            assert await try_to_connect("trio", server.port) is None


# Failures


async def fail(limit: FailureLimit, network: str = "192.0.2.7") -> float:
    """Fail, if that is still allowed; returns 0, or after how long to try again."""
    async with limit.attempt(network) as attempt:
        attempt.failed = not attempt.retry_after
        return attempt.retry_after


async def succeed(limit: FailureLimit, network: str = "192.0.2.7") -> float:
    async with limit.attempt(network) as attempt:
        return attempt.retry_after


@pytest.mark.trio
async def test_a_network_has_five_failures_in_any_second(autojump_clock: trio.abc.Clock) -> None:
    limit = FailureLimit()
    begun = trio.current_time()
    failed_at: list[float] = []
    while trio.current_time() < begun + 10:
        if not await fail(limit):
            failed_at.append(trio.current_time())
        await trio.sleep(0.0625)
    assert len(failed_at) > 40
    assert all(
        later - earlier >= 1.0 for earlier, later in zip(failed_at, failed_at[FAILURES_PER_SECOND:], strict=False)
    )


@pytest.mark.trio
async def test_one_that_hangs_keeps_others_of_the_network_waiting_no_longer_than_failures_count(
    autojump_clock: trio.abc.Clock,
) -> None:
    limit = FailureLimit()

    async def hang() -> None:
        async with limit.attempt("192.0.2.7"):
            await trio.sleep(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(FAILURES_PER_SECOND - 1):
            assert await fail(limit) == 0
        begun = trio.current_time()
        assert await succeed(limit) == 0
        assert trio.current_time() == pytest.approx(begun + 1.0)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_after_five_failures_nobody_of_the_network_may_try_for_a_while(autojump_clock: trio.abc.Clock) -> None:
    limit = FailureLimit()
    for _ in range(5):
        assert await fail(limit) == 0.0
    await trio.sleep(0.25)
    assert await fail(limit) == await succeed(limit) == 0.75
    assert await fail(limit, "192.0.2.8") == 0.0
    await trio.sleep(0.75)
    assert await succeed(limit) == 0.0


@pytest.mark.trio
async def test_successes_do_not_count() -> None:
    limit = FailureLimit()
    for _ in range(100):
        assert await succeed(limit) == 0.0
    assert len(limit) == 0


@pytest.mark.trio
@pytest.mark.parametrize("right", [True, False])
async def test_attempts_that_come_at_once_gain_nothing_and_lose_nothing(
    right: bool, autojump_clock: trio.abc.Clock
) -> None:
    limit = FailureLimit()
    under_way = most = refused = 0

    async def attempt() -> None:
        nonlocal under_way, most, refused
        async with limit.attempt("192.0.2.7") as attempt:
            if attempt.retry_after:
                refused += 1
                return
            under_way += 1
            most = max(most, under_way)
            await trio.sleep(0.1)
            attempt.failed = not right
            under_way -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(attempt)
    assert most == 5
    assert refused == (0 if right else 25)


@pytest.mark.trio
async def test_an_attempt_that_is_cancelled_or_raises_is_no_failure_and_lets_others_go_on() -> None:
    limit = FailureLimit()
    for _ in range(10):
        with trio.CancelScope() as scope:
            async with limit.attempt("192.0.2.7"):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with pytest.raises(ZeroDivisionError):
            async with limit.attempt("192.0.2.7"):
                raise ZeroDivisionError
    assert await succeed(limit) == 0.0
    assert len(limit) == 0


@pytest.mark.trio
async def test_networks_are_forgotten_when_there_are_too_many_the_oldest_first(autojump_clock: trio.abc.Clock) -> None:
    limit = FailureLimit()
    for _ in range(5):
        await fail(limit, "first")
    for number in range(_MAX_NETWORKS - 1):
        await fail(limit, str(number))
    assert len(limit) == _MAX_NETWORKS
    assert await fail(limit, "first") > 0.0
    await fail(limit, "one more")
    assert len(limit) == _MAX_NETWORKS
    assert await fail(limit, "first") == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.0, 0.5)), max_size=60))
def test_whatever_happens_the_count_is_right(events: list[tuple[str, bool, float]]) -> None:
    async def happen() -> None:
        limit = FailureLimit()
        failed_at: dict[str, list[float]] = {name: [] for name in "abc"}
        for name, fails, pause in events:
            now = trio.current_time()
            recent = [time for time in failed_at[name] if time > now - 1.0]
            retry_after = await (fail if fails else succeed)(limit, name)
            assert (retry_after > 0.0) == (len(recent) == FAILURES_PER_SECOND)
            if fails and not retry_after:
                failed_at[name].append(now)
            await trio.sleep(pause)

    trio.run(happen, clock=trio.testing.MockClock(autojump_threshold=0))
