"""`insert`, `upsert` and `create_table`, through a connection."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import anyio
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import trio
from rayforce import F64, I64, Symbol, Table, Vector
from support.connected import connected_to
from support.raw import RawPeer
from support.scripted_server import answer_the_close, connected
from support.sweep import cancellation_of, swept

from rayforce_trio import NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._client import _bulk
from rayforce_trio._client._bulk import BASELINE_MESSAGE_SIZE, MESSAGE_SIZE
from rayforce_trio._client._tables import table_schema
from rayforce_trio._protocol import Header, MessageType
from rayforce_trio._values._payloads import call, i64, symbol

ROWS: dict[str, list[Any]] = {"sym": ["a", "b", "c"], "px": [1.5, None, 3.5], "n": [1, 2, 3]}
DONE = Header(0, MessageType.RESPONSE, len(_bulk._DONE)).pack() + _bulk._DONE
CREATE = "(set {} (table [sym px n] (list [x] [9.5] [9])))"


async def contents(connection: WSClientConnection, table: str) -> dict[str, list[Any]]:
    return (await connection.fetch(table)).to_dict()


async def count(connection: WSClientConnection, table: str) -> int:
    return int((await connection.execute(f"(count {table})")).to_python())


def frame_of(rows: int) -> pl.DataFrame:
    """Return a frame with all of the common types, nulls included."""
    numbers = range(rows)
    start = dt.datetime(2024, 1, 31, 9, 30)  # noqa: DTZ001 - the engine's timestamps have no time zone
    return pl.DataFrame(
        {
            "i": [None if n % 7 == 0 else n for n in numbers],
            "f": [None if n % 5 == 0 else n / 4 for n in numbers],
            "ok": [n % 2 == 0 for n in numbers],
            "when": [None if n % 3 == 0 else start + dt.timedelta(microseconds=n) for n in numbers],
            "day": [start.date() + dt.timedelta(days=n % 1000) for n in numbers],
            "sym": [("red", "green", "blue")[n % 3] for n in numbers],
            "text": [f"text {n}" for n in numbers],
        },
        schema_overrides={"sym": pl.Categorical, "when": pl.Datetime("ns")},
    )


# Sources


def sources() -> dict[str, Any]:
    arrow = pa.table({"sym": pa.array(ROWS["sym"]).dictionary_encode(), "px": ROWS["px"], "n": ROWS["n"]})
    return {
        "lists": ROWS,
        "tuples": {name: tuple(values) for name, values in ROWS.items()},
        "arrays": {"sym": np.array(ROWS["sym"]), "px": np.array([1.5, np.nan, 3.5]), "n": np.array([1, 2, 3])},
        "another order": {name: ROWS[name] for name in ("n", "sym", "px")},
        "Series": {"sym": pd.Series(ROWS["sym"]), "px": pl.Series(ROWS["px"]), "n": pa.array(ROWS["n"])},
        "polars": pl.DataFrame(ROWS),
        "pandas": pd.DataFrame(ROWS),
        "pyarrow": arrow,
        "record batch": arrow.to_batches()[0],
        "duckdb": duckdb.sql("FROM (VALUES ('a', 1.5::DOUBLE, 1), ('b', NULL, 2), ('c', 3.5, 3)) t(sym, px, n)"),
        "Table": Table(
            {
                "sym": Vector(ROWS["sym"], ray_type=Symbol),
                "px": Vector(ROWS["px"], ray_type=F64),
                "n": Vector(ROWS["n"], ray_type=I64),
            }
        ),
    }


@pytest.mark.anyio
@pytest.mark.parametrize("source", sources())
async def test_rows_of_every_kind_of_source_are_inserted(in_process_port: int, name: str, source: str) -> None:
    async with connected_to(in_process_port) as connection:
        await connection.execute(CREATE.format(name))
        assert await connection.insert(name, sources()[source]) == 3
        assert await contents(connection, name) == {
            "sym": ["x", "a", "b", "c"],
            "px": [9.5, 1.5, None, 3.5],
            "n": [9, 1, 2, 3],
        }


@pytest.mark.anyio
async def test_fetched_columns_can_be_inserted(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(CREATE.format(name))
        assert await connection.insert(name, await connection.fetch(name)) == 1
        assert await contents(connection, name) == {"sym": ["x", "x"], "px": [9.5, 9.5], "n": [9, 9]}


@pytest.mark.anyio
async def test_a_frame_comes_back_as_it_was_inserted(our_port: int, name: str) -> None:
    frame = frame_of(1000)
    async with connected_to(our_port) as connection:
        assert await connection.create_table(name, frame) == 1000
        assert (await connection.fetch(name)).to_polars().equals(frame)
        assert await connection.insert(name, frame) == 1000
        assert (await connection.fetch(name)).to_polars().equals(pl.concat([frame, frame]))


@pytest.mark.anyio
async def test_values_are_data(our_port: int, name: str) -> None:
    texts = ['(println "ran")', "println", '")(set injected 1)("', "null", "é\n\t"]
    async with connected_to(our_port) as connection:
        await connection.execute(f'(set {name} (table [sym text] (list [x] (list "y"))))')
        await connection.insert(name, {"sym": texts, "text": texts})
        assert await contents(connection, name) == {"sym": ["x", *texts], "text": ["y", *texts]}
        with pytest.raises(errors.RayforceConversionError, match=r"column 'sym', row 1: .*NUL"):
            await connection.insert(name, {"sym": ["a", "a\0b"], "text": ["", ""]})


@pytest.mark.anyio
async def test_columns_are_cast_to_the_types_of_the_table(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(CREATE.format(name))
        await connection.insert(name, {"sym": pl.Series(["text"]), "px": [5], "n": np.array([7.0], np.float32)})
        await connection.insert(name, {"sym": [None, None], "px": [None, None], "n": [None, None]})
        assert await contents(connection, name) == {
            "sym": ["x", "text", None, None],
            "px": [9.5, 5.0, None, None],
            "n": [9, 7, None, None],
        }


@pytest.mark.anyio
async def test_no_rows_are_inserted_from_empty_data(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(CREATE.format(name))
        assert await connection.insert(name, {"sym": [], "px": [], "n": []}) == 0
        assert await connection.upsert(name, {"sym": [], "px": [], "n": []}, ["sym"]) == 0
        assert await count(connection, name) == 1


# Errors


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"sym": ["a"], "px": [1.0]}, errors.RayforceValueError, "'n'"),
        ({**ROWS, "extra": [1, 2, 3]}, errors.RayforceValueError, "'extra'"),
        ({**ROWS, "n": [1, 2]}, errors.RayforceValueError, "differ in length"),
        ({**ROWS, "n": ["a", "b", "c"]}, errors.RayforceConversionError, "column 'n', row 0"),
        ({**ROWS, "n": [1, 2.5, 3]}, errors.RayforceConversionError, "column 'n', row 1"),
        ({**ROWS, "n": [1, 2, 2**63]}, errors.RayforceConversionError, "column 'n', row 2"),
        ({}, errors.RayforceValueError, "no columns"),
        ([1, 2], errors.RayforceConversionError, "list is not tabular data"),
        (None, errors.RayforceConversionError, "NoneType is not tabular data"),
    ],
)
async def test_data_that_does_not_fit_is_refused_and_nothing_is_inserted(
    our_port: int, name: str, data: Any, error: type[Exception], message: str
) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(CREATE.format(name))
        for attempt in (connection.insert(name, data), connection.upsert(name, data, ["sym"])):
            with pytest.raises(error, match=message) as raised:
                await attempt
            assert raised.value.rows_inserted == 0  # type: ignore[attr-defined]  # the attribute under test
        assert await count(connection, name) == 1


@pytest.mark.anyio
async def test_a_value_that_does_not_fit_far_behind_is_found_before_anything_is_sent(
    in_process_port: int, name: str
) -> None:
    data = {"sym": ["a"] * 900_000, "px": [1.0] * 900_000, "n": [*range(899_999), 2.5]}
    async with connected_to(in_process_port) as connection:
        await connection.execute(CREATE.format(name))
        with pytest.raises(errors.RayforceConversionError, match="column 'n', row 899999"):
            await connection.insert(name, data)
        assert await count(connection, name) == 1


@pytest.mark.anyio
async def test_what_is_no_table_of_the_server_is_refused(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceValueError, match=f"^table '{name}': the server has no such table$"):
            await connection.insert(name, ROWS)
        await connection.execute(f"(set {name} [1 2 3])")
        with pytest.raises(
            errors.RayforceValueError, match=f"^table '{name}': it is a value of type I64, not a table$"
        ):
            await connection.insert(name, ROWS)
        with pytest.raises(errors.RayforceValueError, match=r"^table 'count': it is a function, not a table$"):
            await connection.insert("count", ROWS)


@pytest.mark.trio
async def test_a_read_only_server_refuses(tmp_path: Any) -> None:
    script = tmp_path / "tables.rfl"
    script.write_text(CREATE.format("stocks"))
    with trio.fail_after(30):
        async with (
            WSServer(0, host="127.0.0.1", engine=NativeProcess(script, read_only=True)) as server,
            WSClient("127.0.0.1", server.port).connect() as connection,
        ):
            for attempt in (
                connection.insert("stocks", ROWS),
                connection.upsert("stocks", ROWS, ["sym"]),
                connection.create_table("new", ROWS),
            ):
                with pytest.raises(errors.RayforceUserError, match=r"access: read-only clients"):
                    await attempt
            assert await count(connection, "stocks") == 1
            assert await connection.tables() == ["stocks"]


@pytest.mark.anyio
async def test_a_baseline_server_reports_errors_as_strings_which_are_raised(
    their_port: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected_to(their_port) as connection:
        await connection.create_table(name, ROWS)
        failing = call("+", symbol("a"), i64(1))
        monkeypatch.setattr(_bulk, "_insertion", lambda *_: lambda rows: call("list", failing, rows))
        with pytest.raises(errors.RayforceTypeError, match=r"^type: ") as raised:
            await connection.insert(name, ROWS)
        assert raised.value.rows_inserted == 0  # type: ignore[attr-defined]  # the attribute under test


# Upsert


@pytest.mark.anyio
async def test_rows_with_the_same_keys_are_replaced_and_others_appended(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.create_table(name, ROWS)
        assert await connection.upsert(name, {"n": [20, 40], "px": [2.5, 4.5], "sym": ["b", "d"]}, ["sym"]) == 2
        expected: dict[str, list[Any]] = {"sym": ["a", "b", "c", "d"], "px": [1.5, 2.5, 3.5, 4.5], "n": [1, 20, 3, 40]}
        assert await contents(connection, name) == expected
        assert await connection.upsert(name, {"sym": ["a", "a"], "px": [1.5, 9.5], "n": [7, 8]}, ("sym", "px")) == 2
        assert await contents(connection, name) == {
            "sym": [*expected["sym"], "a"],
            "px": [*expected["px"], 9.5],
            "n": [7, 20, 3, 40, 8],
        }


@pytest.mark.anyio
@pytest.mark.parametrize(
    "keys", [["px"], ["px", "sym"], ["sym", "n"], ["sym", "px", "n", "x"], [], "sym", None, 1, [None]]
)
async def test_keys_that_are_not_the_first_columns_are_refused(in_process_port: int, name: str, keys: Any) -> None:
    async with connected_to(in_process_port) as connection:
        await connection.create_table(name, ROWS)
        with pytest.raises(errors.RayforceValueError, match="keys"):
            await connection.upsert(name, ROWS, keys)
        assert await contents(connection, name) == ROWS


@pytest.mark.anyio
async def test_a_table_with_a_column_that_the_engine_cannot_upsert(in_process_port: int, name: str) -> None:
    rows = {"sym": ["a"], "px": np.array([1.5], "f4")}
    async with connected_to(in_process_port) as connection:
        await connection.create_table(name, rows)
        with pytest.raises(errors.RayforceValueError, match=rf"the column 'px' of the table '{name}' has the type F32"):
            await connection.upsert(name, rows, ["sym"])


@pytest.mark.anyio
async def test_columns_that_change_during_an_upsert_stop_it(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.create_table(name, ROWS)

        async def change() -> None:
            await connection.execute(f"(set {name} (table [px sym n] (list [1.5] [a] [1])))")

        async def then_change(exchange: Any, table: str) -> dict[str, str]:
            found = await table_schema(exchange, table)
            await change()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_bulk, "table_schema", then_change)
            with pytest.raises(errors.RayforceValueError, match="changed during the call"):
                await connection.upsert(name, ROWS, ["sym"])
        assert await contents(connection, name) == {"px": [1.5], "sym": ["a"], "n": [1]}


# Creating


@pytest.mark.anyio
async def test_a_table_is_created_and_replaced(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        assert await connection.create_table(name, ROWS) == 3
        assert await contents(connection, name) == ROWS
        with pytest.raises(errors.RayforceValueError, match=f"already has a table '{name}'; pass replace=True"):
            await connection.create_table(name, {"a": [1]})
        assert await contents(connection, name) == ROWS
        assert await connection.create_table(name, {"a": [1]}, replace=True) == 1
        assert await contents(connection, name) == {"a": [1]}
        assert await connection.create_table(name, pl.DataFrame(ROWS).clear(), replace=True) == 0
        assert await connection.schema(name) == {"sym": "STRING", "px": "F64", "n": "I64"}


@pytest.mark.anyio
async def test_only_a_table_is_replaced(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(f"(set {name} 5)")
        for replace in (False, True):
            with pytest.raises(errors.RayforceValueError, match=f"'{name}' is a value of type i64 on the server"):
                await connection.create_table(name, ROWS, replace=replace)
            with pytest.raises(errors.RayforceValueError, match="'count' is a function on the server"):
                await connection.create_table("count", ROWS, replace=replace)
        assert (await connection.execute(f"(count [{name}])")).to_python() == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    "table", ["", ".hidden", "1st", "-x", "a b", "a.b", "(quit)", "a\0b", "a\n", "é", "true", "false", "null", None, 5]
)
async def test_a_name_that_no_text_can_use_is_refused(in_process_port: int, table: Any) -> None:
    async with connected_to(in_process_port) as connection:
        with pytest.raises(errors.RayforceValueError, match="Invalid"):
            await connection.create_table(table, ROWS)


@pytest.mark.anyio
@pytest.mark.parametrize("suffix", ["", "_2", "-x", "A"])
async def test_a_name_that_is_accepted_can_be_used_in_text(our_port: int, name: str, suffix: str) -> None:
    table = f"_{name}{suffix}"
    async with connected_to(our_port) as connection:
        await connection.create_table(table, ROWS)
        assert await contents(connection, f"(select {{from: {table}}})") == ROWS
        assert table in await connection.tables()


# Long data


@pytest.mark.trio
@pytest.mark.parametrize("limit", [2_000, 20_000])
async def test_no_message_is_longer_than_the_servers_limit(name: str, limit: int) -> None:
    """A longer one would close the connection."""
    frame = frame_of(500)
    with trio.fail_after(30):
        async with (
            WSServer(0, host="127.0.0.1", max_message_size=limit) as server,
            WSClient("127.0.0.1", server.port).connect() as connection,
        ):
            progress: list[int] = []
            assert await connection.create_table(name, frame, progress=progress.append) == 500
            assert len(progress) > 24_000 / limit
            assert progress == sorted(progress)
            assert progress[-1] == 500
            assert (await connection.fetch(name)).to_polars().equals(frame)


@pytest.mark.trio
async def test_a_row_longer_than_the_servers_limit_is_refused(name: str) -> None:
    with trio.fail_after(30):
        async with (
            WSServer(0, host="127.0.0.1", max_message_size=2_000) as server,
            WSClient("127.0.0.1", server.port).connect() as connection,
        ):
            with pytest.raises(errors.RayforceConversionError, match="row 1 does not fit into a message"):
                await connection.create_table(name, {"text": pl.Series(["short", "x" * 2_000])})
            assert not connection.closed
            assert name not in await connection.tables()


@pytest.mark.anyio
async def test_the_messages_to_a_baseline_server_are_short(their_port: int, name: str) -> None:
    rows = BASELINE_MESSAGE_SIZE // 8  # and the frame around them
    progress: list[int] = []
    async with connected_to(their_port) as connection:
        assert await connection.create_table(name, {"n": np.arange(rows)}, progress=progress.append) == rows
        assert len(progress) == 2
        assert await count(connection, name) == rows


@pytest.mark.anyio
async def test_a_server_that_does_not_tell_its_limit_gets_messages_of_moderate_length() -> None:
    sizes: list[int] = []

    async def take(peer: RawPeer) -> None:
        for _ in range(3):
            sizes.append(0)
            fin = False
            while not fin:
                sizes[-1] += len((await peer.receive_frame())[1])
                fin = peer.fin
            await peer.send_frame(DONE)
        await answer_the_close(peer)

    async with connected(take) as connection:
        assert await connection.create_table("t", {"n": np.zeros(2 * MESSAGE_SIZE // 8)}) == 2 * MESSAGE_SIZE // 8
    assert len(sizes) == 3
    assert max(sizes) <= MESSAGE_SIZE


@pytest.mark.anyio
async def test_other_tasks_run_while_long_data_is_converted(in_process_port: int, name: str) -> None:
    async with connected_to(in_process_port) as connection:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async def counted(frame: bytes, **options: Any) -> Any:
            nonlocal turns
            counts.append(turns)
            reply = await ask(frame, **options)
            turns = 0
            return reply

        counts: list[int] = []
        ask = connection._exchange.request
        connection._exchange.request = counted  # type: ignore[method-assign]  # to know when something is sent
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(count_turns)
            await connection.create_table(name, frame_of(300_000).select("i", "f", "when"))
            task_group.cancel_scope.cancel()
        assert counts[0] >= 10


# Interruptions


LONG = {"n": list(range(350))}


@pytest.fixture
def short_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `LONG` sent in four messages."""
    monkeypatch.setattr(_bulk, "MESSAGE_SIZE", 1200)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["insert", "upsert", "create_table"])
@pytest.mark.usefixtures("short_messages")
async def test_a_cancelled_call_says_how_many_rows_were_inserted(our_port: int, name: str, kind: str) -> None:
    """Cancelled at every step, it leaves the first rows in the table: those, or one message more."""
    async with connected_to(our_port) as connection:

        async def load(table: str, progress: Callable[[int], object]) -> int:
            if kind == "create_table":
                return await connection.create_table(table, LONG, progress=progress)
            if kind == "upsert":
                return await connection.upsert(table, LONG, ["n"], progress=progress)
            return await connection.insert(table, LONG, progress=progress)

        async def rows_in(table: str) -> list[int]:
            exists = table in await connection.tables()
            return (await contents(connection, table))["n"] if exists else []

        async def run(step: int) -> bool:
            table = f"{name}_{step:03}"
            if kind != "create_table":
                await connection.create_table(table, {"n": np.zeros(0, np.int64)})
            progress = [0]
            cancelled = await cancellation_of(load(table, progress.append), step)
            rows = await rows_in(table)
            assert rows == LONG["n"][: len(rows)]
            if cancelled is None:
                assert progress == counts
                return False
            assert cancelled.rows_inserted == progress[-1]  # type: ignore[attr-defined]  # the attribute under test
            reached = len(progress) - 1
            assert counts[: reached + 1] == progress
            assert len(rows) in counts[reached : reached + 2]
            return True

        counts = [0]
        await connection.create_table(f"{name}_000", {"n": np.zeros(0, np.int64)})
        if kind == "create_table":
            await connection.execute(f"(del {name}_000)")
        assert await load(f"{name}_000", counts.append) == 350
        assert len(counts) >= 4
        assert await swept(run) >= 4


@pytest.mark.anyio
async def test_a_callback_that_is_no_function_is_refused_before_anything_is_sent(
    in_process_port: int, name: str
) -> None:
    async with connected_to(in_process_port) as connection:
        await connection.create_table(name, ROWS)
        progress: Any = 5
        with pytest.raises(errors.RayforceValueError, match=r"^Invalid progress: "):
            await connection.insert(name, ROWS, progress=progress)
        assert await count(connection, name) == 3


@pytest.mark.anyio
@pytest.mark.usefixtures("short_messages")
async def test_a_callback_that_fails_ends_the_call_after_its_message(in_process_port: int, name: str) -> None:
    def fail(rows: int) -> None:
        if rows > 200:
            raise ZeroDivisionError

    async with connected_to(in_process_port) as connection:
        with pytest.raises(ZeroDivisionError) as raised:
            await connection.create_table(name, LONG, progress=fail)
        inserted = raised.value.rows_inserted  # type: ignore[attr-defined]  # the attribute under test
        assert 200 < inserted < 350
        assert await count(connection, name) == inserted


@pytest.mark.anyio
@pytest.mark.usefixtures("short_messages")
async def test_a_connection_that_is_lost_says_how_many_rows_were_confirmed() -> None:
    async def confirm_twice(peer: RawPeer) -> None:
        for _ in range(2):
            await peer.receive_frame()
            await peer.send_frame(DONE)
        await peer.receive_frame()

    progress: list[int] = []
    async with connected(confirm_twice) as connection:
        with pytest.raises(errors.ConnectionLost) as raised:
            await connection.create_table("t", LONG, progress=progress.append)
        assert len(progress) == 2
        assert raised.value.rows_inserted == progress[-1]  # type: ignore[attr-defined]  # the attribute under test


@pytest.mark.anyio
@pytest.mark.usefixtures("short_messages")
async def test_a_table_that_changes_meanwhile_stops_the_rest(in_process_port: int, name: str) -> None:
    async with connected_to(in_process_port) as connection, connected_to(in_process_port) as other:
        changed = anyio.Event()

        async def change() -> None:
            await other.execute(f"(set {name} (table [x] (list [1])))")
            changed.set()

        ask = connection._exchange.request

        async def request(frame: bytes, **options: Any) -> Any:
            reply = await ask(frame, **options)
            if not changed.is_set():
                await change()
            return reply

        connection._exchange.request = request  # type: ignore[method-assign]  # to do something between two messages
        with pytest.raises(errors.RayforceValueError, match=f"'{name}' changed during the call") as raised:
            await connection.create_table(name, LONG)
        assert 0 < raised.value.rows_inserted < 350  # type: ignore[attr-defined]  # the attribute under test
        assert await contents(connection, name) == {"x": [1]}


@pytest.mark.trio
async def test_a_limit_that_leaves_no_room_for_rows_is_an_error(name: str) -> None:
    async with (
        WSServer(port=0, host="127.0.0.1", max_message_size=200) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        with pytest.raises(errors.RayforceConversionError, match=r"^the server accepts messages of at most 200 bytes"):
            await connection.create_table(name, {"a": [1]})
        assert await connection.execute("(+ 1 2)") == 3
