"""The tables of types in docs/reference/data.md and of errors in docs/reference/errors.md say what the code does."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy
import pandas
import polars
import pyarrow
import pytest
from rayforce import I32, String
from rayforce.errors import CORE_EXC_CODE_MAPPING

from rayforce_trio import Columns, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._codec._errors import WORDS
from rayforce_trio._values._types import EPOCH_DAYS, EPOCH_NANOSECONDS

DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "reference" / "data.md"

GUID = UUID("12345678-1234-5678-1234-567812345678")
NAMES = {
    "I32": I32,
    "String": String,
    "UTC": UTC,
    "UUID": UUID,
    "date": date,
    "datetime": datetime,
    "time": time,
    "timedelta": timedelta,
    "numpy": numpy,
    "pandas": pandas,
    "polars": polars,
}

VALUES: dict[str, Any] = {
    "B8": [True, False],
    "U8": numpy.array([1, 2], "u1"),
    "I16": numpy.ma.array([1, 2], "i2", mask=[False, True]),
    "I32": numpy.ma.array([1, 2], "i4", mask=[False, True]),
    "I64": [1, None],
    "F32": numpy.array([1.5, numpy.nan], "f4"),
    "F64": [1.5, None],
    "DATE": [date(2024, 1, 31), None],
    "TIME": [time(9, 30), None],
    "TIMESTAMP": [datetime.fromisoformat("2024-01-31T09:30"), None],
    "TIMESPAN": [timedelta(seconds=90), None],
    "GUID": [GUID, None],
    "SYMBOL": ["AAPL", None],
    "STRING": [String("some text"), None],
}
"""A value of each type of the engine, and null where there is one."""

STANDS_FOR_NULL: dict[str, Any] = {
    "F32": numpy.array([numpy.nan], "f4"),
    "F64": [float("nan")],
    "SYMBOL": [""],
    "STRING": [String("")],
    "I16": numpy.array([-(2**15)], "i2"),
    "I32": numpy.array([-(2**31)], "i4"),
    "I64": [-(2**63)],
    "DATE": numpy.array([-(2**31) + EPOCH_DAYS], "M8[D]"),
    "TIME": pyarrow.array([-(2**31)], pyarrow.int32()).cast(pyarrow.time32("ms")),
    "TIMESTAMP": pyarrow.array([-(2**63) + EPOCH_NANOSECONDS], pyarrow.int64()).cast(pyarrow.timestamp("ns")),
    "TIMESPAN": pyarrow.array([-(2**63)], pyarrow.int64()).cast(pyarrow.duration("ns")),
    "GUID": [UUID(int=0)],
}
"""The value of each type that stands for null in the engine."""

NUMBERS = {"U8": "u1", "I16": "i2", "I32": "i4", "I64": "i8", "F32": "f4", "F64": "f8"}
CASTABLE: dict[str, Any] = {
    **{name: numpy.array([1], kind) for name, kind in NUMBERS.items()},
    "B8": [True],
    "DATE": [date(2024, 1, 31)],
    "TIME": [time(9, 30)],
    "TIMESTAMP": [datetime.fromisoformat("2024-01-31")],
    "TIMESPAN": [timedelta(seconds=90)],
    "GUID": [GUID],
    "SYMBOL": ["AAPL"],
    "STRING": numpy.array([b"AAPL"]),
}
"""A value of each type that any cast to another type leaves as it is."""

ARROW_UNITS = {"time32": "time32[ms]", "time64": "time64[us]", "timestamp": "timestamp[us]", "duration": "duration[us]"}
ARROW_TYPES = {
    "dictionary of strings": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    "arrow.uuid": pyarrow.uuid(),
    "fixed_size_binary[16]": pyarrow.binary(16),
    "string_view": pyarrow.string_view(),
}


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without the names of its columns."""
    section = page.read_text(encoding="utf-8").partition(f" {heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None
    _, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines[0].splitlines()]
    return rows


def codes(cell: str) -> list[str]:
    """Return each piece of code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def code(cell: str) -> str:
    """Return the code in a cell that has one piece of it."""
    (text,) = codes(cell)
    return text


@asynccontextmanager
async def connected() -> AsyncIterator[WSClientConnection]:
    async with (
        WSServer(port=0, host="127.0.0.1") as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        yield connection


@pytest.mark.trio
async def test_python_values_arrive_as_documented() -> None:
    rows = table(DATA, "From Python to the engine")
    arrived = []
    async with connected() as connection:
        for kind, example, _ in rows:
            type_name = await connection.execute("(type x)", {"x": eval(code(example), NAMES)})
            arrived.append([kind, example, f"`{type_name}`"])
    assert arrived == rows


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63),
        "a\0b",
        time(9, 30, 0, 1),
        time(9, 30, tzinfo=UTC),
        UUID(int=0),
        numpy.array([2**63], "u8"),
        numpy.array([[1]]),
        {1},
        (n for n in [1]),
        {"a": 1, 2: 3},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.trio
async def test_other_values_are_refused(value: object) -> None:
    async with connected() as connection:
        with pytest.raises(errors.RayforceConversionError, match=r"^params\['x'\]"):
            await connection.execute("x", {"x": value})


def python_type(values: list[Any]) -> str:
    return type(values[0]).__name__


def null_of(array: "numpy.ndarray[Any, Any]") -> str:
    """Return how an array represents null, which its last item is if its type has one."""
    if numpy.ma.is_masked(array):
        return "masked"
    last = array[-1]
    if last is None:
        return "None"
    if array.dtype.kind == "f":
        return "NaN" if numpy.isnan(last) else ""
    return "NaT" if array.dtype.kind in "mM" and numpy.isnat(last) else ""


def described(columns: Columns) -> list[str]:
    """Return the row of the table for a column."""
    (name,) = columns.names
    array = columns[name]
    python, arrow = python_type(columns.to_dict()[name]), columns.to_arrow().schema.field(name).type
    return [f"`{columns.schema[name]}`", f"`{array.dtype}`", null_of(array), f"`{python}`", f"`{arrow}`"]


@pytest.mark.trio
async def test_results_have_the_documented_types() -> None:
    async with connected() as connection:
        fetched = [described(await connection.fetch("x", {"x": VALUES[name]})) for name in VALUES]
    assert fetched == table(DATA, "From the engine to Python")


@pytest.mark.trio
async def test_a_value_that_stands_for_null_becomes_null_or_is_refused() -> None:
    rows = table(DATA, "Null")
    found: dict[str, str] = {}
    async with connected() as connection:
        for name, value in STANDS_FOR_NULL.items():
            try:
                column = (await connection.fetch("x", {"x": value})).to_dict()["value"]
            except errors.RayforceConversionError:
                found[name] = "raises an error"
            else:
                assert column == [None]
                found[name] = "becomes null"
    assert found == {name: sent for names, _, sent in rows for name in codes(names)}
    assert VALUES.keys() - found.keys() == {"B8", "U8"}


@pytest.mark.trio
async def test_casts_are_those_in_the_documentation() -> None:
    documented = {
        (source, target)
        for sources, targets, _ in table(DATA, "Casts")
        for source in codes(sources)
        for target in codes(targets)
    }
    done = set()
    async with connected() as connection:
        for target, existing in CASTABLE.items():
            await connection.create_table(target, {"x": existing})
            for source, values in CASTABLE.items():
                try:
                    await connection.insert(target, {"x": values})
                except errors.RayforceConversionError:
                    continue
                done.add((source, target))
    assert done == documented | {(name, name) for name in CASTABLE}


@pytest.mark.trio
async def test_null_is_null_in_python_arrow_pandas_and_polars() -> None:
    async with connected() as connection:
        for name in VALUES.keys() - {"B8", "U8"}:
            columns = await connection.fetch("x", {"x": VALUES[name]})
            assert columns.to_dict()["value"][1] is None
            assert next(columns.rows())[0] is not None
            assert columns.to_arrow()["value"].null_count == 1
            assert columns.to_pandas()["value"].isna().tolist() == [False, True]
            assert columns.to_polars()["value"].null_count() == 1


def arrow_type(name: str) -> pyarrow.DataType:
    return ARROW_TYPES.get(name) or pyarrow.type_for_alias(ARROW_UNITS.get(name, name))


@pytest.mark.trio
async def test_arrow_columns_become_the_documented_types() -> None:
    documented = {
        name: code(engine)
        for arrow, engine, _ in table(DATA, "From Arrow to the engine")
        for name in arrow.replace("`", "").split(", ")
    }
    data = pyarrow.table({name: pyarrow.array([], arrow_type(name)) for name in documented})
    async with connected() as connection:
        await connection.create_table("arrow", data)
        assert await connection.schema("arrow") == documented


def test_the_engines_codes_have_the_documented_classes_and_words() -> None:
    classes = {name: cls.__name__ for name, cls in CORE_EXC_CODE_MAPPING.items() if name != "ok"}
    rows = {
        code(name): [code(cls), words] for name, cls, words in table(DOCS / "reference" / "errors.md", "Engine errors")
    }
    assert rows == {name: [classes.get(name, "RayforceUserError"), words] for name, words in WORDS.items()}
    assert classes.keys() <= rows.keys()
