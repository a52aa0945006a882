"""WebSocket streams to try: what a peer may send, and what is not quite that."""

import struct
from itertools import cycle
from operator import xor
from random import Random

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_OPCODES = [CONTINUATION] * 3 + [TEXT] * 5 + [BINARY] * 5 + [PING] * 3 + [PONG, CLOSE] + [3, 11]
_SIZES = [0, 0, 1, 1, 2, 3, 4, 5, 10, 100, 123, 124, 125, 126, 127, 128, 300, 500, 1025]
_RARE_SIZES = [3000, 65535, 65536, 65537, 70000]
_CLOSE_CODES = [0, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535]
_TEXTS = ["a", "z" * 7, "é", "€", "\U00010348", "\0", "\U0010ffff", "\ufeff"]
_NO_TEXTS = [
    b"\x80",
    b"\xc0\xaf",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf0\x9f",
    b"\xf4\x90\x80\x80",
    b"\xff",
    b"\xf8\x88\x80\x80",
]


def frame(
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    key: bytes | None = None,
    form: int = 0,
    announced: int | None = None,
) -> bytes:
    """Return a frame.

    Args:
        key: of the mask, if there is one.
        form: 126 and 127 have the length in that form, whether or not a shorter one would do.
        announced: the length to announce, if not that of `payload`.
    """
    size = len(payload) if announced is None else announced
    form = max(form, 127 if size > 0xFFFF else 126 if size > 125 else 0)
    bit = 0 if key is None else 0x80
    first = (0x80 if fin else 0) | opcode
    if form == 127:
        header = struct.pack("!BBQ", first, bit | 127, size)
    elif form == 126:
        header = struct.pack("!BBH", first, bit | 126, size)
    else:
        header = bytes([first, bit | size])
    return header + payload if key is None else header + key + masked(payload, key)


def masked(payload: bytes, key: bytes) -> bytes:
    """Return the payload under a mask, in the plainest way there is."""
    return bytes(map(xor, payload, cycle(key)))


def stream(random: Random, *, masking: bool) -> bytes:
    """Return some frames of a peer, often proper ones, of which now and then something was changed."""
    parts = [_any_message(random, masking) for _ in range(random.randint(1, 4))]
    data = b"".join(parts)
    if random.random() < 0.5:
        for _ in range(random.randint(1, 3)):
            data = mutated(random, data)
    return data


def mutated(random: Random, data: bytes) -> bytes:
    """Return `data` with something changed."""
    at = random.randint(0, len(data))
    some = data[at : at + random.randint(1, 8)]
    match random.randrange(7):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at + len(some) :]
        case 2:
            return data[:at] + some + data[at:]
        case 3:
            return data[:at] + random.randbytes(random.randint(1, 8)) + data[at:]
        case 4:
            return data[:at] + random.randbytes(len(some)) + data[at + len(some) :]
        case 5:
            return data + random.randbytes(random.randint(1, 40))
        case _:
            if at == len(data):
                return data
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _any_message(random: Random, masking: bool) -> bytes:
    match random.randrange(10):
        case 0 | 1 | 2:
            return _any_frame(random, masking)
        case 3:
            return _frame(random, masking, CLOSE, _close_payload(random))
        case 4 if random.random() < 0.02:
            return b"".join(
                _frame(random, masking, CONTINUATION if index else TEXT, b"", fin=False) for index in range(1100)
            )
        case _:
            return _fragmented(random, masking)


def _any_frame(random: Random, masking: bool) -> bytes:
    opcode = random.choice(_OPCODES)
    form = random.choice([0] * 20 + [126, 127])
    size = _size(random) if opcode < CLOSE or random.random() < 0.1 else random.randint(0, 125)
    if form == 127 and random.random() < 0.1:
        size = 40_000  # which has a shorter form, though not the shortest
    announced = random.choice([None] * 20 + [1 << 16, 1 << 20, 1 << 31, (1 << 63) - 1, 1 << 63])
    return _frame(
        random,
        masking,
        opcode,
        _payload(random, opcode, size),
        fin=random.random() < 0.7,
        form=form,
        announced=announced,
    )


def _fragmented(random: Random, masking: bool) -> bytes:
    """Return a proper message in fragments, with control frames between them."""
    opcode = random.choice([TEXT, BINARY])
    payload = _payload(random, opcode, _size(random))
    points = sorted(random.randint(0, len(payload)) for _ in range(random.choice([0, 0, 1, 2, 5])))
    parts = []
    for start, end in zip([0, *points], [*points, len(payload)], strict=True):
        last = end == len(payload) and start == (points[-1] if points else 0)
        parts.append(_frame(random, masking, opcode, payload[start:end], fin=last))
        opcode = CONTINUATION
        if last:
            break
        if random.random() < 0.3:
            parts.append(_frame(random, masking, random.choice([PING, PONG]), random.randbytes(random.randint(0, 125))))
    return b"".join(parts)


def _frame(
    random: Random,
    masking: bool,
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    form: int = 0,
    announced: int | None = None,
) -> bytes:
    masking ^= random.random() < 0.003
    key = (random.randbytes(4) if random.random() < 0.7 else bytes(4)) if masking else None
    return frame(opcode, payload, fin=fin, key=key, form=form, announced=announced)


def _payload(random: Random, opcode: int, size: int) -> bytes:
    if opcode == BINARY or (opcode != TEXT and random.random() < 0.5):
        return random.randbytes(size)
    text = "".join(random.choices(_TEXTS, k=size // 2)).encode()
    if random.random() < 0.1:
        at = random.randint(0, len(text))
        text = text[:at] + random.choice(_NO_TEXTS) + text[at:]
    return text


def _size(random: Random) -> int:
    return random.choice(_SIZES if random.random() < 0.995 else _RARE_SIZES)


def _close_payload(random: Random) -> bytes:
    if random.random() < 0.1:
        return random.randbytes(random.randint(0, 2))
    return struct.pack("!H", random.choice(_CLOSE_CODES)) + _payload(random, TEXT, random.choice([0, 0, 5, 20]))
