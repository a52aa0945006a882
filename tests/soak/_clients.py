"""Clients that send requests, cancel them, vanish and freeze.

Of a hundred sessions, five are killed (their connection is reset while requests are in flight), and one freezes: it
requests a lot and reads nothing. In the others, several tasks share a connection, and cancel a fifth of their requests.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import trio
from support.raw import frame, open_raw

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

_OF_SESSIONS = 100
_FROZEN = {50}
_KILLED = {10, 30, 60, 70, 90}
_CANCELLED = 0.2  # of the requests
_PATIENCE = 0.02  # seconds; a request that is cancelled is so at a random point within them
_ICE_AGE = 3.0  # seconds that a frozen session lasts
_BIG = frame(encode("(til 1000000)", MessageType.SYNC))


@dataclass
class Tally:
    """The counts of the clients.

    Attributes:
        wrong: replies that did not belong to their requests.
        failed: sessions that ended with an error although nothing was done to them.
    """

    requests: int = 0
    cancelled: int = 0
    killed: int = 0
    frozen: int = 0
    sessions: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def has_all(self) -> bool:
        """Whether the clients have done each kind of thing at least once."""
        return bool(self.requests and self.cancelled and self.killed and self.frozen)


async def run_client(port: int, number: int, tally: Tally) -> None:
    """Have one session after the other, until cancelled."""
    random = Random(number)
    for session in count(number * 7):
        place = session % _OF_SESSIONS
        try:
            if place in _FROZEN:
                await _freeze(port)
                tally.frozen += 1
            elif place in _KILLED:
                await _vanish(port, random)
                tally.killed += 1
            else:
                await _converse(port, random, tally)
        except Exception as error:  # noqa: BLE001 - told in the end
            tally.failed.append(repr(error))
            await trio.sleep(0.1)  # otherwise it would connect to a dead server without a pause
        tally.sessions += 1


async def _converse(port: int, random: Random, tally: Tally) -> None:
    async with WSClient("127.0.0.1", port).connect() as connection, trio.open_nursery() as nursery:
        for _ in range(random.randint(1, 3)):
            nursery.start_soon(_ask_some, connection, random, tally)


async def _ask_some(connection: WSClientConnection, random: Random, tally: Tally) -> None:
    for _ in range(random.randint(5, 20)):
        query, is_right = _question(random)
        patience = random.uniform(0, _PATIENCE) if random.random() < _CANCELLED else float("inf")
        with trio.move_on_after(patience) as scope:
            answer = await connection.execute(query)
            if not is_right(answer):
                tally.wrong.append(f"{query}: {str(answer)[:80]}")
        tally.requests += 1
        tally.cancelled += scope.cancelled_caught


def _question(random: Random) -> tuple[str, Callable[[Any], bool]]:
    """Return a query that few others send at the same time, and the check that tells its reply from theirs."""
    number = random.randrange(1 << 40)
    match random.randrange(10):
        case 0:
            size = number % 200_000 + 1
            return f"(til {size})", lambda answer: len(answer) == size
        case 1:
            size = number % 300_000 + 300_000
            return f"(sum (til {size}))", lambda answer: bool(answer == size * (size - 1) // 2)
    return f"(+ {number} 1)", lambda answer: bool(answer == number + 1)


async def _vanish(port: int, random: Random) -> None:
    with await open_raw(port) as peer:
        for _ in range(random.randint(1, 20)):
            await peer.send(frame(encode(_question(random)[0], MessageType.SYNC)))
        peer.reset()


async def _freeze(port: int) -> None:
    with await open_raw(port) as peer, trio.move_on_after(_ICE_AGE):
        for _ in range(20):
            await peer.send(_BIG)
        await trio.sleep_forever()
