"""`NativeProcess`: how it starts, what becomes of it when it dies, and that it is gone when its server is."""

import gc
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support.engine_contract import ENDLESS, check_engine, open_session, request, running, value
from support.engine_processes import (
    LOCAL,
    Family,
    Log,
    ask_on,
    command_line,
    connected,
    ended,
    environment,
    has_ended,
    lives,
    pid_of,
    serving,
    write,
)
from support.leaks import no_leaks
from support.sweep import cancelled_at, swept
from support.watched import Queries, parent_of

from rayforce_trio import NativeEngine, NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._codec import native_server
from rayforce_trio._engines import _output, _process, _supervisor

PUBLIC_PASSWORD = "rayforce_trio"


async def ask(server: WSServer, query: str) -> Any:
    """Return the plain value of a query, asked on a connection of its own."""
    async with connected(server) as connection:
        return await ask_on(connection, query)


@pytest.fixture
def endless_script(tmp_path: Path) -> Path:
    """A script that says that it has begun, and does not end."""
    return write(tmp_path / "endless.rfl", f'(println "begun")\n{ENDLESS}\n')


@pytest.mark.trio
async def test_it_keeps_the_contract_of_engines(name: str) -> None:
    await check_engine(NativeProcess, name, stops=True)


# Starting


@pytest.mark.trio
async def test_clients_query_it_through_the_server() -> None:
    async with serving(NativeProcess()) as server, connected(server) as connection:
        assert await ask_on(connection, "(set x (til 5))") == [0, 1, 2, 3, 4]
        await connection.post("(set x (+ x 1))")
        assert await ask_on(connection, "x") == [1, 2, 3, 4, 5]
        with pytest.raises(errors.RayforceTypeError, match=re.escape('in the query (+ 1 "a")')):
            await connection.execute('(+ 1 "a")')
        verbose = await connection.execute_verbose('(do (println "hello") (sum x))')
        assert (verbose.output, verbose.value, verbose.error) == ("hello\n", 15, None)


@pytest.mark.trio
async def test_it_is_ready_once_the_script_has_run(tmp_path: Path) -> None:
    script = write(tmp_path / "slow.rfl", "(set total (sum (map (fn [n] (sum (til n))) (til 10000))))\n(set x 17)")
    async with serving(NativeProcess(script)) as server:
        assert await ask(server, "x") == 17


@pytest.mark.trio
@pytest.mark.parametrize(
    "file",
    ["plain.rfl", "two words.rfl", "\"quoted\" 'twice'.rfl", "价格 é.rfl", "back\\slash%s.rfl", "(exit 1).rfl", "-p"],
)
async def test_a_script_may_have_any_name(tmp_path: Path, file: str) -> None:
    async with serving(NativeProcess(write(tmp_path / file, "(set x 17)"))) as server:
        assert await ask(server, "x") == 17


@pytest.mark.trio
async def test_a_relative_path_is_that_of_the_time_when_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "script.rfl", "(set x 17)")
    monkeypatch.chdir(tmp_path)
    engine = NativeProcess("script.rfl")
    monkeypatch.chdir("/")
    async with serving(engine) as server:
        assert await ask(server, "x") == 17


async def by_serve(server: WSServer) -> None:
    await server.serve()


async def by_start(server: WSServer) -> None:
    async with trio.open_nursery() as nursery:
        try:
            await server.start(nursery)
        except Exception as error:  # noqa: BLE001 - raised below, outside the nursery
            caught = error
        else:
            nursery.cancel_scope.cancel()
    raise caught


async def by_entering(server: WSServer) -> None:
    async with server:
        pass


async def by_run(server: WSServer) -> None:
    await server.run()


every_way_to_start = pytest.mark.parametrize("start", [by_serve, by_start, by_entering, by_run])
Start = Callable[[WSServer], Awaitable[None]]


async def check_fails(start: Start, engine: NativeProcess, match: str) -> None:
    """Starting a server must fail with exactly this error, and leave nothing behind."""
    with trio.fail_after(30):
        async with no_leaks():
            with pytest.raises(errors.EngineError, match=match) as caught:
                await start(WSServer(0, host=LOCAL, engine=engine))
    assert type(caught.value) is errors.EngineError


@pytest.mark.trio
@every_way_to_start
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('(set x 1)\n(+ 1 "a")', r"ended with exit code 1 .*it printed:\n.*error: type: cannot add i64 and str"),
        ('(println "so far")\n(foo', r"ended with exit code 1 .*it printed:\n.*error: parse"),
        ('(println "so far") (exit 3)', r"ended with exit code 3 .*it printed:\n.*so far"),
        ('(println "so far") (.sys.exec "kill -9 $PPID")', r"was killed by signal 9 .*it printed:\n.*so far"),
    ],
    ids=["type", "parse", "exit", "killed"],
)
async def test_a_script_that_fails_is_an_error_that_carries_what_was_printed(
    start: Start, script: str, said: str, tmp_path: Path, family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.rfl", script)
    await check_fails(start, NativeProcess(path), f"(?s)^the engine process [0-9]+, with the script {path}, {said}")
    assert capsys.readouterr().out == ""


@pytest.mark.trio
@every_way_to_start
async def test_a_script_that_takes_the_login_hook_is_an_error_that_says_so(
    start: Start, tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "_EXIT_TIMEOUT", 0.05)
    script = write(tmp_path / "bad.rfl", "(set .ipc.on.auth (fn [user password] false))")
    await check_fails(start, NativeProcess(script), r"rejected the user name.*Does the script set \.ipc\.on\.auth\?")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": 10**30}, "expects a size"),
        ({"journal": "/proc/none/journal"}, "cannot open /proc/none/journal"),
        ({"executable": "/etc/passwd"}, "Permission denied"),
    ],
    ids=str,
)
async def test_what_the_program_refuses_is_an_error_that_says_why(
    options: dict[str, Any], said: str, family: Family
) -> None:
    await check_fails(by_serve, NativeProcess(**options), f"(?s)before it was ready; it printed:\n.*{said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"script": "/no/such.rfl"}, "Invalid script: there is no file '/no/such.rfl'"),
        ({"script": ""}, "Invalid script: there is no file ''"),
        ({"script": "/"}, "Invalid script: there is no file '/'"),
        ({"script": "a\0b"}, r"Invalid script: 'a\x00b'. Must be a path"),
        ({"script": 5}, "Invalid script: 5. Must be a path, a str or a Path"),
        ({"script": b"/etc/passwd"}, "Invalid script: b'/etc/passwd'. Must be a path, a str or a Path"),
        ({"executable": "/no/such"}, "Invalid executable: there is no file '/no/such'"),
        ({"journal": 5}, "Invalid journal: 5. Must be a path, a str or a Path"),
        ({"memory": 0}, "Invalid memory: 0"),
        ({"memory": ""}, "Invalid memory: ''"),
        ({"memory": 1.5}, "Invalid memory: 1.5"),
        ({"memory": True}, "Invalid memory: True"),
        ({"cores": -1}, "Invalid cores: -1"),
        ({"cores": 1024}, "Invalid cores: 1024"),
        ({"cores": "2"}, "Invalid cores: '2'"),
        ({"cores": True}, "Invalid cores: True"),
        ({"stop_timeout": 0}, "Invalid stop_timeout: 0. Must be a number of seconds above 0, 'auto', or None"),
        ({"stop_timeout": -1.5}, "Invalid stop_timeout: -1.5"),
        ({"stop_timeout": True}, "Invalid stop_timeout: True"),
        ({"stop_timeout": "soon"}, "Invalid stop_timeout: 'soon'"),
        ({"stop_timeout": float("nan")}, "Invalid stop_timeout: nan"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.RayforceValueError, match=re.escape(said)):
        NativeProcess(**arguments)


def test_a_journal_that_is_nowhere_cannot_be_in_step_with_the_disk() -> None:
    with pytest.raises(errors.RayforceValueError, match=r"^journal_sync needs journal"):
        NativeProcess(journal_sync=True)


@pytest.mark.trio
async def test_its_options_reach_the_program(tmp_path: Path) -> None:
    program = str(native_server())
    engine = NativeProcess(memory="1G", cores=1, journal=tmp_path / "one")
    async with serving(engine):
        assert command_line(pid_of(engine))[:1] == [program]
        options = command_line(pid_of(engine))[3:-1]
    assert options == ["-u", PUBLIC_PASSWORD, "-l", str(tmp_path / "one"), "-m", "1G", "-c", "1"]
    engine = NativeProcess(memory=2**30, journal=tmp_path / "two", journal_sync=True)
    async with serving(engine):
        options = command_line(pid_of(engine))[3:-1]
    assert options == ["-u", PUBLIC_PASSWORD, "-L", str(tmp_path / "two"), "-m", str(2**30)]
    engine = NativeProcess(read_only=True)
    async with serving(engine):
        options = command_line(pid_of(engine))[3:-1]
    assert options == ["-U", PUBLIC_PASSWORD]


def test_its_repr_is_how_it_is_made(tmp_path: Path) -> None:
    script = str(write(tmp_path / "script.rfl", ""))
    assert repr(NativeProcess()) == "NativeProcess()"
    assert repr(NativeProcess(script)) == f"NativeProcess({script!r})"
    assert repr(NativeProcess(read_only=True)) == "NativeProcess(read_only=True)"
    assert repr(NativeProcess(script, read_only=True)) == f"NativeProcess({script!r}, read_only=True)"


@pytest.mark.trio
async def test_its_id_is_known_while_it_is_ready() -> None:
    engine = NativeProcess()
    assert engine.pid is None
    async with serving(engine) as server:
        assert await ask(server, "(at (.sys.info) 'pid)") == engine.pid
    assert engine.pid is None


@pytest.mark.trio
async def test_a_port_taken_in_the_meantime_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = _process._free_port
    with socket.create_server((LOCAL, 0)) as taken:
        taken.setblocking(False)
        ports = [free_port(), taken.getsockname()[1]]
        monkeypatch.setattr(_process, "_free_port", lambda: ports.pop())
        engine = NativeProcess()
        async with serving(engine) as server:
            assert await ask(server, "(+ 1 2)") == 3
            assert not ports
        with pytest.raises(BlockingIOError):
            taken.accept()  # whoever has it was not even asked, and so not told the user name


@pytest.mark.trio
async def test_when_every_port_is_taken_it_gives_up(monkeypatch: pytest.MonkeyPatch, family: Family) -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        monkeypatch.setattr(_process, "_free_port", lambda: taken.getsockname()[1])
        await check_fails(by_serve, NativeProcess(), "other programs took every port")


@pytest.mark.trio
async def test_a_program_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(trio, "run_process", fail)
    await check_fails(by_serve, NativeProcess(), "cannot be started: no more processes")


# Who gets in


@pytest.mark.trio
async def test_nobody_gets_in_with_what_the_process_list_shows() -> None:
    engine = NativeProcess()
    async with serving(engine):
        shown = command_line(pid_of(engine))
        secret = environment(pid_of(engine))["RAYFORCE_TRIO_USER"]
        assert len(secret) >= 32
        assert not any(secret in argument for argument in shown)
        host, _, port = shown[shown.index("-p") + 1].partition(":")
        assert host == LOCAL

        async def log_in(user: str, password: str = PUBLIC_PASSWORD) -> None:
            await (await NativeEngine(host, int(port), user=user, password=password).open_session()).aclose()

        other = "a" if secret[-1] != "a" else "b"
        near = [secret[:-1], secret + "x", secret[:-1] + other, secret[::-1], secret.swapcase(), secret[0], other]
        for user in ["", "root", PUBLIC_PASSWORD, "null", "true", '"', "(", "x" * len(secret), *near]:
            with pytest.raises(errors.EngineError, match="rejected the user name or the password"):
                await log_in(user)
        for password in ["", "x", secret]:
            with pytest.raises(errors.EngineError, match="rejected the user name or the password"):
                await log_in(secret, password)
        await log_in(secret)


@pytest.mark.trio
async def test_every_process_has_a_secret_of_its_own(log: Log) -> None:
    engine, secrets = NativeProcess(), set[str]()
    async with serving(engine) as server:
        for _ in range(2):
            assert await ask(server, "1") == 1
            secrets.add(environment(pid_of(engine))["RAYFORCE_TRIO_USER"])
            await kill(engine, log)
    async with serving(engine):
        secrets.add(environment(pid_of(engine))["RAYFORCE_TRIO_USER"])
    assert len(secrets) == 3


@pytest.mark.trio
async def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture, log: Log) -> None:
    caplog.set_level(logging.DEBUG)
    engine = NativeProcess()
    async with serving(engine) as server:
        secret = environment(pid_of(engine))["RAYFORCE_TRIO_USER"]
        assert await ask(server, "1") == 1
        await kill(engine, log)
        assert await ask(server, "1") == 1
    assert "restarting it" in caplog.text
    assert secret not in caplog.text
    assert secret not in repr(engine)


# What it prints


@pytest.mark.trio
async def test_what_it_prints_goes_to_the_log(log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server, connected(server) as connection:
        assert await ask_on(connection, r'(println "one\ntwo")') is None
        for line in ("one", "two"):
            record = await log.told(f"engine process {engine.pid}: {line}")
            assert (record.name, record.levelno) == ("rayforce_trio.engine", logging.INFO)


@pytest.mark.trio
async def test_by_itself_it_prints_only_where_it_listens(log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server, connected(server) as connection:
        await ask_on(connection, "(println 'asked)")
        await log.told("asked")
        said = [record.getMessage() for record in log.records]
    assert [re.sub(r"\d+", "N", line) for line in said] == [
        "engine process N: listening on N.N.N.N:N",
        "engine process N: 'asked",
    ]


@pytest.mark.trio
async def test_an_error_in_a_post_is_a_warning(log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server, connected(server) as connection:
        await connection.post('(+ 1 "a")')
        record = await log.told(f"engine process {engine.pid}: ipc: .ipc.on.async hook raised an error")
        assert record.levelno == logging.WARNING
        await connection.post("(set x 5)")
        assert await ask_on(connection, "x") == 5
        assert len(log.saying("hook raised")) == 1


@pytest.mark.trio
async def test_long_lines_and_control_characters_do_not_spoil_the_log(log: Log) -> None:
    async with serving(NativeProcess()) as server, connected(server) as connection:
        await connection.execute('(println "\x1b[31mred\x07")')
        await connection.execute(f'(println "{"x" * 100_000}")')
        await connection.execute('(println "the end")')
        await log.told("the end")
        assert log.saying(r": \x1b[31mred\x07")
        assert all(record.getMessage().isprintable() for record in log.records)
        assert max(len(record.getMessage()) for record in log.records) < _output.LINE_LIMIT + 100
        assert sum(record.getMessage().count("x" * 100) for record in log.records) > 900


@pytest.mark.trio
async def test_it_may_print_more_than_a_pipe_holds_and_more_than_is_logged(log: Log) -> None:
    async with serving(NativeProcess(read_only=True)) as server:
        assert await ask(server, '(count (map (fn [n] (println "line")) (til 20000)))') == 20_000
        assert await ask(server, '(println "ipc: the end")') is None
        await log.told("ipc: the end")  # as a warning, it is logged in any case
    logged = len(log.saying(": line"))
    [report] = log.saying("lines left out")
    assert logged <= _output.MAX_LINES
    assert report.getMessage().endswith(f": {20_000 - logged} lines left out")


@pytest.mark.trio
async def test_the_time_for_a_restart_does_not_limit_the_opening_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the client of a slow machine is told that the process is not running."""
    async with serving(NativeProcess()) as server:
        monkeypatch.setattr(_process, "_RESTART_TIMEOUT", 0)
        assert await ask(server, "(+ 1 2)") == 3


# The journal


@pytest.mark.trio
@pytest.mark.parametrize("journal_sync", [False, True])
async def test_requests_are_there_again_after_it_was_killed(journal_sync: bool, tmp_path: Path, log: Log) -> None:
    engine = NativeProcess(journal=tmp_path / "journal", journal_sync=journal_sync)
    async with serving(engine) as server:
        async with connected(server) as connection:
            await connection.execute("(set x 5)")
            await connection.execute("(set x (+ x 1))")
            await connection.post("(set y 7)")
            assert await ask_on(connection, "y") == 7
        await kill(engine, log)
        async with connected(server) as connection:
            assert await ask_on(connection, "x") == 6
            with pytest.raises(errors.RayforceError, match=r"^name"):  # posts are not in it
                await connection.execute("y")
            await connection.execute("(set x (+ x 1))")
    async with serving(NativeProcess(journal=tmp_path / "journal")) as server:
        assert await ask(server, "x") == 7


@pytest.mark.trio
async def test_the_script_runs_after_the_replay(tmp_path: Path, log: Log) -> None:
    script = write(tmp_path / "script.rfl", "(set x 17)")
    engine = NativeProcess(script, journal=tmp_path / "journal")
    async with serving(engine) as server:
        async with connected(server) as connection:
            await connection.execute("(set x 5)")
            await connection.execute("(set y 6)")
        write(script, "(set x 18)\n(set z y)")
        await kill(engine, log)
        assert await ask(server, "(list x y z)") == [18, 6, 6]


@pytest.mark.trio
async def test_what_the_replay_prints_misleads_nobody(tmp_path: Path, log: Log) -> None:
    """Clients may print what the program says once it listens, which it does not yet in the replay; or half a line."""
    engine = NativeProcess(journal=tmp_path / "journal")
    async with serving(engine) as server:
        async with connected(server) as connection:
            await connection.execute("(set x 5)")
            await connection.execute(f'(println "listening on {LOCAL}:1")')
            await connection.execute("(sum (til 20000000))")
            await connection.execute('(.sys.exec "printf half")')
        await kill(engine, log)
        assert await ask(server, "x") == 5


# When it dies


async def kill(engine: NativeProcess, log: Log) -> None:
    """Kill the engine's process, and wait until that was noticed."""
    pid = pid_of(engine)
    os.kill(pid, signal.SIGKILL)
    await log.told(f"engine process {pid} was killed by signal {signal.SIGKILL:d}")


async def until_ready(engine: NativeProcess) -> None:
    with trio.fail_after(30):
        await engine._ready.wait()


async def check_lost(connection: WSClientConnection, query: str = "1") -> None:
    with pytest.raises(errors.ConnectionClosed, match="code 1011: the engine process disconnected") as caught:
        await connection.execute(query)
    assert caught.value.code == 1011


@pytest.mark.trio
async def test_a_client_that_ends_it_ends_nobodys_server(log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server:
        async with connected(server) as one, connected(server) as other:
            await one.execute("(set x 5)")
            assert await ask_on(other, "x") == 5
            await check_lost(one, "(exit 3)")
            await check_lost(other)
        async with connected(server) as connection:
            assert await ask_on(connection, "(+ 1 2)") == 3
            with pytest.raises(errors.RayforceError, match=r"^name"):  # it is a new one
                await connection.execute("x")
        record = await log.told("ended with exit code 3; restarting it now")
        assert record.levelno == logging.WARNING


@pytest.mark.trio
async def test_a_client_that_ends_it_by_a_post_ends_nobodys_server() -> None:
    async with serving(NativeProcess()) as server, connected(server) as connection:
        await connection.post("(exit 3)")
        await check_lost(connection)
        assert await ask(server, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_requests_that_wait_fail_when_it_is_killed(queries: Queries, log: Log) -> None:
    engine, query = NativeProcess(), queries()
    async with serving(engine) as server:
        async with (
            connected(server) as one,
            connected(server) as idle,
            connected(server) as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(check_lost, one, query.text)
            await query.begun()
            for connection, text in [(one, "1"), (one, "2"), (other, "3")]:
                nursery.start_soon(check_lost, connection, text)
            await kill(engine, log)
            await check_lost(idle)
        assert await ask(server, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_new_connections_wait_for_the_restart(log: Log) -> None:
    """However often it is killed, nobody who connects afterwards is refused."""
    engine, pids = NativeProcess(), set[int]()
    async with serving(engine) as server:
        for number in range(3):
            pids.add(pid_of(engine))
            os.kill(pid_of(engine), signal.SIGKILL)
            await log.told("was killed by signal 9; restarting it", times=number + 1)
            assert engine.pid is None
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(ask, server, "1")
        pids.add(pid_of(engine))
    assert len(pids) == 4


@pytest.mark.trio
async def test_who_comes_before_its_end_was_noticed_is_let_in_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_FIRST_RESTART_DELAY", 0.001)
    with trio.fail_after(30):
        async with no_leaks(), running(engine := NativeProcess()):
            for _ in range(5):
                pid = pid_of(engine)
                os.kill(pid, signal.SIGKILL)
                assert has_ended(pid, within=20)
                async with open_session(engine) as session:
                    assert value(await session.request(request("(+ 1 2)"))) == 3


@pytest.mark.trio
async def test_a_session_asked_for_as_the_process_ends_waits_for_the_next(autojump_clock: trio.abc.Clock) -> None:
    async def ask(engine: NativeProcess) -> None:
        with pytest.raises(errors.EngineError, match="is not running; it is being restarted"):
            await engine.open_session()

    async def end(engine: NativeProcess) -> None:
        engine._native, engine._ready = None, trio.Event()
        engine._ended.set()

    for _ in range(20):  # one of the two comes first, by chance
        engine = NativeProcess()
        engine._native = _process._ChildServer(1, in_flight=1, stop_timeout=30.0)
        engine._ready.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine)
            nursery.start_soon(end, engine)


@pytest.mark.trio
async def test_who_is_not_let_in_is_told_why() -> None:
    async with serving(NativeProcess()) as server:
        await ask(server, "(do (set .ipc.on.auth (fn [user password] false)) null)")
        with pytest.raises(errors.ConnectionRejected, match=r"503.*rejected the user name or the password"):
            await ask(server, "1")


@pytest.mark.trio
async def test_while_it_keeps_dying_pauses_grow_and_clients_are_told_until_the_script_is_mended(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = write(tmp_path / "script.rfl", "(set x 17)")
    engine = NativeProcess(script)
    async with serving(engine) as server:
        assert await ask(server, "x") == 17
        write(script, '(+ 1 "a")')
        await kill(engine, log)
        for pause in (0.1, 0.2, 0.4):
            record = await log.told(f"restarting it in {pause} seconds")
            assert record.levelno == logging.WARNING
        assert len(log.saying("cannot add i64 and str\nstartup script")) == 3  # each warning carries what was printed
        monkeypatch.setattr(_process, "_RESTART_TIMEOUT", 0)
        with pytest.raises(errors.ConnectionRejected) as caught:
            await ask(server, "1")
        assert caught.value.status == 503
        assert "the engine process is not running; it is being restarted" in caught.value.body
        monkeypatch.setattr(_process, "_RESTART_TIMEOUT", 30)
        write(script, "(set x 18)")
        assert await ask(server, "x") == 18


@pytest.mark.trio
async def test_who_waits_for_it_is_let_in_even_if_it_died_once_more(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "_RESTART_TIMEOUT", 60)
    script = write(tmp_path / "script.rfl", "(set x 17)")
    engine, values = NativeProcess(script), list[int]()

    async def ask_engine() -> None:
        async with open_session(engine) as session:
            values.append(value(await session.request(request("x"))))

    with trio.fail_after(30):
        async with no_leaks(), running(engine), trio.open_nursery() as nursery:
            write(script, "(exit 3)")
            await kill(engine, log)
            nursery.start_soon(ask_engine)
            await log.told("restarting it in 0.2 seconds")
            write(script, "(set x 18)")
    assert values == [18]


@pytest.mark.trio
async def test_it_cannot_run_twice_at_once() -> None:
    engine = NativeProcess()
    async with serving(engine) as server:
        with pytest.raises(errors.EngineError, match="already used by a server"):
            await WSServer(0, host=LOCAL, engine=engine).serve()
        assert await ask(server, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_a_process_that_clients_have_used_is_restarted_at_once_and_ends_the_growth_of_the_pauses(
    log: Log,
) -> None:
    engine = NativeProcess()
    async with serving(engine) as server:
        for number in range(3):
            await kill(engine, log)
            await log.told("restarting it in 0.1 seconds", times=number + 1)
            assert await ask(server, "1") == 1
            await kill(engine, log)
            await log.told("restarting it now", times=number + 1)
            await until_ready(engine)


@pytest.mark.trio
async def test_pauses_grow_to_a_limit(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_FIRST_RESTART_DELAY", 0.01)
    monkeypatch.setattr(_process, "MAX_RESTART_DELAY", 0.03)
    script = write(tmp_path / "script.rfl", "")
    engine = NativeProcess(script)
    async with serving(engine):
        write(script, "(exit 3)")
        await kill(engine, log)
        await log.told("restarting it in 0.03 seconds", times=3)
        assert len(log.saying("restarting it in 0.01 seconds")) == len(log.saying("restarting it in 0.02 seconds")) == 1


@pytest.mark.trio
async def test_a_restart_that_the_system_refuses_is_tried_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    run_process, failures = trio.run_process, [OSError("no more processes"), OSError("none yet")]

    async def run_or_fail(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return await run_process(*args, **kwargs)

    engine = NativeProcess()
    async with serving(engine) as server:
        monkeypatch.setattr(trio, "run_process", run_or_fail)
        await kill(engine, log)
        await log.told("no more processes; restarting it in 0.2 seconds")
        await log.told("none yet; restarting it in 0.4 seconds")
        assert await ask(server, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_it_is_started_again_when_file_descriptors_are_to_be_had_again(log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server:
        with no_new_descriptors():
            await kill(engine, log)
            await log.told("Too many open files; restarting it in 0.2 seconds")
        assert await ask(server, "(+ 1 2)") == 3


@contextmanager
def no_new_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.trio
async def test_any_signal_may_kill_it(log: Log) -> None:
    """Some have no name in Python."""
    engine = NativeProcess()
    async with serving(engine) as server:
        for number in (signal.SIGTERM, signal.SIGRTMIN + 1):
            pid = pid_of(engine)
            os.kill(pid, number)
            await log.told(f"engine process {pid} was killed by signal {number:d}")
            assert await ask(server, "(+ 1 2)") == 3


@pytest.mark.trio
@pytest.mark.parametrize("start", ["sleep 1000 &", "setsid sleep 1000 &"])
@pytest.mark.parametrize("end", ["(.sys.exit 3)", '(.sys.exec "kill -9 $PPID")'])
async def test_programs_that_queries_have_started_end_with_it(start: str, end: str, family: Family, log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server:
        await ask(server, f'(.sys.exec "{start}")')
        before = await family.grown_to(3)
        with pytest.raises(errors.ConnectionClosed):
            await ask(server, end)
        assert await ask(server, "(+ 1 2)") == 3
        after = family.pids()
        assert after == {pid_of(engine), parent_of(pid_of(engine))}
        assert not before & after


# When the server ends


@pytest.mark.trio
async def test_the_process_is_gone_when_the_server_has_ended(family: Family) -> None:
    engine = NativeProcess()
    async with serving(engine):
        pid = pid_of(engine)
        assert family.pids() == {pid, parent_of(pid)}
    assert not lives(pid)


@pytest.mark.trio
async def test_it_is_gone_after_stop(family: Family) -> None:
    engine = NativeProcess()
    server = WSServer(0, host=LOCAL, engine=engine)
    async with no_leaks(), trio.open_nursery() as nursery:
        await server.start(nursery)
        pid = pid_of(engine)
        await server.stop()
        assert not lives(pid)


@pytest.mark.trio
async def test_it_is_gone_when_an_exception_ends_the_block(family: Family) -> None:
    engine, pids = NativeProcess(), list[int]()

    async def fail() -> None:
        async with serving(engine):
            pids.append(pid_of(engine))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not lives(*pids)


@pytest.mark.trio
@pytest.mark.parametrize("query", [ENDLESS, '(.sys.exec "sleep 1000")'], ids=["loop", "shell"])
async def test_it_is_gone_with_what_it_runs_and_what_it_has_started(query: str, family: Family) -> None:
    """Even with what nothing but a kill can end."""
    server = WSServer(0, host=LOCAL, engine=NativeProcess())
    with trio.fail_after(60):
        async with no_leaks(), trio.open_nursery() as nursery:
            await server.start(nursery)
            await ask(server, '(.sys.exec "sleep 1000 &")')
            connection = await WSClient(LOCAL, server.port).connect(nursery)
            processes = await family.grown_to(3)  # the engine, its supervisor, and that
            await connection.post(query)
            if "sleep" in query:
                await family.grown_to(len(processes) + 1)
            nursery.cancel_scope.cancel()
        await family.gone()


@pytest.mark.trio
async def test_a_stopped_one_is_gone_too(family: Family) -> None:
    engine = NativeProcess()
    server = WSServer(0, host=LOCAL, engine=engine)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await server.start(nursery)
            pid = pid_of(engine)
            os.kill(pid, signal.SIGSTOP)
            nursery.cancel_scope.cancel()
    assert not lives(pid)


@pytest.mark.trio
async def test_starting_can_be_cancelled_while_the_script_runs(endless_script: Path, family: Family, log: Log) -> None:
    server = WSServer(0, host=LOCAL, engine=NativeProcess(endless_script))
    with trio.fail_after(30):
        async with no_leaks(), trio.open_nursery() as nursery:
            nursery.start_soon(by_entering, server)
            await log.told(": begun")
            assert family.pids()
            nursery.cancel_scope.cancel()
        assert not family.pids()


@pytest.mark.slow
@pytest.mark.trio
async def test_however_early_it_is_cancelled_the_process_is_gone(family: Family) -> None:
    """Cancelled at every step of every task, from before its start to when it answers."""

    async def run(step: int) -> bool:
        async with no_leaks():
            with cancelled_at(step, of_all_tasks=True) as (scope,):
                async with running(NativeProcess()) as engine:
                    await (await engine.open_session()).aclose()
        assert not family.pids()
        gc.collect()
        return scope.cancelled_caught

    with trio.fail_after(110):
        assert await swept(run) > 30


@pytest.mark.slow
@pytest.mark.trio
async def test_cancelled_at_any_point_of_a_restart_the_process_is_gone(
    family: Family, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "_FIRST_RESTART_DELAY", 0.001)

    async def run(step: int) -> bool:
        engine = NativeProcess()
        async with no_leaks():
            with trio.CancelScope():
                async with running(engine):
                    with cancelled_at(step, of_all_tasks=True) as (scope,):
                        await kill(engine, log)
                        await (await engine.open_session()).aclose()
        assert not family.pids()
        gc.collect()
        return scope.cancelled_caught

    with trio.fail_after(110):
        assert await swept(run) > 30


RUN = f"""
import sys
import trio
from rayforce_trio import NativeProcess, WSServer
trio.run(WSServer(0, host={LOCAL!r}, engine=NativeProcess(*sys.argv[1:]), drain_timeout=0.2).run)
"""

SLEEP = f"""
import trio
from rayforce_trio import NativeProcess, WSServer
async def main():
    async with WSServer(0, host={LOCAL!r}, engine=NativeProcess()) as server:
        print("Rayforce WebSocket served on", server.url, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@contextmanager
def program(code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a server as a program of its own, in a session of its own; it is killed in the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def port_of(child: "subprocess.Popen[str]") -> int:
    """Return the port of a server that is a program of its own, once it listens."""
    assert child.stdout is not None
    banner = child.stdout.readline()
    assert banner.startswith("Rayforce WebSocket served on ")
    return int(banner.rpartition(":")[2])


async def expect_code(connection: WSClientConnection, query: str, code: int) -> None:
    with pytest.raises(errors.ConnectionClosed, match=f"code {code}"):
        await connection.execute(query)


@pytest.mark.trio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [False, True], ids=["to the server", "to its process group"])
async def test_a_signal_ends_the_server_and_then_the_process(
    number: signal.Signals, to_all: bool, family: Family, queries: Queries
) -> None:
    """A terminal sends Ctrl-C to a whole process group; clients still see the server go away, and not the engine."""
    query = queries()
    with trio.fail_after(60), program(RUN) as child:
        client = WSClient(LOCAL, await trio.to_thread.run_sync(port_of, child))
        async with client.connect() as busy, client.connect() as idle, trio.open_nursery() as nursery:
            pid = await ask_on(idle, "(at (.sys.info) 'pid)")
            assert os.getsid(pid) == parent_of(pid) != os.getsid(child.pid)
            nursery.start_soon(expect_code, busy, query.text, 1001)
            await query.begun()
            if to_all:
                os.killpg(child.pid, number)
            else:
                child.send_signal(number)
            await expect_code(idle, "1", 1001)
        out, err = await trio.to_thread.run_sync(child.communicate)
        assert (child.returncode, out) == (0, "\nRayforce WebSocket Server stopped.\n")
        undone = [line.partition("): ")[2] for line in err.splitlines()]
        assert set(undone) == {"the server stops with 1 unfinished request or post"}
        await family.gone()


@pytest.mark.trio
async def test_a_keyboard_interrupt_ends_the_process(family: Family) -> None:
    with trio.fail_after(60), program(SLEEP) as child:
        await trio.to_thread.run_sync(port_of, child)
        os.killpg(child.pid, signal.SIGINT)
        _, err = await trio.to_thread.run_sync(child.communicate)
        assert err.endswith("\nKeyboardInterrupt\n")
        await family.gone()


@pytest.mark.trio
async def test_a_server_that_is_killed_takes_it_along_whatever_it_runs(family: Family) -> None:
    with trio.fail_after(60), program(RUN) as child:
        client = WSClient(LOCAL, await trio.to_thread.run_sync(port_of, child))
        async with client.connect() as connection:
            pid = await ask_on(connection, "(at (.sys.info) 'pid)")
            await connection.post(ENDLESS)
            child.kill()
            await ended(pid)
        await family.gone()


@pytest.mark.trio
async def test_a_server_that_is_killed_takes_along_what_it_started(family: Family) -> None:
    with trio.fail_after(60), program(RUN) as child:
        client = WSClient(LOCAL, await trio.to_thread.run_sync(port_of, child))
        async with client.connect() as connection:
            await connection.post('(.sys.exec "sleep 1000")')
            await family.grown_to(4)  # the server, its engine, the supervisor of that, and the program
            child.kill()
        await family.gone()


@pytest.mark.trio
async def test_a_server_killed_while_the_script_runs_takes_it_along(
    family: Family, queries: Queries, tmp_path: Path
) -> None:
    query = queries()
    script = write(tmp_path / "script.rfl", query.text)
    with trio.fail_after(60), program(RUN, str(script)) as child:
        await query.begun()
        child.kill()
        await family.gone()


def test_a_server_killed_before_the_program_began_takes_it_along(tmp_path: Path) -> None:
    """The system tells of a pipe that is closed, not of one that was closed before."""
    trace = tmp_path / "trace"
    reader, writer = os.pipe()
    os.close(writer)
    assert _supervisor.__file__ is not None
    command = [
        sys.executable,
        "-I",
        "-S",
        _supervisor.__file__,
        "2",
        "/bin/sh",
        "-c",
        f"touch {trace}; exec sleep 1000",
    ]
    with subprocess.Popen(command, stdin=reader, stderr=subprocess.DEVNULL) as child:
        os.close(reader)
        try:
            assert has_ended(child.pid, within=20)
        finally:
            child.kill()
    assert not trace.exists()
