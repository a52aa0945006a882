"""Accepting connections although the system has no room for them at times."""

import errno
import logging
import os
import re
import sys
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trio
from support.gateway import gateway
from support.raw import connect_raw

from rayforce_trio import WSClient
from rayforce_trio._server._listener import patient
from rayforce_trio.errors import ConnectError

pytestmark = pytest.mark.trio


class Scripted(trio.abc.Listener[trio.SocketStream]):
    """Fails to accept with one error after the other, and then accepts.

    Attributes:
        port: where it listens.
    """

    def __init__(self, *failures: int) -> None:
        listening = trio.socket.socket()
        listening.listen()
        self.port = listening.getsockname()[1]
        self._listener = trio.SocketListener(listening)
        self._failures = deque(failures)

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if self._failures:
            number = self._failures.popleft()
            raise OSError(number, os.strerror(number))
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_lack_of_room_is_survived_and_logged_once(
    number: int, autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Scripted(*[number] * 5)
    (listener,) = patient([failing])
    async with listener:
        with connect_raw(failing.port):
            stream = await listener.accept()
        await stream.aclose()
    name, text = errno.errorcode[number], os.strerror(number)
    assert complaints(caplog) == [f"no connection can be accepted, those that come wait: {text} ({name})"]


async def test_all_listeners_of_a_server_together_log_it_once_a_second(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    listeners = patient([Scripted(*[errno.EMFILE] * 1000), Scripted(*[errno.ENFILE] * 1000)])
    async with listeners[0], listeners[1], trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(listener.accept)
        await trio.sleep(9.95)
        nursery.cancel_scope.cancel()
    assert 5 <= len(complaints(caplog)) <= 10


async def test_other_errors_come_out() -> None:
    (listener,) = patient([Scripted(errno.EINVAL)])
    async with listener:
        with pytest.raises(OSError, match="Invalid argument"):
            await listener.accept()


@pytest.mark.timing
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process can be changed on Linux alone")
async def test_a_server_that_runs_out_of_descriptors_goes_on_when_it_has_some_again(
    native_port: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with gateway(native_port, log) as server, trio.fail_after(60):
        async with WSClient("127.0.0.1", server.port).connect() as connection:
            server.leave_descriptors(4)
            with ExitStack() as peers:
                since = trio.current_time()
                for _ in range(40):
                    peers.enter_context(connect_raw(server.port))
                while trio.current_time() - since < 2.5:  # the span for which the lines are counted
                    assert await connection.execute("(+ 1 2)") == 3
                    await trio.sleep(0.05)
            served = False
            while not served:
                with suppress(ConnectError):
                    async with WSClient("127.0.0.1", server.port).connect() as other:
                        served = await other.execute("(+ 1 2)") == 3
            assert await connection.execute("(+ 1 2)") == 3
            span = trio.current_time() - since
    lines = [line for line in log.read_text().splitlines() if "cannot" in line or "no connection" in line]
    assert 2 <= len(lines) <= span + 1
    assert all(
        re.fullmatch(r"no connection can be accepted, .*: Too many open files \(EMFILE\)", line) for line in lines
    )
    assert "Traceback" not in log.read_text()
