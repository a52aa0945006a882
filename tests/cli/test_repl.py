"""`repl`, on a terminal, and from pipes and files."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from support.commands import BOUND, COMMAND, command, environment, started_with_input
from support.native import free_port
from support.serve_native import Served, natively_served
from support.terminal import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    ENTER,
    ENTERED,
    PASTE_END,
    PASTE_START,
    PROMPTED,
    TAB,
    UP,
    Terminal,
    terminal,
)
from support.watched import Queries

from rayforce_trio import WSClient


@contextmanager
def shell(port: int, state: Path, *options: str) -> Iterator[Terminal]:
    """A shell on a terminal; at its end it is left by Ctrl-D, and must end well."""
    with terminal("repl", f":{port}", *options, XDG_STATE_HOME=str(state)) as shown:
        shown.until(f"Connected to ws://127.0.0.1:{port}.")
        yield shown
        shown.until(PROMPTED)
        shown.type(CTRL_D)
        shown.rest()
        assert shown.process.wait(BOUND) == 0


RESTARTED = (
    "The engine has been restarted. Tables and variables that existed only in its memory are gone; define them again."
)


def ask(port: int, expression: str) -> object:
    """Ask as another client; this shows that the engine is free."""

    async def execute() -> object:
        with anyio.fail_after(30):
            async with WSClient("127.0.0.1", port).connect() as connection:
                return (await connection.execute(expression)).to_python()

    return anyio.run(execute)


# On a terminal.


def test_values_are_drawn_and_what_is_printed_and_errors_shown(our_port: int, tmp_path: Path) -> None:
    with shell(our_port, tmp_path) as shown:
        shown.enter("(+ 40 2)")
        shown.until("42\n")
        shown.enter('(do (println "working") (table [a b] (list (til 2) [x y])))')
        shown.until("working\n┌─────┬")
        shown.until("│   1 │ y ")
        shown.enter('(+ 1 "a")')
        assert shown.until("\n").startswith("error: type: ")
        shown.enter("null")
        assert shown.until(PROMPTED) == ""
        shown.type("(+ 1 2)" + ENTER)
        shown.until("3\n")


def test_an_expression_may_take_several_lines(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type("(+ 40 ; a bracket ( in a comment" + ENTER)
        shown.until("........>")
        shown.type('(count "(("))' + ENTER)
        shown.until(ENTERED + "42\n")


def test_each_of_several_pasted_expressions_is_evaluated(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type(PASTE_START + '(+ 1 2)\n(+ 1 "a") (* 3 4)\n"a (\nb"\n' + PASTE_END)
        continued = shown.until('b"')
        assert continued.count("........>") == 1  # only the string continues
        shown.type(ENTER)
        shown.until(ENTERED + "3\nerror: type: ")
        shown.until('\n12\n"a (\nb"\n')


@pytest.mark.parametrize("word", ["exit", "quit", "\\q", "\\quit"])
def test_words_that_leave_the_shell(served: Served, tmp_path: Path, word: str) -> None:
    with terminal("repl", f":{served.port}", XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.enter(word)
        assert shown.rest() == ""
        assert shown.process.wait(BOUND) == 0


def test_a_long_line_is_wrapped_without_a_prompt(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type(f'(count "{"x" * 200}")')
        assert "..>" not in shown.until('")')
        shown.type(ENTER)
        shown.until("200\n")


def test_alt_enter_starts_a_new_line(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type("(+ 1 2)" + ALT_ENTER + "(+ 3 4)" + ENTER)
        shown.until(ENTERED + "3\n7\n")


def test_tab_completes_names_that_the_server_knows(served: Served, tmp_path: Path, name: str) -> None:
    ask(served.port, f"(set completed_{name}_to_its_end 42)")
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type(f"(+ 0 completed_{name}")
        shown.until(f"completed_{name}")
        shown.type(TAB)
        shown.until("_to_its_end")
        shown.type(")" + ENTER)
        shown.until(ENTERED + "42\n")


def test_tab_shows_what_there_is_to_choose_from(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type("(time")
        shown.until("(time")
        shown.type(TAB)
        shown.until("timestamp")
        shown.type(CTRL_C)


def test_tab_while_the_engine_is_busy_completes_nothing_and_the_session_goes_on(
    served: Served, queries: Queries, tmp_path: Path
) -> None:
    query = queries()
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        with subprocess.Popen([*COMMAND, "query", f":{served.port}", query.text], env=environment()) as other:
            anyio.run(query.begun)
            shown.type("(+ 1 2" + TAB + ")" + ENTER)
            shown.until(ENTERED)
            query.release()
            assert other.wait(BOUND) == 0
        shown.until("3\n")


def test_ctrl_c_cancels_the_query_in_the_engine_and_the_session_goes_on(
    served: Served, queries: Queries, tmp_path: Path
) -> None:
    query = queries()
    with shell(served.port, tmp_path) as shown:
        shown.enter(query.text)
        anyio.run(query.begun)
        shown.until(" s, Ctrl-C cancels")
        shown.type(CTRL_C)
        shown.until("cancelled\n")
        assert ask(served.port, "(+ 1 2)") == 3
        assert not query.has_ended
        for number in range(3):
            shown.enter(f"(+ 1000 {number})")
            assert shown.until("\n") == str(1000 + number)


def test_what_a_cancelled_query_printed_is_kept(served: Served, queries: Queries, tmp_path: Path) -> None:
    query = queries()
    with shell(served.port, tmp_path) as shown:
        shown.enter(f'(do (println "half way") {query.text})')
        anyio.run(query.begun)
        shown.type(CTRL_C)
        shown.until("half way\ncancelled\n")
        shown.enter(query.text)
        shown.until(" s, Ctrl-C cancels")
        shown.type(CTRL_C)
        assert "half way" not in shown.until("cancelled\n")


def test_ctrl_c_many_times_over_does_not_end_the_session(served: Served, queries: Queries, tmp_path: Path) -> None:
    query = queries()
    with shell(served.port, tmp_path) as shown:
        shown.enter(query.text)
        anyio.run(query.begun)
        for _ in range(20):  # not typed: a terminal that takes ^C drops what is shown but not read, "cancelled", too
            shown.process.send_signal(signal.SIGINT)
        shown.until("cancelled\n")
        shown.until(PROMPTED)
        shown.process.send_signal(signal.SIGINT)
        shown.type("(+ 1 2)" + ENTER)
        shown.until("3\n")


def test_ctrl_c_at_the_prompt_begins_anew(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type("(+ 1")
        shown.until("(+ 1")
        shown.type(CTRL_C)
        shown.enter("(+ 40 2)")
        shown.until("42\n")


def test_a_lost_connection_is_told_and_another_one_made(served: Served, tmp_path: Path) -> None:
    with natively_served() as mortal, shell(mortal.port, tmp_path) as shown:
        shown.enter("(exit 0)")
        shown.until("error: the peer closed the connection with code 1011: the engine process disconnected\n")
        shown.enter("(+ 40 2)")
        told = shown.until("42\n").replace("\n", "")  # the terminal may wrap it
        assert told == "Connected again." + RESTARTED
        shown.enter("(+ 40 3)")
        assert shown.until("43\n") == ""


def test_a_server_that_is_gone_is_told_and_the_session_goes_on(tmp_path: Path) -> None:
    with natively_served() as mortal, shell(mortal.port, tmp_path) as shown:
        shown.until(PROMPTED)
        mortal.process.kill()
        mortal.process.wait()
        shown.type("(+ 1 2)" + ENTER)
        shown.until("error: ")
        shown.enter("(+ 1 2)")
        shown.until("error: Failed to connect to ws://")


def test_what_was_entered_is_there_in_the_next_session(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path) as shown:
        shown.enter("(+ 40 2)")
        shown.until("42\n")
    file = tmp_path / "rayforce-trio" / "history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    with shell(served.port, tmp_path) as shown:
        shown.until(PROMPTED)
        shown.type(UP)
        shown.until("(+ 40 2)")
        shown.type(ENTER)
        shown.until(ENTERED + "42\n")


def test_nothing_is_kept_if_so_asked(served: Served, tmp_path: Path) -> None:
    with shell(served.port, tmp_path, "--no-history") as shown:
        shown.enter("(+ 40 2)")
        shown.until("42\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["no home", "home does not exist", "home is not a directory"])
def test_where_history_cannot_be_kept_the_shell_works_and_says_why(served: Served, tmp_path: Path, home: str) -> None:
    file = tmp_path / "file"
    file.touch()
    # The user has no entry in the password database either.
    (tmp_path / "sitecustomize.py").write_text("import pwd\npwd.getpwuid = {}.__getitem__")
    cases: dict[str, tuple[dict[str, str | None], str]] = {
        "no home": ({"HOME": None}, "there is no home directory"),
        "home does not exist": ({"HOME": "/nonexistent"}, "/nonexistent: No such file or directory"),
        "home is not a directory": ({"HOME": str(file)}, f"{file}/.local/state/rayforce-trio: Not a directory"),
    }
    variables, reason = cases[home]
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    with terminal("repl", f":{served.port}", XDG_STATE_HOME=None, PYTHONPATH=path, **variables) as shown:
        shown.until(f"warning: the history is not kept: {reason}\n")
        shown.enter("(+ 40 2)")
        shown.until("42\n")
        shown.until(PROMPTED)
        shown.type(UP)
        shown.until("(+ 40 2)")
        shown.type(CTRL_C)
        shown.until(PROMPTED)
        shown.type(CTRL_D)
        shown.rest()
        assert shown.process.wait(BOUND) == 0
    assert not Path("/nonexistent").exists()


def test_where_the_state_directory_cannot_be_made_the_shell_works_and_says_why(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with terminal("repl", f":{served.port}", XDG_STATE_HOME=str(file)) as shown:
        shown.until(f"warning: the history is not kept: {file}/rayforce-trio: Not a directory\n")
        shown.enter("(+ 40 2)")
        shown.until("42\n")


def test_a_history_that_can_no_longer_be_written_is_reported_once_and_the_shell_works(
    served: Served, tmp_path: Path
) -> None:
    with terminal("repl", f":{served.port}", XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.until(PROMPTED)
        shutil.rmtree(tmp_path / "rayforce-trio")
        for number in range(2):
            shown.type(f"(+ 40 {number})" + ENTER)
            shown.until(ENTERED)
            before = shown.until(f"{40 + number}\n")
            assert ("warning: the history is not kept: " in before) is (number == 0)
            shown.until(PROMPTED)
        shown.type(UP + UP)
        shown.until("(+ 40 0)")
        shown.type(CTRL_C)
        shown.until(PROMPTED)
        shown.type(CTRL_D)
        assert "Traceback" not in shown.rest()
        assert shown.process.wait(BOUND) == 0


def test_a_long_table_is_shown_in_a_pager_if_so_set(served: Served, tmp_path: Path) -> None:
    variables = {"XDG_STATE_HOME": str(tmp_path), "PAGER": "sed s/^/paged:/"}
    with terminal("repl", f":{served.port}", **variables) as shown:
        shown.enter("\\pager on")
        shown.until("The pager is on.\n")
        shown.enter("(table [a] (list (til 3)))")
        assert "paged:" not in shown.until("3 rows\n")
        shown.enter("(table [a] (list (til 1234)))")
        shown.until("paged:│ 1233 │\n")
        shown.until("paged:1,234 rows\n")
        shown.enter("\\q")
        assert shown.process.wait(BOUND) == 0


@contextmanager
def plain_shell(port: int, tmp_path: Path) -> Iterator[Terminal]:
    """A shell on a terminal where prompt_toolkit is not installed."""
    (tmp_path / "prompt_toolkit.py").write_text("raise ModuleNotFoundError(name='prompt_toolkit')")
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    with terminal("repl", f":{port}", PYTHONPATH=path) as shown:
        shown.until("install prompt_toolkit: pip install 'rayforce-trio[cli]'\n")
        shown.until("rayforce> ")
        yield shown


def test_without_prompt_toolkit_one_is_told_what_to_install_and_the_shell_works(served: Served, tmp_path: Path) -> None:
    with plain_shell(served.port, tmp_path) as shown:
        shown.type("(+ 40\n")
        shown.until("........> ")
        shown.type("2) 5\n")
        shown.until("42\n5\nrayforce> ")
        shown.type("\\sql\n")
        shown.until("sql> ")
        shown.type("exit\n")
        shown.rest()
        assert shown.process.wait(BOUND) == 0


def test_without_prompt_toolkit_ctrl_c_discards_the_input_and_ctrl_d_leaves(served: Served, tmp_path: Path) -> None:
    with plain_shell(served.port, tmp_path) as shown:
        shown.type("(+ 1\n")
        shown.until("........> ")
        shown.type(CTRL_C)
        shown.until("rayforce> ")
        shown.type("(+ 40 2)\n")
        shown.until("42\nrayforce> ")
        shown.type(CTRL_D)
        shown.rest()
        assert shown.process.wait(BOUND) == 0


def test_a_server_that_is_not_there_ends_it_with_exit_code_3(tmp_path: Path) -> None:
    with terminal("repl", f":{free_port()}", XDG_STATE_HOME=str(tmp_path)) as shown:
        assert shown.rest().startswith("error: Failed to connect to ws://127.0.0.1:")
        assert shown.process.wait(BOUND) == 3


# From pipes and files.


def test_expressions_come_from_a_pipe_line_by_line(our_port: int) -> None:
    done = command("repl", f":{our_port}", given='(+ 1 2)\n\n; a comment\n(+ 40\n 2)\n(do (println "hi") null)\n"end"')
    assert (done.returncode, done.stdout, done.stderr) == (0, '3\n42\nhi\n"end"\n', "")


def test_an_error_is_told_and_the_rest_evaluated_and_the_exit_code_is_1(served: Served) -> None:
    done = command("repl", f":{served.port}", given='(+ 1 "a")\n(+ 1 2)\n(+ 1\n')
    assert (done.returncode, done.stdout) == (1, "3\n")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: type: ")
    assert first.endswith(', in the query (+ 1 "a")')
    assert second.startswith("error: parse: ")
    assert second.endswith(", in the query (+ 1")


def test_expressions_come_from_a_file(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "expressions.rfl"
    file.write_text("(+ 1 2)\n(+ 3 4)\n")
    with file.open() as given:
        done = subprocess.run(
            [*COMMAND, "repl", f":{served.port}"],
            stdin=given,
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=BOUND,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n7\n", "")


def test_nothing_at_all_is_no_error(served: Served) -> None:
    with subprocess.Popen([*COMMAND, "repl", f":{served.port}"], env=environment(), stdin=subprocess.DEVNULL) as shell:
        assert shell.wait(BOUND) == 0


def test_each_value_is_there_before_the_next_expression_is_given(served: Served) -> None:
    with started_with_input("repl", f":{served.port}") as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        for number in range(3):
            print(f"(* {number} 7)", file=shell.stdin, flush=True)
            assert shell.stdout.readline() == f"{number * 7}\n"
        shell.stdin.close()
        assert shell.wait(BOUND) == 0


def test_an_interrupt_cancels_the_query_in_the_engine_and_ends_it_with_130(served: Served, queries: Queries) -> None:
    query = queries()
    with started_with_input("repl", f":{served.port}") as shell:
        assert shell.stdin is not None
        print(query.text, file=shell.stdin, flush=True)
        anyio.run(query.begun)
        shell.send_signal(signal.SIGINT)
        assert shell.communicate(timeout=BOUND) == ("", "")
        assert shell.returncode == 130
    assert ask(served.port, "(+ 1 2)") == 3
    assert not query.has_ended


def test_a_secret_cannot_come_from_where_the_expressions_do() -> None:
    done = command("repl", ":8765", "--password-file", "/dev/stdin", given="secret\n(+ 1 2)\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: standard input is the input of this command; read the secret from another file\n"


def test_a_connection_that_is_lost_ends_it_with_exit_code_3() -> None:
    with natively_served() as mortal:
        done = command("repl", f":{mortal.port}", given="(exit 0)\n(+ 1 2)\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: the peer closed the connection with code 1011: the engine process disconnected\n"


def test_a_server_of_rayforce_py_can_be_asked_too(their_port: int) -> None:
    done = command("repl", f":{their_port}", given="(+ 1 2)\n(+ 3 4)\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n7\n", "")
