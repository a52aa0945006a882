"""`serve`, run as people run it."""

import os
import signal
import socket
from argparse import ArgumentParser
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.commands import BOUND, FAREWELL, command, command_in_child, environment, serving, started, wrong_usage
from support.engine_processes import has_ended
from support.native import native_server
from support.terminal import CTRL_C, terminal

from rayforce_trio import NativeProcess
from rayforce_trio._cli import _serve, main
from rayforce_trio._cli._engine import add_engine, engine_of
from rayforce_trio.errors import RayforceValueError

SCRIPT = "(set served_by_script 42) (env 0)"  # of its value, rayforce-py cannot make anything

NATIVE = ["--engine", "native"]
IN_PROCESS = ["--engine", "in-process"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / 'a "quoted" name.rfl'
    path.write_text(SCRIPT)
    return path


def value(url: str, expression: str) -> str:
    done = command("query", url, expression)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("engine", [NATIVE, IN_PROCESS], ids=lambda engine: str(engine[1]))
def test_it_serves_until_a_signal_and_says_so(engine: list[str], signal_: signal.Signals) -> None:
    with serving(*engine) as server:
        assert value(server.url, "(+ 1 2)") == "3"
        out, _ = server.end(signal_)
        assert out == FAREWELL
        assert server.process.returncode == 0


def test_ctrl_c_on_a_terminal_ends_it_well() -> None:
    with terminal("serve", "--port", "0", "--log-level", "warning") as shown:
        shown.until("Rayforce WebSocket served on ws://127.0.0.1:")
        shown.until("\n")
        shown.type(CTRL_C)
        assert shown.rest().removeprefix("^C") == FAREWELL
        assert shown.process.wait(BOUND) == 0


def test_a_query_that_takes_too_long_is_stopped() -> None:
    with serving(*NATIVE, "--query-timeout", "0.3") as server:
        done = command("query", server.url, "(while true 1)")
        assert done.returncode == 1
        assert "query_timeout" in done.stderr
        assert value(server.url, "(+ 1 2)") == "3"


def test_metrics_and_the_client_for_javascript_are_served_if_that_is_asked_for() -> None:
    with serving(*IN_PROCESS, "--metrics", "--javascript") as server:
        assert value(server.url, "(+ 1 2)") == "3"
        with urlopen(f"http://127.0.0.1{server.url}/metrics", timeout=BOUND) as answer:
            assert b"\nrayforce_requests_total" in answer.read()
        with urlopen(f"http://127.0.0.1{server.url}/rayforce.js", timeout=BOUND) as answer:
            assert answer.headers["Content-Type"].startswith("text/javascript")


# As `opentelemetry-instrument` does, this sets a provider when Python starts.
INSTRUMENTED = """
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
trace.set_tracer_provider(provider)
"""


@pytest.mark.parametrize("with_queries", [False, True])
def test_requests_are_traced_with_the_provider_of_the_environment(with_queries: bool, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INSTRUMENTED)
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    options = ["--trace-queries"] if with_queries else []
    with serving(*IN_PROCESS, *options, PYTHONPATH=path) as server:
        assert value(server.url, "(+ 1 2)") == "3"
        spans = server.end()[1]
    assert '"name": "rayforce request"' in spans
    assert ('"db.query.text": "(+ 1 2)"' in spans) == with_queries


def test_the_console_is_served_if_that_is_asked_for() -> None:
    with serving(*IN_PROCESS, "--console") as server, urlopen(f"http://127.0.0.1{server.url}/console") as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--query-timeout", "-1"], "argument --query-timeout: '-1' is not a number of seconds, 0 or auto ("),
        (["--drain-timeout", "-1"], "argument --drain-timeout: '-1' is not 0 or a positive number of seconds ("),
        (["--drain-delay", "soon"], "argument --drain-delay: 'soon' is not 0 or a positive number of seconds ("),
        (["--open-timeout", "0"], "argument --open-timeout: '0' is not a positive number of seconds ("),
        (["--write-timeout", "inf"], "argument --write-timeout: 'inf' is not a positive number of seconds ("),
        (["--max-in-flight", "-1"], "argument --max-in-flight: '-1' is not a limit; "),
    ],
)
def test_limits_that_make_no_sense_are_wrong_usage(arguments: list[str], says: str) -> None:
    assert wrong_usage("serve", *IN_PROCESS, *arguments).startswith(says)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {"query_timeout": "auto", "drain_timeout": 10, "open_timeout": 5, "write_timeout": 30}),
        (["--query-timeout", "auto"], {"query_timeout": "auto"}),
        (["--query-timeout", "0", "--drain-timeout", "0"], {"query_timeout": None, "drain_timeout": 0}),
        (["--open-timeout", "1.5", "--write-timeout", "7"], {"open_timeout": 1.5, "write_timeout": 7}),
        (["--drain-delay", "7.5"], {"drain_delay": 7.5}),
        ([], {"drain_delay": 0, "trusted_proxies": [], "proxy_header": None, "proxy_protocol": False}),
        (
            ["--trusted-proxy", "127.0.0.1", "--trusted-proxy", "10.0.0.0/8", "--proxy-header", "forwarded"],
            {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"], "proxy_header": "forwarded", "proxy_protocol": False},
        ),
        (["--trusted-proxy", "::1", "--proxy-protocol"], {"trusted_proxies": ["::1"], "proxy_protocol": True}),
        (["--reuse-port"], {"reuse_port": True}),
        ([], {"reuse_port": False}),
    ],
)
def test_the_server_gets_the_options(
    arguments: list[str], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def server(*_: object, **given: object) -> None:
        assert given.items() >= options.items()
        raise RayforceValueError("seen")

    monkeypatch.setattr(_serve, "_Server", server)
    assert wrong_usage("serve", *IN_PROCESS, *arguments) == "seen"


def test_help_tells_what_the_limits_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "0 for no limit; auto means 300, or 0 if only this machine can connect; default: auto" in said
    assert "unanswered requests of one connection, 0 for no limit; default: 1024" in said
    assert "size limit of a message from a client; default: 64M" in said
    assert "seconds to wait for running queries on shutdown, 0 to stop them at once; default: 10" in said


def test_by_default_queries_run_in_a_process_of_their_own_which_ends_with_the_server() -> None:
    with serving() as server:
        engine = int(value(server.url, "(at (.sys.info) 'pid)"))
        assert engine != server.process.pid
        server.end()
        assert has_ended(engine, within=BOUND)


@pytest.mark.parametrize("engine", [NATIVE, IN_PROCESS], ids=lambda engine: str(engine[1]))
def test_a_script_runs_first(engine: list[str], script: Path) -> None:
    with serving(*engine, "--script", str(script)) as server:
        assert value(server.url, "served_by_script") == "42"


@pytest.mark.parametrize("engine", [NATIVE, IN_PROCESS], ids=lambda engine: str(engine[1]))
def test_a_script_that_fails_ends_it_with_exit_code_1_and_says_why(engine: list[str], script: Path) -> None:
    script.write_text('(+ 1 "a")')
    done = command_in_child("serve", "--port", "0", *engine, "--script", str(script), "--log-level", "error")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the ")
    assert "type: cannot add i64 and str" in done.stderr
    assert "Traceback" not in done.stderr


def test_clients_of_a_read_only_server_cannot_write(script: Path) -> None:
    with serving("--read-only", "--script", str(script)) as server:
        assert value(server.url, "served_by_script") == "42"
        refused = command("query", server.url, "(set served_by_script 43)")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("error: access: ")


@pytest.mark.parametrize(("text", "seconds"), [("0", None), ("auto", 30.0), ("5", 5.0)])
def test_how_long_a_process_may_ignore_a_stop(text: str, seconds: float | None) -> None:
    parser = ArgumentParser()
    add_engine(parser)
    engine = engine_of(parser.parse_args(["--read-only", "--stop-timeout", text]))
    assert isinstance(engine, NativeProcess)
    assert engine._stop_timeout == seconds


def test_a_journal_brings_back_what_clients_wrote(tmp_path: Path) -> None:
    arguments = ["--journal", str(tmp_path / "journal"), "--journal-sync", "--memory", "1G", "--cores", "1"]
    with serving(*arguments) as server:
        assert value(server.url, "(set journaled 7)") == "7"
    with serving(*arguments) as server:
        assert value(server.url, "journaled") == "7"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_it_can_be_a_gateway_to_a_server_that_runs_already(host: str) -> None:
    with native_server() as native, serving("--engine", f"{host}:{native.port}") as server:
        assert value(server.url, "(at (.sys.info) 'pid)") == str(native.pid)


def test_the_password_of_the_engine_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    with native_server("-u", "secret") as native:
        remote = ["--engine", f"127.0.0.1:{native.port}", "--engine-user", "me"]
        with serving(*remote, "--engine-password-file", str(file)) as server:
            assert value(server.url, "(+ 1 2)") == "3"
        with serving(*remote) as server:
            refused = command("query", server.url, "(+ 1 2)")
    assert refused.returncode == 3
    assert "HTTP status 503" in refused.stderr


def test_a_query_longer_than_the_limit_is_refused() -> None:
    with serving("--max-message-size", "1K") as server:
        assert value(server.url, "(+ 1 2)") == "3"
        refused = command("query", server.url, "-", given=f'"{"x" * 2000}"')
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command_in_child("serve", "--port", str(port), "--log-level", "error")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: cannot listen on ws://127.0.0.1:{port}: address already in use\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_can_reach_is_refused_and_the_reason_told(host: str) -> None:
    said = wrong_usage("serve", "--host", host)
    assert said.startswith(f"--host {host} lets other machines connect, and clients can run any code ")
    assert "; add --generate-token, or " in said


def test_an_address_that_others_can_reach_is_served_on_purpose() -> None:
    with serving("--host", "0.0.0.0", "--allow-unauthenticated") as server:
        assert value(server.url, "(+ 1 2)") == "3"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "70000"], "Invalid port: 70000. Must be an int between 0 and 65535"),
        (["--port", "eighty"], "argument --port: invalid int value: 'eighty' (see rayforce-trio serve --help)"),
        (["--engine", "remote"], "--engine remote is not native, in-process or HOST:PORT"),
        (["--engine", "host:0"], "Invalid port: 0. Must be an int between 1 and 65535"),
        (["--engine", "in-process", "--journal", "base"], "--journal does not apply to --engine in-process"),
        (["--engine", "host:5000", "--script", "x.rfl"], "--script does not apply to --engine host:5000"),
        (["--cores", "0", "--engine", "in-process"], "--cores does not apply to --engine in-process"),
        (["--engine-user", "me"], "--engine-user does not apply to --engine native"),
        (["--engine", "in-process", "--script", "none.rfl"], "--script: there is no file 'none.rfl'"),
        (
            ["--max-message-size", "big"],
            "argument --max-message-size: 'big' is not a size; write 65536, 64K, 64M or 1G",
        ),
        (["--allowed-origin", "here"], "Invalid allowed_origins: 'here'. "),
        (["--cores", "5000"], "Invalid cores: 5000. "),
        (
            ["--trusted-proxy", "10.0.0.1/8"],
            "Invalid trusted_proxies: '10.0.0.1/8' has host bits set. Write '10.0.0.0/8'",
        ),
        (["--proxy-header", "Forwarded"], "proxy_header needs trusted_proxies"),
        (["--proxy-protocol"], "proxy_protocol needs trusted_proxies"),
        (["--stop-timeout", "soon"], "argument --stop-timeout: 'soon' is not a number of seconds, 0 or auto"),
        (["--stop-timeout", "5", "--engine", "host:5000"], "--stop-timeout does not apply to --engine host:5000"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    assert wrong_usage("serve", *arguments).startswith(says)


def test_a_password_file_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "none"
    said = wrong_usage("serve", "--engine", "host:5000", "--engine-password-file", str(file))
    assert said == f"{file} cannot be read: No such file or directory"


def test_the_log_goes_to_standard_error_from_the_level_on() -> None:
    for level, logged in ("info", True), ("warning", False):
        with serving("--log-level", level) as server:
            value(server.url, "(+ 1 2)")
            _, err = server.end()
        assert (" INFO rayforce_trio.server: connection 1 (127.0.0.1:" in err) is logged


def test_two_signals_end_it_before_it_serves_and_leave_no_engine_behind(tmp_path: Path) -> None:
    gate = tmp_path / "started"
    script = tmp_path / "slow.rfl"
    script.write_text(f'(write "{gate}" (format "%" (at (.sys.info) \'pid))) (while true 1)')
    os.mkfifo(gate)
    with started("serve", "--port", "0", "--script", str(script)) as process:
        try:
            engine = int(gate.read_text().strip().strip('"'))
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=BOUND)
        finally:
            process.kill()
    assert has_ended(engine, within=BOUND)
