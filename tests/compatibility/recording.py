"""The format of a recorded conversation: one JSON file each, under `tests/data/conversations/VERSION`.

A file holds the name of the scenario that was played, the client and the server that took part, the outcomes of the
client's calls, and the events in the order in which a proxy between the two saw them. An event is one of

- `{"from": …, "head": [lines], "body": text}`: an HTTP request or response;
- `{"from": …, "frame": …, "raw": hex}`: a WebSocket frame, with its mask in `raw`; `"final": false` marks a fragment
  that others follow; `text`, `payload` (hex) or `size` show the unmasked content to people;
- `{"from": …, "cut": hex}`: the bytes of a frame that was not completed, or of no frame at all;
- `{"from": …, "end": true}`: that side closed its half of the TCP connection;
- `{"step": name}`: something outside the connection happened, such as "the engine was killed": see `hosts.py`.

Long bytes are compressed: `raw_zlib` is base64 of zlib. `repeated` stands for that many equal events.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
from support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Head, take_frame

DIRECTORY = Path(__file__).parents[1] / "data" / "conversations"

Side = Literal["client", "server"]
Kind = Literal["head", "message", "fragment", "ping", "pong", "close", "cut", "end", "step"]

_OPCODES = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}
_CONTROL: dict[int, Kind] = {CLOSE: "close", PING: "ping", PONG: "pong"}
_LONG = 512  # bytes


@dataclass(frozen=True)
class Event:
    """Something that a proxy between client and server saw.

    Attributes:
        side: the sender; `None` for a step.
        content: a head, a frame, bytes that are neither, `None` for the end of the stream, or the name of a step.
    """

    side: Side | None
    content: Head | Frame | bytes | str | None

    @property
    def kind(self) -> Kind:
        match self.content:
            case Head():
                return "head"
            case Frame(opcode=opcode, final=final):
                return _CONTROL.get(opcode, "message" if final else "fragment")
            case bytes():
                return "cut"
            case str():
                return "step"
        return "end"

    @property
    def raw(self) -> bytes:
        """The bytes on the wire."""
        match self.content:
            case Head(raw=raw) | Frame(raw=raw):
                return raw
            case bytes():
                return self.content
        return b""


@dataclass(frozen=True)
class Recording:
    """A recorded conversation.

    Attributes:
        version: the version of `rayforce_trio` that took part.
        scenario: the name of the function in `scenarios.py` that played the client.
        client: `trio` or `asyncio` for this package's client, `rayforce-py-VERSION`, or `raw` for one made by hand.
        server: `rayforce_trio`, `rayforce-py-VERSION`, or `raw` for one made by hand.
        outcomes: the result or the error of each call of the client, by its label.
        events: the conversation.
    """

    version: str
    scenario: str
    client: str
    server: str
    outcomes: dict[str, Any]
    events: list[Event]

    def save(self) -> None:
        """Write the file, with one event on each line."""
        document = {
            "version": self.version,
            "scenario": self.scenario,
            "client": self.client,
            "server": self.server,
            "outcomes": self.outcomes,
        }
        fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in document.items()]
        events = ",\n".join(f"  {json.dumps(event)}" for event in _dump_events(self.events))
        path = DIRECTORY / file_name(self.version, self.scenario, self.client)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{\n" + ",\n".join([*fields, f'"events": [\n{events}\n]']) + "\n}\n", encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> "Recording":
        document = json.loads(path.read_text(encoding="ascii"))
        document["events"] = [
            load_event(event) for shown in document["events"] for event in [shown] * shown.pop("repeated", 1)
        ]
        return cls(**document)


def file_name(version: str, scenario: str, client: str) -> str:
    """Return the path of a recording in `DIRECTORY`."""
    return f"{version}/{scenario}.{client}.json"


def _dump_events(events: Iterable[Event]) -> list[dict[str, Any]]:
    dumped: list[dict[str, Any]] = []
    for event in events:
        shown = dump_event(event)
        if dumped and shown == {name: value for name, value in dumped[-1].items() if name != "repeated"}:
            dumped[-1]["repeated"] = dumped[-1].get("repeated", 1) + 1
        else:
            dumped.append(shown)
    return dumped


def dump_event(event: Event) -> dict[str, Any]:
    """Return an event as it is written to a file."""
    match event.content:
        case str(step):
            return {"step": step}
        case Head(lines=lines, body=body):
            shown: dict[str, Any] = {"head": list(lines)}
            if body:
                shown["body"] = body.decode("latin-1")
        case Frame():
            shown = _dump_frame(event.content)
        case bytes(cut):
            shown = {"cut": cut.hex()}
        case None:
            shown = {"end": True}
    return {"from": event.side, **shown}


def _dump_frame(frame: Frame) -> dict[str, Any]:
    shown: dict[str, Any] = {"frame": _OPCODES.get(frame.opcode, str(frame.opcode))}
    if not frame.final:
        shown["final"] = False
    if len(frame.raw) > _LONG:
        packed = base64.b64encode(zlib.compress(frame.raw, 9)).decode()
        return {**shown, "size": len(frame.payload), "raw_zlib": packed}
    if frame.opcode == CLOSE and len(frame.payload) >= 2:
        shown["code"] = int.from_bytes(frame.payload[:2])
        shown["text"] = frame.payload[2:].decode("utf-8", "replace")
    elif frame.opcode == TEXT:
        shown["text"] = frame.payload.decode("utf-8", "replace")
    else:
        shown["payload"] = frame.payload.hex()
    return {**shown, "raw": frame.raw.hex()}


def load_event(shown: dict[str, Any]) -> Event:
    """Return the event that `dump_event` wrote. Raises `ValueError` if the frame and its bytes differ."""
    match shown:
        case {"step": str(step)}:
            return Event(None, step)
        case {"from": side, "head": lines}:
            return Event(side, Head(tuple(lines), shown.get("body", "").encode("latin-1")))
        case {"from": side, "cut": cut}:
            return Event(side, bytes.fromhex(cut))
        case {"from": side, "end": True}:
            return Event(side, None)
    raw = shown["raw_zlib"] if "raw_zlib" in shown else shown["raw"]
    buffer = bytearray(zlib.decompress(base64.b64decode(raw)) if "raw_zlib" in shown else bytes.fromhex(raw))
    frame = take_frame(buffer)
    if frame is None or buffer:
        raise ValueError(f"the bytes are not one frame: {shown}")
    event = Event(shown["from"], frame)
    if dump_event(event) | {"raw_zlib": None} != shown | {"raw_zlib": None}:  # zlib's releases compress differently
        raise ValueError(f"the frame and its bytes differ: {shown}")
    return event


class EventLog:
    """Events in the order they happened, for tasks that wait for them.

    Attributes:
        events: the events so far.
        counts: the number of events of each side and kind.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.counts: Counter[tuple[Side | None, Kind]] = Counter()
        self._changed = anyio.Event()

    def append(self, event: Event) -> None:
        self.events.append(event)
        self.counts[event.side, event.kind] += 1
        self.wake()

    def wake(self) -> None:
        """Have the tasks in `until` evaluate their conditions again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Wait until a condition on the events holds. A checkpoint only if it does not hold yet."""
        while not is_true():
            await self._changed.wait()
