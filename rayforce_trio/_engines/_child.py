"""A child process that is killed, with its descendants, when a block or, at the latest, this process ends."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from .._tasks import collapse_groups, enable_ki_protection
from ._output import Output

_SUPERVISOR = Path(__file__).with_name("_supervisor.py")
_OUTPUT_TIMEOUT = 1.0  # seconds to read the output of a process that has ended, if its own child keeps the pipe open
_END_TIMEOUT = 4.0  # seconds for the supervisor to kill the program and its descendants; it needs half of that at most


class ChildProcess:
    """A program and the process that supervises it.

    Args:
        supervisor: the process that runs `_supervisor.py`. It ends after the program, with the same code or signal.
        requests: the file descriptor of the pipe to the supervisor's standard input.

    Attributes:
        pid: the process id of the program, or that of the supervisor if it could not start the program.
    """

    def __init__(self, supervisor: trio.Process, requests: int) -> None:
        self.pid = supervisor.pid
        self._supervisor = supervisor
        self._requests = requests

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that killed the program; `None` while it runs."""
        return self._supervisor.returncode

    async def wait(self) -> None:
        """Wait until the program and its descendants have ended. A checkpoint; cancelling it changes nothing."""
        await self._supervisor.wait()

    def kill(self) -> None:
        """Have the supervisor kill the program and its descendants, even if they are stopped. No checkpoint.

        Does not wait until they have ended. Idempotent.
        """
        self._supervisor.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            os.write(self._requests, b"!")

    def kill_without_supervisor(self) -> None:
        """Kill the supervisor and the program's process group, if they run, but no other descendants. No checkpoint.

        For a supervisor that does not respond, or was killed before it could do its work.
        """
        self._supervisor.kill()
        if self.pid != self._supervisor.pid:
            with suppress(ProcessLookupError, PermissionError):  # the latter on macOS, if it has ended
                os.killpg(self.pid, signal.SIGKILL)


@asynccontextmanager
async def child_process(
    command: Sequence[str], environment: Mapping[str, str], output: Output
) -> AsyncIterator[ChildProcess]:
    """Run a program during a block and log its output.

    A checkpoint on entry and on exit. At the end of the block, or if that is cancelled, the program and its descendants
    are killed. Ctrl-C in a terminal does not reach them.

    Raises:
        OSError: the program cannot be started.
    """
    # The pipes are created here because trio leaves them open if it is cancelled while it starts the program.
    with ExitStack() as child_ends, ExitStack() as own_ends:
        stdin, requests = os.pipe()
        child_ends.callback(os.close, stdin)
        own_ends.callback(os.close, requests)
        output_pipe, stdout = os.pipe()
        child_ends.callback(os.close, stdout)
        own_ends.callback((stream := trio.lowlevel.FdStream(output_pipe)).close)
        report_pipe, report = os.pipe()
        child_ends.callback(os.close, report)
        own_ends.callback((report_stream := trio.lowlevel.FdStream(report_pipe)).close)
        child: ChildProcess | None = None

        @enable_ki_protection
        async def end(supervisor: trio.Process) -> None:
            """Kill the program and the supervisor. A checkpoint; `trio.run_process` cancels it when they have ended."""
            running = child or ChildProcess(supervisor, requests)
            running.kill()
            await trio.sleep(_END_TIMEOUT)
            running.kill_without_supervisor()

        with collapse_groups():
            async with trio.open_nursery() as nursery:
                supervisor: trio.Process = await nursery.start(
                    partial(
                        _run_supervisor,
                        [sys.executable, "-I", "-S", _SUPERVISOR, str(report), *command],
                        env=environment,
                        stdin=stdin,
                        stdout=stdout,
                        pass_fds=[report],
                        deliver_cancel=end,
                    )
                )
                child = ChildProcess(supervisor, requests)
                child_ends.close()
                if pid := await _receive_all(report_stream):
                    child.pid = int(pid)
                nursery.start_soon(output.log_all, stream, f"engine process {child.pid}")
                try:
                    yield child
                finally:
                    if child.returncode is not None:
                        child.kill_without_supervisor()
                if child.returncode is not None:
                    with trio.move_on_after(_OUTPUT_TIMEOUT):
                        await output.ended.wait()
                nursery.cancel_scope.cancel()


@enable_ki_protection
async def _run_supervisor(
    command: Sequence[str | Path], *, task_status: trio.TaskStatus[trio.Process], **options: Any
) -> None:
    """Run a program as `trio.run_process` does, in a process group of its own. A checkpoint.

    If cancelled, `deliver_cancel` is called to end the program. Raises `OSError` if the program cannot be started.
    """
    await trio.run_process(
        command, stderr=subprocess.STDOUT, start_new_session=True, check=False, task_status=task_status, **options
    )


async def _receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive until the stream ends. A checkpoint; if cancelled, the received bytes are lost."""
    return b"".join([data async for data in stream])
