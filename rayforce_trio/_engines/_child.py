"""A child process that ends with a block of code, or at the latest with this process."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from .._tasks import collapse_groups, enable_ki_protection
from ._output import Output

_EXEC_TIED_TO_PARENT = Path(__file__).with_name("_exec_tied_to_parent.py")
_OUTPUT_TIMEOUT = 1.0  # seconds to read the output of a process that has ended, if its own child keeps the pipe open


@asynccontextmanager
async def child_process(
    command: Sequence[str], environment: Mapping[str, str], output: Output
) -> AsyncIterator[trio.Process]:
    """Run a program during a block and log its output.

    A checkpoint on entry and on exit. At the end of the block, or if that is cancelled, the program and the processes
    that it has started are killed. Ctrl-C in a terminal does not reach them.

    Raises:
        OSError: the program cannot be started.
    """
    # The pipes are created here because trio leaves them open if it is cancelled while it starts the program.
    with ExitStack() as child_ends, ExitStack() as own_ends:
        stdin, held_by_parent = os.pipe()
        child_ends.callback(os.close, stdin)
        own_ends.callback(os.close, held_by_parent)
        output_pipe, stdout = os.pipe()
        child_ends.callback(os.close, stdout)
        own_ends.callback((stream := trio.lowlevel.FdStream(output_pipe)).close)
        with collapse_groups():
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(
                    partial(
                        _run_process,
                        [sys.executable, "-I", "-S", _EXEC_TIED_TO_PARENT, *command],
                        environment,
                        stdin=stdin,
                        stdout=stdout,
                    )
                )
                child_ends.close()
                nursery.start_soon(output.log_all, stream, f"engine process {process.pid}")
                yield process
                if process.returncode is not None:
                    with trio.move_on_after(_OUTPUT_TIMEOUT):
                        await output.ended.wait()
                nursery.cancel_scope.cancel()


@enable_ki_protection
async def _run_process(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    stdin: int,
    stdout: int,
    task_status: trio.TaskStatus[trio.Process],
) -> None:
    """Run a program in a process group of its own until it ends. A checkpoint; if cancelled, the group is killed.

    Raises:
        OSError: the program cannot be started.
    """
    await trio.run_process(
        command,
        env=environment,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        check=False,
        deliver_cancel=_kill,
        task_status=task_status,
    )


@enable_ki_protection
async def _kill(process: trio.Process) -> None:
    """Kill a process group. No checkpoint, so this cannot be cancelled.

    SIGTERM would not end a process that is stopped.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
