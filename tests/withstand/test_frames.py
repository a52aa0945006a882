"""Peers that send small frames as fast as they can, on an open connection and while the server closes it."""

import pytest
import trio
from support.raw import CONTINUATION, PING, PONG, SUBPROTOCOL, TEXT, RawPeer, frame, open_raw

from . import _servers
from .harness import assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

_UNFINISHED = 60 * 1024 * 1024  # bytes; below `max_message_size`
_BAD = frame(b"no frame of the Rayforce protocol")


def _fragmented(payload: bytes) -> bytes:
    """Return control messages that ask for nothing, each in as many fragments as are allowed."""
    parts = frame(payload, CONTINUATION, fin=False) * 1000
    return (frame(b"{", TEXT, fin=False) + parts + frame(b"}", CONTINUATION)) * 10


KINDS = {
    "empty pings": frame(b"", PING) * 10_000,
    "long pings": frame(bytes(125), PING) * 1000,
    "pongs": frame(b"", PONG) * 10_000,
    "empty messages": frame(b"") * 10_000,
    "empty fragments": _fragmented(b""),
    "fragments of a byte": _fragmented(b" "),
    "an unfinished message": frame(bytes(1024 * 1024), fin=False, size=_UNFINISHED),
}


async def send_small_frames(
    port: int, kind: str, peers: int, after_bad_message: bool, *, task_status: trio.TaskStatus[None]
) -> None:
    """Attack from `peers` connections. A peer that the server has disconnected connects again at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(peers):
            nursery.start_soon(_again_and_again, port, kind, after_bad_message)
        task_status.started()


async def _again_and_again(port: int, kind: str, after_bad_message: bool) -> None:
    # In the extended protocol, an empty message is a bad message.
    subprotocol = None if kind == "empty messages" and not after_bad_message else SUBPROTOCOL
    while True:
        try:
            peer = await open_raw(port, subprotocol=subprotocol)
        except (AssertionError, EOFError, OSError):  # the server was faster to close the connection
            continue
        with peer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, peer)
                await _send(peer, kind, after_bad_message)
                nursery.cancel_scope.cancel()


async def _send(peer: RawPeer, kind: str, after_bad_message: bool) -> None:
    """Send until the server disconnects, or the message is almost finished."""
    if after_bad_message:
        await peer.send(_BAD)
    data = KINDS[kind]
    left = _UNFINISHED if kind == "an unfinished message" and not after_bad_message else 1 << 60
    while left > len(data) and await peer.send(data) == len(data):
        left -= len(data)
        data = KINDS[kind] if kind != "an unfinished message" else bytes(1024 * 1024)


async def _read(peer: RawPeer) -> None:
    while await peer.receive_some():
        pass


@pytest.mark.parametrize("peers", [4, 10])
@pytest.mark.parametrize("after_bad_message", [False, True], ids=["open", "after a bad message"])
@pytest.mark.parametrize("kind", KINDS)
def test_small_frames_delay_nobody(kind: str, after_bad_message: bool, peers: int) -> None:
    with served(_servers.in_process) as server:
        undisturbed = server.measure(seconds=3)
        with attacked(send_small_frames, server, kind=kind, peers=peers, after_bad_message=after_bad_message):
            disturbed = server.measure(seconds=3)
    assert_added_delay(undisturbed, disturbed, 0.010 if peers == 4 else 0.025)
