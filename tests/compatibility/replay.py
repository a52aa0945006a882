"""Replay one side of a recorded conversation to the other side, over a socket on this machine.

The replaying side sends the recorded bytes. Before each of them it waits until the other side has sent the events that
come before them in the recording. It does not wait for pings, since those depend on time, nor for fragments, since a
message may be divided in any way.
"""

from collections import Counter
from contextlib import suppress
from typing import Any

import anyio
from support.raw import RawPeer, connect_raw, raw_server, upgraded
from support.wire import PING, PONG, Frame, Head, WireReader

from compatibility.hosts import Host
from compatibility.recording import Event, EventLog, Kind, Recording, Side
from compatibility.scenarios import Driver, Scenario

_AWAITED = ("head", "message", "pong", "close")

BARRIER = b"barrier"
"""The payload of the pings that `replay_client` adds, and of their pongs."""


class _Player:
    """Sends one side of a recording, and logs what the other side sends.

    Args:
        side: the side that is replayed.
    """

    def __init__(self, recording: Recording, side: Side, peer: RawPeer, log: EventLog) -> None:
        self.recording = recording
        self.side = side
        self.other: Side = "server" if side == "client" else "client"
        self.log = log
        self.peer = peer
        self.ended = anyio.Event()
        self._due: Counter[Kind] = Counter()

    async def listen(self) -> None:
        """Log what the other side sends, up to the end of the connection. A checkpoint."""
        reader = WireReader()
        while data := await self.peer.receive_some():
            for found in reader.feed(data):
                self.log.append(Event(self.other, found))
        if reader.rest:
            self.log.append(Event(self.other, bytes(reader.rest)))
        self.log.append(Event(self.other, None))
        self.ended.set()

    async def catch_up(self) -> None:
        """Wait until the other side has sent every expected event, or has ended its stream."""
        counts = self.log.counts
        await self.log.until(
            lambda: (
                all(counts[self.other, kind] >= number for kind, number in self._due.items())
                or counts[self.other, "end"] > 0
            )
        )

    def expect(self, event: Event) -> None:
        """Add an event of the other side to those that `catch_up` waits for."""
        if event.kind in _AWAITED:
            self._due[event.kind] += 1

    async def send(self, event: Event) -> None:
        """Send an event of the recording and log it."""
        data = event.raw
        if isinstance(event.content, Head) and event.content.starts_websocket and self.side == "server":
            data = self._accepted(event.content)
        if event.kind == "end":
            with suppress(OSError):
                self.peer.half_close()
        else:
            await self.peer.send(data)
        self.log.append(event)

    def _accepted(self, head: Head) -> bytes:
        """Return the recorded response with the accept key for the request that came."""
        request = next(event.raw for event in self.log.events if event.kind == "head")
        accept = dict(parse_head(upgraded(request)).headers)["sec-websocket-accept"]
        lines = (
            f"Sec-WebSocket-Accept: {accept}" if line.lower().startswith("sec-websocket-accept:") else line
            for line in head.lines
        )
        return Head(tuple(lines)).raw


def parse_head(data: bytes) -> Head:
    (head,) = WireReader().feed(data)
    assert isinstance(head, Head)
    return head


async def replay_client(recording: Recording, host: Host) -> list[Event]:
    """Send a recorded client's bytes to a server, and return the events of that server. A checkpoint."""
    with connect_raw(host.port) as peer:
        player = _Player(recording, "client", peer, EventLog())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(player.listen)
            for event in recording.events:
                if event.side == "server":
                    player.expect(event)
                elif event.side == "client":
                    await player.catch_up()
                    await player.send(event)
                elif event.content not in ("hold replies", "pass replies"):
                    await player.catch_up()
                    await _barrier(player)
                    await host.perform(str(event.content))
            await player.ended.wait()
        return [event for event in player.log.events if event.side == "server"]


async def _barrier(player: _Player) -> None:
    """Wait until the server has read everything that was sent: it has when it answers a ping."""
    before = sum(_is_barrier(event) for event in player.log.events)
    await player.peer.send_frame(BARRIER, PING)
    await player.log.until(lambda: sum(_is_barrier(event) for event in player.log.events) > before)


def _is_barrier(event: Event) -> bool:
    return isinstance(event.content, Frame) and event.content.opcode == PONG and event.content.payload == BARRIER


class ReplayedServer(Driver):
    """A recorded server, for the client that plays a scenario."""

    def __init__(self, recording: Recording, port: int, log: EventLog) -> None:
        super().__init__(port)
        self.log = log
        self._steps = [str(event.content) for event in recording.events if event.kind == "step"]
        self._reached = 0  # steps that the scenario has come to
        self._passed = 0  # steps that it has been let go on from

    async def step(self, name: str) -> None:
        assert self._steps[self._reached] == name
        self._reached += 1
        number = self._reached
        self.log.wake()
        await self.log.until(lambda: self._passed >= number)

    async def pass_step(self) -> None:
        """Wait until the scenario comes to its next step, and let it go on. A checkpoint if it has to wait."""
        await self.log.until(lambda: self._reached > self._passed)
        self._passed += 1
        self.log.wake()


async def replay_server(recording: Recording, scenario: Scenario) -> tuple[list[Event], dict[str, Any]]:
    """Play a scenario against a recorded server; returns the events of the client and its outcomes. A checkpoint."""
    log = EventLog()
    done = anyio.Event()

    async def serve(peer: RawPeer) -> None:
        player = _Player(recording, "server", peer, log)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(player.listen)
            held: list[Event] | None = None
            for event in recording.events:
                if event.side == "client":
                    player.expect(event)
                    continue
                await player.catch_up()
                if event.kind == "step":
                    await driver.pass_step()
                    if event.content == "hold replies":
                        held = []
                    elif event.content == "pass replies" and held is not None:
                        for late in held:
                            await peer.send(late.raw)
                        held = None
                elif held is not None:
                    held.append(event)
                    log.append(event)
                else:
                    await player.send(event)
            await player.ended.wait()
        done.set()

    async with raw_server(serve) as port:
        driver = ReplayedServer(recording, port, log)
        await scenario.play(driver)
        await done.wait()
    return [event for event in log.events if event.side == "client"], driver.outcomes
