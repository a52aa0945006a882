"""What the server logs of its connections."""

import logging
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from rayforce import List
from support.engine_processes import pid_of
from support.engines import GateEngine
from support.opening import LOCAL, answer_to
from support.raw import CLOSE, RawPeer, close_frame, connect_raw, frame, open_raw
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import NativeProcess, WSClient, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType
from rayforce_trio._server._log import QUERY_LIMIT, ConnectionLog, beginning_of
from rayforce_trio.errors import RayforceTypeError


def test_a_line_names_the_connection_its_peer_and_who_that_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    log = ConnectionLog(7, "192.0.2.7:40312")
    log.info("open")
    log.principal = "ann"
    log.warning("%d posts of %s failed", 2, "100%\n")
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        log.exception("internal error")
    log.error("done")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "connection 7 (192.0.2.7:40312): open"),
        ("WARNING", r"connection 7 (ann at 192.0.2.7:40312): 2 posts of 100%\n failed"),
        ("ERROR", "connection 7 (ann at 192.0.2.7:40312): internal error"),
        ("ERROR", "connection 7 (ann at 192.0.2.7:40312): done"),
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True, False]


def test_a_traceback_is_shown_indented_and_printable(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    try:
        raise ValueError("unknown\nconnection 9 (root): open\x1b[2J")
    except ValueError:
        ConnectionLog(7, "192.0.2.7:40312").exception("authenticate raised an exception")
    [record] = caplog.records
    first, *lines = logging.Formatter().format(record).split("\n")
    assert first == "connection 7 (192.0.2.7:40312): authenticate raised an exception"
    assert lines[0] == "  Traceback (most recent call last):"
    assert lines[-2:] == ["  ValueError: unknown", r"  connection 9 (root): open\x1b[2J"]
    assert all(line.startswith("  ") for line in lines)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("(+ 1 2)", "(+ 1 2)"),
        ("(+ 1\n\t 2)\r\nconnection 9 (root): open", "(+ 1 2) connection 9 (root): open"),
        ("", ""),
        ("x" * QUERY_LIMIT, "x" * QUERY_LIMIT),
        ("x" * (QUERY_LIMIT + 1), "x" * QUERY_LIMIT + "..."),
        ("€" * (QUERY_LIMIT + 1), "€" * QUERY_LIMIT + "..."),
        (" " * 9000 + "x", "..."),
        (List([1, 2]), "(46 bytes)"),
    ],
)
def test_of_a_query_the_beginning_is_shown(query: object, shown: str) -> None:
    frame = encode(query, MessageType.SYNC)
    assert beginning_of(frame) == beginning_of(memoryview(frame)) == shown


@pytest.mark.parametrize("frame", [b"", b"\xf3", bytes(16) + b"\xf3", bytes(16) + b"\xf3" + bytes(9) + b"\xff\x00"])
def test_what_is_no_query_is_shown_all_the_same(frame: bytes) -> None:
    assert beginning_of(frame)


# What is logged of a server


@asynccontextmanager
async def logging_server(caplog: pytest.LogCaptureFixture, **options: Any) -> AsyncIterator[WSServer]:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    with trio.fail_after(30):
        async with WSServer(0, host=LOCAL, **options) as server:
            yield server


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the level and the text of what was logged of a server's connections."""
    found = []
    for record in caplog.records:
        if record.name != "rayforce_trio.server":
            continue
        line = re.fullmatch(r"connection \d+ \((?:ann at )?127\.0\.0\.1:\d+\): (.*)", record.getMessage())
        if line is None and record.getMessage().startswith("stopping: "):
            continue
        assert line is not None, record.getMessage()
        found.append((record.levelname, line[1]))
    return found


@pytest.mark.trio
@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (close_frame(1000), "closed by the client with code 1000"),
        (frame(struct.pack("!H", 4000) + b"bye", CLOSE), "closed by the client with code 4000: bye"),
        (frame(b"", CLOSE), "closed by the client with code 1005"),
        (b"", "lost: the peer disconnected without closing the connection"),
        (
            frame(b"", 3),
            "closed with code 1002: the peer broke the WebSocket protocol: a frame with the reserved opcode 3",
        ),
        (
            frame(b"", size=1001),
            "closed with code 1009: a message is longer than the 1000 bytes allowed here (max_message_size)",
        ),
        (frame(b"no frame"), "closed with code 1002: a frame needs a header of 16 bytes, but has 8 bytes"),
    ],
)
async def test_a_connection_has_a_line_when_it_opens_and_one_when_it_ends(
    sent: bytes, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with logging_server(caplog, max_message_size=1000) as server:
        with await open_raw(server.port) as peer:
            await peer.send(sent)
            peer.half_close()
            await peer.receive_rest()
    assert lines(caplog) == [("INFO", "open"), ("INFO", line)]


@pytest.mark.trio
@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("code", [1001, 1000, None])
async def test_so_has_one_that_the_server_ends(
    code: int | None, cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def part(peer: RawPeer) -> None:
        assert await peer.receive_close() == 1001
        if code is None:
            peer.close()
        else:
            await peer.send_close(code)

    caplog.set_level(logging.INFO, "rayforce_trio.server")
    server = WSServer(0, host=LOCAL)
    with trio.fail_after(30):
        async with trio.open_nursery() as peers, trio.open_nursery() as serving:
            await server.start(serving)
            peer = await open_raw(server.port)
            peers.start_soon(part, peer)
            if cancelled:
                serving.cancel_scope.cancel()
            else:
                await server.stop()
        peer.close()
    assert lines(caplog) == [("INFO", "open"), ("INFO", "closed with code 1001: the server is shutting down")]


@pytest.mark.trio
async def test_so_has_one_whose_engine_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    engine = NativeProcess()
    async with logging_server(caplog, engine=engine) as server:
        with await open_raw(server.port) as peer:
            await trio.run_process(["kill", "-9", str(pid_of(engine))])
            assert await peer.receive_close() == 1011
            await peer.send_close(1011)
    assert lines(caplog) == [("INFO", "open"), ("WARNING", "closed with code 1011: the engine process disconnected")]


@pytest.mark.trio
async def test_what_never_opens_has_one_line_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async with logging_server(caplog, authenticate=lambda _: None, open_timeout=1.0) as server:
        await answer_to(server.port)
        await answer_to(server.port, {"Origin": "http://foreign.example"})
        await answer_to(server.port, {"Sec-WebSocket-Key": "x"})
        with connect_raw(server.port) as silent:
            assert await silent.receive_rest() == b""
        with connect_raw(server.port) as leaving:
            leaving.half_close()
            await leaving.receive_rest()
    said = lines(caplog)
    assert {level for level, _ in said} == {"INFO"}
    assert sorted(re.sub(r"(\d\d\d): .*", r"\1", text) for _, text in said) == [
        "not opened: the client took too long (open_timeout)",
        "not opened: the peer closed the connection during the opening handshake",
        "refused with 400",
        "refused with 401",
        "refused with 403",
    ]


@pytest.mark.trio
@pytest.mark.parametrize("log_queries", [False, True])
async def test_queries_are_logged_only_if_that_was_asked_for(
    log_queries: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        logging_server(caplog, log_queries=log_queries, authenticate=lambda _: "ann") as server,
        WSClient(LOCAL, server.port).connect() as connection,
    ):
        await connection.execute("(+ 40\n 2)")
        await connection.post("(+ 50 3)")
        with pytest.raises(RayforceTypeError):
            await connection.execute('(+ 60 "four")')
    told = [("INFO", "request 1: (+ 40 2)"), ("INFO", "post: (+ 50 3)"), ("INFO", 'request 2: (+ 60 "four")')]
    assert [line for line in lines(caplog) if "(+" in line[1]] == (told if log_queries else [])


@pytest.mark.trio
@pytest.mark.parametrize("reason", ["busy", "closing"])
async def test_a_query_that_is_refused_is_logged_like_others(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = GateEngine()
    async with logging_server(caplog, engine=engine, log_queries=True, max_in_flight=1) as server:
        with await open_raw(server.port) as peer:
            await peer.send_frame(encode("(+ 1 1)", MessageType.SYNC))
            await engine.until(begun=1)
            async with trio.open_nursery() as nursery:
                if reason == "closing":
                    nursery.start_soon(server.stop)
                    await wait_all_tasks_blocked()
                    await peer.send_frame(encode("(+ 2 2)", MessageType.ASYNC))
                await peer.send_frame(encode("(+ 3 3)", MessageType.SYNC))
                while server.statistics().requests.total < 2:
                    await trio.lowlevel.checkpoint()
                engine.release()
                await peer.receive_frame()
                assert reason in str((await peer.receive_frame())[1])
    logged = [text for _, text in lines(caplog) if text.startswith(("request", "post"))]
    late_post = ["post: (+ 2 2)"] if reason == "closing" else []
    assert logged == ["request 1: (+ 1 1)", *late_post, "request 2: (+ 3 3)"]


@pytest.mark.trio
async def test_a_peer_cannot_write_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with WSServer(0, host="127.0.0.1") as server:
        with await open_raw(server.port) as peer:
            await peer.send_frame(struct.pack("!H", 4000) + b"bye\nconnection 9 (root): open", CLOSE)
            assert await peer.receive_close() == 4000
    assert caplog.messages[-1].endswith(r"): closed by the client with code 4000: bye\nconnection 9 (root): open")
    assert not any("\n" in message for message in caplog.messages)
