"""A child process that ends with a block of code, or with this process."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from .._tasks import collapse_groups
from ._output import Output

_LIFELINE = Path(__file__).with_name("_exec_tied_to_parent.py")
_LAST_WORDS = 1.0  # seconds to read what a process has printed that is dead, if a child of its keeps the output open


@asynccontextmanager
async def child_process(
    command: Sequence[str], environment: Mapping[str, str], output: Output
) -> AsyncIterator[trio.Process]:
    """Run a program during a block, and log what it prints; when the block is left, it has ended.

    It is killed then, with what it has started. Ctrl-C in a terminal does not reach it.

    Raises:
        OSError: it cannot be started.
    """
    # The pipes are made here, not by trio, which leaves them open if it is cancelled while it starts the program.
    with ExitStack() as child_ends, ExitStack() as own_ends:
        lifeline, held = os.pipe()
        child_ends.callback(os.close, lifeline)
        own_ends.callback(os.close, held)
        printed, stdout = os.pipe()
        child_ends.callback(os.close, stdout)
        own_ends.callback((stream := trio.lowlevel.FdStream(printed)).close)
        with collapse_groups():
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(
                    partial(
                        trio.run_process,
                        [sys.executable, "-I", "-S", _LIFELINE, *command],
                        env=environment,
                        stdin=lifeline,
                        stdout=stdout,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        check=False,
                        deliver_cancel=_kill,
                    )
                )
                child_ends.close()
                nursery.start_soon(output.log_all, stream, f"engine process {process.pid}")
                yield process
                if process.returncode is not None:
                    with trio.move_on_after(_LAST_WORDS):
                        await output.ended.wait()
                nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    """End a process, and those it has started; SIGTERM would not end one that is stopped."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
