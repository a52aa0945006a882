"""Clients that send requests and pings and open connections at a steady rate, and measure the round trips."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import trio
from support.raw import BINARY, PING, PONG, RawPeer, frame, open_raw

from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

RATES = {"requests": 50, "pings": 50, "connects": 5}
"""How many round trips of a kind one client makes in a second."""

WARM_UP = 0.5  # seconds
LONGEST = 10.0  # seconds; a longer round trip is an error
_REQUEST = frame(encode("(+ 1 2)", MessageType.SYNC))


@dataclass
class Client:
    """A client that makes round trips of one kind. It keeps its connection, and opens another after an error.

    Args:
        port: the server's.
        interval: seconds from one round trip to the next.

    Attributes:
        times: of the round trips, in seconds.
        errors: of the failed round trips.
    """

    port: int
    interval: float
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    peer: RawPeer | None = None

    async def keep_time(self, round_trip: "RoundTrip", begin: float, end: float) -> None:
        """Make round trips at a steady rate between two times of trio's clock, and count those due from `begin`.

        If a round trip waits for an earlier one, its time begins when it is due.
        """
        due = begin - WARM_UP
        with trio.move_on_at(end):
            while True:
                start = due
                if trio.current_time() < due:
                    await trio.sleep_until(due)
                    start = trio.current_time()
                try:
                    with trio.fail_after(LONGEST):
                        await round_trip(self)
                except (AssertionError, EOFError, OSError, trio.TooSlowError) as error:
                    self.errors.append(f"{round_trip.__name__}: {error!r}")
                    self.disconnect()
                if due >= begin:
                    self.times.append(trio.current_time() - start)
                due += self.interval
        while due < end:  # the round trip that did not end in time, and those that waited for it
            self.times.append(end - due)
            due += self.interval

    async def connection(self) -> RawPeer:
        if self.peer is None:
            self.peer = await open_raw(self.port)
        return self.peer

    def disconnect(self) -> None:
        if self.peer is not None:
            self.peer.close()
            self.peer = None


async def request(client: Client) -> None:
    """Send `(+ 1 2)`, and receive the reply."""
    peer = await client.connection()
    await peer.send(_REQUEST)
    opcode, payload = await peer.receive_frame()
    assert (opcode, payload[-8:]) == (BINARY, (3).to_bytes(8, "little")), payload


async def ping(client: Client) -> None:
    """Send a WebSocket ping, and receive the pong."""
    peer = await client.connection()
    await peer.send(frame(b"honest", PING))
    assert await peer.receive_frame() == (PONG, b"honest")


async def connect(client: Client) -> None:
    """Connect, complete both handshakes, and break the connection."""
    (await open_raw(client.port)).reset()


RoundTrip = Callable[[Client], Awaitable[None]]
ROUND_TRIPS: dict[str, RoundTrip] = {"requests": request, "pings": ping, "connects": connect}

_clients: dict[tuple[int, str], list[Client]] = {}  # this process has one event loop for its whole life


async def measure(port: int, kinds: list[str], clients: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Make round trips of these kinds for some seconds, from `clients` connections for each kind.

    Returns:
        the fields of `harness.Timing`, by kind.
    """
    begin = trio.current_time() + WARM_UP
    async with trio.open_nursery() as nursery:
        for kind in kinds:
            made = _clients.setdefault((port, kind), [Client(port, 1 / RATES[kind]) for _ in range(clients)])
            for number, client in enumerate(made):
                client.times.clear()
                client.errors.clear()
                start = begin + client.interval * number / len(made)
                nursery.start_soon(client.keep_time, ROUND_TRIPS[kind], start, begin + seconds)
    return {kind: summary(_clients[port, kind]) for kind in kinds}


def summary(clients: list[Client]) -> dict[str, Any]:
    times = sorted(time for client in clients for time in client.times)
    errors = [error for client in clients for error in client.errors]
    p50, p99 = (times[ceil(len(times) * share) - 1] for share in (0.5, 0.99))
    return {
        "p50": p50,
        "p99": p99,
        "longest": times[-1],
        "count": len(times),
        "errors": list(dict.fromkeys(errors))[:3],
    }
