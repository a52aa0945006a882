"""A child process and its supervisor: how it ends, and that its descendants end with it."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from support.engine_processes import Family, Log, ended, has_ended, write
from support.leaks import no_leaks
from support.polling import until
from support.watched import parent_of, state_of

from rayforce_trio._engines import _child
from rayforce_trio._engines._child import ChildProcess, child_process
from rayforce_trio._engines._output import Output

STAY = "echo $$ >{directory}/new; mv {directory}/new {directory}/pid; exec sleep 1000"
"""Writes its process id to a file, and keeps running."""

WAIT = "while ! [ -e {}/go ]; do sleep 0.01; done"
"""Waits for the file that the test creates when the supervisor has reported the program."""

PROGRAMS = {
    "background": "sh {stay} &",
    "no hangup": "nohup sh {stay} >{directory}/output 2>&1 &",
    "own session": "setsid sh {stay} &",
    "forked twice": "(setsid sh -c 'sh {stay} &' &)",
    "no environment": "env -i setsid {shell} {stay} >{directory}/output 2>&1 </dev/null &",
    "ignores signals": "setsid sh -c 'trap \"\" HUP INT TERM QUIT; . {stay}' &",
    "stopped": "setsid sh -c 'sh {stay} & sleep 1000 & kill -STOP $$' &",
}
"""Shell commands that start a program which outlives the shell."""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no subreapers")


@asynccontextmanager
async def running(script: str, output: Output | None = None) -> AsyncIterator[ChildProcess]:
    """Run a shell script as a child process for the block."""
    with trio.fail_after(30):
        async with no_leaks(), child_process(["/bin/sh", "-c", script], os.environ, output or Output()) as process:
            yield process


def start_of(directory: Path, name: str) -> str:
    """Return the command that starts a program of `PROGRAMS`, which will write its process id to a file."""
    stay = write(directory / "stay.sh", STAY.format(directory=directory))
    return PROGRAMS[name].format(directory=directory, stay=stay, shell="/bin/sh")


async def written(directory: Path) -> int:
    """Wait until the program has written its process id, and return it."""
    file = directory / "pid"
    await until(file.exists)
    return int(file.read_text())


async def stopped(pid: int) -> None:
    """Wait until the system has stopped a process."""
    await until(lambda: state_of(pid) == "T")


# How it ends


@pytest.mark.trio
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -KILL $$", -signal.SIGKILL),
        ("kill -SEGV $$", -signal.SIGSEGV),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -PIPE $$", 0),  # the system tells a program from Python to ignore it
        ("sleep 1000 & exit 7", 7),
    ],
)
async def test_it_reports_how_the_program_ended(script: str, code: int, family: Family) -> None:
    async with running(script) as process:
        await process.wait()
        assert process.returncode == code


@pytest.mark.trio
@pytest.mark.parametrize("ignored", [False, True], ids=["blocked", "ignored"])
async def test_it_notices_the_end_even_if_the_server_ignores_such_signals(
    *, ignored: bool, tmp_path: Path, family: Family
) -> None:
    """The supervisor inherits what the server does with signals."""
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [] if ignored else [signal.SIGCHLD])
    if ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with running(f"{WAIT.format(tmp_path)}; exit 3") as process:
            signal.signal(signal.SIGCHLD, handler)  # or the system would forget the exit code of the supervisor
            (tmp_path / "go").touch()
            await process.wait()
            assert process.returncode == 3
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.trio
async def test_the_process_id_is_that_of_the_program(log: Log, family: Family) -> None:
    output = Output()
    async with running("echo $$ $PPID", output) as process:
        await process.wait()
        await output.ended.wait()
        pid, supervisor = map(int, str(output).split())
        assert process.pid == pid != supervisor
    assert {record.getMessage() for record in log.records} == {f"engine process {pid}: {pid} {supervisor}"}


@pytest.mark.trio
async def test_a_program_that_cannot_be_executed_says_why(tmp_path: Path, family: Family) -> None:
    program = write(tmp_path / "program", "")
    output = Output()
    with trio.fail_after(30):
        async with child_process([str(program)], os.environ, output) as process:
            await process.wait()
            await output.ended.wait()
    assert process.returncode == 1
    assert str(output) == f"cannot execute {program}: Permission denied"


@pytest.mark.trio
async def test_its_input_is_empty(family: Family) -> None:
    """A program that a query starts does not wait for input that never comes."""
    async with running("cat && exit 5") as process:
        await process.wait()
        assert process.returncode == 5


@pytest.mark.trio
async def test_it_can_be_killed_even_if_it_and_the_supervisor_are_stopped(tmp_path: Path, family: Family) -> None:
    async with running(f"{WAIT.format(tmp_path)}; kill -STOP $PPID $$") as process:
        (tmp_path / "go").touch()
        await stopped(process.pid)
        process.kill()
        process.kill()
        await process.wait()
        process.kill()
        assert process.returncode == -signal.SIGKILL


@pytest.mark.trio
async def test_a_signal_to_its_process_group_does_not_reach_the_supervisor(family: Family) -> None:
    async with running("kill -TERM 0; sleep 1000") as process:
        await process.wait()
        assert process.returncode == -signal.SIGTERM


@on_linux
@pytest.mark.trio
async def test_it_ends_with_its_supervisor(tmp_path: Path, family: Family) -> None:
    async with running(f"{WAIT.format(tmp_path)}; kill -KILL $PPID; sleep 1000") as process:
        (tmp_path / "go").touch()
        await process.wait()
        await ended(process.pid)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.trio
async def test_a_supervisor_that_does_not_respond_is_killed(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_child, "_SUPERVISOR", write(tmp_path / "deaf.py", "import time; time.sleep(1000)"))
    monkeypatch.setattr(_child, "_END_TIMEOUT", 0.01)

    async def run() -> None:
        async with running(""):
            raise AssertionError("it has reported no process id")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await family.grown_to(1)
            nursery.cancel_scope.cancel()
    assert not family.pids()


@pytest.mark.trio
async def test_the_program_may_open_as_many_files_as_the_system_allows(family: Family) -> None:
    """Every user of the machine can connect to an engine, and so use up its descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    output = Output()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        async with running("ulimit -Sn; ulimit -Hn", output) as process:
            await process.wait()
            await output.ended.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(map(int, str(output).split())) == [min(hard, 1024 * 1024), hard]


# Its descendants


@on_linux
@pytest.mark.trio
@pytest.mark.parametrize("name", PROGRAMS)
async def test_what_it_started_ends_when_the_program_ends(name: str, tmp_path: Path, family: Family) -> None:
    script = f"{start_of(tmp_path, name)}\nwhile ! [ -e {tmp_path}/pid ]; do sleep 0.01; done; exit 3"
    async with running(script) as process:
        await process.wait()
        assert process.returncode == 3
        assert has_ended(await written(tmp_path), within=0)
    assert not family.pids()


@on_linux
@pytest.mark.trio
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("cancelled", [False, True], ids=["left", "cancelled"])
async def test_what_it_started_ends_with_the_block(
    name: str, *, cancelled: bool, tmp_path: Path, family: Family
) -> None:
    with trio.CancelScope() as scope:
        async with running(f"{start_of(tmp_path, name)}\nexec sleep 1000"):
            pid = await written(tmp_path)
            if cancelled:
                scope.cancel()
                await trio.sleep_forever()
    assert has_ended(pid, within=0)
    assert not family.pids()


SERVER = """
import os, sys, trio
from rayforce_trio._engines._child import child_process
from rayforce_trio._engines._output import Output
async def main():
    async with child_process(["/bin/sh", "-c", sys.argv[1]], os.environ, Output()):
        await trio.sleep_forever()
trio.run(main)
"""


@contextmanager
def server(script: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server that has a shell script as its child process, and kill it at the end."""
    with subprocess.Popen([sys.executable, "-c", SERVER, script]) as process:
        try:
            yield process
        finally:
            process.kill()


@on_linux
@pytest.mark.trio
@pytest.mark.parametrize("name", PROGRAMS)
async def test_what_it_started_ends_when_the_server_is_killed(name: str, tmp_path: Path, family: Family) -> None:
    with server(f"{start_of(tmp_path, name)}\nexec sleep 1000") as process:
        pid = await written(tmp_path)
        process.kill()
        await ended(pid)
    await family.gone()


@on_linux
@pytest.mark.trio
async def test_programs_that_end_meanwhile_leave_nothing_behind(tmp_path: Path, family: Family) -> None:
    """They become children of the supervisor, which nobody else would wait for."""
    script = f"for n in 1 2 3 4 5 6 7 8; do (sh -c 'true &'); done; touch {tmp_path}/begun; exec sleep 1000"
    async with running(script) as process:
        await until((tmp_path / "begun").exists)
        await until(lambda: len(children_of(parent_of(process.pid))) <= 1)
        assert children_of(parent_of(process.pid)) == [process.pid]


def children_of(parent: int) -> list[int]:
    """Return the children of a process, including those that have ended and are not waited for."""
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
