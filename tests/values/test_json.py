"""Values in JSON, in both directions: the byte vectors, hostile bytes, and values that clients send."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rayforce_trio
from rayforce_trio._values import _json
from rayforce_trio._values._json import Integers, all_steps, json_pieces, payload_of_json, payload_steps
from rayforce_trio._values._payloads import (
    NULL,
    dict_of,
    i64,
    list_of,
    name,
    string,
    symbol,
    symbols,
    table_of,
    vector,
)
from rayforce_trio._values._python import encode_value
from rayforce_trio._values._types import DTYPES, HAS_NULLS, Type
from rayforce_trio._values._vectors import NULL_VALUES
from rayforce_trio.errors import RayforceConversionError, RayforceValueError

VECTORS = Path(rayforce_trio.__file__).parent / "javascript" / "test" / "vectors.json"
CASES = [
    (case.get("name", case["payload"][:16]), bytes.fromhex(case["payload"]))
    for case in json.loads(VECTORS.read_text("utf-8"))
]
BIG = 2**53


def to_json(payload: bytes, integers: Integers = "auto") -> Any:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return json.loads("".join(json_pieces(payload, integers=integers)), parse_constant=refuse)


def integers(*values: int) -> bytes:
    return vector(Type.I64, len(values), [np.array(values, "<i8").tobytes()])


def typed(kind: str, value: object) -> dict[str, Any]:
    return {"type": kind, "value": value}


# To JSON


@pytest.mark.parametrize(("title", "payload"), CASES, ids=[title for title, _ in CASES])
def test_every_type_can_be_written_and_sent_back(title: str, payload: bytes) -> None:
    written = to_json(payload)
    if title == "(- [-9223372036854775807 5] 1)":  # the engine has computed null, and does not know it
        with pytest.raises(RayforceValueError, match="is not an integer of type i64"):
            payload_of_json(written)
        return
    assert to_json(payload_of_json(written)) == written


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        (NULL, typed("null", None)),
        (i64(3), typed("i64", 3)),
        (i64(BIG), typed("i64", BIG)),
        (i64(BIG + 1), {"type": "i64", "encoding": "string", "value": str(BIG + 1)}),
        (symbol("a"), typed("symbol", "a")),
        (string('a"\n\x00é'), typed("string", 'a"\n\x00é')),
        (string(b"\xff"), typed("string", "\ufffd")),
        (symbols(["a", ""]), {"type": "vector", "of": "symbol", "values": ["a", None]}),
        (
            table_of([""], [integers(1)]),
            {"type": "table", "columns": [{"name": "", "type": "i64", "values": [1]}], "length": 1},
        ),
        (integers(), {"type": "vector", "of": "i64", "values": []}),
        (integers(1, -BIG), {"type": "vector", "of": "i64", "values": [1, -BIG]}),
        (
            integers(1, -BIG - 1),
            {"type": "vector", "of": "i64", "encoding": "string", "values": ["1", str(-BIG - 1)]},
        ),
        (list_of([]), {"type": "list", "values": []}),
        (list_of([i64(1), NULL]), {"type": "list", "values": [typed("i64", 1), typed("null", None)]}),
        (
            dict_of(symbols(["a"]), integers(1)),
            {
                "type": "dict",
                "keys": {"type": "vector", "of": "symbol", "values": ["a"]},
                "values": {"type": "vector", "of": "i64", "values": [1]},
            },
        ),
        (
            table_of(["a", "a"], [integers(1, 2), list_of([i64(1), symbols(["x"])])]),
            {
                "type": "table",
                "columns": [
                    {"name": "a", "type": "i64", "values": [1, 2]},
                    {
                        "name": "a",
                        "type": "list",
                        "values": [typed("i64", 1), {"type": "vector", "of": "symbol", "values": ["x"]}],
                    },
                ],
                "length": 2,
            },
        ),
        (table_of([], []), {"type": "table", "columns": [], "length": 0}),
        (b"\x7ftype\0\0\0\0", {"type": "error", "code": "type"}),
    ],
)
def test_values_in_json(payload: bytes, written: Any) -> None:
    assert to_json(payload) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(math.nan, None), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (0.1, 0.1), (1e300, 1e300), (-0.0, -0.0)],
)
def test_floats_in_json(value: float, written: Any) -> None:
    payload = vector(Type.F64, 1, [np.array([value]).tobytes()])
    assert to_json(payload)["values"] == [written]
    assert to_json(payload_of_json(to_json(payload))) == to_json(payload)


@pytest.mark.parametrize(
    ("form", "values"), [("auto", [1, 2]), ("number", [1, 2]), ("string", ["1", "2"])], ids=["auto", "number", "string"]
)
def test_the_form_of_small_integers(form: Integers, values: list[Any]) -> None:
    assert to_json(integers(1, 2), form)["values"] == values
    assert to_json(table_of(["a"], [integers(1, 2)]), form)["columns"][0]["values"] == values


def test_large_integers_can_be_numbers() -> None:
    assert to_json(integers(BIG + 1), "number") == {"type": "vector", "of": "i64", "values": [BIG + 1]}


def test_only_the_columns_that_need_it_have_strings() -> None:
    first, second = to_json(table_of(["a", "b"], [integers(1), integers(BIG + 1)]))["columns"]
    assert "encoding" not in first
    assert second["encoding"] == "string"


def test_null_among_large_integers_is_null() -> None:
    payload = vector(Type.I64, 2, [np.array([BIG + 1, -(2**63)], "<i8").tobytes()], 0x40)
    assert to_json(payload)["values"] == [str(BIG + 1), None]


BUILTIN = b"\x66+\0"
LAMBDA = b"\x64\0" + symbols(["x"]) + vector(Type.LIST, 1, [name("x")])


def test_a_function_is_its_text() -> None:
    assert to_json(BUILTIN) == {"type": "function", "text": "+"}
    assert to_json(list_of([BUILTIN, i64(1)]))["values"] == [to_json(BUILTIN), typed("i64", 1)]
    assert to_json(LAMBDA) == {"type": "function", "text": "(fn [x] x)"}


def test_a_lambda_inside_a_value_is_its_text() -> None:
    inside = to_json(list_of([i64(1), LAMBDA, LAMBDA, i64(2)]))["values"]
    assert inside == [typed("i64", 1), to_json(LAMBDA), to_json(LAMBDA), typed("i64", 2)]
    with pytest.raises(RayforceConversionError, match="damaged"):
        to_json(list_of([LAMBDA[:-1]]))


def strings(*texts: bytes, attributes: int = 0) -> bytes:
    items = [len(text).to_bytes(8, "little") + text for text in texts]
    return vector(Type.STRING, len(texts), items, attributes)


def test_an_empty_string_is_null_where_the_engine_does_not_distinguish_them() -> None:
    assert to_json(strings(b"a", b""))["values"] == ["a", ""]
    assert to_json(strings(b"a", b"", attributes=HAS_NULLS))["values"] == ["a", None]


@pytest.mark.parametrize(
    "payload",
    [
        string("\x01" * 100_000),
        string("é𝄞" * 30_000),
        list_of([string("a" * 50_000)] * 20),
        strings(*(b"\x01" * size for size in (0, 9_991, 9_992, 9_993, 10_000, 50_000, 3))),
        strings(*[b"a" * 5_000] * 100),
        symbols(["a" * 50_000, "b", "c" * 9_999, "d"]),
        table_of(["a"], [list_of([i64(BIG + number) for number in range(2_000)])]),
    ],
    ids=["controls", "beyond ASCII", "list", "strings", "many strings", "symbols", "list column"],
)
def test_long_texts_are_in_several_short_pieces(payload: bytes) -> None:
    pieces = list(json_pieces(payload))
    assert len(pieces) > 2
    assert max(map(len, pieces)) <= 1 << 16
    assert payload_of_json(to_json(payload)) == bytes(payload)


@pytest.mark.parametrize("form", ["auto", "string"])
def test_atoms_of_one_type_are_written_like_single_ones(form: Integers) -> None:
    atoms = [payload for _, payload in CASES if payload[0] > 127 or payload == NULL]
    atoms += [i64(BIG + 1), i64(1), b"\xff\1\0", b"\xff\0\1", i64(-(2**63)), *[i64(5)] * 150]
    for order in (atoms, atoms[::-1], sorted(atoms)):
        assert to_json(list_of(order), form)["values"] == [to_json(atom, form) for atom in order]


def test_a_long_value_comes_in_short_pieces() -> None:
    count = 100_000
    pieces = list(json_pieces(table_of(["a", "b"], [integers(*range(count)), symbols(["x"] * count)])))
    assert max(map(len, pieces)) < 32_768
    assert json.loads("".join(pieces))["length"] == count
    nested = list(json_pieces(list_of([i64(number) for number in range(10_000)])))
    assert max(map(len, nested)) < 32_768


@pytest.mark.parametrize("kind", [*DTYPES, Type.SYMBOL])
def test_the_items_of_a_piece_are_limited_by_their_work(kind: Type) -> None:
    count = 5_000
    payload = (
        symbols(["a"] * count)
        if kind is Type.SYMBOL
        else vector(kind, count, [bytes([1]) * DTYPES[kind].itemsize * count])
    )
    items = [piece.count(",") for piece in json_pieces(payload)]
    assert sum(items) >= count
    assert max(items) * _json._ITEM_WORK[kind] <= _json.WORK_PER_PIECE


@pytest.mark.parametrize(
    ("payload", "values"),
    [
        (list_of([list_of([])] * 1000), 1000),
        (list_of([string("a")] * 1000), 1000),
        (list_of([symbol("a")] * 1000), 1000),
        (dict_of(list_of([i64(1), string("a")] * 500), list_of([string("a")] * 1000)), 2000),
        (table_of(["a"] * 1000, [integers(1)] * 1000), 1000),
        (table_of(["a"] * 1000, [list_of([string("a")])] * 1000), 1000),
    ],
    ids=["lists", "strings", "symbols", "dict", "columns", "columns of lists"],
)
def test_the_values_of_a_piece_are_limited_by_their_work(payload: bytes, values: int) -> None:
    pieces = list(json_pieces(payload))
    assert len(pieces) >= values * _json._VALUE_WORK / _json.WORK_PER_PIECE
    types = [piece.count('"type"') for piece in pieces]
    assert max(types) <= 2 * _json.WORK_PER_PIECE / _json._VALUE_WORK


def test_nesting_is_limited() -> None:
    payload = i64(1)
    for _ in range(1000):
        payload = list_of([payload])
    with pytest.raises(RayforceConversionError, match="nested more than 100 levels"):
        to_json(payload)


@given(st.sampled_from([payload for _, payload in CASES]), st.data())
def test_damaged_payloads_are_errors(payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with suppress(RayforceConversionError):
        to_json(cut)


@pytest.mark.parametrize(
    "payload",
    [
        i64(1)[:-1],
        i64(1) + b"\0",
        bytes([Type.TABLE, 0]) + integers(1) + list_of([integers(1)]),
        bytes([Type.TABLE, 0]) + symbols(["a"]) + integers(1),
        table_of(["a"], [integers(1), integers(1)]),
        table_of(["a"], [i64(1)]),
        table_of(["a", "b"], [integers(1), integers(1, 2)]),
    ],
)
def test_payloads_that_contradict_themselves_are_errors(payload: bytes) -> None:
    with pytest.raises(RayforceConversionError, match="damaged"):
        to_json(payload)


# From JSON


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (None, NULL),
        (3, i64(3)),
        ("a", symbol("a")),
        ([1, 2], integers(1, 2)),
        (["a", "b"], symbols(["a", "b"])),
        ([1, "a"], list_of([i64(1), symbol("a")])),
        ([typed("i64", 1), 2], integers(1, 2)),
        ([[1], ["a"]], list_of([integers(1), symbols(["a"])])),
        (typed("i64", "9007199254740993"), i64(BIG + 1)),
        (typed("string", "a"), string("a")),
        (typed("null", None), NULL),
    ],
)
def test_values_that_clients_send(data: object, payload: bytes) -> None:
    assert payload_of_json(data) == payload


@pytest.mark.parametrize(
    ("kind", "given_text", "written"),
    [
        ("timestamp", "2026-01-31T13:30:00Z", "2026-01-31T13:30:00.000000000Z"),
        ("timestamp", "2026-01-31 13:30:00.5", "2026-01-31T13:30:00.500000000Z"),
        ("timestamp", "1707-09-23T00:00:00Z", "1707-09-23T00:00:00.000000000Z"),
        ("timestamp", "2026-01-31T13:30:00+00:00", "2026-01-31T13:30:00.000000000Z"),
        ("timestamp", "2026-01-31T23:30:00.25-01:30", "2026-02-01T01:00:00.250000000Z"),
        ("timestamp", "2026-01-31T00:00:00+23:59", "2026-01-30T00:01:00.000000000Z"),
        ("date", "-0044-03-15", "-044-03-15"),
        ("date", "12345-01-31", "12345-01-31"),
        ("date", "1970-01-01", "1970-01-01"),
        ("time", "-01:00:00", "-01:00:00.000"),
        ("time", "-0596:31:23.647", "-596:31:23.647"),
        ("timespan", "-1D02:03:04.5", "-1D02:03:04.500000000"),
        ("timespan", "0000000123D00:00:00", "123D00:00:00.000000000"),
        ("guid", "123E4567-E89B-12D3-A456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ("f64", "-Infinity", "-Infinity"),
        ("f32", 0.1, 0.1),
        ("f32", 3.4028235e38, 3.4028235e38),
        ("f32", -(2**127), -1.7014118e38),
        ("f32", "Infinity", "Infinity"),
    ],
)
def test_texts_of_types_that_json_does_not_have(kind: str, given_text: object, written: object) -> None:
    payload = payload_of_json({"type": "vector", "of": kind, "values": [given_text]})
    assert to_json(payload)["values"] == [written]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "an object must have a type, one of b8, u8, "),
        ({"x": 1}, "an object must have a type"),
        ({"type": "nonsense"}, "an object must have a type"),
        ({"type": ["i64"]}, "an object must have a type"),
        ({"type": "i64"}, "a value of type i64 must have the key value"),
        (typed("i64", 1.5), "value[0]: 1.5 is not an integer of type i64"),
        (typed("i64", True), "true is not an integer of type i64"),
        (typed("i64", "1e3"), '"1e3" is not an integer of type i64'),
        (typed("i64", "٣"), "is not an integer of type i64"),
        (typed("i64", 2**63), "is not an integer of type i64"),
        (typed("u8", 256), "256 is not an integer of type u8, 0 to 255"),
        (typed("i16", -(2**15)), "is not an integer of type i16, -32767 to 32767"),
        (typed("b8", 1), "1 is not true or false"),
        (typed("b8", None), "value, row 0: null, but B8 has no null value"),
        (typed("f64", "x"), '"x" is not a number, "Infinity" or "-Infinity"'),
        (typed("f64", 10**400), "is not a number that a float of type f64 can represent"),
        (typed("f32", 10**400), "is not a number that a float of type f32 can represent"),
        (typed("f32", 1e300), "1e+300 is not a number that a float of type f32 can represent"),
        (typed("f32", -3.4028236e38), "is not a number that a float of type f32 can represent"),
        ({"type": "vector", "of": "f32", "values": [1, 10**39]}, "values[1]: 1000000"),
        (json.loads('{"type": "f64", "value": -1e999}'), "-Infinity is not a number that a float can represent; write"),
        (json.loads('{"type": "f32", "value": 1e999}'), "Infinity is not a number that a float can represent; write"),
        (json.loads("1e999"), "Infinity is not a number that a float can represent; write"),
        (json.loads("[1, -1e999, null]"), "[1]: -Infinity is not a number that a float can represent; write"),
        (typed("date", "2026-02-30"), '"2026-02-30" is not a date such as 2026-01-31'),
        (typed("date", 5), "5 is not a date"),
        (typed("time", "25:61:00"), "is not a time such as"),
        (typed("time", "999999:00:00"), "is not a time such as"),
        (typed("time", "0" * 5000 + ":00:00"), "is not a time such as"),
        (typed("timestamp", "2026-01-31"), "is not a timestamp such as"),
        (typed("timestamp", "2026-01-31T00:00:00+0100"), "is not a timestamp such as"),
        (typed("timestamp", "2026-01-31T00:00:00+24:00"), "is not a timestamp such as"),
        (typed("timestamp", "2026-01-31T00:00:00-01:60"), "is not a timestamp such as"),
        (typed("date", "9999999-01-01"), "is not a date"),
        (typed("timestamp", "9999-01-01T00:00:00Z"), "between 1707-09-22 and 2292-04-10"),
        (typed("timespan", "99999999999999D00:00:00"), "is not a timespan such as"),
        (typed("timespan", "0" * 5000 + "D00:00:00"), "is not a timespan such as"),
        (typed("timespan", "00000000123456D00:00:00"), "is not a timespan such as"),
        (typed("timestamp", "0" * 5000 + "-01-31T00:00:00"), "is not a timestamp such as"),
        (typed("timestamp", "2026-01-31T00:00:00." + "0" * 5000), "is not a timestamp such as"),
        (typed("date", "0" * 5000 + "-01-31"), "is not a date such as"),
        (typed("i64", "0" * 5000), "is not an integer of type i64"),
        (typed("guid", "x"), "is not a GUID such as"),
        (typed("symbol", 5), "5 is not a string"),
        (typed("symbol", "a\0b"), "a symbol cannot contain the character NUL"),
        (typed("string", "\ud800"), "lone surrogate"),
        ({"type": "vector", "values": []}, "the type of the items must be one of b8, "),
        ({"type": "vector", "of": "list", "values": []}, "the type of the items must be one of"),
        ({"type": "vector", "of": "i64", "values": {}}, "values must be an array"),
        ({"type": "vector", "of": "i64", "values": [1, "x"]}, 'values[1]: "x" is not an integer'),
        ({"type": "list"}, "values must be an array"),
        ({"type": "dict", "keys": []}, "a dict must have keys and values"),
        ({"type": "dict", "keys": 1, "values": 2}, "the keys of a dict must be an array, a vector or a list"),
        ({"type": "dict", "keys": [], "values": "a"}, "the values of a dict must be an array, a vector or a list"),
        (
            {"type": "dict", "keys": ["a"], "values": [1, 2]},
            "the keys and the values have different lengths: 1 and 2",
        ),
        (
            {"type": "dict", "keys": [1, "a"], "values": []},
            "the keys and the values have different lengths: 2 and 0",
        ),
        ({"type": "table"}, "columns must be an array"),
        ({"type": "table", "columns": [5]}, "columns[0]: a column must have a name, a type and values"),
        ({"type": "table", "columns": [{"name": "a", "type": "i64"}]}, "columns[0]: values must be an array"),
        ({"type": "table", "columns": [{"name": "a", "type": "x", "values": []}]}, "the type of the items must be one"),
        (
            {
                "type": "table",
                "columns": [
                    {"name": "a", "type": "i64", "values": [1]},
                    {"name": "b", "type": "list", "values": [1, 2]},
                ],
            },
            "the columns have different lengths: 1, 2",
        ),
        (2**63, "is outside the 64-bit range"),
        ([1, {"type": "i64", "value": "x"}], "[1].value[0]: "),
        ([[{}]], "[0][0]: an object must have a type"),
    ],
)
def test_values_that_are_not_valid(data: object, says: str) -> None:
    with pytest.raises(RayforceValueError) as found:
        payload_of_json(data)
    assert says in str(found.value)


@pytest.mark.parametrize("around", [lambda inner: [inner], lambda inner: {"type": "list", "values": [inner]}])
def test_nesting_of_sent_values_is_limited(around: Any) -> None:
    data: Any = 1
    for _ in range(500):
        data = around(data)
    with pytest.raises(RayforceValueError, match="nested more than 100 levels"):
        payload_of_json(data)


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
_ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(1 - 2**63, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), _TEXT
)


@given(st.recursive(_ATOMS, lambda inner: st.lists(inner, max_size=4), max_leaves=10))
def test_plain_values_are_read_back_as_they_were_sent(data: Any) -> None:
    written = to_json(payload_of_json(data))
    assert to_json(payload_of_json(written)) == written


@pytest.mark.parametrize(
    ("data", "least"),
    [
        ([[]] * 1000, 1000),
        ([[1]] * 1000, 1000),
        ([1, "a"] * 500, 1000),
        ([typed("i64", 1)] * 1000, 1000),
        ({"type": "list", "values": [1] * 1000}, 1000),
        ({"type": "dict", "keys": ["a"] * 1000, "values": [[1]] * 1000}, 1000),
        ({"type": "vector", "of": "timestamp", "values": ["2026-01-31T13:30:00"] * 1000}, 40),
        ({"type": "vector", "of": "symbol", "values": ["a"] * 1000}, 40),
        ({"type": "table", "columns": [{"name": "a", "type": "i64", "values": [1]}] * 1000}, 1000),
        ([None] * 1000, 1000),
        ([True, None] * 500, 1000),
        ([None] * 999 + [True], 1000),
        ([1, True] * 500, 1000),
        ([BIG + 1, 1.5] * 500, 1000),
        ([1] * 5000, 10),
        ([1, None] * 2500, 10),
        ([1, 1.5, None] * 2000, 10),
        ([True] * 5000, 10),
        (["a", None] * 2500, 10),
    ],
    ids=[
        *("empty lists", "lists", "mixed", "atoms", "list", "dict", "timestamps", "symbols", "columns"),
        *("nulls", "bools and null", "nulls and a bool", "ints and bools", "large ints and floats"),
        *("ints", "ints and null", "ints, floats and null", "bools", "texts and null"),
    ],
)
def test_a_long_value_is_read_in_many_steps(data: Any, least: int) -> None:
    steps = payload_steps(data)
    assert sum(1 for _ in steps) >= least
    assert all_steps(payload_steps(data)) == payload_of_json(data)


_SIMILAR: list[list[Any]] = [
    *([1, None], [1, BIG + 1, None], [1, 1.5, None], [1, 1.5, BIG + 1], [1.5, None], [1, -(2**63)], [1, 2**63]),
    *([True, False], [True, None], [True, 1], ["a", "", None], ["a", "b\0"], ["a", "\ud800"], ["a", 1], [None]),
]


@given(st.sampled_from(_SIMILAR).flatmap(lambda pool: st.lists(st.sampled_from(pool), max_size=8)), st.integers(1, 3))
def test_a_plain_list_is_what_it_is_in_python(data: list[Any], at_once: int) -> None:
    def result(convert: Any) -> object:
        try:
            return bytes(convert())
        except (RayforceValueError, RayforceConversionError) as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json, "_PLAIN_AT_ONCE", at_once)
        found = result(lambda: payload_of_json(data))
    assert found == result(lambda: encode_value(data, "the value", lambda _: None))


def test_the_first_item_that_is_not_valid_is_named() -> None:
    vector_of_items = {"type": "vector", "of": "i64", "values": [1] * 2000 + ["x", 1, "x"]}
    with pytest.raises(RayforceValueError, match=r'values\[2000\]: "x" is not an integer'):
        payload_of_json(vector_of_items)
    for items in ([1] * 2000 + [2**63], ["a"] * 2000 + ["\ud800"], [1.5] * 2000 + [2**63]):
        with pytest.raises(RayforceValueError, match=r"the value\[2000\]: the "):
            payload_of_json([*items, items[-1]])


def test_a_name_is_never_made_of_a_value() -> None:
    assert name("exit") not in (payload_of_json("exit"), payload_of_json(typed("symbol", "exit")))


# Both ways

_FIXED = st.sampled_from([kind for kind in DTYPES if kind is not Type.GUID])
_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def _items(kind: Type) -> st.SearchStrategy[Any]:
    """Return the items of a type that are not null."""
    dtype = DTYPES[kind]
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        return st.floats(allow_nan=False, width=32 if kind is Type.F32 else 64)
    limits = np.iinfo(dtype)
    return st.integers(int(limits.min) + (dtype.kind == "i"), int(limits.max))


@st.composite
def _atoms(draw: st.DrawFn) -> bytes:
    kind = draw(_FIXED)
    is_null = kind in NULL_VALUES and draw(st.booleans())
    item = NULL_VALUES[kind] if is_null else draw(_items(kind))
    return bytes([256 - kind, is_null]) + np.array(item, DTYPES[kind]).tobytes()


@st.composite
def _vectors(draw: st.DrawFn, size: int) -> bytes:
    kind = draw(_FIXED)
    found = draw(st.lists(_items(kind), min_size=size, max_size=size))
    nulls = draw(st.lists(st.booleans(), min_size=size, max_size=size)) if kind in NULL_VALUES else []
    items = [NULL_VALUES[kind] if null else item for item, null in zip(found, nulls or [False] * size, strict=True)]
    return vector(kind, size, [np.array(items, DTYPES[kind]).tobytes()], HAS_NULLS if any(nulls) else 0)


@st.composite
def _texts(draw: st.DrawFn, size: int) -> bytes:
    found = [text.encode() for text in draw(st.lists(_NAME, min_size=size, max_size=size))]
    if draw(st.booleans()):
        return strings(*found)
    return vector(Type.SYMBOL, size, [text + b"\0" for text in found], 0 if all(found) else HAS_NULLS)


@st.composite
def _compounds(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    size = draw(st.integers(0, 3))
    column = st.one_of(_vectors(size), _texts(size), st.lists(inner, min_size=size, max_size=size).map(list_of))
    if draw(st.booleans()):
        return dict_of(draw(column), draw(column))
    names = draw(st.lists(_NAME, max_size=3))
    marks = bytes([0 if all(names) else HAS_NULLS])
    payload = table_of(names, [draw(column) for _ in names])
    return payload[:3] + marks + payload[4:]


_PAYLOADS = st.recursive(
    st.one_of(
        _atoms(),
        st.uuids().filter(lambda guid: guid.int).map(lambda guid: bytes([256 - Type.GUID, 0]) + guid.bytes),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(string),
        _NAME.map(symbol),
        st.just(NULL),
        st.integers(0, 4).flatmap(lambda size: st.one_of(_vectors(size), _texts(size))),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4).map(list_of), _compounds(inner)),
    max_leaves=8,
)


@given(_PAYLOADS, st.sampled_from(["auto", "number", "string"]))
def test_every_value_becomes_the_payload_that_it_was(payload: bytes, form: Integers) -> None:
    assert payload_of_json(to_json(payload, form)) == payload
