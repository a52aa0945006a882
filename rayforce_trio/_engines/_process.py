"""A native Rayforce server as a child of this process: started, watched, restarted, and ended with the server."""

import logging
import os
import secrets
import socket
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import trio

from .._codec import native_server
from .._tasks import race
from ..errors import EngineError, RayforceValueError
from ._backoff import exponential_backoff
from ._base import Engine, Session
from ._child import child_process
from ._native import NativeEngine
from ._output import Output

LONGEST_PAUSE = 30.0
"""The longest pause before a process that keeps dying is started again, in seconds."""

_FIRST_PAUSE = 0.1
_STABLE_AFTER = 60.0  # seconds: one that lived so long does not keep dying
_SESSION_PATIENCE = 1.5  # seconds a new session waits for a process that is being restarted
_PORT_ATTEMPTS = 10
_LAST_WORDS = 1.0  # seconds for a process that broke off the handshake to end, and so to explain it
_PASSWORD = "rayforce_trio"
_PORT_TAKEN = "Address already in use"
_HOST = "127.0.0.1"
_HERE = Path(__file__).parent

logger = logging.getLogger("rayforce_trio.engine")


class NativeProcess(Engine):
    """A Rayforce server process of the server's own, which lives and ends with it.

    As with `NativeEngine`, the event loop stays free while queries run, and cancelling one stops it. What a client does
    to the engine ends at most this process, and a new one takes its place: sessions that were open fail, new ones work.
    It listens on a free port of the loopback interface, and lets in nobody else.

    Args:
        script: a Rayfall file to run first. If it fails, so does starting the server; later restarts are tried again.
        read_only: have the engine refuse clients what writes, runs programs or reads files (`-U`). Tables on the disk
            can still be read, and directories listed, and the process ended (`.sys.exit`). Not with a journal.
        journal: where to log requests before they run (`-l`, `.log` and the like are appended), and to replay them from
            at start, before the script runs. Posts are not in it.
        journal_sync: have every entry on the disk before the request runs (`-L`).
        memory: what the engine may take before it uses the disk, in bytes or as the engine writes it, `"4G"` (`-m`).
        cores: how many threads it may use (`-c`).
        executable: the program; the default is the one that comes with rayforce-py.

    Raises:
        RayforceValueError: an argument is out of range, or there is no such file.
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
    ) -> None:
        if read_only and journal is not None:
            raise RayforceValueError(
                "read_only and journal do not go together: clients that only read leave nothing to bring back, and "
                "what a journal replays is not restricted as they are. Load what they read with a script"
            )
        if journal_sync and journal is None:
            raise RayforceValueError("journal_sync needs journal, which says where the journal is")
        self._script = None if script is None else _file(script, "script")
        self._executable = _file(native_server() if executable is None else executable, "executable")
        self._options = ["-U" if read_only else "-u", _PASSWORD]
        if journal is not None:
            self._options += ["-L" if journal_sync else "-l", str(_path(journal, "journal"))]
        if memory is not None:
            if type(memory) not in (int, str) or not memory:
                raise RayforceValueError(f"Invalid memory: {memory!r}. Must be a number of bytes, or such as '4G'")
            self._options += ["-m", str(memory)]
        if cores is not None:
            if type(cores) is not int or not 0 <= cores <= 1023:
                raise RayforceValueError(f"Invalid cores: {cores!r}. Must be an int between 0, for all, and 1023")
            self._options += ["-c", str(cores)]
        self._read_only = read_only
        self._running = False
        self._pid: int | None = None
        self._native: NativeEngine | None = None
        self._ready = trio.Event()
        self._gone = trio.Event()

    def __repr__(self) -> str:
        given = [repr(self._script)] if self._script else []
        return f"NativeProcess({', '.join([*given, *(['read_only=True'] if self._read_only else [])])})"

    @property
    def pid(self) -> int | None:
        """The process's id; `None` while it is not ready."""
        return self._pid

    @property
    def is_down(self) -> bool:
        return self._native is None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a process running, until cancelled. A checkpoint; when it has ended, so has the process.

        `task_status.started()` is called once the process answers; a script, or a journal, may take its time.

        Raises:
            EngineError: it ended before it answered the first time; the text carries what it printed. Or it runs
                already, for another server.
        """
        if self._running:
            raise EngineError("an engine process serves one server at a time; make another NativeProcess")
        self._running = True
        try:
            await self._keep_running(task_status)
        finally:
            self._running = False

    async def _keep_running(self, task_status: trio.TaskStatus[None]) -> None:
        started = False

        def on_ready() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        pauses = exponential_backoff(_FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            since = trio.current_time()
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
            if trio.current_time() - since > _STABLE_AFTER:
                pauses = exponential_backoff(_FIRST_PAUSE, LONGEST_PAUSE)
            pause = next(pauses)
            logger.warning("%s; it is started again in %g seconds", end, pause)
            await trio.sleep(pause)

    async def open_session(self) -> Session:
        reason = down = "the engine process is not running; it is being started again"
        with trio.move_on_after(_SESSION_PATIENCE):
            while True:
                await self._ready.wait()
                native, gone = self._native, self._gone
                if native is None:
                    continue  # it ended just now
                try:
                    return await native.open_session()
                except EngineError as error:
                    reason = str(error)
                await gone.wait()  # it may have ended, though that was not noticed yet
                reason = down
        raise EngineError(reason)

    async def _run_once(self, on_ready: Callable[[], None]) -> str:
        """Start a process and wait for its end; returns how it ended.

        Raises:
            EngineError: it ended before it answered.
            OSError: it could not be started.
        """
        for _ in range(_PORT_ATTEMPTS):
            end = await self._run_on(_free_port(), on_ready)
            if end is not None:
                return end
        raise EngineError("the engine process found every port taken that had just been free")

    async def _run_on(self, port: int, on_ready: Callable[[], None]) -> str | None:
        """Like `_run_once`, on this port; returns `None` if somebody took it in the meantime."""
        native = _OwnServer(_HOST, port, user=secrets.token_urlsafe(32), password=_PASSWORD)
        output = Output(f"{_HOST}:{port}")
        command = [self._executable, *self._arguments(port)]
        environment = {
            **os.environ,
            "RAYFORCE_TRIO_USER": native.user,
            "RAYFORCE_TRIO_SCRIPT": self._script or "",
            "RAYFORCE_TRIO_READ_ONLY": "yes" if self._read_only else "",
        }
        async with child_process(command, environment, output) as process:
            answered = await self._attend(process, native, output, on_ready)
        if answered:
            return f"the engine process {process.pid} {_how(process)}"
        if _PORT_TAKEN in str(output):
            return None
        what = "" if self._script is None else f", with the script {self._script},"
        raise EngineError(
            f"the engine process {process.pid}{what} {_how(process)} before it could be used; it printed:\n{output}"
        )

    async def _attend(
        self, process: trio.Process, native: NativeEngine, output: Output, on_ready: Callable[[], None]
    ) -> bool:
        """Let sessions in as soon as the process answers, until it ends; returns whether it ever answered."""

        async def let_in() -> None:
            await output.listening.wait()  # from here on the port is its own, and nobody else is told the user name
            session = await native.open_session()
            try:
                await session.handshake()  # the script may take its time, and so may the replay of the journal
            finally:
                await session.aclose()
            self._native, self._pid, self._gone = native, process.pid, trio.Event()
            self._ready.set()
            on_ready()
            await trio.sleep_forever()

        async def wait() -> None:
            await process.wait()

        try:
            await race(let_in, wait)
        except EngineError as error:
            with trio.move_on_after(_LAST_WORDS):
                await process.wait()
            if process.returncode is None:
                raise EngineError(f"{error}. Does the script set .ipc.on.auth? It printed:\n{output}") from None
        finally:
            answered = self._native is native
            if answered:
                self._native, self._pid, self._ready = None, None, trio.Event()
                self._gone.set()
        return answered

    def _arguments(self, port: int) -> list[str]:
        return ["-p", f"{_HOST}:{port}", *self._options, str(_HERE / "_boot.rfl")]


class _OwnServer(NativeEngine):
    _name = "the engine process"


def _how(process: trio.Process) -> str:
    code = process.returncode
    assert code is not None
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


def _path(path: object, argument: str) -> Path:
    try:
        return Path(path).absolute()  # type: ignore[arg-type]  # what is no path raises
    except TypeError:
        raise RayforceValueError(f"Invalid {argument}: {path!r}. Must be a path") from None


def _file(path: object, argument: str) -> str:
    file = _path(path, argument)
    if not file.is_file():
        raise RayforceValueError(f"Invalid {argument}: there is no file {str(path)!r}")
    return str(file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
