"""`query`, run as people run it."""

import io
import json
import signal
import subprocess
import sys

import anyio
import pytest
from rayforce import Symbol, Table, Vector
from support.commands import BOUND, COMMAND, command, environment, started, wrong_usage
from support.native import free_port
from support.serve_native import Served, natively_served
from support.terminal import CTRL_C, terminal
from support.watched import Queries

from rayforce_trio import WSClient, __version__
from rayforce_trio._cli import _query, main
from rayforce_trio._cli._console import show_error, write
from rayforce_trio._cli._formats import FORMATS
from rayforce_trio.errors import RayforceUserError


def ask(port: int, expression: str) -> object:
    """Ask as another client; this shows that the engine is free."""

    async def execute() -> object:
        with anyio.fail_after(30):
            async with WSClient("127.0.0.1", port).connect() as connection:
                return (await connection.execute(expression)).to_python()

    return anyio.run(execute)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:{}", "ws://localhost:{}/", "127.0.0.1:{}", ":{}"])
def test_the_value_is_written_whatever_the_form_of_the_url(served: Served, url: str) -> None:
    done = command("query", url.format(served.port), "(+ 1 2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_an_expression_can_come_from_standard_input(served: Served) -> None:
    done = command("query", f":{served.port}", "-", given='; a comment\n(count\n  "café")\n')
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_a_table_is_drawn(our_port: int) -> None:
    done = command("query", f":{our_port}", "(table [a b] (list (til 2) [x y]))")
    assert done.stdout.splitlines()[1:] == [
        "│   a │ b      │",
        "│ I64 │ SYMBOL │",
        "├─────┼────────┤",
        "│   0 │ x      │",
        "│   1 │ y      │",
        "└─────┴────────┘",
        "2 rows",
    ]


def test_what_the_query_prints_comes_before_its_value(our_port: int) -> None:
    done = command("query", f":{our_port}", '(do (println "working") (+ 1 2))')
    assert (done.returncode, done.stdout, done.stderr) == (0, "working\n3\n", "")


@pytest.mark.parametrize(("format_", "value"), [("json", "3\n"), ("csv", "value\n3\n")])
def test_what_the_query_prints_stays_out_of_data(served: Served, format_: str, value: str) -> None:
    done = command("query", f":{served.port}", '(do (println "working") (+ 1 2))', "--format", format_)
    assert (done.returncode, done.stdout, done.stderr) == (0, value, "working\n")


def test_null_is_nothing_in_text_and_null_in_json(our_port: int) -> None:
    assert command("query", f":{our_port}", "null").stdout == ""
    assert command("query", f":{our_port}", "null", "--format", "json").stdout == "null\n"


def test_what_an_interrupted_query_printed_goes_to_standard_error(served: Served, queries: Queries) -> None:
    query = queries()
    with started("query", f":{served.port}", f'(do (println "half way") {query.text})') as process:
        anyio.run(query.begun)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=BOUND) == ("", "half way\n")
        assert process.returncode == 130


def test_an_error_of_the_engine_is_one_line_and_exit_code_1(served: Served) -> None:
    done = command("query", f":{served.port}", '(do (println "working") (+ 1 "a"))')
    assert (done.returncode, done.stdout) == (1, "working\n")
    assert done.stderr.startswith("error: type: ")
    assert done.stderr.endswith(', in the query (do (println "working") (+ 1 "a"))\n')


def test_a_server_of_rayforce_py_can_be_asked_too(their_port: int) -> None:
    done = command("query", f":{their_port}", "(+ 1 2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_value_that_rayforce_py_cannot_represent_is_one_line_and_exit_code_1(served: Served) -> None:
    done = command("query", f":{served.port}", "(env 0)", "--format", "json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_where_nobody_listens_is_one_line_and_exit_code_3() -> None:
    done = command("query", f":{free_port()}", "(+ 1 2)")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: Failed to connect to ws://127.0.0.1:")
    assert done.stderr.endswith(": connection refused\n")
    assert "Errno" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_numbers_of_errors_are_left_out_where_the_words_follow(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(FileNotFoundError(2, "No such file or directory", "file"))
    show_error(RayforceUserError("[Errno 2] of a query"))
    assert capsys.readouterr().err == "error: No such file or directory: 'file'\nerror: [Errno 2] of a query\n"


def test_a_lost_connection_is_one_line_and_exit_code_3() -> None:
    with natively_served() as served:
        done = command("query", f":{served.port}", "(exit 0)")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: the peer closed the connection with code 1011: the engine process disconnected\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask"], "argument COMMAND: invalid choice: 'ask' (choose from "),
        (["query"], "the following arguments are required: EXPR (see rayforce-trio query --help)"),
        (["query", ":8765"], "EXPR is missing: :8765 is the URL of a server"),
        (["query", "wss://ann@host", "--sql"], "EXPR is missing: wss://ann@host is the URL of a server"),
        (["save", "host:8765", "file.csv"], "EXPR is missing: host:8765 is the URL of a server"),
        (["load", ":8765", "trades"], "FILE is missing: :8765 is the URL of a server"),
        (["subscribe", ":8765"], "TOPIC is missing: :8765 is the URL of a server"),
        (["publish", ":8765"], "the following arguments are required: TOPIC (see rayforce-trio publish --help)"),
        (
            ["query", "http://host", "1"],
            "Invalid URL. Must look like ws://host:port, wss://user@host:port/path or unix:/path; ",
        ),
        (["query", "host:port", "1"], "Invalid URL. Must look like "),
        (["query", "[::1", "1"], "Invalid URL. Must look like "),
        (["query", "ws://", "1"], "Invalid URL. Must look like "),
        (["query", "ws://:8765", "1"], "Invalid URL. Must look like "),
        (["query", "host/path", "1"], "Invalid URL. Must look like "),
        (["query", ":8765/path", "1"], "Invalid URL. Must look like "),
        (["query", ":99999", "1"], "Invalid port in the URL. Must be a number between 1 and "),
        (
            ["query", "ws://host:port", "1"],
            "Invalid port in the URL. Must be a number between 1 and ",
        ),
        (["query", ":0", "1"], "Invalid port in the URL. Must be a number between 1 and "),
        (["query", "::1", "1"], "Invalid URL. Must look like "),
        (["query", "ws://::1", "1"], "Invalid URL. Must look like "),
        (["query", ":8765", "1", "--timeout", "0"], "argument --timeout: '0' is not a positive number of "),
        (
            ["query", ":8765", "1", "--timeout", "soon"],
            "argument --timeout: 'soon' is not a positive number of ",
        ),
        (["query", ":8765", '"\udcff"'], "the expression is not UTF-8"),
        (["query", ":8765", ""], "the expression is empty"),
        (["query", ":8765", " ; nothing\n"], "the expression is empty"),
        (["query", ":8765", "-", "--token-file", "/dev/stdin"], "standard input is the input of this command; "),
        (["query", ":8765", "1", "--form", "json"], "unrecognized arguments: --form json "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    assert wrong_usage(*arguments).startswith(says)


def test_ctrl_c_while_the_arguments_are_read_is_silent_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_query, "add_parser", interrupted)
    assert main(["query", ":8765", "1"]) == 130
    assert capfd.readouterr() == ("", "")


def test_standard_input_that_is_not_utf_8_is_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [*COMMAND, "query", ":8765", "-"],
        input=b'"\xff"',
        env=environment(),
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: standard input is not UTF-8: invalid start byte at byte 1\n"


def test_empty_standard_input_is_one_line_and_exit_code_2() -> None:
    done = command("query", ":8765", "-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: the expression is empty\n")


def test_the_version_is_told() -> None:
    assert command("--version").stdout == f"rayforce-trio {__version__}\n"


def test_help_tells_the_exit_codes() -> None:
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "Exit statuses: 0 success; 1 failure; 2 wrong usage; 3 the server cannot be reached, or " in said


def test_a_query_that_takes_too_long_is_cancelled_in_the_engine(served: Served, queries: Queries) -> None:
    query = queries()
    done = command("query", f":{served.port}", query.text, "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no answer within 0.2 s; the query was stopped\n"
    assert ask(served.port, "(+ 1 2)") == 3
    assert not query.has_ended


def test_an_interrupted_query_is_cancelled_in_the_engine_and_the_exit_code_is_130(
    served: Served, queries: Queries
) -> None:
    query = queries()
    with started("query", f":{served.port}", query.text) as process:
        anyio.run(query.begun)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=BOUND) == ("", "")
    assert process.returncode == 130
    assert ask(served.port, "(+ 1 2)") == 3
    assert not query.has_ended


def test_on_a_terminal_one_sees_how_long_it_takes_and_ctrl_c_cancels_it(served: Served, queries: Queries) -> None:
    query = queries()
    with terminal("query", f":{served.port}", query.text) as shown:
        shown.until(" s, Ctrl-C cancels")
        anyio.run(query.begun)
        shown.type(CTRL_C)
        shown.rest()
        assert shown.process.wait(BOUND) == 130
    assert ask(served.port, "(+ 1 2)") == 3
    assert not query.has_ended


def test_a_reader_that_has_had_enough_is_no_error(served: Served) -> None:
    with started("query", f":{served.port}", "(til 200000)", "--format", "json") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[\n"
        process.stdout.close()
        assert process.wait(BOUND) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_full_disk_is_one_line_and_exit_code_1(served: Served) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [*COMMAND, "query", f":{served.port}", "(+ 1 2)"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=BOUND,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("closed", "expression", "out", "err"),
    [
        (">&-", "(+ 1 2)", "", "error: standard output is closed\n"),
        ("<&- 2>&-", '(do (println "working") (+ 1 "a"))', "working\n", ""),
    ],
)
def test_standard_streams_may_be_closed(served: Served, closed: str, expression: str, out: str, err: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "query", f":{served.port}", expression],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, out, err)


def test_text_that_the_locale_cannot_write_is_escaped_and_json_is_always_utf_8(served: Served) -> None:
    text = command("query", f":{served.port}", '"café"', PYTHONIOENCODING="ascii")
    assert (text.returncode, text.stdout) == (0, '"caf\\xe9"\n')
    data = command("query", f":{served.port}", '"café"', "--format", "json", PYTHONIOENCODING="ascii")
    assert json.loads(data.stdout) == "café"


def test_what_would_give_orders_to_a_terminal_does_not_reach_it(served: Served) -> None:
    with terminal("query", f":{served.port}", '(do (println (char 27)) (format "%" "\x1b[2Jgone"))') as shown:
        assert "\\x1b[2Jgone" in shown.rest()


def test_control_characters_in_a_drawn_table_are_escaped_everywhere() -> None:
    value = Table({"a": Vector(["x\x1b[31m\x9b", "y"], ray_type=Symbol)})
    drawn = "".join(FORMATS["text"](value))
    assert "x\\x1b[31m\\x9b" in drawn
    assert not set(drawn) & {"\x1b", "\x9b"}


@pytest.mark.parametrize("format_", sorted(FORMATS.keys() - {"text"}))
def test_control_characters_of_data_are_escaped_on_a_terminal_and_nowhere_else(
    format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    value = Table({"a": Vector(["x\x1b[31m\x9b", "y"], ray_type=Symbol)})
    data = "".join(FORMATS[format_](value))
    assert "\x9b" in data
    write([data])
    assert written.getvalue() == data
    monkeypatch.setattr(written, "isatty", lambda: True)
    written.seek(0)
    written.truncate()
    write([data])
    assert not set(written.getvalue()) & {"\x1b", "\x9b"}
    assert "\\x9b" in written.getvalue()
    assert written.getvalue().count("\n") == data.count("\n")
