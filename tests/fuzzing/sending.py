"""What our connection sends, read by itself and by two other readers, who must read what was meant."""

from functools import partial
from random import Random

from fuzzing.frames import masked
from fuzzing.readers import Said, by_us, by_websockets, by_wsproto
from rayforce_trio._websocket import NO_STATUS, REASON_LIMIT, WebSocketConnection
from rayforce_trio._websocket._frames import Opcode, frame_header, new_key, pack_close, pack_frame
from rayforce_trio._websocket._masking import Masker

_SETTINGS = 5  # bytes: whether it is masked; a seed
_CODES = [NO_STATUS, 1000, 1001, 1002, 1007, 1008, 1009, 1011, 3000, 4999]
_WIDE = 1 << 22


def make(random: Random) -> bytes:
    """Return an input: settings, and what to say."""
    settings = random.randbytes(_SETTINGS)
    size = random.choice([0, 1, 5, 125, 126, 200, 500, 1025] * 100 + [65535, 65536, 200_000])
    if random.random() < 0.5:
        return settings + random.randbytes(size)
    return settings + "".join(random.choices("aé€\U00010348\0", k=size // 2)).encode()


def check(data: bytes) -> None:
    """Raise an `AssertionError` if a frame of ours is not read as it was meant."""
    settings, rest = data[:_SETTINGS].ljust(_SETTINGS, b"\0"), data[_SETTINGS:]
    masking = bool(settings[0] & 1)
    written: list[bytes] = []
    meant: list[Said] = []
    _write(Random(settings[1:]), rest, written, meant, masking=masking)
    stream = b"".join(written)
    ours = by_us([stream], masking=masking, max_message_size=_WIDE, max_text_size=_WIDE, room=False)
    for heard in (ours, by_wsproto(stream, masking=masking), by_websockets(stream, masking=masking)):
        assert heard.verdict is None, f"meant: {meant}; read: {heard}"
        assert heard.said == meant, f"meant: {meant}; read: {heard}"


def _write(random: Random, rest: bytes, written: list[bytes], meant: list[Said], *, masking: bool) -> None:
    text = rest.decode(errors="ignore")
    written.append(pack_frame(Opcode.TEXT, text.encode(), masked=masking))
    meant.append(("text", text))
    for opcode, name in ((Opcode.PING, "ping"), (Opcode.PONG, "pong"), (Opcode.BINARY, "binary")):
        payload = rest if opcode is Opcode.BINARY else rest[:125]
        written.append(pack_frame(opcode, payload, masked=masking))
        meant.append((name, payload))
    at = random.randint(0, len(rest))
    for opcode, part in ((Opcode.BINARY, rest[:at]), (Opcode.CONTINUATION, rest[at:])):
        written.append(_in_pieces(random, opcode, part, fin=opcode is Opcode.CONTINUATION, masking=masking))
    meant.append(("binary", rest))
    written.append(_by_connection(random, rest, at, text, masking=masking))
    meant += [("binary", rest), ("text", text)]
    code, reason = random.choice(_CODES), text[: random.choice([0, 10, 40, 200])]
    written.append(pack_close(code, reason, masked=masking))
    sent = reason.encode()[:REASON_LIMIT].decode(errors="ignore")
    meant.append(("close", "" if code == NO_STATUS else sent, code))


def _by_connection(random: Random, rest: bytes, at: int, text: str, *, masking: bool) -> bytes:
    """Return what a connection sends, of which the network takes some bytes at a time."""
    connection = WebSocketConnection(client=masking, max_message_size=_WIDE, max_text_size=_WIDE)
    sent = bytearray()
    for send in (
        partial(connection.send_part, rest[:at], last=False),
        partial(connection.send_part, rest[at:], last=True),
        partial(connection.send, text),
    ):
        send()
        while (data := connection.data_to_send()) is not None:
            count = random.choice([1, 2, 3, 7, 1000, len(data), len(data)])
            sent += data[:count]
            connection.bytes_sent(min(count, len(data)))
    return bytes(sent)


def _in_pieces(random: Random, opcode: Opcode, payload: bytes, *, fin: bool, masking: bool) -> bytes:
    """Return a frame as a transport makes one of a long message: header first, the payload masked piece by piece."""
    if not masking:
        return frame_header(opcode, len(payload), fin=fin) + payload
    key = new_key()
    masker = Masker(key)
    parts = [frame_header(opcode, len(payload), fin=fin, key=key)]
    view, at = memoryview(payload), 0
    while at < len(view):
        piece = view[at : at + random.choice([1, 2, 3, 7, 1000, 65536, 70001])]
        target = bytearray(len(piece) + random.choice([0, 5]))
        masker.mask_into(memoryview(target), piece)
        parts.append(bytes(target[: len(piece)]))
        at += len(piece)
    assert b"".join(parts[1:]) == masked(payload, key)
    return b"".join(parts)
