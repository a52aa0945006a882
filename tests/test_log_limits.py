"""The limits on the lines that peers can cause in the log of a server."""

import logging
from collections.abc import Iterator

import pytest
import trio
from support.engine_processes import LOCAL, Log, logged
from support.leaks import no_leaks
from trio.testing import MockClock, wait_all_tasks_blocked

from rayforce_trio import WSClient, WSServer
from rayforce_trio._server import _log_limits
from rayforce_trio._server._log import LINE_LIMIT, ConnectionLog
from rayforce_trio._server._log_limits import MAX_LINES, PERIOD, LogLimits

ANN, BOB = "192.0.2.7", "192.0.2.8"


@pytest.fixture
def server_log() -> Iterator[Log]:
    with logged("rayforce_trio.server") as log:
        yield log


def texts(log: Log) -> list[str]:
    return [record.getMessage() for record in log.records]


@pytest.mark.parametrize("level", MAX_LINES)
def test_each_network_has_a_number_of_lines_of_each_level(level: int) -> None:
    limits = LogLimits()
    allowed = [limits.allow(ANN, level, 0.0) for _ in range(MAX_LINES[level] + 3)]
    assert allowed == [True] * MAX_LINES[level] + [False] * 3
    assert limits.allow(BOB, level, 0.0)
    assert all(limits.allow(ANN, other, 0.0) for other in MAX_LINES if other != level)
    assert limits.allow(ANN, level, PERIOD)


def test_lines_for_debugging_have_no_limit() -> None:
    limits = LogLimits()
    assert all(limits.allow(ANN, logging.DEBUG, 0.0) for _ in range(10_000))
    assert not len(limits)


@pytest.mark.trio
async def test_the_lines_left_out_are_reported_when_the_period_ends(server_log: Log, autojump_clock: MockClock) -> None:
    limits = LogLimits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.run)
        for number, network in (3, ANN), (0, BOB), (1, "2001:db8::/64"):
            for _ in range(MAX_LINES[logging.WARNING] + number):
                limits.allow(network, logging.WARNING, trio.current_time())
        await trio.sleep(PERIOD - 1)
        assert not server_log.records
        await trio.sleep(2)
        assert texts(server_log) == [
            "3 lines about connections from 192.0.2.7 left out",
            "1 lines about connections from 2001:db8::/64 left out",
        ]
        assert {record.levelno for record in server_log.records} == {logging.WARNING}
        assert not len(limits), "they are not in use"
        await trio.sleep(3 * PERIOD)
        nursery.cancel_scope.cancel()
    assert len(server_log.records) == 2


@pytest.mark.trio
async def test_the_rest_is_reported_at_the_end(server_log: Log) -> None:
    limits = LogLimits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.run)
        for _ in range(MAX_LINES[logging.ERROR] + 5):
            limits.allow(ANN, logging.ERROR, trio.current_time())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert texts(server_log) == ["5 lines about connections from 192.0.2.7 left out"]


def test_the_number_of_networks_that_are_remembered_is_limited(
    server_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_limits, "_MAX_NETWORKS", 4)
    limits = LogLimits()
    for _ in range(MAX_LINES[logging.WARNING] + 2):
        limits.allow(ANN, logging.WARNING, 0.0)
    for number in range(100):
        limits.allow(f"198.51.100.{number}", logging.WARNING, 0.0)
    assert len(limits) == 4 * len(MAX_LINES)
    assert texts(server_log) == ["2 lines about connections from 192.0.2.7 left out"]


def test_a_long_line_is_cut(server_log: Log) -> None:
    ConnectionLog(7, ANN).warning("a post failed: %s", "x" * 100_000)
    [text] = texts(server_log)
    assert text.endswith("x...")
    assert len(text) < LINE_LIMIT + 100


@pytest.mark.trio
async def test_posts_that_fail_do_not_fill_the_log(server_log: Log) -> None:
    async with no_leaks(), WSServer(0, host=LOCAL) as server:
        with trio.fail_after(60):
            for _ in range(2):  # a new connection has no limit of its own
                async with WSClient(LOCAL, server.port).connect() as connection:
                    for _ in range(MAX_LINES[logging.WARNING]):
                        await connection.post("(no_such_name)")
                    await connection.execute("1")
    warnings = [record.getMessage() for record in server_log.records if record.levelno == logging.WARNING]
    assert len(warnings) == MAX_LINES[logging.WARNING] + 1
    assert warnings[-1] == f"{MAX_LINES[logging.WARNING]} lines about connections from 127.0.0.1 left out"
    assert server.statistics().posts.failed == 2 * MAX_LINES[logging.WARNING]


@pytest.mark.trio
async def test_every_query_is_logged_so_that_none_can_be_hidden(server_log: Log) -> None:
    queries = MAX_LINES[logging.INFO] + 50
    async with (
        no_leaks(),
        WSServer(0, host=LOCAL, log_queries=True) as server,
        WSClient(LOCAL, server.port).connect() as connection,
    ):
        for _ in range(queries):
            await connection.execute("(+ 1 2)")
    assert len(server_log.saying("(+ 1 2)")) == queries
    assert not server_log.saying("left out")
