"""The engine that is a native Rayforce server in a child process: started, supervised and restarted here."""

import logging
import math
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Literal

import trio

from .._checks import check_flag
from .._codec import native_server
from .._tasks import enable_ki_protection, race
from .._text import counted, escape_controls
from ..errors import EngineError, RayforceValueError
from ._backoff import exponential_backoff
from ._base import Client, ClientMustWait, Engine, Session
from ._child import ChildProcess, child_process
from ._descriptors import reached_descriptor_limit
from ._native import MAX_IN_FLIGHT, STOP_TIMEOUT, NativeEngine
from ._native_session import NativeSession
from ._output import Output, output_limits
from ._session_reserve import SessionReserve
from ._suspects import Suspects

MAX_RESTART_DELAY = 30.0
"""The longest delay before a restart, in seconds, if processes repeatedly end before a client has used them."""

_FIRST_RESTART_DELAY = 0.1  # seconds
RESERVED_SESSIONS = 4
"""The number of sessions that are kept open for clients that come while the process accepts no connections."""

_ACCEPT_TIMEOUT = 1.2  # seconds for a new session; the system repeats an attempt to connect after one second
_SUSPICION_CHECK_INTERVAL = 60.0  # seconds
_RESTART_TIMEOUT = 1.5  # seconds that `open_session` waits for a process that is being restarted
_PORT_ATTEMPTS = 10
_EXIT_TIMEOUT = 1.0  # seconds for a process that ended the handshake to exit, so that its output explains why
_PASSWORD = "rayforce_trio"
_PORT_TAKEN = "Address already in use"
_HOST = "127.0.0.1"
_HERE = Path(__file__).parent

_MEMORY = re.compile(r"(?=.*[1-9])\d+(\.\d+)?[KMGTkmgt]?", re.ASCII)

logger = logging.getLogger("rayforce_trio.engine")


class NativeProcess(Engine):
    """A Rayforce server process that starts and ends with the server.

    As with `NativeEngine`, the event loop stays free while queries run, and cancelling a query stops it. If a query
    kills the engine process, the server restarts it: connections that use it are closed, and new ones work. The process
    listens on a free port of the loopback interface and accepts no other clients. A `NativeProcess` serves one server
    at a time.

    Args:
        script: a Rayfall file that the process runs first. If it fails, the server does not start. If it fails in a
            later restart, the restart is repeated.
        read_only: whether the engine refuses operations that write, run programs or read files (`-U`). Clients can
            still read tables on the disk, list directories and end the process (`.sys.exit`). Cannot be used with a
            journal. The engine receives up to eight requests of a client at a time, and may evaluate them in another
            order.
        journal: the base name of the journal files (`-l`), to which the engine appends `.log` and other suffixes. The
            process logs each request before it runs it, and replays all of them when it starts, before the script.
            Posts are not logged.
        journal_sync: whether each journal entry is written to the disk before its request runs (`-L`).
        memory: the memory that the engine uses before it uses the disk, in bytes or in the engine's notation, such as
            `"4G"` (`-m`). `None`: a share of the memory of the machine or control group.
        cores: the number of threads, 0 to 1023; 0 for all cores (`-c`). `None`: all cores.
        executable: the program to run. `None`: the one that comes with rayforce-py.
        stop_timeout: the seconds after which the process is killed and restarted if it ignores a stop. The time in
            which it evaluates a query that nobody has stopped does not count. `None`: never, because the data in its
            memory would be lost; `/healthz` reports the problem after 30 seconds. `"auto"`: 30 with `read_only`,
            otherwise `None`. A process that rejects the server's own credentials is restarted, or reported, without
            this delay.

    Raises:
        RayforceValueError: an argument is out of range, or a file does not exist.
    """

    def __init__(
        self,
        script: str | PathLike[str] | None = None,
        *,
        read_only: bool = False,
        journal: str | PathLike[str] | None = None,
        journal_sync: bool = False,
        memory: int | str | None = None,
        cores: int | None = None,
        executable: str | PathLike[str] | None = None,
        stop_timeout: float | Literal["auto"] | None = "auto",
    ) -> None:
        check_flag("read_only", read_only)
        check_flag("journal_sync", journal_sync)
        if read_only and journal is not None:
            raise RayforceValueError(
                "read_only and journal cannot be used together: read-only clients make no changes that a journal could "
                "restore, and replayed requests are not restricted. Load the data with a script instead"
            )
        if journal_sync and journal is None:
            raise RayforceValueError("journal_sync needs journal, the base name of the journal files")
        self._script = None if script is None else _file(script, "script")
        self._executable = _file(native_server() if executable is None else executable, "executable")
        self._options = ["-U" if read_only else "-u", _PASSWORD]
        if journal is not None:
            self._options += ["-L" if journal_sync else "-l", str(_path(journal, "journal"))]
        if memory is not None:
            if type(memory) not in (int, str) or not _MEMORY.fullmatch(str(memory)):
                raise RayforceValueError(
                    f"Invalid memory: {memory!r}. Must be a number of bytes, an int above 0, or a str such as '4G'"
                )
            self._options += ["-m", str(memory)]
        if cores is not None:
            if type(cores) is not int or not 0 <= cores <= 1023:
                raise RayforceValueError(f"Invalid cores: {cores!r}. Must be an int between 0 (all cores) and 1023")
            self._options += ["-c", str(cores)]
        self._stop_timeout = _checked_stop_timeout(stop_timeout, read_only=read_only)
        self._read_only = read_only
        self._has_journal = journal is not None
        self._suspects = Suspects()
        self._output_limits = output_limits()
        self._running = False
        self._pid: int | None = None
        self._native: _ChildServer | None = None
        self._was_used = False  # whether a client has used the process that is running, or that was the last to run
        self._ready = trio.Event()
        self._ended = trio.Event()

    def __repr__(self) -> str:
        given = [repr(self._script)] if self._script else []
        return f"NativeProcess({', '.join([*given, *(['read_only=True'] if self._read_only else [])])})"

    @property
    def pid(self) -> int | None:
        """The process id; `None` while the process is not ready."""
        return self._pid

    @property
    def pushes(self) -> bool:
        return True

    @property
    def is_down(self) -> bool:
        return self._native is None or self._native.is_down

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a process running until cancelled. A checkpoint; however this ends, no process is left running.

        `task_status.started()` is called when the process is ready, after it has replayed the journal and run the
        script.

        Raises:
            EngineError: the first process ended before it was ready; the text includes its output. Or the engine is
                already in use by another server.
        """
        if self._running:
            raise EngineError("this NativeProcess is already used by a server; create one for each server")
        self._running = True
        try:
            await self._keep_running(task_status)
        finally:
            self._running = False
            self._suspects = Suspects()

    async def _keep_running(self, task_status: trio.TaskStatus[None]) -> None:
        """Run one process after the other until cancelled. Checkpoints, cancellation and errors are those of `run`."""
        started = False

        def on_ready() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        delays: Iterator[float] | None = None  # grow while processes end before a client has used them
        while True:
            try:
                end = await self._run_once(on_ready)
            except EngineError as error:
                if not started:
                    raise
                end = str(error)
            except OSError as error:
                if not started:
                    raise EngineError(f"the engine process cannot be started: {error}") from error
                end = str(error)
            else:
                delays = None if self._was_used else delays
                if self._was_used:
                    # A client may have ended it. Do not make the others wait.
                    logger.warning("%s; restarting it now", end)
                    continue
            if delays is None:
                delays = exponential_backoff(_FIRST_RESTART_DELAY, MAX_RESTART_DELAY)
            delay = next(delays)
            logger.warning("%s; restarting it in %s", end, counted(delay, "second"))
            await trio.sleep(delay)

    async def open_session(self) -> Session:
        """Open a session, and wait for a restart if necessary. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: the process is not running, or its script rejects the connection.
        """
        return await self._open_session(None)

    async def open_session_for(self, client: Client) -> Session:
        return await self._open_session(client)

    async def _open_session(self, client: Client | None) -> Session:
        """Open a session, and wait for a restart if necessary. A checkpoint; if cancelled, nothing is left open.

        Raises:
            ClientMustWait: the client has ended a process.
            EngineError: as for `open_session`.
        """
        not_running = EngineError("the engine process is not running; it is being restarted")
        restart_deadline = trio.current_time() + _RESTART_TIMEOUT
        while True:
            if not await _is_set_by(restart_deadline, self._ready):
                raise not_running
            native, ended = self._native, self._ended
            if native is None:
                continue  # it has just ended
            self._refuse_if_it_must_wait(client)
            self._was_used = True
            try:
                if client is not None and self._must_be_alone(client):
                    return await native.open_session_alone(client)
                return await (native.open_session() if client is None else native.open_session_for(client))
            except EngineError:
                # The process may have ended already, but that has not been noticed yet.
                if not await _is_set_by(restart_deadline, ended):
                    raise

    def _must_be_alone(self, client: Client) -> bool:
        return self._suspects.must_be_alone(client, trio.current_time())

    def _refuse_if_it_must_wait(self, client: Client | None) -> None:
        """Raise `ClientMustWait` if a client must wait before it can connect again."""
        if client is not None and (wait := self._suspects.wait_of(client, trio.current_time())):
            raise ClientMustWait(
                f"your queries have ended the engine process; wait {counted(math.ceil(wait), 'second')} before you "
                "connect again",
                wait,
            )

    def _find_suspects(self, native: "_ChildServer", pid: int) -> None:
        """Record whose requests were in flight when a process ended."""
        alone, clients = native.unfinished()
        now = trio.current_time()
        for client in alone:
            wait = self._suspects.process_ended_by(client, now)
            logger.warning(
                "the engine process %d ended during a request of %s, and so did an earlier process; this client is "
                "refused for %s",
                pid,
                escape_controls(str(client)),
                counted(wait, "second"),
            )
        if not alone:
            self._suspects.process_ended(clients, now)

    async def _run_once(self, on_ready: Callable[[], None]) -> str:
        """Start a process and wait for its end; returns a description of how it ended.

        A checkpoint; if cancelled, the process is killed.

        Raises:
            EngineError: the process ended before it was ready.
            OSError: the process could not be started.
        """
        for _ in range(_PORT_ATTEMPTS):
            end = await self._run_on(_free_port(), on_ready)
            if end is not None:
                return end
        raise EngineError("the engine process cannot be started: other programs took every port that it was given")

    async def _run_on(self, port: int, on_ready: Callable[[], None]) -> str | None:
        """Like `_run_once`, on this port; returns `None` if another process has taken the port.

        A checkpoint; if cancelled, the process is killed.
        """
        native = _ChildServer(
            port,
            in_flight=MAX_IN_FLIGHT if self._read_only else 1,
            stop_timeout=self._stop_timeout or STOP_TIMEOUT,
            has_journal=self._has_journal,
        )
        output = Output(f"{_HOST}:{port}", self._output_limits)
        command = [self._executable, *self._arguments(port)]
        environment = {
            **os.environ,
            "RAYFORCE_TRIO_USER": native.user,
            "RAYFORCE_TRIO_SCRIPT": self._script or "",
            "RAYFORCE_TRIO_READ_ONLY": "yes" if self._read_only else "",
        }
        async with child_process(command, environment, output) as process:
            was_ready = await self._supervise(process, native, output, on_ready)
        if was_ready:
            return f"the engine process {process.pid} {_exit_text(process)}"
        if _PORT_TAKEN in str(output):
            return None
        script = "" if self._script is None else f", with the script {self._script},"
        raise EngineError(
            f"the engine process {process.pid}{script} {_exit_text(process)} before it was ready; it printed:\n{output}"
        )

    async def _supervise(
        self, process: ChildProcess, native: "_ChildServer", output: Output, on_ready: Callable[[], None]
    ) -> bool:
        """Allow sessions when the process is ready, until it ends or must be killed; returns whether it was ever ready.

        A checkpoint; if cancelled, no more sessions are allowed.

        Raises:
            EngineError: the process is running but ended the handshake.
        """

        async def allow_sessions() -> None:
            """Wait until the process is ready, and then until cancelled, which leaves no session open. A checkpoint."""
            await output.listening.wait()  # the port belongs to the process now: no other one receives the user name
            native.pid = process.pid
            await native.wait_until_ready()  # the replay of the journal and the script come first
            self._native, self._pid, self._ended, self._was_used = native, process.pid, trio.Event(), False
            self._ready.set()
            on_ready()
            await race(native.monitor.run, native.keep_reserve)

        async def wait_for_exit() -> None:
            await process.wait()

        async def kill_if_down() -> None:
            """Return when the process must be killed. A checkpoint; cancelling it changes nothing."""
            while True:
                await native.monitor.wait_until_down()
                with trio.move_on_after(_EXIT_TIMEOUT):
                    await process.wait()  # it may have rejected a session because it was about to end
                if native.is_down:
                    break
            logger.warning("the engine process %d %s; killing it", process.pid, native.monitor.problem)

        async def clear_suspects() -> None:
            """Check regularly whose requests need not be alone any more, until cancelled. A checkpoint."""
            while True:
                await trio.sleep(_SUSPICION_CHECK_INTERVAL)
                native.reconsider(self._must_be_alone)

        try:
            on_down = native.monitor.log_problems if self._stop_timeout is None else kill_if_down
            await race(allow_sessions, wait_for_exit, on_down, clear_suspects)
        except EngineError as error:
            with trio.move_on_after(_EXIT_TIMEOUT):
                await process.wait()
            if process.returncode is None:
                raise EngineError(f"{error}. Does the script set .ipc.on.auth? It printed:\n{output}") from None
        finally:
            was_ready = self._native is native
            if was_ready:
                self._native, self._pid, self._ready = None, None, trio.Event()
                self._ended.set()
        if was_ready:
            self._find_suspects(native, process.pid)
        return was_ready

    def _arguments(self, port: int) -> list[str]:
        return ["-p", f"{_HOST}:{port}", *self._options, str(_HERE / "_boot.rfl")]


class _ChildServer(NativeEngine):
    """The server in the child process.

    Every user of the machine can connect to its port, so it may have no file descriptors left for new sessions, or its
    queue of new connections may be full. Clients then get sessions that were opened in advance, while they last.

    Args:
        port: its port on the loopback interface.
        in_flight: as for `NativeEngine`.
        stop_timeout: for how long it may ignore a stop before it counts as down, in seconds.
        has_journal: whether it records requests in a journal.

    Attributes:
        monitor: watches whether the server obeys stops. The caller runs it.
        pid: the id of its process, as soon as it is known.
    """

    _name = "the engine process"

    def __init__(self, port: int, *, in_flight: int, stop_timeout: float, has_journal: bool = False) -> None:
        super().__init__(_HOST, port, user=secrets.token_urlsafe(32), password=_PASSWORD, in_flight=in_flight)
        self._has_journal = has_journal
        self._group.watchdog.limit = stop_timeout
        self.monitor = self._monitor
        self._reserve = SessionReserve(RESERVED_SESSIONS, self._open_ready_session)
        self.pid: int | None = None

    async def open_session_alone(self, client: Client) -> Session:
        """Like `open_session_for`, also if cancelled, for a client whose requests must be alone in the engine."""
        return await self._open_waiting_session(client, is_alone=True)

    def unfinished(self) -> tuple[set[Client], set[Client]]:
        """Return the clients that had requests in flight when the server ended: see `SessionGroup.unfinished`."""
        return self._group.unfinished()

    def reconsider(self, must_be_alone: Callable[[Client], bool]) -> None:
        """Let the requests of clients be in flight together with others unless `must_be_alone` is true for them."""
        self._group.reconsider(must_be_alone)

    async def keep_reserve(self) -> None:
        """Keep sessions in reserve until cancelled, and then close them. A checkpoint."""
        await self._reserve.run()

    async def _open_waiting_session(self, client: Client | None = None, *, is_alone: bool = False) -> NativeSession:
        """Open a session, or take one from the reserve. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: as for `open_session`, or the process accepts no connections and the reserve is empty.
        """
        session: NativeSession | None = None
        limit: int | None = None
        try:
            with trio.move_on_after(_ACCEPT_TIMEOUT):
                session = await super()._open_waiting_session(client, is_alone=is_alone)
            if session is not None and session.ready:
                return session
            limit = await self._reached_descriptor_limit()
            if session is not None and limit is None:
                return session  # the process is busy
        except EngineError:
            limit = await self._reached_descriptor_limit()
            if limit is None:
                raise
        except BaseException:
            if session is not None:
                session.abort()
            raise
        if session is not None:
            session.abort()
        reserved = self._reserve.take()
        if reserved is None:
            raise EngineError(self._reason(limit))
        reserved.client, reserved.is_alone = client, is_alone
        try:
            await self._group.add(reserved)
        except BaseException:
            reserved.abort()
            raise
        return reserved

    def _reason(self, limit: int | None) -> str:
        """Return why the process accepts no connection, given its limit on file descriptors if it has reached that."""
        if limit is None:
            return f"{self._name} did not accept a connection in time"
        return (
            f"{self._name} has used up its {limit} file descriptors; other programs on this machine may hold "
            "connections to its port"
        )

    async def _reached_descriptor_limit(self) -> int | None:
        """Return the process's limit on file descriptors if it has reached it, as far as the system tells.

        A checkpoint; cancelling it changes nothing.
        """
        return None if self.pid is None else await trio.to_thread.run_sync(reached_descriptor_limit, self.pid)


def _checked_stop_timeout(value: object, *, read_only: bool) -> float | None:
    if value == "auto":
        return STOP_TIMEOUT if read_only else None
    if value is None or (type(value) in (int, float) and value > 0):  # type: ignore[operator]  # it is a number
        return value  # type: ignore[return-value]  # as above
    raise RayforceValueError(
        f"Invalid stop_timeout: {value!r}. Must be a number of seconds above 0, 'auto', or None to never restart the "
        "process"
    )


async def _is_set_by(deadline: float, event: trio.Event) -> bool:
    """Wait for an event until a time on trio's clock; return whether it is set.

    A checkpoint only if it has to wait; cancelling it changes nothing.
    """
    if not event.is_set():
        with trio.move_on_at(deadline):
            await event.wait()
    return event.is_set()


def _exit_text(process: ChildProcess) -> str:
    code = process.returncode
    assert code is not None
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


def _path(path: object, argument: str) -> Path:
    try:
        found = Path(path).absolute()  # type: ignore[arg-type]  # anything but a path raises TypeError
        is_possible = b"\0" not in os.fsencode(found)
    except (TypeError, UnicodeEncodeError):
        is_possible = False
    if not is_possible:
        raise RayforceValueError(f"Invalid {argument}: {path!r}. Must be a path, a str or a Path")
    return found


def _file(path: object, argument: str) -> str:
    file = _path(path, argument)
    if not file.is_file():
        raise RayforceValueError(f"Invalid {argument}: there is no file {str(path)!r}")
    return str(file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
