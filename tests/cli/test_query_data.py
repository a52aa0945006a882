"""`query` with parameters, SQL and Arrow, and its output of many rows."""

import io
import sys

import pyarrow as pa
import pytest
from support.commands import command, wrong_usage
from support.serve_native import Served

from rayforce_trio._cli import main

PRICES = "(table [sym px] (list [a b c] [1.5 2.5 3.5]))"


@pytest.fixture(scope="module")
def prices(served: Served) -> str:
    """The address of a server with a table `prices`."""
    assert command("query", f":{served.port}", f"(set prices {PRICES})").returncode == 0
    return f":{served.port}"


@pytest.mark.parametrize(
    ("expression", "parameters", "value"),
    [
        ("(+ low 1)", ["low=41"], "42"),
        ("(list low high)", ["low=2.5", "high=true"], "(2.5 true)"),
        ("(type when)", ["when=2024-01-31"], "date"),
        ("(type when)", ["when=2024-01-31T09:30:00.123456789Z"], "timestamp"),
        ("(type name)", ["name=til"], "sym"),
        ("(sum xs)", ["xs=[1, 2, 3]"], "6"),
        ("(count prices)", ["unused=1"], "3"),
    ],
)
def test_parameters_are_typed_by_how_they_are_written(
    prices: str, expression: str, parameters: list[str], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument for parameter in parameters for argument in ("-p", parameter)]
    assert main(["query", prices, expression, *arguments]) == 0
    assert capsys.readouterr() == (f"{value}\n", "")


def test_a_filter_with_a_parameter(prices: str, capsys: pytest.CaptureFixture[str]) -> None:
    query = "(select {from: prices where: (> px low)})"
    assert main(["query", prices, query, "-p", "low=2", "--format", "csv"]) == 0
    assert capsys.readouterr() == ("sym,px\nb,2.5\nc,3.5\n", "")


def test_sql_with_a_parameter(prices: str, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT sym, px * 2 AS twice FROM prices WHERE px > :low ORDER BY px DESC"
    assert main(["query", prices, "--sql", query, "-p", "low=2", "--format", "csv"]) == 0
    assert capsys.readouterr() == ("sym,twice\nc,7.0\nb,5.0\n", "")


def test_invalid_sql_is_one_line_and_exit_code_1(prices: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", prices, "--sql", "SELECT FROM WHERE"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "low"], "argument -p/--parameter: 'low' is not of the form NAME=VALUE"),
        (["-p", "low=[1"], "argument -p/--parameter: low=[1: "),
        (["-p", "a=1", "-p", "a=2"], "the parameter a is given twice"),
    ],
)
def test_invalid_parameters_are_wrong_usage(arguments: list[str], says: str) -> None:
    assert wrong_usage("query", ":8765", "1", *arguments).startswith(says)


def test_arrow_is_a_stream_without_the_printed_text(prices: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["query", prices, '(do (println "working") prices)', "--format", "arrow"]) == 0
    out, err = capfdbinary.readouterr()
    assert err == b"working\n"
    table = pa.ipc.open_stream(out).read_all()
    assert table.to_pydict() == {"sym": ["a", "b", "c"], "px": [1.5, 2.5, 3.5]}


def test_a_value_without_columns_cannot_be_arrow(prices: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["query", prices, "(+ 1 2)", "--format", "arrow"]) == 1
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert err.endswith(b" has no columns; --format json writes any value\n")


def test_arrow_is_not_for_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["query", ":1", "1", "--format", "arrow"]) == 2
    assert capsys.readouterr().err.startswith("error: --format arrow writes binary data, which a terminal cannot show")


@pytest.fixture
def without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of pyarrow fail as if it were not installed."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "rayforce_trio._cli._files", raising=False)
    monkeypatch.delattr("rayforce_trio._cli._files", raising=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["query", ":1", "1", "--format", "arrow"], "error: --format arrow needs pyarrow: pip install"),
        (["load", ":1", "prices", "prices.csv"], "error: load needs pyarrow: pip install"),
    ],
)
def test_where_pyarrow_is_missing_an_error_names_the_extra(
    without_pyarrow: None, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{says} 'rayforce-trio[arrow]'\n"


@pytest.mark.parametrize("format_", ["csv", "json"])
def test_csv_and_json_need_no_pyarrow(
    without_pyarrow: None, prices: str, format_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", prices, "prices", "--format", format_]) == 0
    assert capsys.readouterr().out.count("\n") in (4, 5)
