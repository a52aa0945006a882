"""Payloads of replies: read as columns step by step, and compared with a reader that takes them one item at a time."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

from rayforce_trio._values import _payloads as payloads
from rayforce_trio._values import _reader
from rayforce_trio._values._columns import Columns
from rayforce_trio._values._reader import FixedColumn, ListColumn, NotColumns, PayloadReader, RawColumn, UnknownType
from rayforce_trio._values._types import DTYPES, HAS_NULLS, Type
from rayforce_trio.errors import RayforceConversionError

_COUNTS = [0, 0, 1, 1, 2, 3, 7, 15, 16, 17, 18, 40, 100, 300]
_FALSE_COUNTS = [-1, -(1 << 63), 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1]
_LENGTHS = [0, 0, 0, 1, 2, 3, 5, 8, 8, 8, 16, 40, 254, 255, 256, 257, 264, 600, 1100, 3000]
_TEXTS = [b"a", b"bc", "é".encode(), b"\0", b"\0\0\0\0\0\0\0\0", b"\x05\0\0\0\0\0\0\0", b"\xff"]
_CHUNKS = [8, 17, 64, 250, 1000, 1 << 19]
_DEEPEST = 20

Items = list[tuple[int, bytes | list[Any]]]
"""Of a column: the type and the bytes of each item, of a list the items."""


class _Refused(Exception):
    """The payload is damaged, or no columns."""


def make(random: Random) -> bytes:
    """Return an input: the size of a chunk and a payload, which may be damaged."""
    payload = bytearray(_value(random))
    for _ in range(random.choice([0, 0, 0, 1, 1, 2, 5])):
        _damage(payload, random)
    return bytes([random.randrange(len(_CHUNKS))]) + payload


def check(data: bytes) -> None:
    """Read a payload: only the documented errors may be raised, and every column must be right."""
    if not data:
        return
    payload = data[1:]
    try:
        expected = _read_one_by_one(payload)
    except _Refused:
        expected = None
    with _chunks_of(_CHUNKS[data[0] % len(_CHUNKS)]):
        reader = PayloadReader(payload)
        try:
            while not reader.step():
                pass
        except (RayforceConversionError, NotColumns, UnknownType):
            assert expected is None, "a payload in good order was refused"
            return
    columns = reader.result()
    assert expected is not None, "a damaged payload was read"
    assert {name: _items(column) for name, column in columns.items()} == expected
    _convert(Columns(columns))


def _convert(columns: Columns) -> None:
    """Convert columns in every way."""
    for convert in (columns.to_dict, columns.to_numpy, columns.to_arrow, columns.vectors, lambda: [*columns.rows()]):
        with suppress(RayforceConversionError):  # a text that is not UTF-8, a date after 9999 and the like
            convert()


@contextmanager
def _chunks_of(size: int) -> Iterator[None]:
    original = _reader._CHUNK
    _reader._CHUNK = size
    try:
        yield
    finally:
        _reader._CHUNK = original


def _value(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.6:
        count = random.choice(_COUNTS)
        names = [random.choice("abcdefgh") * random.randint(1, 4) for _ in range(random.choice([0, 1, 1, 2, 3]))]
        columns = [_vector(random, count if random.random() < 0.95 else count + 1) for _ in names]
        if kind < 0.4:
            return payloads.table_of(names, columns)
        return payloads.dict_of(payloads.symbols(names), payloads.list_of(columns))
    if kind < 0.9:
        return _vector(random, random.choice(_COUNTS))
    return random.choice(
        [payloads.NULL, payloads.i64(1), payloads.symbol("a"), payloads.string("a"), b"\x0e\0", b"d\0"]
    )


def _vector(random: Random, count: int, depth: int = 0) -> bytes:
    attributes = random.choice([0, 0, HAS_NULLS, 3, 0xFF])
    type_code = random.choice([*DTYPES, Type.SYMBOL, Type.STRING, Type.STRING, Type.STRING, Type.LIST])
    if type_code is Type.SYMBOL:
        items = [random.choice([b"a", b"", b"bcd", b"\xc3\xa9", b"\xff"]) + b"\0" for _ in range(count)]
    elif type_code is Type.STRING:
        one = random.choice(_LENGTHS)
        lengths = [one if random.random() < 0.5 else random.choice(_LENGTHS) for _ in range(count)]
        some = random.choice([_TEXTS[:3], _TEXTS])
        texts = [(random.choice(some) * length)[:length] for length in lengths]
        items = [struct.pack("<q", len(text)) + text for text in texts]
    elif type_code is Type.LIST:
        items = [_element(random, depth) for _ in range(count)]
    else:
        items = [random.randbytes(DTYPES[type_code].itemsize * count)]
    return payloads.vector(type_code, count, items, attributes)


def _element(random: Random, depth: int) -> bytes:
    kind = random.random()
    if kind < 0.5 and depth < _DEEPEST:
        return _vector(random, random.choice([0, 1, 2, 3]), depth + 1)
    type_code = random.choice(list(DTYPES))
    atom = struct.pack("<bB", -type_code, random.choice([0, 1])) + random.randbytes(DTYPES[type_code].itemsize)
    return random.choice([atom, atom, payloads.NULL, payloads.string("é"), payloads.symbol("a"), payloads.symbol("")])


def _damage(payload: bytearray, random: Random) -> None:
    if not payload:
        return
    at = random.randrange(len(payload))
    match random.randrange(5):
        case 0:
            del payload[at:]
        case 1:
            payload[at] = random.choice([0, 1, 8, 0x0C, 0x0D, 0x40, 0x62, 0x7E, 0x80, 0xFF, random.randrange(256)])
        case 2:
            payload += random.randbytes(random.randint(1, 20))
        case 3:
            payload[at : at + 8] = struct.pack("<q", random.choice(_FALSE_COUNTS))
        case 4:
            payload[at:at] = random.randbytes(random.randint(1, 9))


def _items(column: RawColumn) -> Items:
    if isinstance(column, FixedColumn):
        width = DTYPES[column.type].itemsize
        data = column.values.tobytes()
        return [(column.type, data[at : at + width]) for at in range(0, len(data), width)]
    if isinstance(column, ListColumn):
        return [
            (code, value if isinstance(value, bytes) else [] if value is None else [*_items(value)])
            for code, value in _reader.read_values(column)
        ]
    pairs = zip(column.starts[:-1].tolist(), column.starts[1:].tolist(), strict=True)
    texts = [column.data[start:end].tobytes() for start, end in pairs]
    return [(column.type, text[:-1] if column.type is Type.SYMBOL else text[8:]) for text in texts]


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.left = data

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.left):
            raise _Refused
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(8), "little", signed=True)

    def code(self) -> int:
        return int.from_bytes(self.take(1), "little", signed=True)

    def text(self) -> bytes:
        end = self.left.find(0)
        if end < 0:
            raise _Refused
        return self.take(end + 1)[:-1]


def _read_one_by_one(payload: bytes) -> dict[str, Items]:
    data = _Bytes(payload)
    code = data.code()
    if code in (Type.TABLE, Type.DICT):
        data.take(1)
        if data.code() != Type.SYMBOL:
            raise _Refused
        names = _vector_one_by_one(data, Type.SYMBOL)
        if data.code() != Type.LIST:
            raise _Refused
        data.take(1)
        count = data.number()
        if count != len(names):
            raise _Refused
        columns = [_vector_one_by_one(data, data.code()) for _ in range(count)]
        try:
            result = {bytes(name).decode(): column for (_, name), column in zip(names, columns, strict=True)}
        except UnicodeDecodeError:
            raise _Refused from None
        if len(result) != count or len({len(column) for column in columns}) > 1 or (code == Type.DICT and not count):
            raise _Refused
    elif code == Type.LIST:
        raise _Refused
    else:
        result = {"value": _vector_one_by_one(data, code)}
    if data.left:
        raise _Refused
    return result


def _vector_one_by_one(data: _Bytes, code: int, depth: int = 0) -> Items:
    if code not in (*DTYPES, Type.SYMBOL, Type.STRING, Type.LIST):
        raise _Refused
    if code == Type.LIST and depth == _reader._MAX_DEPTH:
        raise _Refused
    data.take(1)
    count = data.number()
    if not 0 <= count <= len(data.left):
        raise _Refused
    items: Items = []
    for _ in range(count):
        if code == Type.SYMBOL:
            items.append((code, data.text()))
        elif code == Type.STRING:
            items.append((code, data.take(data.number())))
        elif code == Type.LIST:
            items.append(_element_one_by_one(data, depth + 1))
        else:
            items.append((code, data.take(DTYPES[Type(code)].itemsize)))
    return items


def _element_one_by_one(data: _Bytes, depth: int) -> tuple[int, bytes | list[Any]]:
    code = data.code()
    if code == Type.NULL:
        return code, []
    if code >= 0:
        return code, [*_vector_one_by_one(data, code, depth)]
    attributes = data.take(1)[0]
    if -code == Type.STRING:
        value = data.take(data.number())
    elif -code == Type.SYMBOL:
        value = data.text()
    elif -code in DTYPES:
        value = data.take(DTYPES[Type(-code)].itemsize)
    else:
        raise _Refused
    null = attributes & 1 or (-code == Type.SYMBOL and not value)
    return -code, [] if null else value
