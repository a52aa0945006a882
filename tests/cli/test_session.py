"""`--timeout` and Ctrl-C: the time at which a command ends, and its message about the unfinished query."""

import signal
from collections.abc import Iterator
from time import monotonic

import anyio
import pytest
from support.commands import BOUND, started_with_input
from support.processes import server_process
from support.terminal import CTRL_C, CTRL_D, PROMPTED, terminal
from support.watched import Queries

from rayforce_trio._cli import _session, main

NOT_CONFIRMED = "the server has not confirmed that it stopped the query, which may still be running"
LONG = 60  # seconds


@pytest.fixture(scope="module")
def busy_port() -> Iterator[int]:
    """The port of a server with an in-process engine: while a query runs, it can neither stop it nor answer."""
    with server_process("in-process") as port:
        yield port


def test_a_timeout_ends_on_time_and_says_that_a_busy_server_has_not_stopped_the_query(
    busy_port: int, queries: Queries, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rayforce_trio._transports._base.SHIELDED_CLOSE_TIMEOUT", LONG
    )  # a closing handshake would show
    monkeypatch.setattr("rayforce_trio._transports._websocket.CLOSE_TIMEOUT", LONG)
    query = queries()
    began = monotonic()
    code = main(["query", f":{busy_port}", query.text, "--timeout", "0.5"])
    elapsed = monotonic() - began
    assert (code, capsys.readouterr()) == (1, ("", f"error: no answer within 0.5 s; {NOT_CONFIRMED}\n"))
    assert query.has_begun
    assert not query.has_ended
    assert elapsed < LONG / 2


def test_a_query_that_ends_by_itself_after_the_timeout_was_not_stopped(
    busy_port: int, queries: Queries, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "STOP_TIMEOUT", 30)
    query = queries('(.sys.exec "sleep 0.5")')
    assert main(["query", f":{busy_port}", query.text, "--timeout", "0.2"]) == 1
    said = "error: no answer within 0.2 s; the query ended before the server could stop it\n"
    assert capsys.readouterr() == ("", said)
    assert query.has_ended


@pytest.mark.parametrize("command", ["query", "repl"])
def test_ctrl_c_does_not_wait_for_a_busy_server_and_says_that_it_has_not_stopped_the_query(
    busy_port: int, queries: Queries, command: str
) -> None:
    query = queries()
    arguments = [command, f":{busy_port}", *([query.text] if command == "query" else [])]
    with started_with_input(*arguments) as process:
        if command == "repl":
            assert process.stdin is not None
            print(query.text, file=process.stdin, flush=True)
        anyio.run(query.begun)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=BOUND) == ("", f"{NOT_CONFIRMED}\n")
    assert process.returncode == 130
    assert not query.has_ended


def test_on_a_terminal_a_shell_goes_on_and_says_that_a_busy_server_has_not_stopped_the_query(
    busy_port: int, queries: Queries
) -> None:
    query = queries()
    with terminal("repl", f":{busy_port}", "--no-history") as shown:
        shown.enter(query.text)
        anyio.run(query.begun)
        shown.type(CTRL_C)
        shown.until(f"cancelled: {NOT_CONFIRMED.split(',')[0]}")
        shown.until(PROMPTED)
        query.release()
        shown.type(CTRL_D)
        shown.rest()
        assert shown.process.wait(BOUND) == 0


def test_a_timeout_while_connecting_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with anyio.from_thread.start_blocking_portal("trio") as portal:
        listener = portal.call(lambda: anyio.create_tcp_listener(local_host="127.0.0.1"))
        try:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            assert main(["query", f":{port}", "(+ 1 2)", "--timeout", "0.2"]) == 1
        finally:
            portal.call(listener.aclose)
    assert capsys.readouterr() == ("", "error: no connection within 0.2 s\n")
