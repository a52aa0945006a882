"""What the server logs of its connections."""

import logging
import struct

import pytest
from support.raw import CLOSE, open_raw

from rayforce_trio import WSServer
from rayforce_trio._server._log import ConnectionLog, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is: änn €", "as it is: änn €"),
        ("two\r\nlines", r"two\r\nlines"),
        ("\x1b[2J\0\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("\u202eleft to right\u2028", r"\u202eleft to right\u2028"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


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


@pytest.mark.trio
async def test_a_peer_cannot_write_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with WSServer(0, host="127.0.0.1") as server:
        with await open_raw(server.port) as peer:
            await peer.send_frame(struct.pack("!H", 4000) + b"bye\nconnection 9 (root): open", CLOSE)
            assert await peer.receive_close() == 4000
    assert caplog.messages[-1].endswith(r"closed the connection with code 4000: bye\nconnection 9 (root): open")
    assert not any("\n" in message for message in caplog.messages)
