"""The lines that peers can cause in a log are limited, and the others are counted."""

import logging
import re
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.opening import LOCAL, answer_to
from support.raw import connect_raw, open_raw

from rayforce_trio import WSServer
from rayforce_trio._server._log import ConnectionLog, LogLimiter
from rayforce_trio._server._log_summary import (
    LINE_SIZE,
    MAX_KINDS,
    NETWORK_BURST,
    NETWORK_RATE,
    TOTAL_BURST,
    TOTAL_RATE,
    LogSummary,
)

INFO, WARNING = logging.INFO, logging.WARNING


def allowed(summary: LogSummary, number: int, now: float, *, network: str = "192.0.2.7", size: int = 100) -> int:
    """Return how many of some lines are allowed."""
    return sum(summary.allow("open", network, INFO, size, now) for _ in range(number))


def test_a_few_lines_a_second_are_all_logged() -> None:
    summary = LogSummary()
    for second in range(1000):
        assert allowed(summary, NETWORK_RATE, float(second)) == NETWORK_RATE
    assert summary.take() == (0, "")


def test_a_burst_of_one_network_is_cut_and_others_are_not_affected() -> None:
    summary = LogSummary()
    assert allowed(summary, 2000, 0.0) == NETWORK_BURST
    assert summary.report_due == 1.0
    assert allowed(summary, 10, 0.5, network="192.0.2.8") == 10
    count = 2000 - NETWORK_BURST
    assert summary.take() == (
        INFO,
        f'lines left out in the last second: {count:,} ({count:,} "open" from 192.0.2.7)',
    )
    assert summary.report_due == float("inf")


def test_while_a_flood_lasts_only_summaries_are_logged_and_lines_again_after_it() -> None:
    summary = LogSummary()
    steps = range(20_000)
    assert sum(allowed(summary, 1, step / 2000) for step in steps) == NETWORK_BURST + NETWORK_RATE // 2000
    assert allowed(summary, 1, 10.0 + 1.2) == 1


def test_all_networks_together_are_limited() -> None:
    summary = LogSummary()
    assert sum(allowed(summary, 2, 0.0, network=str(number)) for number in range(5000)) == TOTAL_BURST
    assert sum(allowed(summary, 1, 1.0, network=str(number)) for number in range(5000)) <= TOTAL_RATE


def test_other_lines_hide_no_error_and_errors_are_limited_as_well() -> None:
    summary = LogSummary()
    for number in range(1000):
        allowed(summary, 10, 0.0, network=str(number))
    assert sum(summary.allow("internal error", "7", logging.ERROR, 100, 0.0) for _ in range(1000)) == NETWORK_BURST
    assert summary.take()[0] == logging.ERROR


def test_a_long_line_counts_as_several() -> None:
    summary = LogSummary()
    assert allowed(summary, 100, 0.0, size=10 * LINE_SIZE) == NETWORK_BURST // 10
    assert allowed(summary, 1, 100.0, size=100 * LINE_SIZE) == 1
    assert allowed(summary, 1, 101.0) == 0


def test_a_summary_has_the_most_frequent_kinds_and_the_highest_level() -> None:
    summary = LogSummary()
    allowed(summary, TOTAL_BURST * 10, 0.0)
    summary.take()
    for number in range(10):
        for _ in range(100 + number):
            summary.allow(f"refused with {500 + number}", "192.0.2.7", WARNING if number == 3 else INFO, 100, 0.0)
    level, text = summary.take()
    assert level == WARNING
    assert text.startswith('lines left out in the last second: 1,045 (109 "refused with 509" from 192.0.2.7, ')
    assert text.endswith(", 510 more)")
    assert text.count(" from ") == 5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3000), st.floats(0, 2)), max_size=30))
def test_no_line_is_lost_and_the_number_of_kinds_is_bounded(steps: list[tuple[str, int, float]]) -> None:
    summary = LogSummary()
    now, logged, lines, told = 0.0, 0, 0, 0
    for kind, number, seconds in steps:
        now += seconds
        lines += 1
        logged += summary.allow(f"{kind}{number}", str(number), INFO, 100, now)
        assert len(summary._left_out) <= MAX_KINDS + 1
        if summary.report_due <= now:
            told += told_by(summary)
    assert logged + told + told_by(summary) == lines


def told_by(summary: LogSummary) -> int:
    """Return how many lines the next summary counts."""
    _, text = summary.take()
    return int(text.split()[7].replace(",", "")) if text else 0


@pytest.mark.trio
async def test_the_lines_of_a_connection_are_limited_except_those_of_log_queries(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    caplog.set_level(INFO, "rayforce_trio.server")
    limiter = LogLimiter()
    log = ConnectionLog(7, "192.0.2.7:40312", limiter=limiter, network="192.0.2.7")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.run)
        for _ in range(200):
            log.warning("a post failed: %s", "type: cannot add i64 and str")
        log.refused(503, "This server has reached its limit of connections (max_connections). Try again later.")
        assert len(caplog.messages) == NETWORK_BURST
        await trio.sleep(0.99)
        assert len(caplog.messages) == NETWORK_BURST
        await trio.sleep(0.02)
        assert caplog.records[-1].levelno == WARNING
        assert caplog.messages[-1] == (
            f"lines left out in the last second: {201 - NETWORK_BURST} ({200 - NETWORK_BURST} "
            '"a post failed" from 192.0.2.7, 1 "refused with 503 (max_connections)" from 192.0.2.7)'
        )
        nursery.cancel_scope.cancel()
    limiter.report()
    assert len(caplog.messages) == NETWORK_BURST + 1


COUNTED = re.compile(r"(?:, |\()([\d,]+) \"([^\"]+)\" from 127\.0\.0\.1")


def lines_by_kind(messages: list[str]) -> Counter[str]:
    """Return how many lines of each kind the log has, in full or counted in a summary."""
    found: Counter[str] = Counter()
    for message in messages:
        if match := re.fullmatch(r"connection \d+ \(127\.0\.0\.1:\d+\): ([^:]+).*", message):
            found[match[1]] += 1
        for number, kind in COUNTED.findall(message):
            found[kind] += int(number.replace(",", ""))
    return found


@pytest.mark.trio
async def test_a_flood_of_connections_has_few_lines_and_every_one_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Peers that leave, that are refused, and that open a connection and close it, until the server stops."""
    caplog.set_level(INFO, "rayforce_trio.server")
    with trio.fail_after(60):
        async with WSServer(0, host=LOCAL, allowed_hosts=["127.0.0.1"]) as server:
            for _ in range(300):
                connect_raw(server.port).close()
            for _ in range(100):
                assert (await answer_to(server.port, {"Host": "foreign.example"})).status == 421
            for _ in range(100):
                (await open_raw(server.port)).close()
            while server.statistics().connections.opening or server.statistics().connections.open:
                await trio.lowlevel.checkpoint()
            now = server.statistics().connections
    assert (now.failed, now.refused, now.total) == (300, {421: 100}, 100)
    assert len(caplog.messages) < 150
    counted = lines_by_kind(caplog.messages)
    assert counted["not opened"] == 300
    assert counted["refused with 421"] == counted["open"] == counted["lost"] == 100
