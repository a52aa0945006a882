"""Peers that attack again and again, at rates that leave most of the machine to the other clients."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from support.raw import PING, RawPeer, close_frame, connect_raw, frame, open_raw, upgrade

from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

_PAUSE = 1.0  # seconds between two attacks of one attacker, on average
_LONGEST = 5.0  # seconds of one attack
_BAD_MESSAGE = frame(b"nonsense")
_TINY_FRAMES = frame(b"", PING) * 2000 + _BAD_MESSAGE * 1000 + frame(fin=False) + frame(opcode=0, fin=False) * 2000
_QUERY = frame(encode("(sum (til 3000000))", MessageType.SYNC))
_POSTS = frame(encode("(sum (til 1000))", MessageType.ASYNC)) * 900  # as many as a server lets wait
_UNFINISHED = frame(bytes(63 * 1024 * 1024 - 1), size=63 * 1024 * 1024)
_LONG_REPLY = frame(encode("(til 300000)", MessageType.SYNC))
_PRINTS = frame(encode("(do (map (fn [x] (println x)) (til 20000)) null)", MessageType.SYNC))


async def send_tiny_frames(port: int) -> None:
    """Break the protocol, and send empty frames while the server closes the connection."""
    with await open_raw(port) as peer:
        await peer.send(_BAD_MESSAGE + _TINY_FRAMES * 5)
        await peer.receive_rest()


async def send_tiny_frames_before(port: int) -> None:
    """Send empty pings and fragments on an open connection, and then close it."""
    with await open_raw(port) as peer:
        await peer.send(frame(b"", PING) * 2000 + frame(fin=False) + frame(opcode=0, fin=False) * 2000)
        await peer.send(close_frame(1000))
        await peer.receive_rest()


async def post_and_vanish(port: int) -> None:
    """Send a query and many posts, and break the connection."""
    with await open_raw(port) as peer:
        await peer.send(_QUERY + _POSTS)
        peer.reset()


async def abandon_a_message(port: int) -> None:
    """Send all but the last byte of a long message, and disconnect."""
    with await open_raw(port) as peer:
        await peer.send(_UNFINISHED)


async def read_at_a_trickle(port: int) -> None:
    """Request long replies, and read a kilobyte of them now and then."""
    with await open_raw(port, receive_buffer=4096) as peer:
        await peer.send(_LONG_REPLY * 5)
        while True:
            await trio.sleep(0.2)
            if _is_at_end(peer):
                return


async def open_half(port: int) -> None:
    """Send opening requests that have no end."""
    peers = [connect_raw(port) for _ in range(10)]
    try:
        for peer in peers:
            await peer.send(upgrade().removesuffix(b"\r\n"))
        await trio.sleep_forever()
    finally:
        for peer in peers:
            peer.close()


async def connect_and_disconnect(port: int) -> None:
    """Connect many times and send nothing; every other connection is broken."""
    for number in range(50):
        peer = connect_raw(port)
        if number % 2:
            peer.reset()
        peer.close()
        await trio.sleep(0.01)


async def print_much(port: int) -> None:
    """Send a query that prints many lines."""
    with await open_raw(port) as peer:
        await peer.send(_PRINTS)
        await peer.receive_frame()


Attack = Callable[[int], Awaitable[None]]

ATTACKS: tuple[Attack, ...] = (
    send_tiny_frames,
    send_tiny_frames_before,
    post_and_vanish,
    abandon_a_message,
    read_at_a_trickle,
    open_half,
    connect_and_disconnect,
)
NATIVE_ATTACKS: tuple[Attack, ...] = (*ATTACKS, print_much)
"""The attacks on a server with an engine process of its own, whose output it logs."""


async def attack_again_and_again(attack: Attack, port: int, attacks: Counter[str]) -> None:
    """Attack until cancelled, and count the attacks."""
    while True:
        # The server may refuse an attacker, or close its connection, at any point.
        with trio.move_on_after(_LONGEST), suppress(OSError, EOFError, AssertionError):
            await attack(port)
        attacks[attack.__name__] += 1
        await trio.sleep(random.uniform(0, 2 * _PAUSE))


def _is_at_end(peer: RawPeer) -> bool:
    """Read a kilobyte if it has arrived; return whether the connection has ended."""
    try:
        return peer.socket.recv(1024) == b""
    except BlockingIOError:
        return False
