"""Rayforce's own bytes and texts, as a stranger may send them: frames, control messages, greetings."""

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from random import Random

from support.exchanges import send_request, waiting_exchange

from fuzzing.frames import mutated
from fuzzing.receiving import cut
from rayforce_trio._protocol import (
    HEADER_SIZE,
    Action,
    ClientProtocol,
    ClientRequestState,
    ExchangeState,
    Failure,
    Frame,
    FrameError,
    Header,
    LazyFrame,
    MessageType,
    NativeExchange,
    ProtocolViolation,
    Reply,
    RequestPipeline,
    Result,
    check_hello,
    check_hello_reply,
    error_code,
    is_null,
    join_verbose,
    parse_control,
    parse_frame,
    parse_header,
    split_verbose,
    string_frame,
)

_SETTINGS = 4  # bytes: what reads it; a variant; a seed for the cuts
_KEYS = ["cancel", "error", "hello", "request", "code", "message", ""]
_VALUES = [1, 0, -1, 2, 2**63, 1.0, 1e400, True, None, "type", "", "\ud800", [], {}, [1], {"request": 1}]


def make(random: Random) -> bytes:
    """Return an input: settings, and something like a message, or several."""
    settings = random.randbytes(_SETTINGS)
    parts = [
        random.choice([_frame, _frame, _control, _verbose, random_bytes])(random)
        for _ in range(random.choice([1, 1, 3]))
    ]
    data = b"".join(parts)
    return settings + (mutated(random, data) if random.random() < 0.4 else data)


def random_bytes(random: Random) -> bytes:
    return random.randbytes(random.choice([0, 1, 2, 3, 15, 16, 17, 40]))


def check(data: bytes) -> None:
    """Raise what no reader of ours must raise, or an `AssertionError` if one reads what is not there."""
    settings, message = data[:_SETTINGS].ljust(_SETTINGS, b"\0"), data[_SETTINGS:]
    reader = _READERS[settings[0] % len(_READERS)]
    reader(message, settings[1], int.from_bytes(settings[2:4], "little"))


def _check_frames(message: bytes, variant: int, seed: int) -> None:
    for parse in (parse_header, parse_frame):
        try:
            header = parse(_arrived(message, variant))
        except FrameError:
            continue
        assert header.pack() == message[:6] + b"\0" + message[7:HEADER_SIZE]
        assert parse is parse_header or header.size == len(message) - HEADER_SIZE
    code, null = error_code(_arrived(message, variant)), is_null(_arrived(message, variant))
    assert code is None or not null


def _check_control(message: bytes, variant: int, seed: int) -> None:
    with suppress(ProtocolViolation):
        parse_control(message.decode(errors="replace" if variant & 1 else "surrogateescape"))


def _check_greetings(message: bytes, variant: int, seed: int) -> None:
    for hello in (message, message.decode(errors="replace")):
        for check_greeting in (check_hello, check_hello_reply):
            with suppress(ProtocolViolation):
                check_greeting(hello)
    exchange = NativeExchange(b"\x03u:\0")
    with suppress(ProtocolViolation):
        for piece in cut(message, seed):
            if exchange.state is ExchangeState.HANDSHAKING:
                exchange.receive_data(piece)


def _check_native(message: bytes, variant: int, seed: int) -> None:
    """Give the bytes to an exchange that always has a request in flight."""
    exchange = waiting_exchange()
    left = 0
    with suppress(ProtocolViolation):
        for arrived in cut(message, seed):
            exchange.receive_data(arrived)
            while (chunk := exchange.next_event()) is not None:
                assert chunk.first == (left == 0)
                left = HEADER_SIZE + chunk.header.size if chunk.first else left
                left -= len(chunk.data)
                assert chunk.unread == left
                assert chunk.data in message
                if not left:
                    send_request(exchange)


def _check_verbose(message: bytes, variant: int, seed: int) -> None:
    try:
        _, reply = split_verbose(_arrived(message, variant))
    except FrameError:
        return
    assert isinstance(reply, Failure) or parse_frame(_whole(reply.frame))


def _check_server(message: bytes, variant: int, seed: int) -> None:
    server = RequestPipeline(extended=bool(variant & 1))
    with suppress(ProtocolViolation):
        for piece in cut(message, seed | 1):
            server.receive(_arrived(piece, variant) if seed & 2 else piece.decode(errors="replace"))
    while server.due is not Action.NOTHING:
        if server.due is Action.SEND:
            answer = server.message
            assert answer is not None
            assert parse_control(answer) if isinstance(answer, str) else parse_frame(_whole(answer))
            server.sent()
        elif server.current is not None and server.current.number is not None:
            server.replied(Result(string_frame("value")))
        else:
            server.performing()
            server.post_done()


def _check_client(message: bytes, variant: int, seed: int) -> None:
    client = ClientProtocol(extended=bool(variant & 1))
    requests = [client.submit(string_frame("query")) for _ in range(3)]
    while client.next_outgoing() is not None:
        pass
    if variant & 4:
        client.cancel(requests[1])
    waiting = [request for request in requests if request.state is ClientRequestState.SENT]
    with suppress(ProtocolViolation):
        for piece in cut(message, seed | 1):
            received = client.receive(_arrived(piece, variant) if seed & 2 else piece.decode(errors="replace"))
            assert received is None or received is waiting.pop(0)


_READERS: list[Callable[[bytes, int, int], None]] = [
    _check_frames,
    _check_control,
    _check_greetings,
    _check_native,
    _check_verbose,
    _check_server,
    _check_client,
]


def _frame(random: Random) -> bytes:
    payload = random.choice(
        [b"\x7e", b"\x7ftype\0\0\0\0", b"\xf3\0" + struct.pack("<q", 2) + b"ab", random.randbytes(70)]
    )
    size = random.choice([len(payload)] * 5 + [0, 1, 2**63 - 1, random.randrange(200)])
    header = Header(random.choice([0, 0, 1, 4, 255]), random.choice(list(MessageType)), size)
    return header.pack() + payload


def _control(random: Random) -> bytes:
    if random.random() < 0.002:
        return random.choice([b"[" * 200_000, b"9" * 5000, b'{"cancel": ' + b"9" * 5000 + b"}", b'{"a":' * 50_000])
    document = {random.choice(_KEYS): random.choice(_VALUES) for _ in range(2)}
    return json.dumps({random.choice(_KEYS): random.choice([*_VALUES, document]), **document}).encode()


def _verbose(random: Random) -> bytes:
    reply: Reply = Failure("type", "no") if random.random() < 0.5 else Result(string_frame("value"))
    return _whole(join_verbose(random.randbytes(5), reply).frame)


def _arrived(message: bytes, variant: int) -> Frame:
    """Return a message as it may come from a transport: as bytes, or as a view."""
    return memoryview(message) if variant & 2 else message


def _whole(frame: Frame | LazyFrame) -> bytes:
    return bytes(frame[: len(frame)])
