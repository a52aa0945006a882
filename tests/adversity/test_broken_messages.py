"""Clients whose frames or messages break a rule: the server says which, and serves the others."""

import struct
from contextlib import suppress

import pytest
import trio
from support.memory import resident_memory
from support.probed_server import COMPRESSED, EIGHT_GB, QUERY, probed_server, with_header
from support.raw import CLOSE, CONTINUATION, PING, TEXT, close_frame, frame

from rayforce_trio._codec import decode
from rayforce_trio._protocol import Result, is_null

BAD_FRAMES = {
    "unmasked": (frame(QUERY, masked=False), 1002),
    "unknown opcode": (frame(QUERY, 3), 1002),
    "unknown control opcode": (frame(QUERY, 11), 1002),
    "RSV1": (frame(QUERY, rsv=4), 1002),
    "RSV2 and RSV3": (frame(QUERY, rsv=3), 1002),
    "text that is no UTF-8": (frame(b"\xff\xfe", TEXT), 1007),
    "fragmented ping": (frame(b"", PING, fin=False), 1002),
    "ping of 126 bytes": (frame(bytes(126), PING), 1002),
    "continuation of nothing": (frame(b"", CONTINUATION), 1002),
    "message inside a message": (frame(b"", fin=False) + frame(b""), 1002),
    "close with a code that is none": (close_frame(999), 1002),
    "close with code 1005": (close_frame(1005), 1002),
    "close with one byte": (frame(b"\x03", CLOSE), 1002),
    "close with a reason that is no UTF-8": (frame(b"\x03\xe8\xff", CLOSE), 1007),
    "8 GB announced": (frame(bytes(1000), size=EIGHT_GB), 1009),
    "text of 100 KB": (frame(b"x" * 100_000, TEXT), 1009),
    "too many empty continuations": (frame(fin=False) + frame(b"", CONTINUATION, fin=False) * 1100, 1008),
}


@pytest.mark.trio
@pytest.mark.parametrize("baseline", [False, True], ids=["extended", "baseline"])
@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
@pytest.mark.usefixtures("short_close")
async def test_a_frame_that_breaks_websocket_is_told_and_closed(data: bytes, code: int, baseline: bool) -> None:
    """Even if the peer keeps its socket."""
    async with probed_server() as server:
        peer = await server.open(baseline=baseline)
        await peer.send(data)
        with trio.fail_after(5):
            assert await peer.receive_close() == code
        await server.closes_every_peer()


@pytest.mark.trio
@pytest.mark.parametrize(
    "bad",
    [frame(b"\x00" * 125, opcode=0x3), struct.pack("!BBQ", 0x82, 0xFF, 8 * 2**30) + bytes(4)],
    ids=["unknown opcode", "8 GB announced"],
)
async def test_what_follows_a_broken_frame_is_not_kept(bad: bytes) -> None:
    async with probed_server() as server:
        peer = await server.open()
        before = resident_memory()
        await peer.send(bad)
        with suppress(OSError):
            for _ in range(100):
                await peer.send(bytes(1_000_000))
        assert resident_memory() - before < 50_000_000
        await server.serves_others()


BAD_MESSAGES = {
    "text that is no JSON": frame(b"{", TEXT),
    "JSON that is no object": frame(b"[1]", TEXT),
    "empty text": frame(b"", TEXT),
    "deep JSON": frame(b"[" * 60_000, TEXT),
    "deep JSON object": frame(b'{"a":' * 10_000, TEXT),
    "a number of 60,000 digits": frame(b'{"cancel": ' + b"9" * 60_000 + b"}", TEXT),
    "cancel of no number": frame(b'{"cancel": "1"}', TEXT),
    "a response": frame(with_header(message_type=2)),
    "an unknown message type": frame(with_header(message_type=3)),
    "an unknown wire version": frame(with_header(version=4)),
    "a size that is too small": frame(with_header(size=1)),
    "a size that is too large": frame(with_header(size=2**62)),
    "a negative size": frame(with_header(size=-1)),
    "half a header": frame(QUERY[:8]),
    "no bytes": frame(b""),
    "garbage": frame(bytes(range(256))),
}


@pytest.mark.trio
@pytest.mark.parametrize("data", BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
async def test_a_message_that_breaks_the_extended_protocol_is_closed_with_1002(data: bytes) -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send(data)
        assert await peer.receive_close() == 1002


BASELINE_MESSAGES = {
    "text": (frame(b"(+ 1 2)", TEXT), "expected a binary message, got text"),
    "an unknown message type": (frame(with_header(message_type=3)), "unknown message type 3"),
    "an unknown wire version": (frame(with_header(version=4)), "wire version 4 is not supported"),
    "a size that is too small": (frame(with_header(size=1)), "the header announces 1 byte,"),
    "a negative size": (frame(with_header(size=-1)), "a payload of -1 bytes"),
    "half a header": (frame(QUERY[:8]), "a frame needs a header of 16 bytes, but has 8 bytes"),
    "no bytes": (frame(b""), "but has 0 bytes"),
    "garbage": (frame(bytes(range(256))), "not a Rayforce frame"),
}


@pytest.mark.trio
@pytest.mark.parametrize(("data", "said"), BASELINE_MESSAGES.values(), ids=BASELINE_MESSAGES.keys())
async def test_a_message_that_makes_no_sense_is_answered_in_the_baseline(data: bytes, said: str) -> None:
    """With a String in its turn, and the connection goes on."""
    async with probed_server() as server:
        peer = await server.open(baseline=True)
        await peer.send(data + frame(QUERY))
        assert said in decode(Result((await peer.receive_frame())[1])).to_python()
        assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
@pytest.mark.parametrize("payload", [b"\xf5" * 9, b"\x00\x00" + b"\xff" * 30, b"\x62\x00" + b"\x7f" * 30, b"\xee"])
async def test_a_payload_the_engine_cannot_read_is_answered(payload: bytes, engine: str) -> None:
    """With an error; a native engine answers null."""
    async with probed_server() as server:
        peer = await server.open()
        await peer.send_frame(struct.pack("<4sBBBBq", b"\xfa\xde\xfa\xce", 3, 0, 0, 1, len(payload)) + payload)
        opcode, answer = await peer.receive_frame()
        if engine == "in-process":
            assert opcode == TEXT
            assert answer.startswith(b'{"error": {"request": 1,')
        else:
            assert is_null(answer)
        await peer.send_frame(QUERY)
        assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
async def test_a_compressed_request_is_answered_with_an_error() -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send_frame(with_header(flags=COMPRESSED))
        assert b'"code": "nyi"' in (await peer.receive_frame())[1]


@pytest.mark.trio
async def test_cancels_of_numbers_nobody_has_are_ignored() -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send(frame(b'{"cancel": 7, "later": {"hello": true}}', TEXT) * 1000 + frame(QUERY))
        assert decode(Result((await peer.receive_frame())[1])) == 3


OVERSIZE = frame(bytes(1001))


@pytest.mark.trio
@pytest.mark.parametrize(
    "data", [OVERSIZE, OVERSIZE * 2, OVERSIZE + frame(b"", PING)], ids=["one", "two in one packet", "and a ping"]
)
@pytest.mark.usefixtures("short_close")
async def test_a_message_over_the_limit_is_closed_with_1009(data: bytes) -> None:
    """Even if the peer keeps its socket."""
    async with probed_server(max_message_size=1000) as server:
        peer = await server.open()
        await peer.send(data)
        assert await peer.receive_close() == 1009
        await server.closes_every_peer()
