"""How many connections, and how many failures, a server takes."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.opening import LOCAL, HttpResponse, answer_to, parse_answer, try_to_connect
from support.raw import RawPeer, connect_raw, open_raw, upgrade

from rayforce_trio import WSClient, WSServer
from rayforce_trio._addresses import network_of
from rayforce_trio._server._failures import _MAX_NETWORKS, FAILURES_PER_SECOND, FailureLimit
from rayforce_trio._server._limits import ConnectionLimits
from rayforce_trio.errors import RayforceValueError

both_loops = pytest.mark.parametrize("loop", ["trio", "asyncio"])

IN_ALL = "This server has reached its limit of connections (max_connections). Try again later."
OF_ADDRESS = (
    "This server has reached its limit of connections from your address (max_connections_per_address). Try again later."
)
OPENING = "This server has reached its limit of opening connections (max_unauthenticated). Try again later."


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


def limits(in_all: int | None = None, of_address: int | None = None, opening: int | None = None) -> ConnectionLimits:
    return ConnectionLimits(in_all, of_address, opening)


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
    with pytest.raises(RayforceValueError, match=f"Invalid {name}: {limit!r}. Must be a number above 0, or None"):
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
        with connect_raw(server.port) as silent:  # it need not even ask
            assert parse_answer(await silent.receive_head(), await silent.receive_rest()) == answer


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


async def answer_from(peer: RawPeer) -> HttpResponse:
    with trio.fail_after(10):
        return parse_answer(await peer.receive_head(), await peer.receive_rest())


@pytest.mark.trio
@both_loops
async def test_openings_that_do_not_end_keep_out_others_who_are_told_so(
    loop: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._server._limits.OPENING_WAIT_TIMEOUT", 0.1)
    async with served(max_unauthenticated=3) as server:  # one address has two of them
        with connect_raw(server.port), await open_raw(server.port, hello=False):
            rejected = await try_to_connect(loop, server.port)
            assert rejected is not None
            assert (rejected.status, rejected.body) == (503, f"{OPENING}\n")
            assert (await answer_to(server.port)).headers["retry-after"] == "5"
    assert said_of_limits(caplog) == [f"refused with 503: {OPENING}"] * 2


@pytest.mark.trio
async def test_one_address_cannot_keep_out_the_others_by_openings(autojump_clock: trio.testing.MockClock) -> None:
    counted = limits(opening=4)
    async with AsyncExitStack() as held:
        for address in ("192.0.2.7", "192.0.2.7", "192.0.2.8"):
            assert await held.enter_async_context(counted.opening(address)) is None
        async with counted.opening("192.0.2.7") as refusal:
            assert refusal is not None
            assert (refusal.status, refusal.reason) == (503, OPENING)
        assert await held.enter_async_context(counted.opening("192.0.2.8")) is None
        async with counted.opening("192.0.2.9") as refusal:
            assert refusal is not None
    for _ in range(2):
        async with counted.opening("192.0.2.7") as refusal:
            assert refusal is None
    await trio.lowlevel.checkpoint()  # until then, trio refers to the exception of the last wait that timed out
    assert not counted._openings_per_network


@pytest.mark.trio
async def test_who_comes_with_many_others_is_let_in_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._limits.OPENING_WAIT_TIMEOUT", 20.0)
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
async def test_a_flood_is_turned_away_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._limits.MAX_REJECTING", 1)
    async with served(max_connections=1) as server, WSClient(LOCAL, server.port).connect() as client:
        with connect_raw(server.port) as told:
            assert (await told.receive_head()).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            with connect_raw(server.port) as other:
                assert await other.receive_rest() == b""
        assert await client.execute("(+ 1 2)") == 3
        head = b""
        while not head:  # until the server has heard that the first has left
            with connect_raw(server.port) as peer:
                head = await peer.receive_head()
        assert head.startswith(b"HTTP/1.1 503 ")


@pytest.mark.trio
async def test_a_server_that_stops_does_not_wait_for_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._limits.OPENING_WAIT_TIMEOUT", 60.0)
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
