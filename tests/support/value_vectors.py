"""Payloads of every type, and the values in them, as a file that the tests of both decoders read.

`python -m support.value_vectors` in `tests` writes the file again.
"""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from rayforce import String

from rayforce_trio._values import _payloads as payloads
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._decoding import nulls_of, to_list, values_of
from rayforce_trio._values._payloads import Buffer, call, list_of, string, table_of
from rayforce_trio._values._python import encode_value
from rayforce_trio._values._reader import FixedColumn, ListColumn, RawColumn, read_values
from rayforce_trio._values._types import DTYPES, EPOCH_DAYS, EPOCH_NANOSECONDS, HAS_NULLS, Type
from support.payloads import evaluated, rayforce_payload

FILE = Path(__file__).parents[2] / "rayforce_trio" / "javascript" / "test" / "vectors.json"

QUERIES = (
    "null",
    *("true", "false", "0x12", "-3h", "0Nh", "-3i", "0Ni", "-3", "0Nl", "9223372036854775807"),
    *("1.5e", "1.5", "0Nf", "(/ 1.0 0.0)", "(as 'i64 (til 0))", "(as 'f64 (til 0))"),
    *("2024.02.29", "0Nd", "1999.12.31", "10:00:00.250", "0Nt"),
    *("2024.01.31D10:00:00.123456789", "1999.12.31D23:59:59.999999999", "0Np", "(as 'timespan 90000000005)"),
    *("0Ng", "'sym", '"str"', '""', '"é𝄞"', "(first ['a 'b])"),
    *("[true false]", "(as 'u8 [0 255])", "(as 'i16 [-1 2 0Nl])", "(as 'i32 [-1 2 0Nl])", "[1 -2 0Nl]", "[]"),
    "(- [-9223372036854775807 5] 1)",
    *("(as 'f32 [1.5 0Nf])", "[1.5 -2.0 0Nf]", "(/ [1.0 -1.0] 0.0)"),
    *("[2024.02.29 1970.01.01 0Nd]", "[10:00:00.250 00:00:00.000 0Nt]"),
    "[2024.01.31D10:00:00.123456789 1969.12.31D00:00:00.000000001 0Np]",
    "(as 'timespan [90000000005 -5 0Nl])",
    *("[a b a]", "(list)", '["x" "" "é𝄞"]', '["only ascii" "text"]', '(list 1 "a" \'b null [1 2])'),
    '(table [i f s t] (list [1 0Nl] [1.5 0Nf] [a b] ["x" "y"]))',
    "(table [i l] (list [1 2] (list [1 2] [3])))",
    "(dict [a b] (list [1 2] [3.5 4.5]))",
    "(select {from: (table [a] (list [1 1 2])) by: a c: (count a)})",
)
"""Queries whose values are in the file."""

_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")

MADE = {
    "guids": payloads.vector(Type.GUID, 2, [_ID.bytes, bytes(16)], HAS_NULLS),
    "a guid": bytes([-Type.GUID & 0xFF, 0]) + _ID.bytes,
    "symbols beyond ASCII": payloads.symbols(["é", "", "𝄞"]),
    "no symbols": payloads.symbols([]),
    "strings with NUL and a byte order mark": encode_value([String("a\0b"), String("\ufeffc")], "", rayforce_payload),
}
"""Payloads that no query makes."""

SENT: tuple[Any, ...] = (
    *(None, True, 1.5, -0.0, "text", "é", {"int": "7"}, {"int": "-9223372036854775807"}),
    *({"timestamp": "2024-01-31T10:00:00.250Z"}, {"atom": ["int16", -3]}, {"atom": ["float32", 1.5]}),
    *([], [1.5, None], [True, False], [True, None], ["a", None, "b"], [{"int": "1"}, None, {"int": "3"}]),
    *([1.5, "a", None], [[1.5], ["a"]], [None, None], [{"timestamp": "1969-12-31T00:00:00.001Z"}, None]),
    *({"dict": {}}, {"dict": {"low": 1.5, "high": {"int": "2"}}}, {"dict": {"low": [1.5, 2.5], "names": ["a"]}}),
    *({"array": ["uint8", [1, 255]]}, {"array": ["int32", [1, -2]]}, {"array": ["float64", [0.1, -0.1]]}),
)
"""Values to send, as JSON: an object has one key, which names what JSON does not have."""


def python_value(sent: Any) -> Any:
    """Return a value of `SENT` as Python has it."""
    match sent:
        case list():
            return [python_value(item) for item in sent]
        case {"int": digits}:
            return int(digits)
        case {"timestamp": text}:
            return datetime.fromisoformat(text)
        case {"atom": [kind, item]}:
            return np.dtype(kind).type(item)
        case {"array": [kind, items]}:
            return np.array(items, kind)
        case {"dict": dict(items)}:
            return {key: python_value(value) for key, value in items.items()}
    return sent


def neutral(payload: Buffer) -> Any:
    """Return the value in a payload as JSON, as `_values` reads it.

    A vector is an object with its type, its items and, for dates and times, texts. Integers of 64 bits are texts.
    """
    if payload[0] in (Type.TABLE, Type.DICT):
        columns = read_columns(payload).raw
        return {"names": [*columns], "columns": [_column(column) for column in columns.values()]}
    whole = read_columns(table_of(["value"], [list_of([payload])])).raw["value"]
    assert isinstance(whole, ListColumn)
    return _values(whole)[0]


def _values(column: ListColumn) -> list[Any]:
    return [_value(kind, value) for kind, value in read_values(column)]


def _value(kind: Type, value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, bytes):
        return _column(value)
    if kind in (Type.SYMBOL, Type.STRING):
        return value.decode()
    return _column(FixedColumn(kind, False, np.frombuffer(value, DTYPES[kind])))["items"][0]


def _column(column: RawColumn) -> Any:
    if isinstance(column, ListColumn):
        return _values(column)
    if not isinstance(column, FixedColumn):
        return {"type": column.type.name, "items": to_list("the vector", column)}
    nulls = nulls_of(column)
    null = [False] * len(column) if nulls is None else nulls.tolist()
    raw = values_of(column)
    found: dict[str, Any] = {
        "type": column.type.name,
        "items": [None if is_null else _item(item) for item, is_null in zip(raw, null, strict=True)],
    }
    if column.type in _TEXTS:
        found["iso"] = [None if n else _TEXTS[column.type](int(item)) for item, n in zip(raw, null, strict=True)]
    return found


def _item(item: Any) -> Any:
    if isinstance(item, np.void):
        return str(UUID(bytes=item.tobytes()))
    plain = item.item()
    return str(plain) if isinstance(item, np.int64) else plain


def _clock(time: int, digits: int) -> str:
    seconds, rest = divmod(abs(time), 10**digits)
    sign = "-" if time < 0 else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:0{digits}}"


_TEXTS: dict[Type, Callable[[int], str]] = {
    Type.DATE: lambda days: str(np.datetime64(days + EPOCH_DAYS, "D")),
    Type.TIME: lambda milliseconds: _clock(milliseconds, 3),
    Type.TIMESTAMP: lambda nanoseconds: f"{np.datetime64(nanoseconds + EPOCH_NANOSECONDS, 'ns')}Z",
    Type.TIMESPAN: lambda nanoseconds: _clock(nanoseconds, 9),
}


def vectors() -> list[dict[str, Any]]:
    """Return what the file contains: payloads in hexadecimal digits, with the values in them or the values sent."""
    found = {query: evaluated(call("eval", call("parse", string(query)))) for query in QUERIES} | MADE
    return [{"name": name, "payload": data.hex(), "value": neutral(data)} for name, data in found.items()] + [
        {"sent": sent, "payload": bytes(encode_value(python_value(sent), "", rayforce_payload)).hex()} for sent in SENT
    ]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors())
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
