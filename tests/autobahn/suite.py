"""The suite itself, a program of Python 2.7: installing and running it."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

VERSION = "0.8.2"
AGENT = "rayforce_trio"

_COMPRESSION = ["12.*", "13.*"]  # never offered, never agreed to
_START_TIMEOUT = 30.0
_POLL = 0.02  # seconds; the suite does not report when it listens


class SuiteError(Exception):
    """The suite cannot be installed, or did not run. The text says why."""


class Suite:
    """The suite, installed.

    Args:
        python: a command that runs Python 2.7.
        directory: the directory of the installation, and of its reports and logs.
        cases: patterns of those to run.
        exclude: patterns of those to leave out.

    Raises:
        SuiteError: there is no Python 2.7 with pip, or the suite could not be installed.
    """

    def __init__(self, python: str, directory: Path, cases: list[str], exclude: list[str]) -> None:
        self._python = python
        self._directory = directory.absolute()
        self._installed = self._directory / f"autobahntestsuite-{VERSION}"
        self._cases = {"cases": cases, "exclude-cases": exclude + _COMPRESSION}
        if not self._installed.exists():
            self._install()

    def reports(self, side: str) -> Path:
        """Return the directory of the reports on a side, which include an index.html."""
        return self._directory / "reports" / side

    async def test_server(self, port: int) -> None:
        """Run the suite as the client of a server on this machine, until it has reported."""
        servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}]
        async with self._running("fuzzingclient", {"servers": servers, "outdir": self._fresh("server")}) as process:
            await process.wait()

    @asynccontextmanager
    async def test_clients(self) -> AsyncIterator[int]:
        """Run the suite as a server for the length of the block; yields its port."""
        with socket.socket() as probe:  # it cannot choose a free port by itself
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        async with self._running("fuzzingserver", {"url": f"ws://127.0.0.1:{port}", "outdir": self._fresh("client")}):
            await _until_listening(port)
            yield port

    def _fresh(self, side: str) -> str:
        shutil.rmtree(self.reports(side), ignore_errors=True)
        return str(self.reports(side))

    @asynccontextmanager
    async def _running(self, mode: str, what: Mapping[str, Any]) -> AsyncIterator[trio.Process]:
        specification = self._directory / f"{mode}.json"
        specification.write_text(json.dumps({**what, **self._cases}), encoding="utf-8")
        arguments = ["--mode", mode, "--spec", str(specification), "--webport", "0"]
        with (self._directory / f"{mode}.log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                [self._python, "-u", "-W", "ignore", "-m", "autobahntestsuite.wstest", *arguments],
                env={**os.environ, "PYTHONPATH": str(self._installed)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                yield process
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    def _install(self) -> None:
        needed = "a Python 2.7 with pip is needed; name its command with --python"
        try:
            found = self._run_python("-c", "import pip, sys; print(sys.version_info[:2] == (2, 7))")
        except OSError as error:
            raise SuiteError(f"{self._python} cannot be run: {error}; {needed}") from None
        if found.stdout.strip() != "True":
            raise SuiteError(f"{self._python} is of no use: {found.stderr.strip() or found.stdout.strip()}\n{needed}")
        unfinished = self._directory / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        pip = self._run_python("-m", "pip", "install", "--target", str(unfinished), f"autobahntestsuite=={VERSION}")
        if pip.returncode:
            raise SuiteError(f"the suite cannot be installed:\n{pip.stderr}")
        (unfinished / "zope" / "__init__.py").touch()  # a namespace, which an installation to a target leaves without
        unfinished.rename(self._installed)

    def _run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run([self._python, *arguments], capture_output=True, text=True, check=False, env=environment)


async def _until_listening(port: int) -> None:
    with trio.fail_after(_START_TIMEOUT):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(_POLL)
            else:
                await stream.aclose()
                return
