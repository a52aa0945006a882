"""Comparisons of two ways to do the same thing with values, measured in turns in one process.

`python -m bench._comparisons` reads commands from its standard input. Each command runs one comparison.
"""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeAlias

import numpy as np
import polars
import pyarrow
import trio
from rayforce import List, Table
from rayforce import _rayforce_c as ffi
from rayforce.network.utils import python_to_ipc
from support.children import Commander

from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSClientConnection, WSServer
from rayforce_trio._cli._fields import csv_lines
from rayforce_trio._codec._objects import payload_of_object
from rayforce_trio._engines import Engine
from rayforce_trio._protocol import HEADER_SIZE, Header, MessageType
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._table_data import table_data

Way: TypeAlias = Callable[[], Awaitable[object]]
"""One way to do something; each call does it once."""

Ways: TypeAlias = tuple[Way, Way]
"""Our way, and the way that it is compared with."""

ROWS = 1_000_000
FEWER_ROWS = 100_000
"""For comparisons in which one way would take half a minute for a million rows."""

_FILTERED_ROWS = 10_000_000
_FILTER_SCRIPT = f"(set filtered (table [px] (list (as 'F64 (til {_FILTERED_ROWS})))))"
_ABOVE = float(_FILTERED_ROWS - 1000)
_EVERY_OTHER = 2  # every second value is null


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same thing.

    Attributes:
        label: the task and the number of rows.
        ours: our way, for tables.
        other: the other way, for tables.
        limit: the developers' goal: the highest ratio of our time to the other's.
        pair: a context manager that returns both ways.
    """

    label: str
    ours: str
    other: str
    limit: float
    pair: Callable[[], AbstractAsyncContextManager[Ways]]


# Data


def _arrow_table(rows: int, *, lengths: Sequence[int] = (8, 14, 20)) -> pyarrow.Table:
    """Return a table of integers, floats, timestamps with nulls, strings of these lengths and symbols."""
    random = np.random.default_rng(1)
    text = pyarrow.array(["x" * length for length in random.choice(lengths, rows).tolist()])
    symbols = pyarrow.array([f"SYM{number}" for number in range(1000)])
    times = pyarrow.array(
        random.integers(0, 10**18, rows), pyarrow.timestamp("ns"), mask=np.arange(rows) % _EVERY_OTHER == 0
    )
    return pyarrow.table(
        {
            "i": random.integers(0, 10**9, rows),
            "f": random.random(rows),
            "t": times,
            "s": text,
            "y": pyarrow.DictionaryArray.from_arrays(random.integers(0, 1000, rows).astype(np.int32), symbols),
        }
    )


def _payload(table: pyarrow.Table) -> bytes:
    """Return a table in the form in which the engine sends it. Its vectors have other attributes than ours."""
    (payload,) = _payloads(table)
    return _serialized(_deserialized(_frame(bytes(payload))))[HEADER_SIZE:]


def _payloads(table: pyarrow.Table) -> list[bytes]:
    messages = table_data(table, payload_of_object).payloads(1 << 40)
    return [message[0] for message in messages if message is not None]


def _frame(payload: bytes) -> bytes:
    return Header(0, MessageType.RESPONSE, len(payload)).pack() + payload


def _deserialized(frame: bytes) -> ffi.RayObject:
    return ffi.de_obj(ffi.init_vector_from_raw_buffer(ffi.TYPE_U8, len(frame), frame))


def _serialized(value: ffi.RayObject) -> bytes:
    return bytes(ffi.read_u8_vector(ffi.ser_obj(value)))


# Servers


@asynccontextmanager
async def _connection(engine: Engine) -> AsyncIterator[WSClientConnection]:
    async with (
        WSServer(port=0, host="127.0.0.1", engine=engine) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        yield connection


# Pairs


@asynccontextmanager
async def _fetching() -> AsyncIterator[Ways]:
    async with _connection(NativeProcess()) as connection:
        await connection.create_table("t", _arrow_table(FEWER_ROWS))

        async def ours() -> object:
            return pyarrow.table(await connection.fetch("t"))

        async def other() -> object:
            return (await connection.execute("t")).to_dict()

        yield ours, other


@asynccontextmanager
async def _decoding(lengths: Sequence[int]) -> AsyncIterator[Ways]:
    payload = _payload(_arrow_table(ROWS, lengths=lengths))
    frame = _frame(payload)
    yield _sync(lambda: pyarrow.table(read_columns(payload))), _sync(lambda: _deserialized(frame))


@asynccontextmanager
async def _numbers() -> AsyncIterator[Ways]:
    payload = _payload(_arrow_table(ROWS).select(["i", "f", "t"]))
    times = read_columns(payload)["t"]

    def other() -> object:
        return bytearray(payload), np.packbits(np.isnat(times), bitorder="little")

    yield _sync(lambda: pyarrow.table(read_columns(payload))), _sync(other)


@asynccontextmanager
async def _views() -> AsyncIterator[Ways]:
    long, short = (_payload(_arrow_table(rows).select(["i", "f"])) for rows in (ROWS, ROWS // 1000))

    def view(payload: bytes) -> object:
        return [read_columns(payload).to_numpy() for _ in range(100)]

    yield _sync(partial(view, long)), _sync(partial(view, short))


@asynccontextmanager
async def _writing() -> AsyncIterator[Ways]:
    table = _arrow_table(ROWS)
    value = _deserialized(_frame(_payload(table)))

    def ours() -> object:
        return _payloads(table)

    yield _sync(ours), _sync(lambda: _serialized(value))


@asynccontextmanager
async def _inserting() -> AsyncIterator[Ways]:
    frame = polars.from_arrow(_arrow_table(FEWER_ROWS).select(["i", "f", "y"]))
    assert isinstance(frame, polars.DataFrame)
    lists = [frame[name].to_list() for name in frame.columns]
    async with _connection(NativeProcess()) as connection:
        for name in ("ours", "other"):
            await connection.create_table(name, frame.head(0))

        async def ours() -> object:
            return await connection.insert("ours", frame)

        async def other() -> object:
            return await connection.execute(List(ptr=python_to_ipc(Table("other").insert(*lists))))

        yield ours, other


@asynccontextmanager
async def _printing() -> AsyncIterator[Ways]:
    async with _connection(NativeProcess()) as connection:
        await connection.create_table("t", _arrow_table(FEWER_ROWS).select(["i", "f", "t", "y"]))

        async def ours() -> object:
            return "".join(csv_lines(await connection.fetch("t")))

        async def other() -> object:
            text = io.StringIO()
            table = await connection.execute("t")
            csv.writer(text).writerows(zip(*(column.to_list() for column in table.values()), strict=True))
            return text.getvalue()

        yield ours, other


@asynccontextmanager
async def _filtering(make_engine: Callable[[Path], Engine]) -> AsyncIterator[Ways]:
    with TemporaryDirectory() as folder:
        script = Path(folder, "filtered.rfl")
        await trio.Path(script).write_text(_FILTER_SCRIPT, encoding="utf-8")
        engine = make_engine(script)
        async with _connection(engine) as connection:
            if isinstance(engine, InProcessEngine):
                await connection.execute(f"(do {_FILTER_SCRIPT} null)")
            query = "(count (select {from: filtered where: (> px low)}))"

            async def ours() -> object:
                return await connection.execute(query, {"low": _ABOVE})

            async def other() -> object:
                return await connection.execute(query.replace("low", repr(_ABOVE)))

            yield ours, other


def _sync(function: Callable[[], object]) -> Way:
    async def way() -> object:
        await trio.lowlevel.checkpoint()
        return function()

    return way


COMPARISONS = (
    Comparison(
        "fetch to Arrow, 100,000 rows", "`pyarrow.table(await fetch(…))`", "`execute`, `to_dict`", 0.01, _fetching
    ),
    *(
        Comparison(f"decode, strings of {lengths}", "frame to Arrow", "`de_obj`", limit, partial(_decoding, values))
        for lengths, limit, values in (
            ("8, 14 or 20 bytes", 1.2, (8, 14, 20)),
            ("10 to 12 bytes", 1.2, (10, 11, 12)),
            ("1 to 40 bytes", 2, range(1, 41)),
        )
    ),
    Comparison("decode, numbers only", "frame to Arrow", "one copy and the bitmap of nulls", 1.5, _numbers),
    Comparison("numpy views of 1,000,000 rows", "`to_numpy`", "views of 1,000 rows", 1.5, _views),
    Comparison("encode", "Arrow to frame", "`ser_obj`", 5, _writing),
    Comparison("insert 100,000 rows", "`insert` of a polars frame", "rayforce-py's query of lists", 0.05, _inserting),
    Comparison("CSV of 100,000 rows", "`query --format csv`", "`to_list`, csv", 1 / 15, _printing),
    *(
        Comparison(f"filter 10,000,000 rows, {name}", "a parameter", "a literal", 1.3, partial(_filtering, make))
        for name, make in (
            ("in process", lambda _: InProcessEngine()),
            ("native engine", NativeProcess),
            ("read-only engine", partial(NativeProcess, read_only=True)),
        )
    ),
)


async def measure(comparison: Comparison, rounds: int) -> tuple[list[float], list[float]]:
    """Run both ways in turns. A first, additional round does not count.

    A checkpoint. If cancelled, nothing is left running.

    Returns:
        The seconds of each round, for both ways.
    """
    times: tuple[list[float], list[float]] = ([], [])
    async with comparison.pair() as ways:
        for round_ in range(rounds + 1):
            for index in (0, 1) if round_ % 2 else (1, 0):
                begun = perf_counter()
                await ways[index]()
                times[index].append(perf_counter() - begun)
    return times[0][1:], times[1][1:]


def main() -> None:
    commander = Commander()
    while (command := commander.next()) is not None:
        try:
            comparison = COMPARISONS[command["comparison"]]
            ours, other = trio.run(measure, comparison, command["rounds"])
        except Exception as error:  # noqa: BLE001 - the parent process reports the error
            commander.tell_failure(error)
        else:
            ratios = [one / two for one, two in zip(ours, other, strict=True)]
            commander.tell({"ours": median(ours), "other": median(other), "ratio": median(ratios)})


if __name__ == "__main__":
    main()
