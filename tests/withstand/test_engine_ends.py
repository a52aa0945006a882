"""A client that ends the engine process whenever it can, from an address of its own."""

import socket
from contextlib import suppress

import pytest
import trio
from support.raw import BINARY, RawPeer, frame, upgrade

from rayforce_trio._codec import encode
from rayforce_trio._protocol import HELLO, HELLO_REPLY, SUBPROTOCOL, MessageType

from . import _servers
from .harness import assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

_ADDRESS = "127.0.0.2"  # honest clients come from 127.0.0.1
_EXIT = frame(encode("(.sys.exit 0)", MessageType.SYNC))
_PAUSE = 0.01  # seconds before it connects again after a refusal


async def end_engines(port: int, waits: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Send `(.sys.exit 0)`, and connect again as soon as possible.

    Args:
        waits: how often the server must have made this client wait before the attack counts as begun.
    """
    is_refused = False
    if not waits:
        task_status.started()
    while True:
        with _connect(port) as peer, suppress(EOFError, OSError):
            await peer.send(upgrade({"Sec-WebSocket-Protocol": SUBPROTOCOL}))
            was_refused, is_refused = is_refused, not (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
            if is_refused and not was_refused:
                waits -= 1
                if not waits:
                    task_status.started()
            if not is_refused:
                await peer.send_frame(HELLO)
                assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
                await peer.send(_EXIT)
                await peer.receive_frame()
        if is_refused:
            await trio.sleep(_PAUSE)


def _connect(port: int) -> RawPeer:
    sock = socket.socket()
    sock.bind((_ADDRESS, 0))
    sock.connect(("127.0.0.1", port))
    return RawPeer(sock, is_client=True)


def test_a_client_that_must_wait_delays_nobody() -> None:
    with served(_servers.child, engine={"read_only": True}) as server:
        undisturbed = server.measure("requests", seconds=3.0)
        with attacked(end_engines, server, waits=2):  # the second wait is 10 seconds
            server.measure("requests", seconds=1.0)  # clients whose connections were closed connect again
            disturbed = server.measure("requests", seconds=3.0)
    assert_added_delay(undisturbed, disturbed, 0.015)


def test_clients_connect_again_within_a_second_whenever_the_process_ends() -> None:
    with served(_servers.child, engine={"read_only": True}) as server, attacked(end_engines, server, waits=0):
        timing = server.measure("requests", seconds=10.0)["requests"]
    print(timing)
    assert timing.longest < 1.0
    assert len(timing.errors) <= 16  # of each of four clients one for each of four processes
