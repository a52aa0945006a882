"""Three readers of what a WebSocket peer sends: ours, that of wsproto, and that of `websockets`."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from rayforce_trio import _websocket as ours

Said = tuple[str, bytes | str] | tuple[str, str, int]
"""`("binary" | "ping" | "pong", bytes)`, `("text", str)` or `("close", reason, code)`."""


@dataclass
class Heard:
    """What a reader made of a stream.

    Attributes:
        said: the messages and control frames, in order.
        verdict: the close code for a violation, if there was one.
        why: the violation in words.
        answer: what our connection sends, if it is closed after all that.
    """

    said: list[Said] = field(default_factory=list)
    verdict: int | None = None
    why: str = ""
    answer: bytes = b""


def by_us(pieces: Iterable[bytes], *, masking: bool, max_message_size: int, max_text_size: int, room: bool) -> Heard:
    """Read with our connection, which may raise nothing but its own error.

    Args:
        room: whether to receive into its buffer where it offers one.
    """
    connection = ours.WebSocketConnection(
        client=not masking, max_message_size=max_message_size, max_text_size=max_text_size
    )
    heard = Heard()
    events: list[object] = []  # long messages are views: they must not change when more arrives
    for piece in pieces:
        rest = piece
        while rest:
            place = connection.get_buffer() if room else None
            if place is None:
                connection.receive_data(rest)
                rest = b""
            else:
                count = min(len(place), len(rest))
                assert count
                place[:count] = rest[:count]
                connection.buffer_updated(count)
                rest = rest[count:]
            try:
                while (event := connection.next_event()) is not None:
                    if not isinstance(event, ours.FragmentReceived):
                        events.append(event)
            except ours.WebSocketViolation as violation:
                assert heard.verdict is None, "a second violation"
                heard.verdict, heard.why = int(violation.code), str(violation)
    heard.said = [_said(event) for event in events]
    heard.answer = _sent_by(connection)
    connection.close(1000)
    heard.answer += _sent_by(connection)
    return heard


def _sent_by(connection: ours.WebSocketConnection) -> bytes:
    sent = bytearray()
    while (data := connection.data_to_send()) is not None:
        sent += data
        connection.bytes_sent(len(data))
    return bytes(sent)


def by_wsproto(stream: bytes, *, masking: bool) -> Heard:
    """Hear with wsproto, which has no limits."""
    connection = Connection(ConnectionType.SERVER if masking else ConnectionType.CLIENT)
    connection.receive_data(stream)
    heard = Heard()
    parts: list[bytes | str] = []
    for event in connection.events():
        match event:
            case BytesMessage() | TextMessage():
                parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                if event.message_finished:
                    empty: bytes | str = "" if isinstance(event, TextMessage) else b""
                    kind = "text" if isinstance(event, TextMessage) else "binary"
                    heard.said.append((kind, empty.join(parts)))  # type: ignore[arg-type]
                    parts = []
            case Ping(payload=payload):
                heard.said.append(("ping", bytes(payload)))
            case Pong(payload=payload):
                heard.said.append(("pong", bytes(payload)))
            case CloseConnection(code=code, reason=reason):
                if connection.state is ConnectionState.OPEN:  # not a frame of the peer's
                    heard.verdict, heard.why = int(code), reason or ""
                    break
                heard.said.append(("close", reason or "", int(code)))
    return heard


def by_websockets(stream: bytes, *, masking: bool) -> Heard:
    """Hear with `websockets`, which has no limits here, and looks at a text only when it is whole."""
    protocol = Protocol(Side.SERVER if masking else Side.CLIENT, max_size=None)
    protocol.receive_data(stream)
    heard = Heard()
    parts: list[bytes] = []
    text = False
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)  # not of the opening handshake
        data = bytes(frame.data)
        match frame.opcode:
            case Opcode.PING:
                heard.said.append(("ping", data))
            case Opcode.PONG:
                heard.said.append(("pong", data))
            case Opcode.CLOSE:
                assert protocol.close_rcvd is not None
                heard.said.append(("close", protocol.close_rcvd.reason, int(protocol.close_rcvd.code)))
            case _:
                if frame.opcode is not Opcode.CONT:
                    text, parts = frame.opcode is Opcode.TEXT, []
                parts.append(data)
                if not frame.fin:
                    continue
                try:
                    heard.said.append(("text", b"".join(parts).decode()) if text else ("binary", b"".join(parts)))
                except UnicodeDecodeError:
                    heard.verdict, heard.why = 1007, "no UTF-8"
                    return heard
    if protocol.parser_exc is not None and protocol.close_sent is not None:
        heard.verdict, heard.why = int(protocol.close_sent.code), str(protocol.parser_exc)
    return heard


def _said(event: object) -> Said:
    match event:
        case bytes() | memoryview():
            return "binary", bytes(event)
        case str():
            return "text", event
        case ours.Ping(payload=payload):
            assert type(payload) is bytes
            return "ping", payload
        case ours.Pong(payload=payload):
            assert type(payload) is bytes
            return "pong", payload
        case ours.Close(code=code, reason=reason):
            return "close", reason, code
    raise AssertionError(f"an event of a kind of its own: {event!r}")
