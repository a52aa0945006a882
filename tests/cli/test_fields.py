"""CSV and JSON of columns: compared with Python's own writers, and quick."""

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rayforce import F32, F64, I64, Symbol, Table, Timestamp, Vector, eval_str

from rayforce_trio import Columns, columns_of, errors
from rayforce_trio._cli import _fields
from rayforce_trio._cli._fields import csv_lines, json_lines
from rayforce_trio._cli._formats import as_csv, as_json
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._payloads import vector
from rayforce_trio._values._types import Type

SPECIAL = st.sampled_from(["a", ",", '"', "\n", "\r", " ", "é", "\u2028", "\\", "%", "\x1f", "'"])
TEXTS = st.lists(st.lists(SPECIAL).map("".join), min_size=1, max_size=5)


def text_columns(**columns: list[str]) -> Columns:
    return columns_of(Table({name: Vector(texts, ray_type=Symbol) for name, texts in columns.items()}))


def columns(expression: str) -> Columns:
    return columns_of(eval_str(expression))


def read_csv(written: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(written, newline=""), strict=True))


@given(TEXTS, TEXTS)
def test_csv_of_texts_can_be_read_back(first: list[str], second: list[str]) -> None:
    size = min(len(first), len(second))
    table = text_columns(**{"a,b": first[:size], "c": second[:size]})
    rows = [list(row) for row in zip(first, second, strict=False)]
    assert read_csv("".join(csv_lines(table))) == [["a,b", "c"], *rows]


@given(TEXTS)
def test_csv_of_one_column_can_be_read_back(texts: list[str]) -> None:
    assert read_csv("".join(csv_lines(text_columns(**{"%s": texts})))) == [["%s"], *([text] for text in texts)]


@given(TEXTS)
def test_json_of_texts_can_be_read_back(texts: list[str]) -> None:
    rows = json.loads("".join(json_lines(text_columns(**{'%d "': texts}), is_table=True)))
    assert rows == [{'%d "': text or None} for text in texts]


@given(st.lists(st.floats(), min_size=1))
def test_floats_keep_all_their_digits(values: list[float]) -> None:
    written = json.loads("".join(json_lines(columns_of(Vector(values, ray_type=F64)), is_table=False)))
    names = {np.inf: "Infinity", -np.inf: "-Infinity"}
    assert written == [None if np.isnan(value) else names.get(value, value) for value in values]


def test_short_floats_have_few_digits() -> None:
    assert "".join(csv_lines(columns_of(Vector([0.1, 1e10], ray_type=F32)))) == "value\n0.1\n10000000000.0\n"


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1))
def test_timestamps_are_right_from_1707_to_2292(values: list[int]) -> None:
    written = "".join(csv_lines(columns_of(eval_str(f"(as 'TIMESTAMP [{' '.join(map(str, values))}])")))).splitlines()
    epoch = np.datetime64("2000-01-01", "s")
    assert written[1:] == [f"{epoch + np.timedelta64(value // 10**9, 's')}.{value % 10**9:09}Z" for value in values]


@pytest.mark.parametrize(
    ("expression", "items"),
    [
        ("[0001.01.01 2024.02.29 0Nd]", ["0001-01-01", "2024-02-29", ""]),
        ("(+ 2024.01.01 [0 3000000])", ["2024-01-01", "10237-09-21"]),
        ("[00:00:00.001 0Nt 23:59:59.999]", ["00:00:00.001", "", "23:59:59.999"]),
        ("(- [00:00:00.000] [00:00:01.500])", ["-00:00:01.500"]),
        (
            "(- [2024.01.02D00:00:00.000000005 0Np 2024.01.01D00:00:00.0] 2024.01.01D00:00:01.0)",
            ["0D23:59:59.000000005", "", "-0D00:00:01.000000000"],
        ),
        ("(as 'I16 [-5 0N])", ["-5", ""]),
        ("[true false]", ["true", "false"]),
        ("[0Np 2262.04.12D00:00:00.0]", ["", "2262-04-12T00:00:00.000000000Z"]),
    ],
)
def test_items_of_each_type(expression: str, items: list[str]) -> None:
    table = columns(f"(table [a b] (list {expression} {expression}))")
    assert "".join(csv_lines(table)) == "a,b\n" + "".join(f"{item},{item}\n" for item in items)
    for item, written in zip(items, json.loads("".join(as_json(eval_str(expression)))), strict=True):
        assert ("" if written is None else written if isinstance(written, str) else json.dumps(written)) == item


@pytest.mark.parametrize(
    ("texts", "items"),
    [
        (["a", "", "c"], ["a", "", "c"]),
        (["a\0b", "", "é"], ["a\0b", "", "é"]),
        ([b"\xc3", b"\xa9", "é"], ["\ufffd", "\ufffd", "é"]),
    ],
)
def test_strings_of_any_bytes(texts: list[str | bytes], items: list[str]) -> None:
    data = [text if isinstance(text, bytes) else text.encode() for text in texts]
    payload = vector(Type.STRING, len(data), [len(text).to_bytes(8, "little") + text for text in data])
    assert json.loads("".join(json_lines(read_columns(payload), is_table=False))) == items


def test_several_blocks_are_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fields, "_ROWS_PER_BLOCK", 3)
    table = eval_str("(table [a b] (list (til 7) [a b c d e f g]))")
    rows = [(number, "abcdefg"[number]) for number in range(7)]
    assert "".join(as_csv(table)) == "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows)
    assert json.loads("".join(as_json(table))) == [{"a": a, "b": b} for a, b in rows]


@pytest.mark.parametrize("value", [I64(1), None, 5, object(), eval_str("(list 1 2)"), Timestamp("2024-01-01")])
def test_values_without_columns_are_refused(value: Any) -> None:
    with pytest.raises(errors.RayforceConversionError, match="has no columns"):
        columns_of(value)
