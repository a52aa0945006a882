"""What an engine process prints, on its way to the log."""

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from support.engine_processes import Log

from rayforce_trio._engines._output import (
    LINE_LIMIT,
    LOG_PERIOD,
    MAX_LINES,
    MAX_LOGGED_SIZE,
    MAX_WARNINGS,
    Output,
    output_limits,
)
from rayforce_trio._tasks import TIME_SLICE

NAME = "engine process 17"
PIPE_SIZE = 64 * 1024


@asynccontextmanager
async def reading(output: Output, *, seconds: float = 10) -> AsyncIterator[trio.testing.MemorySendStream]:
    """Have `output` read what the block writes; leaves it when all was read."""
    writer, reader = trio.testing.memory_stream_one_way_pair()
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.log_all, reader, NAME)
            yield writer
            await writer.aclose()


async def read(data: bytes) -> Output:
    output = Output()
    async with reading(output) as writer:
        await writer.send_all(data)
    return output


def texts(log: Log) -> list[str]:
    return [record.getMessage().removeprefix(f"{NAME}: ") for record in log.records]


@pytest.mark.trio
async def test_every_line_is_logged_under_the_name_of_its_process(log: Log) -> None:
    await read(b"one\ntwo\n")
    assert [record.getMessage() for record in log.records] == [f"{NAME}: one", f"{NAME}: two"]
    assert {record.name for record in log.records} == {"rayforce_trio.engine"}


@pytest.mark.trio
async def test_a_line_is_logged_when_it_is_complete(log: Log) -> None:
    async with reading(Output()) as writer:
        for data, expected in ((b"on", []), (b"e\ntw", ["one"]), (b"o", ["one"]), (b"\n", ["one", "two"])):
            await writer.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
            assert texts(log) == expected


@pytest.mark.trio
async def test_what_stands_after_the_last_newline_is_logged_at_the_end(log: Log) -> None:
    output = await read(b"one\nlast words")
    assert texts(log) == ["one", "last words"]
    assert str(output) == "one\nlast words"


@pytest.mark.trio
async def test_empty_lines_and_trailing_space_are_left_out(log: Log) -> None:
    await read(b"\n \none \r\n\r\n\n two\n")
    assert texts(log) == ["one", " two"]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("line", "logged_as"),
    [
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"one\rtwo", r"one\rtwo"),
        (b"a\tb\x00c\x07\x7f", r"a\tb\x00c\x07\x7f"),
        ("right\u202eleft\u2028line\x85next".encode(), r"right\u202eleft\u2028line\x85next"),
        ("Käse 価格 🙂".encode(), "Käse 価格 🙂"),
        (b"caf\xe9", "caf\ufffd"),
        (b"100% %s %d", "100% %s %d"),
    ],
    ids=["colours", "overwriting", "controls", "separators", "text", "not UTF-8", "percent"],
)
async def test_what_would_control_a_terminal_is_escaped(log: Log, line: bytes, logged_as: str) -> None:
    output = await read(line + b"\n")
    assert texts(log) == [logged_as]
    assert str(output) == logged_as


@pytest.mark.trio
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "bit by bit"])
@pytest.mark.parametrize("end", [b"\n", b""], ids=["ended", "not ended"])
async def test_a_long_line_is_logged_in_parts(log: Log, at_once: bool, end: bytes) -> None:
    line = b"abcdefgh" * (5 * LINE_LIMIT // 16)
    async with reading(Output()) as writer:
        for piece in [line + end] if at_once else [*(line[n : n + 1000] for n in range(0, len(line), 1000)), end]:
            await writer.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
    assert max(len(text) for text in texts(log)) <= LINE_LIMIT
    assert "".join(texts(log)).encode() == line


@pytest.mark.trio
async def test_a_line_that_never_ends_is_logged_meanwhile(log: Log) -> None:
    async with reading(Output()) as writer:
        await writer.send_all(b"x" * (3 * LINE_LIMIT + 1))
        await trio.testing.wait_all_tasks_blocked()
        assert texts(log) == ["x" * LINE_LIMIT] * 3


@pytest.mark.trio
async def test_the_last_fifty_lines_are_kept_whether_they_are_logged_or_not(log: Log) -> None:
    output = await read(b"".join(b"line %d\n" % n for n in range(1000)))
    assert str(output).split("\n") == [f"line {n}" for n in range(950, 1000)]


@pytest.mark.trio
async def test_no_more_than_a_pipe_holds_is_kept_of_long_lines(log: Log) -> None:
    output = await read(b"".join(b"%04d" % n + b"x" * (LINE_LIMIT - 5) + b"\n" for n in range(100)))
    assert [line[:4] for line in str(output).split("\n")] == [f"{n:04}" for n in range(92, 100)]
    assert len(str(output)) <= PIPE_SIZE


# Limits


@pytest.mark.trio
async def test_lines_beyond_the_limit_are_counted_when_the_output_ends(log: Log) -> None:
    await read(b"".join(b"%d\n" % n for n in range(MAX_LINES + 1000)))
    assert texts(log) == [*map(str, range(MAX_LINES)), "1000 lines left out"]
    assert {record.levelno for record in log.records} == {logging.INFO}


@pytest.mark.trio
@pytest.mark.parametrize("line", [b"1\n", b"ipc: 1\n"], ids=["a line", "a warning"])
async def test_lines_beyond_the_limit_are_counted_when_the_reading_is_cancelled(log: Log, line: bytes) -> None:
    writer, reader = trio.testing.memory_stream_one_way_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Output().log_all, reader, NAME)
            await writer.send_all(1000 * line)
            await trio.testing.wait_all_tasks_blocked()
            logged = len(log.records)
            nursery.cancel_scope.cancel()
    assert texts(log)[logged:] == [f"{1000 - logged} lines left out"]


@pytest.mark.trio
async def test_lines_beyond_it_are_counted_when_the_period_ends(
    log: Log, autojump_clock: trio.testing.MockClock
) -> None:
    async with reading(Output(), seconds=10 * LOG_PERIOD) as writer:
        await writer.send_all(b"1\n" * (MAX_LINES + 5))
        await trio.sleep(LOG_PERIOD - 1)
        assert texts(log) == ["1"] * MAX_LINES
        await writer.send_all(b"1\n" * 2)
        await trio.sleep(2)
        assert texts(log)[MAX_LINES:] == ["7 lines left out"]
        await writer.send_all(b"2\n")
        await trio.testing.wait_all_tasks_blocked()
        assert texts(log)[MAX_LINES + 1 :] == ["2"]
        await trio.sleep(3 * LOG_PERIOD)
    assert len(log.records) == MAX_LINES + 2


@pytest.mark.trio
async def test_a_process_that_was_restarted_has_no_limit_of_its_own(log: Log) -> None:
    limits = output_limits()
    for _ in range(3):
        async with reading(Output("", limits)) as writer:
            await writer.send_all(b"1\n" * MAX_LINES)
    assert texts(log) == [*["1"] * MAX_LINES, *[f"{MAX_LINES} lines left out"] * 2]


@pytest.mark.trio
async def test_lines_that_a_query_prints_hide_no_warning_of_the_engine(log: Log) -> None:
    await read(b"1\n" * (MAX_LINES + 1) + b"log: ERROR  journal write failed (rc=8)\n")
    assert [record.getMessage() for record in log.records if record.levelno == logging.WARNING] == [
        f"{NAME}: log: ERROR  journal write failed (rc=8)"
    ]


@pytest.mark.trio
async def test_lines_that_look_like_warnings_are_limited_and_hide_nothing_else(log: Log) -> None:
    await read(b"ipc: a post\n" * (MAX_WARNINGS + 7) + b"1\n")
    assert texts(log) == [*["ipc: a post"] * MAX_WARNINGS, "1", "7 lines left out"]
    assert log.records[-1].levelno == logging.WARNING


@pytest.mark.trio
@pytest.mark.parametrize("unit", [b"x" * 500 + b"\n", b"x"], ids=["lines", "a line that never ends"])
async def test_the_bytes_that_are_logged_are_limited(log: Log, unit: bytes) -> None:
    await read(unit * (5 * MAX_LOGGED_SIZE // len(unit)))
    *logged, report = texts(log)
    assert 0.9 * MAX_LOGGED_SIZE < sum(map(len, logged)) < MAX_LOGGED_SIZE + LINE_LIMIT
    assert report.endswith("lines left out")


@pytest.mark.trio
async def test_it_notices_that_the_process_listens_even_on_a_line_that_is_not_logged(log: Log) -> None:
    output = await read(b"1\n" * MAX_LINES + b"listening on 127.0.0.1:5000\n")
    assert output.listening.is_set()
    assert not log.saying("listening")


@pytest.mark.trio
async def test_other_tasks_run_while_much_output_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances whenever it is read, so a time slice is used up after ten lines."""
    now = itertools.count()
    monkeypatch.setattr("rayforce_trio._tasks.time.perf_counter", lambda: next(now) * TIME_SLICE / 10)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    output = Output()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        async with reading(output) as writer:
            await writer.send_all(b"1\n" * 10_000)
        nursery.cancel_scope.cancel()
    assert turns >= 10_000 / 15


@pytest.mark.trio
@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("ipc: .ipc.on.async hook raised an error", logging.WARNING),
        ("error: type: cannot add i64 and str", logging.WARNING),
        ("log: ERROR  journal write failed (rc=8)", logging.WARNING),
        ("log: WARN  chunk 3 raised: type (during replay)", logging.WARNING),
        ("log: replayed 2 entries (0 eval errors) from x.log", logging.INFO),
        ("listening on 127.0.0.1:5000", logging.INFO),
        ("no error: at all", logging.INFO),
    ],
)
async def test_what_tells_of_trouble_is_a_warning(log: Log, line: str, level: int) -> None:
    await read(f"{line}\n".encode())
    assert [(record.levelno, text) for record, text in zip(log.records, texts(log), strict=True)] == [(level, line)]


@pytest.mark.trio
async def test_it_tells_when_the_output_has_ended() -> None:
    output = Output()
    async with reading(output) as writer:
        await writer.send_all(b"one\n")
        await trio.testing.wait_all_tasks_blocked()
        assert not output.ended.is_set()
    assert output.ended.is_set()


@pytest.mark.trio
async def test_it_hears_that_the_process_listens_on_a_line_that_something_else_began() -> None:
    assert (await read(b"half a line, listening on 127.0.0.1:5000\n")).listening.is_set()


@pytest.mark.trio
async def test_it_tells_when_the_process_listens() -> None:
    output = Output()
    async with reading(output) as writer:
        await writer.send_all(b"so far\nlistening on 127.0.0.1:")
        await trio.testing.wait_all_tasks_blocked()
        assert not output.listening.is_set()
        await writer.send_all(b"5000\n")
        await output.listening.wait()
