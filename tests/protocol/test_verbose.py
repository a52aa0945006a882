import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import whole_frame

from rayforce_trio._protocol import (
    HEADER_SIZE,
    Failure,
    FrameError,
    Header,
    MessageType,
    Reply,
    Result,
    join_verbose,
    parse_frame,
    split_verbose,
    string_frame,
)


def response(payload: bytes) -> bytes:
    return Header(0, MessageType.RESPONSE, len(payload)).pack() + payload


def string(text: bytes, *, size: int | None = None) -> bytes:
    return b"\xf3\0" + struct.pack("<q", len(text) if size is None else size) + text


def listed(*items: bytes, count: int | None = None) -> bytes:
    return response(b"\0\0" + struct.pack("<q", len(items) if count is None else count) + b"".join(items))


def joined_frame(output: bytes, reply: Reply) -> bytes:
    return whole_frame(join_verbose(output, reply).frame)


THREE = b"\xfb\0\3\0\0\0\0\0\0\0"
NULL = b"\x7e"
ERROR = b"\x7ftype\0\0\0\0"

# What the server of rayforce-py 2.4.0 answers to verbose requests.
RECORDED: list[tuple[str, str, str, Reply]] = [
    (
        '(do (println "a") (println "b") (+ 1 2))',
        "fadeface03000002 2200000000000000 0000 0200000000000000 f300 0400000000000000 610a620a fb00 0300000000000000",
        "a\nb\n",
        Result(response(THREE)),
    ),
    (
        "(list)",
        "fadeface03000002 1e00000000000000 0000 0200000000000000 f300 0000000000000000 0000 0000000000000000",
        "",
        Result(response(bytes(10))),
    ),
    (
        '(do (println "é") null)',
        "fadeface03000002 1800000000000000 0000 0200000000000000 f300 0300000000000000 c3a90a 7e",
        "é\n",
        Result(response(NULL)),
    ),
    (
        "(+ 1 'a)",
        "fadeface03000002 1d00000000000000 0000 0200000000000000 f300 0000000000000000 7f 7479706500000000",
        "",
        Failure("type", ""),
    ),
    (
        "(foo",
        "fadeface03000002 1d00000000000000 0000 0200000000000000 f300 0000000000000000 7f 7061727365000000",
        "",
        Failure("parse", ""),
    ),
    (
        '(do (println "x") (while true 1)), stopped',
        "fadeface03000002 1f00000000000000 0000 0200000000000000 f300 0200000000000000 780a 7f 63616e63656c0000",
        "x\n",
        Failure("cancel", ""),
    ),
]
RECORDED_FRAMES = [bytes.fromhex(data) for _, data, _, _ in RECORDED]

encodable = st.text(st.characters(exclude_categories=["Cs"]))
codes = st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=7)
values = st.binary(min_size=1).filter(lambda payload: payload[0] != 0x7F).map(lambda payload: Result(response(payload)))
replies = values | st.builds(Failure, codes, encodable)


@pytest.mark.parametrize(
    ("data", "output", "reply"), [each[1:] for each in RECORDED], ids=[each[0] for each in RECORDED]
)
def test_the_answer_of_a_native_server(data: str, output: str, reply: Reply) -> None:
    assert split_verbose(bytes.fromhex(data)) == (output, reply)


@given(encodable, replies)
def test_what_was_joined_is_split(output: str, reply: Reply) -> None:
    joined = joined_frame(output.encode(), reply)
    assert parse_frame(joined).message_type is MessageType.RESPONSE
    assert split_verbose(joined) == (output, reply)


def test_a_value_is_joined_as_a_native_server_does_it() -> None:
    assert joined_frame(b"a\nb\n", Result(response(THREE))) == RECORDED_FRAMES[0]


def test_an_error_is_joined_with_its_message_as_a_third_item() -> None:
    joined = joined_frame(b"", Failure("type", "what and why"))
    assert joined == listed(string(b""), ERROR, string(b"what and why"))


@pytest.mark.parametrize(
    ("failure", "came_back"),
    [
        (Failure("toolong", "m"), Failure("toolong", "m")),
        (Failure("waytoolong", "m"), Failure("waytool", "m")),
        (Failure("gr\xf6\xdfe", "m"), Failure("gr??e", "m")),
        (Failure("type", "a\ud800b"), Failure("type", "a?b")),
        (Failure("", ""), Failure("", "")),
    ],
    ids=ascii,
)
def test_what_the_wire_cannot_hold_of_an_error_is_replaced(failure: Failure, came_back: Failure) -> None:
    assert split_verbose(joined_frame(b"", failure)) == ("", came_back)


@given(st.binary())
def test_output_that_is_no_utf_8_comes_back_with_replacements(output: bytes) -> None:
    assert split_verbose(joined_frame(output, Result(response(THREE))))[0] == output.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "frame",
    [
        response(THREE),
        response(NULL),
        response(ERROR),
        response(b"\x63" + RECORDED_FRAMES[0][HEADER_SIZE + 1 :]),
        string_frame("a"),
        string_frame("a" * 100),
        listed(),
        listed(string(b"")),
        listed(string(b""), THREE, string(b""), string(b"")),
        listed(string(b""), THREE, count=-1),
        listed(string(b""), THREE, count=2**62),
        listed(THREE, THREE),
        listed(NULL, THREE),
        listed(string(b"", size=-1), THREE),
        listed(string(b"", size=2**63 - 1), THREE),
        listed(string(b"", size=11), THREE),
        listed(string(b""), ERROR, THREE),
        listed(string(b""), ERROR, count=3),
        listed(string(b""), ERROR[:5], string(b"message")),
        listed(string(b""), ERROR, string(b"message", size=8)),
        listed(string(b""), count=2),
        listed(string(b""), count=3),
    ],
    ids=lambda frame: frame[HEADER_SIZE:].hex(),
)
def test_what_is_no_answer_to_a_verbose_request_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError, match=r"^the reply to a verbose request "):
        split_verbose(frame)


@pytest.mark.parametrize("value", [THREE, NULL, ERROR], ids=bytes.hex)
def test_an_answer_cut_short_before_its_value_is_refused(value: bytes) -> None:
    frame = listed(string(b"abc"), value)
    for end in range(HEADER_SIZE, len(frame) - len(value) + 1):
        with pytest.raises(FrameError, match=r"^the reply to a verbose request "):
            split_verbose(frame[:end])
    assert split_verbose(frame)[0] == "abc"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good answer, its payload changed here and there, perhaps cut."""
    good = draw(st.sampled_from(RECORDED_FRAMES) | replies.map(lambda reply: joined_frame(b"output", reply)))
    payload = bytearray(good[HEADER_SIZE:])
    for offset, byte in draw(st.lists(st.tuples(st.integers(0, len(payload) - 1), st.integers(0, 255)), max_size=4)):
        payload[offset] = byte
    return response(bytes(payload[: draw(st.integers(1, len(payload)) | st.just(len(payload)))]))


@given(damaged() | st.binary(min_size=1).map(response))
def test_whatever_is_split_raises_nothing_but_frame_errors(frame: bytes) -> None:
    with suppress(FrameError):
        _, reply = split_verbose(frame)
        if isinstance(reply, Result):
            split = whole_frame(reply.frame)
            parse_frame(split)
            assert frame.endswith(split[HEADER_SIZE:])
