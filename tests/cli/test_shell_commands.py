r"""The commands of the shell, such as `\\tables`, given through a pipe; and the table that lists them."""

from collections.abc import Iterator

import pytest
from support.commands import command, serving
from support.serve_native import Served

from rayforce_trio._cli._console import UsageError
from rayforce_trio._cli._shell_commands import COMMANDS, command_of

EMPTY_SCHEMA = "error: \\schema needs the name of a table\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving("--script", "docs/examples/prices.rfl") as server:
        yield server.port


def shell(port: int, *lines: str) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of a shell."""
    done = command("repl", f":{port}", given="".join(f"{line}\n" for line in lines))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("help", "help", ""),
        ("?", "help", ""),
        ("? tables", "help", "tables"),
        ("schema   prices ", "schema", "prices"),
        ("quit", "q", ""),
        ("sql SELECT  1", "sql", "SELECT  1"),
    ],
)
def test_a_command_is_found_by_its_names(text: str, name: str, argument: str) -> None:
    found, rest = command_of(text)
    assert (found.name, rest) == (name, argument)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tabels", "there is no command \\tabels; did you mean \\tables? \\help lists the commands"),
        ("xyz 1", "there is no command \\xyz; \\help lists the commands"),
        ("", "there is no command \\; \\help lists the commands"),
    ],
)
def test_an_unknown_command_is_an_error_with_the_closest_name(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        command_of(text)
    assert str(raised.value) == says


def test_help_lists_all_commands(port: int) -> None:
    code, output, errors = shell(port, "\\help")
    assert (code, errors) == (0, "")
    assert [line.split()[0] for line in output.partition("\n\n")[0].splitlines()] == [
        f"\\{one.name}" for one in COMMANDS
    ]


@pytest.mark.parametrize("name", ["schema", "\\schema"])
def test_help_shows_one_command(port: int, name: str) -> None:
    assert shell(port, f"\\help {name}") == (0, "\\schema TABLE\n  show the columns of a table and their types\n", "")


def test_tables_and_their_columns(port: int) -> None:
    code, output, errors = shell(port, "\\tables", "\\schema prices")
    assert (code, errors) == (0, "")
    assert output.splitlines()[0] == "prices"
    assert "│ price  │ F64    │\n" in output


def test_a_server_without_tables_says_so() -> None:
    with serving() as server:
        assert shell(server.port, "\\tables") == (0, "", "The server has no tables.\n")


def test_the_format_of_the_next_values(port: int) -> None:
    lines = ("\\format csv", "prices", "\\format json", "(til 2)", "\\format")
    code, output, errors = shell(port, *lines)
    assert (code, output) == (0, "symbol,price\nAAPL,223.02\nGOOG,560.19\nIBM,125.55\n[\n0,\n1\n]\n")
    assert errors.splitlines() == [f"The output format is {name}." for name in ("csv", "json", "json")]


def test_timing_shows_a_time_per_statement(port: int) -> None:
    code, output, errors = shell(port, "\\timing on", "1 2", "\\timing", "3")
    assert (code, output) == (0, "1\n2\n3\n")
    first, *times, last = errors.splitlines()
    assert (first, last) == ("Timing is on.", "Timing is off.")
    assert len(times) == 2
    assert all(time.startswith("Time: ") and time.endswith("s") for time in times)


def test_one_statement_of_sql(port: int) -> None:
    assert shell(port, "\\format csv", "\\sql SELECT symbol FROM prices WHERE price > 500;", "(+ 1 2)")[:2] == (
        0,
        "symbol\nGOOG\nvalue\n3\n",
    )


def test_the_sql_mode(port: int) -> None:
    lines = ("\\format csv", "\\sql", "SELECT symbol", "FROM prices WHERE price > 500;", "\\sql off", "(+ 1 2)")
    code, output, errors = shell(port, *lines)
    assert (code, output) == (0, "symbol\nGOOG\nvalue\n3\n")
    assert "Expressions are Rayfall now.\n" in errors


def test_a_file_becomes_a_table(served: Served, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = tmp_path_factory.mktemp("files") / f"{name}.csv"
    file.write_text("a,b\n1,x\n2,y\n")
    lines = (f"\\load {file}", f"\\load {file} AS {name}_2", f"(count {name})", f"(count {name}_2)", f"\\load {file}")
    code, output, errors = shell(served.port, *lines)
    assert (code, output) == (1, "2\n2\n")
    first, second, error = errors.splitlines()
    assert first.startswith(f"2 rows loaded into {name} in ")
    assert second.startswith(f"2 rows loaded into {name}_2 in ")
    hint = f"use \\load {file} AS NAME with another name"
    assert error == f"error: the server already has a table '{name}'; {hint}"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("\\schema", EMPTY_SCHEMA),
        ("\\schema nothing", "error: table 'nothing': the server has no such table\n"),
        ("\\format xml", "error: \\format: there is no format 'xml'; the formats are text, json, csv\n"),
        ("\\timing maybe", "error: \\timing: 'maybe' is neither on nor off\n"),
        ("\\load", "error: \\load needs the name of a file\n"),
        ("\\tabels", "error: there is no command \\tabels; did you mean \\tables? \\help lists the commands\n"),
    ],
)
def test_an_error_is_told_and_the_next_statement_runs(port: int, line: str, error: str) -> None:
    assert shell(port, line, "(+ 1 2)") == (1, "3\n", error)


def test_a_file_that_is_not_there_is_an_error(port: int) -> None:
    code, output, errors = shell(port, "\\load /nonexistent/file.csv", "1")
    assert (code, output) == (1, "1\n")
    assert errors.startswith("error: ")


@pytest.mark.parametrize("word", ["exit", "quit", "\\q"])
def test_nothing_behind_the_end_is_evaluated(port: int, word: str) -> None:
    assert shell(port, "1", word, "2") == (0, "1\n", "")
    assert shell(port, f"1 {word}\n2") == (0, "1\n", "")
