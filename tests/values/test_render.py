"""Payloads as text: every type, cut at a length, and whatever bytes there are."""

import struct
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._values._payloads import (
    NULL,
    Buffer,
    call,
    dict_of,
    i64,
    list_of,
    name,
    quoted,
    string,
    symbol,
    symbols,
    table_of,
    vector,
)
from rayforce_trio._values._render import ABBREVIATED_AT, render
from rayforce_trio._values._types import Type

LONGEST = ABBREVIATED_AT + len("...")


def atom(kind: Type, layout: str, value: object) -> bytes:
    return struct.pack(f"<bB{layout}", -kind, 0, value)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (NULL, "null"),
        (i64(-5), "-5"),
        (i64(-(2**63)), "0Nl"),
        (atom(Type.I32, "i", -(2**31)), "0Ni"),
        (atom(Type.I16, "h", 7), "7"),
        (atom(Type.U8, "B", 255), "255"),
        (atom(Type.B8, "?", True), "true"),
        (atom(Type.F64, "d", 1.5), "1.5"),
        (atom(Type.F64, "d", float("nan")), "0Nf"),
        (atom(Type.DATE, "i", 0), "2000.01.01"),
        (atom(Type.DATE, "i", 2**31 - 1), "2147483647"),
        (atom(Type.TIME, "i", 3_723_004), "01:02:03.004"),
        (atom(Type.TIMESTAMP, "q", 86_400 * 10**9 + 1), "2000.01.02D00:00:00.000000001"),
        (atom(Type.TIMESTAMP, "q", -1), "1999.12.31D23:59:59.999999999"),
        (atom(Type.TIMESPAN, "q", 5), "5"),
        (struct.pack("<bB", -Type.GUID, 0) + uuid.UUID(int=5).bytes, "00000000-0000-0000-0000-000000000005"),
        (string('a"b\\c\n'), r'"a\"b\\c\n"'),
        (string(b"\xff"), '"\N{REPLACEMENT CHARACTER}"'),
        (symbol("a"), "'a"),
        (name("a"), "a"),
        (symbols(["a", "b"]), "[a b]"),
        (vector(Type.I64, 2, [struct.pack("<2q", 1, -(2**63))]), "[1 0Nl]"),
        (vector(Type.STRING, 1, [struct.pack("<q", 2) + b"ab"]), '["ab"]'),
        (list_of([]), "()"),
        (call("+", i64(1), list_of([])), "(+ 1 ())"),
        (quoted(list_of([symbol("println"), symbol("x")])), "'('println 'x)"),
        (dict_of(symbols(["a", "b"]), list_of([i64(1), NULL])), "{a: 1 b: null}"),
        (dict_of(vector(Type.I64, 1, [struct.pack("<q", 3)]), list_of([i64(1)])), "(dict [3] (1))"),
        (table_of(["a"], [symbols(["x"])]), "(table [a] ([x]))"),
        (b"f+\0", "+"),
        (b"d\0" + symbols(["x"]) + list_of([call("+", name("x"), i64(1))]), "(fn [x] (+ x 1))"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_payload_as_text(payload: Buffer, text: str) -> None:
    assert render(payload) == text


@pytest.mark.parametrize(
    "payload",
    [
        string("x" * 10_000_000),
        symbol("x" * 10_000_000),
        vector(Type.I64, 1_000_000, [bytes(8_000_000)]),
        dict_of(symbols([f"x{n}" for n in range(100_000)]), list_of([NULL] * 100_000)),
    ],
    ids=["string", "symbol", "vector", "dict"],
)
def test_of_a_long_payload_the_beginning_is_shown_at_once(payload: Buffer) -> None:
    begun = time.process_time()
    text = render(payload)
    assert len(text) <= LONGEST
    assert text.endswith("...")
    assert time.process_time() - begun < 0.1


DEEP = b"".join([list_of([b""])] * 100_000)


@pytest.mark.parametrize("payload", [b"", b"\0", b"\x55", b"\x0b", DEEP, b"\xf4\0abc", i64(1)[:5]], ids=range(7))
def test_damage_ends_the_text(payload: bytes) -> None:
    assert render(payload).endswith("...")


GOOD = b"".join([call("select", dict_of(symbols(["from", "where"]), list_of([name("t"), quoted(list_of([i64(1)]))])))])


@given(st.binary(), st.integers(0, len(GOOD)), st.integers(0, 255))
def test_whatever_the_bytes_there_is_a_text(data: bytes, place: int, byte: int) -> None:
    damaged = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    for payload in (data, GOOD[:place], damaged, damaged + data):
        assert len(render(payload)) <= LONGEST
