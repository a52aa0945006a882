"""Vectors on the wire: as the engine itself writes them, and as it reads them."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rayforce import _rayforce_c as ffi

from rayforce_trio._values import _vectors
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._types import DTYPES, Type
from rayforce_trio._values._vectors import FixedWidth, Texts, Vector, vector_payload
from rayforce_trio.errors import RayforceConversionError


def as_the_engine_writes(payload: bytes) -> bytes:
    """Return a payload that the engine has read and written again."""
    frame = struct.pack("<4sBBBBq", b"\xfa\xde\xfa\xce", 3, 0, 0, 0, len(payload)) + payload
    value = ffi.de_obj(ffi.init_vector_from_raw_buffer(ffi.TYPE_U8, len(frame), frame))
    return bytes(ffi.read_u8_vector(ffi.ser_obj(value)))[16:]


def texts_of(type_code: Type, texts: list[bytes | None]) -> Texts:
    offsets = np.cumsum([0, *(len(text or b"") for text in texts)]).astype(np.int64)
    data = np.frombuffer(b"".join(text or b"" for text in texts), np.uint8)
    nulls = np.array([text is None for text in texts], np.bool_)
    return Texts(type_code, data, offsets, nulls if nulls.any() else None)


@st.composite
def vectors(draw: st.DrawFn) -> Vector:
    """A vector of any type, which may be a part of a larger one."""
    type_code = draw(st.sampled_from([*DTYPES, Type.SYMBOL, Type.STRING]))
    vector: Vector
    if type_code in (Type.SYMBOL, Type.STRING):
        characters = st.characters(codec="utf-8", exclude_characters="\0" if type_code is Type.SYMBOL else None)
        texts = draw(st.lists(st.none() | st.text(characters).map(str.encode), max_size=40))
        vector = texts_of(type_code, texts)
    else:
        dtype = DTYPES[type_code]
        count = draw(st.integers(0, 40))
        data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        values = np.frombuffer(data, dtype)
        if type_code is Type.B8:
            values = np.frombuffer(data, np.uint8) > 127
        nulls = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
        vector = FixedWidth(type_code, values, None if type_code in (Type.B8, Type.U8) else nulls)
        if type_code in _vectors.NULL_VALUES:
            reserved = _vectors.find_nulls(type_code, values)
            vector = FixedWidth(type_code, values, nulls | reserved)
    start = draw(st.integers(0, len(vector)))
    return vector.slice(start, draw(st.integers(start, len(vector) + 5)))


@given(vectors())
def test_a_payload_is_what_the_engine_writes(vector: Vector) -> None:
    payload = vector_payload(vector, "x")
    assert len(payload) == 10 + int(vector.row_sizes().sum())
    expected = as_the_engine_writes(payload)
    if vector.type in (Type.F32, Type.F64):  # there are many NaNs
        assert payload[:10] == expected[:10]
    else:
        assert payload == expected


@given(vectors())
def test_a_vector_comes_back(vector: Vector) -> None:
    payload = vector_payload(vector, "x")
    again = read_columns(payload).vectors()["value"]
    assert vector_payload(again, "x") == payload
    assert nulls_of(again) == nulls_of(vector)


def nulls_of(vector: Vector) -> list[bool]:
    if isinstance(vector, Texts):
        return [bool(size == 0) for size in np.diff(vector.offsets)]
    return [False] * len(vector) if vector.nulls is None else vector.nulls.tolist()


@pytest.mark.parametrize("type_code", [Type.STRING, Type.SYMBOL])
def test_texts_in_several_blocks(type_code: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[bytes | None] = [b"x" * (i % 9) if i % 5 else None for i in range(100)]
    whole = vector_payload(texts_of(type_code, texts), "x")
    monkeypatch.setattr(_vectors, "_ROWS_PER_BLOCK", 7)
    assert vector_payload(texts_of(type_code, texts), "x") == whole
    assert read_columns(whole).to_dict()["value"] == [(text or b"").decode() or None for text in texts]


def test_unaligned_and_strided_values() -> None:
    unaligned = np.frombuffer(b"\0" + np.arange(6).tobytes(), np.int64, offset=1)
    assert not unaligned.flags.aligned
    for values in (unaligned, unaligned[::2], unaligned[::-1]):
        payload = vector_payload(FixedWidth(Type.I64, values), "x")
        assert read_columns(payload)["value"].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (
            FixedWidth(Type.B8, np.array([True]), np.array([True])),
            "column 'x', row 100: null, but B8 has no null value",
        ),
        (
            FixedWidth(Type.DATE, np.array([1, -(2**31)], "i4")),
            "column 'x', row 101: the engine treats -2147483648 as null in a vector of type DATE; write None for null",
        ),
        (
            texts_of(Type.SYMBOL, [b"a", b"", b"b\0"]),
            "column 'x', row 102: a symbol cannot contain the character NUL; a String can",
        ),
    ],
)
def test_an_error_names_the_row(vector: Vector, message: str) -> None:
    with pytest.raises(RayforceConversionError) as caught:
        vector_payload(vector, "column 'x'", 100)
    assert str(caught.value) == message


def test_no_nulls_at_all_need_no_mark() -> None:
    vector: Any = FixedWidth(Type.I64, np.array([1]), np.array([False]))
    assert vector_payload(vector, "x")[1] == 0
