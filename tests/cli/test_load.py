"""`load`: files into tables of a server."""

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet
import pytest
from support.commands import BOUND, COMMAND, command, environment, wrong_usage
from support.native import free_port
from support.serve_native import Served
from support.terminal import CTRL_C, terminal

from rayforce_trio import WSClient
from rayforce_trio._cli import _files, main
from rayforce_trio._cli._console import INTERRUPTED

CSV = "sym,px,day,at\na,1.5,2024-01-31,2024-01-31T09:30:00.000000001Z\nb,,,\n"
SCHEMA = {"sym": "STRING", "px": "F64", "day": "DATE", "at": "TIMESTAMP"}


@pytest.fixture
def url(served: Served) -> str:
    return f":{served.port}"


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.csv"
    path.write_text(CSV)
    return str(path)


def rows_of(url: str, table: str) -> list[Any]:
    rows: list[Any] = json.loads(command("query", url, table, "--format", "json").stdout)
    return rows


def schema_of(url: str, table: str) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        async with WSClient("127.0.0.1", int(url[1:])).connect() as connection:
            return await connection.schema(table)

    return anyio.run(ask)


def written(path: Path, write: str) -> str:
    table = pa.table({"sym": pa.array(["a", "b"]).dictionary_encode(), "px": [1.5, None]})
    if write == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with (pa.ipc.new_file if write == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    return str(path)


def test_csv_makes_a_new_table_with_inferred_types(url: str, name: str, prices: str) -> None:
    done = command("load", url, name, prices)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"2 rows loaded into {name} in ")
    assert schema_of(url, name) == SCHEMA
    assert rows_of(url, name) == [
        {"sym": "a", "px": 1.5, "day": "2024-01-31", "at": "2024-01-31T09:30:00.000000001Z"},
        {"sym": "b", "px": None, "day": None, "at": None},
    ]


def test_csv_written_by_query_can_be_loaded(url: str, name: str, prices: str, tmp_path: Path) -> None:
    assert command("load", url, name, prices, "--type", "sym=SYMBOL").returncode == 0
    path = tmp_path / "again.csv"
    path.write_text(command("query", url, name, "--format", "csv").stdout)
    assert command("load", url, f"{name}_again", str(path), "--type", "sym=symbol").returncode == 0
    assert schema_of(url, f"{name}_again") == {**SCHEMA, "sym": "SYMBOL"}
    assert rows_of(url, f"{name}_again") == rows_of(url, name)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_types_of_other_files_are_kept(url: str, name: str, kind: str, tmp_path: Path) -> None:
    assert command("load", url, name, written(tmp_path / "rows", kind)).returncode == 0
    assert schema_of(url, name) == {"sym": "SYMBOL", "px": "F64"}
    assert rows_of(url, name) == [{"sym": "a", "px": 1.5}, {"sym": "b", "px": None}]


def test_an_existing_table_is_left_alone_unless_it_is_to_be_replaced(url: str, name: str, prices: str) -> None:
    assert command("query", url, f"(set {name} (table [a] (list [1])))").returncode == 0
    done = command("load", url, name, prices)
    assert done.returncode == 1
    says = f"error: the server already has a table '{name}'; use --append or --replace\n"
    assert done.stderr == says
    assert schema_of(url, name) == {"a": "I64"}
    assert command("load", url, name, prices, "--replace").returncode == 0
    assert schema_of(url, name) == SCHEMA


def test_rows_are_appended_with_the_types_of_the_table(url: str, name: str, prices: str) -> None:
    table = f"(set {name} (table [px sym at day] (list (as 'F32 [7.0]) [z] [0Np] [0Nd])))"
    assert command("query", url, table).returncode == 0
    done = command("load", url, name, prices, "--append")
    assert done.returncode == 0, done.stderr
    assert [(row["sym"], row["px"]) for row in rows_of(url, name)] == [("z", 7.0), ("a", 1.5), ("b", None)]


def test_rows_are_appended_to_nothing_but_a_table(url: str, name: str, prices: str) -> None:
    done = command("load", url, name, prices, "--append")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: table '{name}': the server has no such table\n"


def test_a_file_without_rows_makes_a_table_without_rows(url: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("a,b\n")
    done = command("load", url, name, str(tmp_path / "none.csv"), "--type", "a=I64", "--type", "b=SYMBOL")
    assert done.stderr.startswith(f"0 rows loaded into {name} in ")
    assert schema_of(url, name) == {"a": "I64", "b": "SYMBOL"}


def in_table(url: str, table: str, create: list[int] | None = None) -> list[int]:
    """Return the column `n` of a table, which is created first if numbers are given."""

    async def ask() -> list[int]:
        async with WSClient("127.0.0.1", int(url[1:])).connect() as connection:
            if create is not None:
                await connection.create_table(table, {"n": create})
            return list((await connection.fetch(table)).to_dict()["n"])

    return anyio.run(ask)


def written_in_batches(path: Path, kind: str, batches: list[list[int]]) -> str:
    """Write a file with a column `n` of the type I64."""
    schema = pa.schema([("n", pa.int64())])
    if kind == "parquet":
        with pyarrow.parquet.ParquetWriter(path, schema) as parquet:
            for batch in batches:
                parquet.write_table(pa.table([batch], schema))
    else:
        with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(path, schema) as writer:
            for batch in batches:
                writer.write_batch(pa.record_batch([batch], schema))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "batches", "options"),
    [
        ("stream", [[], [], [1, 2]], []),
        ("file", [[], [1], [], [2], []], []),
        ("parquet", [[], [1, 2]], []),
        ("stream", [[], []], []),
        ("parquet", [], []),
        ("stream", [[], [1], []], ["--replace"]),
        ("file", [[], []], ["--replace"]),
        ("stream", [[], [1], [], [2]], ["--append"]),
        ("file", [[], []], ["--append"]),
        ("parquet", [[]], ["--append"]),
    ],
    ids=str,
)
def test_batches_may_be_empty(
    url: str,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    batches: list[list[int]],
    options: list[str],
) -> None:
    if options:
        in_table(url, name, [7])
    assert main(["load", url, name, written_in_batches(tmp_path / "rows", kind, batches), *options]) == 0
    loaded = [number for batch in batches for number in batch]
    assert capsys.readouterr().err.startswith(f"{len(loaded)} row")
    assert in_table(url, name) == [7] * (options == ["--append"]) + loaded
    assert schema_of(url, name) == {"n": "I64"}


def test_a_file_without_rows_must_have_the_columns_of_the_table(
    url: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_table(url, name, [7])
    (tmp_path / "none.csv").write_text("other\n")
    assert main(["load", url, name, str(tmp_path / "none.csv"), "--append"]) == 1
    loaded, error = capsys.readouterr().err.splitlines()
    assert loaded == f"0 rows loaded into {name}"
    assert "'other'" in error


def test_batches_follow_each_other_and_a_wrong_value_ends_the_load(
    url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "BYTES_PER_BATCH", 4096)
    path = tmp_path / "numbers.csv"
    path.write_text("n\n" + "".join(f"{number}\n" for number in range(5000)))
    done = command("load", url, name, str(path))
    assert done.stderr.startswith(f"5,000 rows loaded into {name} in ")
    assert [row["n"] for row in rows_of(url, name)] == list(range(5000))
    with path.open("a") as file:
        file.write("x\n")
    done = command("load", url, name, str(path), "--replace")
    loaded, error = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith(f"error: {path}, row 5001, column 'n': ")
    assert loaded == f"{len(rows_of(url, name)):,} rows loaded into {name}"
    assert len(rows_of(url, name)) > 0


def test_a_value_that_does_not_fit_is_found_in_the_file(url: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "numbers.arrow"
    schema = pa.schema([("n", pa.int64())])
    with pa.ipc.new_file(path, schema) as file:
        file.write_batch(pa.record_batch([[1, 2, 3]], schema))
        file.write_batch(pa.record_batch([[4, -(2**63)]], schema))
    done = command("load", url, name, str(path))
    assert done.returncode == 1
    loaded, error = done.stderr.splitlines()
    assert loaded == f"3 rows loaded into {name}"
    assert error.startswith("error: column 'n', row 1: ")
    assert error.endswith("; row 0 is row 4 of the file")


def test_csv_can_come_from_a_pipe(url: str, name: str) -> None:
    done = subprocess.run(
        [*COMMAND, "load", url, name, "-"],
        input=CSV,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert len(rows_of(url, name)) == 2


@pytest.mark.parametrize("kind", ["csv", "parquet", "file", "stream"])
def test_standard_input_can_be_a_file(url: str, name: str, kind: str, prices: str, tmp_path: Path) -> None:
    path = prices if kind == "csv" else written(tmp_path / "rows", kind)
    with Path(path).open("rb") as file:
        done = subprocess.run(
            [*COMMAND, "load", url, name, "-"],
            stdin=file,
            env=environment(),
            capture_output=True,
            timeout=BOUND,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert [row["sym"] for row in rows_of(url, name)] == ["a", "b"]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_ctrl_c_says_how_many_rows_were_loaded(url: str, name: str, pipe: Path) -> None:
    """The input ends while the command does, as in a pipeline whose commands all receive the signal."""
    with terminal("load", url, name, str(pipe)) as shown, pipe.open("wb") as rows:
        rows.write(b"n\n" + b"1\n" * _files.BYTES_PER_BATCH)  # two batches
        rows.flush()
        shown.until(f"{_files.BYTES_PER_BATCH // 2 - 1:,} rows, ")
        shown.type(CTRL_C)
        shown.until("interrupted: ")
        loaded = int(shown.until(f" rows loaded into {name}").replace(",", ""))
        rows.close()
        assert shown.process.wait(BOUND) == INTERRUPTED, shown.rest()
    assert 0 < loaded <= int(command("query", url, f"(count {name})").stdout)


@pytest.mark.parametrize("options", [(), ("--append",)], ids=["create", "append"])
@pytest.mark.parametrize("given", [None, b"", b"n\n", b"n\n1\n", b"\x1f\x8b", b"\xff\xff\xff\xff\x10\0\0\0"])
def test_ctrl_c_ends_the_wait_for_the_first_rows(
    url: str, name: str, pipe: Path, options: tuple[str, ...], given: bytes | None
) -> None:
    """CSV, compressed CSV and an Arrow stream; `None` means that no program has opened the pipe for writing."""
    assert command("query", url, f"(set {name} (table [n] (list [0])))").returncode == 0
    with ExitStack() as stack:
        shown = stack.enter_context(terminal("load", url, name, str(pipe), *options))
        if given is not None:
            rows = stack.enter_context(pipe.open("wb"))
            rows.write(given)
            rows.flush()
        shown.until(" s, Ctrl-C cancels")
        shown.type(CTRL_C)
        assert shown.process.wait(BOUND) == INTERRUPTED
    assert rows_of(url, name) == [{"n": 0}]


def test_ctrl_c_ends_the_wait_for_a_terminal(url: str, name: str) -> None:
    with terminal("load", url, name, "-") as shown:
        shown.until(" s, Ctrl-C cancels")
        shown.type(CTRL_C)
        assert shown.process.wait(BOUND) == INTERRUPTED


def test_a_terminal_shows_a_progress_bar(url: str, name: str, pipe: Path) -> None:
    """A named pipe that stays open has no end: the command waits as long as the test needs."""
    with terminal("load", url, name, str(pipe)) as shown:
        with pipe.open("wb") as rows:
            rows.write(b"n\n" + b"1\n" * 2**22)
            rows.flush()
            shown.until(" rows, ")
            shown.until(" s, Ctrl-C cancels")
        shown.until(f"{2**22:,} rows loaded into {name} in ")
        assert shown.process.wait(BOUND) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.csv"], "missing.csv cannot be read: No such file or directory"),
        (["x.csv", "--append", "--replace"], "argument --replace: not allowed with argument --append"),
        (["x.csv", "--type", "a"], "argument --type: 'a' is not of the form COLUMN=TYPE"),
        (["x.csv", "--type", "a=FLOAT"], "--type a=FLOAT: the types are B8, U8, "),
        (["x.csv", "--delimiter", ";;"], "--delimiter: ';;' is not one ASCII character"),
        (["-", "--token-file", "/dev/stdin"], "standard input is the input of"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    assert wrong_usage("load", f":{free_port()}", "prices", *arguments).startswith(says)


def test_a_column_of_another_file_is_wrong_usage(url: str, name: str, prices: str) -> None:
    says = wrong_usage("load", url, name, prices, "--type", "other=F64")
    assert says == f"{prices} has no column 'other'; its columns are: sym, px, day, at"


def test_another_delimiter(url: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a;b\n1;2,5\n")
    assert command("load", url, name, str(tmp_path / "rows.csv"), "--delimiter", ";").returncode == 0
    assert rows_of(url, name) == [{"a": 1, "b": "2,5"}]


def test_where_nobody_listens_is_exit_code_3(prices: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", f":{free_port()}", "prices", prices]) == 3
    assert capsys.readouterr().err.startswith("error: ")
