"""`save`: results of queries to files."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pyarrow as pa
import pyarrow.parquet
import pytest
from support.commands import BOUND, COMMAND, command, environment, wrong_usage
from support.processes import server_process
from support.terminal import terminal
from support.watched import Queries

from rayforce_trio._cli import main

ROWS = 250_000  # several batches
QUERY = f"(table [id sym at] (list (til {ROWS}) (take [a bb c] {ROWS}) (as 'TIMESTAMP (til {ROWS}))))"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server_process("child") as port:
        yield f":{port}"


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_what_was_saved_can_be_loaded(url: str, name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    done = command("save", url, QUERY, str(path))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"{ROWS:,} rows saved to {path} in ")
    types = ["--type", "sym=SYMBOL"] if suffix == "csv" else []
    assert command("load", url, name, str(path), *types).returncode == 0
    same = f"(do (set {name}_q {QUERY}) (all (map (fn [c] (all (== (at {name} c) (at {name}_q c)))) [id sym at])))"
    assert command("query", url, same).stdout == "true\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_batches_of_a_file_have_one_schema(url: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    assert command("save", url, QUERY, str(path)).returncode == 0
    file = pyarrow.parquet.ParquetFile(path)
    assert (file.num_row_groups, file.metadata.num_rows) == (3, ROWS)
    assert file.schema_arrow.field("at").type == pa.timestamp("ns")


def test_a_file_that_another_command_writes_is_left_alone(url: str, tmp_path: Path) -> None:
    path, part = tmp_path / "rows.csv", tmp_path / "rows.csv.part"
    part.write_text("a")
    done = command("save", url, QUERY, str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {part} exists: another command is writing it, or was killed")
    assert part.read_text() == "a"
    assert command("save", url, QUERY, str(path), "--replace").returncode == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_a_result_without_rows_has_its_columns(url: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    assert command("save", url, "(take (table [a b] (list [1] [x])) 0)", str(path)).returncode == 0
    if suffix == "csv":
        assert path.read_text() == "a,b\n"
    elif suffix == "arrow":
        assert pa.ipc.open_stream(path).read_all().schema.names == ["a", "b"]
    else:
        assert pyarrow.parquet.read_table(path).schema.names == ["a", "b"]


def test_parameters_and_sql(url: str, name: str, tmp_path: Path) -> None:
    assert command("query", url, f"(set {name} (table [a] (list (til 5))))").returncode == 0
    path = tmp_path / "rows.csv"
    done = command("save", url, "--sql", f"SELECT a FROM {name} WHERE a > :low", str(path), "-p", "low=2")
    assert done.returncode == 0
    assert path.read_text() == "a\n3\n4\n"


def test_a_file_that_exists_is_replaced_only_on_request(url: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("before")
    assert wrong_usage("save", url, "(til 3)", str(path)) == f"{path} already exists; use --replace to overwrite it"
    assert command("save", url, "(til 3)", str(path), "--replace").returncode == 0
    assert path.read_text() == "value\n0\n1\n2\n"


@pytest.mark.parametrize(
    ("query", "says"),
    [("(foo 1)", "error: name: "), ("(+ 1 2)", "error: the result is a single I64, which has no columns\n")],
)
def test_a_failure_leaves_the_file_as_it_was(url: str, query: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("before")
    done = command("save", url, query, str(path), "--replace")
    assert done.returncode == 1
    assert done.stderr.startswith(says)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("rows.csv", "before")]


def test_lists_that_change_their_type_are_an_error(url: str, tmp_path: Path) -> None:
    query = "(table [a v] (list (til 100001) (concat (take (list [1]) 100000) (list [x]))))"
    done = command("save", url, query, str(tmp_path / "rows.parquet"))
    assert (done.returncode, done.stderr) == (
        1,
        "error: column 'v' holds list<item: dictionary<values=string, indices=int32, ordered=0>> where earlier rows "
        "hold list<item: int64>; --format json writes any value\n",
    )
    done = command("save", url, query, str(tmp_path / "rows.csv"))
    assert done.returncode == 0
    assert (tmp_path / "rows.csv").read_text().endswith('\n99999,[1]\n100000,"[""x""]"\n')


def test_the_name_tells_the_format(tmp_path: Path) -> None:
    says = wrong_usage("save", ":8765", "(til 3)", str(tmp_path / "rows.txt"))
    assert says.endswith("rows.txt: the extension must be .csv, .parquet or .arrow; it sets the format")


def test_a_directory_that_does_not_exist(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none" / "rows.csv"
    assert main(["save", url, "(til 3)", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path} cannot be written: No such file or directory\n"


def test_a_terminal_shows_a_progress_bar(url: str, queries: Queries, tmp_path: Path) -> None:
    query = queries()
    path = tmp_path / "rows.csv"
    with terminal("save", url, f"(do {query.text} (til 3))", str(path)) as shown:
        shown.until("the server is evaluating the query, ")
        shown.until(" s, Ctrl-C cancels")
        query.release()
        shown.until(f"3 rows saved to {path} in ")
        assert shown.process.wait(BOUND) == 0


def test_ctrl_c_stops_the_query_and_leaves_nothing(url: str, queries: Queries, tmp_path: Path) -> None:
    query = queries()
    path = tmp_path / "out"
    path.mkdir()
    child = subprocess.Popen(
        [*COMMAND, "save", url, query.text, str(path / "rows.csv")],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    anyio.run(query.begun)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=BOUND)
    assert (child.returncode, err) == (130, "")
    assert not query.has_ended
    assert list(path.iterdir()) == []
