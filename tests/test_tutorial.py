"""The tutorial can be followed from its first line to its last: its files, its commands, and what they print."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.commands import COMMAND, environment
from support.pages import DOCS, ROOT, Block, blocks

INSTALLATION, *STEPS = blocks(DOCS / "tutorial.md")
PORT = "8765"  # what the page writes
UNTIL_INTERRUPTED = ("rayforce-trio serve", "rayforce-trio subscribe", "python chart.py")
DURATION = re.compile(r"\d+\.\d s$", re.MULTILINE)


class Reader:
    """Someone who does what the tutorial says, in an empty folder and on a free port."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.folder = folder
        self.port = ""
        self.terminals: list[subprocess.Popen[str]] = []
        self._running = running

    def do(self, step: Block) -> None:
        """Save a program, or run commands and compare what they print, or compare what a running one has printed."""
        if step.language == "python":
            named = re.search(r"`(\w+\.py)`:$", step.before)
            assert named is not None, step.before
            (self.folder / named[1]).write_text(self._real(step.code), encoding="utf-8")
        elif step.language == "console":
            for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", step.code, re.MULTILINE):
                (self._leave_running if command.startswith(UNTIL_INTERRUPTED) else self._run)(command, output)
        else:
            assert step.language == "text"
            output = self.terminals[-1].stdout
            assert output is not None
            assert step.code in output  # reads the lines up to this one

    def interrupt(self) -> list[tuple[int, str]]:
        """Press Ctrl-C in each terminal, the latest first. Return their exit codes, and the last lines of each."""
        ends = []
        for process in reversed(self.terminals):
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
            ends.append((process.returncode, output.strip()))
        return ends

    def _run(self, command: str, output: str) -> None:
        done = subprocess.run(
            self._real(command), **self._surroundings(), stderr=subprocess.STDOUT, shell=True, check=False
        )
        assert (DURATION.sub("0.0 s", done.stdout), done.returncode) == (output, 0), command

    def _leave_running(self, command: str, output: str) -> None:
        words = shlex.split(self._real(command))
        process = self._running.enter_context(until_killed(words, self._surroundings()))
        self.terminals.append(process)
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in output.splitlines())
        if not self.port:
            self.port = printed.strip().rpartition(":")[2]
            output = output.replace(PORT, self.port)
        assert printed == output

    def _real(self, text: str) -> str:
        own = text.replace("rayforce-trio serve", f"rayforce-trio serve --port {self.port or 0}").replace(
            PORT, self.port
        )
        own = re.sub(r"^python ", f"{sys.executable} ", own)
        return re.sub(r"^rayforce-trio ", shlex.join(COMMAND) + " ", own)

    def _surroundings(self) -> dict[str, Any]:
        files = str(self.folder / "matplotlib")
        return {
            "cwd": self.folder,
            "env": environment(PYTHONUNBUFFERED="1", MPLCONFIGDIR=os.environ.get("MPLCONFIGDIR", files)),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "encoding": "utf-8",
        }


@contextmanager
def until_killed(words: list[str], surroundings: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(words, **surroundings) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_tutorial_can_be_followed(tmp_path: Path) -> None:
    with ExitStack() as running:
        reader = Reader(tmp_path, running)
        for step in STEPS:
            reader.do(step)
        chart, subscription, server = reader.interrupt()
    assert chart == (0, "stopped")
    assert subscription == (0, "")
    assert server == (0, "Rayforce WebSocket Server stopped.")
    assert (tmp_path / "chart.svg").read_text(encoding="utf-8").count('id="line2d') > 5
    assert "chart.svg" in (tmp_path / "chart.html").read_text(encoding="utf-8")


def test_tutorial_installs_all_that_its_programs_import() -> None:
    install = INSTALLATION.code.splitlines()[-1]
    package, *others = shlex.split(install.removeprefix("$ pip install "))
    extras = re.fullmatch(r"\.\./rayforce_trio\[([\w,]+)\]", package)
    assert extras is not None
    optional = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras[1].split(","):
        assert f"\n{extra} = [" in optional
    programs = "\n".join(step.code for step in STEPS if step.language == "python")
    imported = set(re.findall(r"^(?:import|from) (\w+)", programs, re.MULTILINE)) - set(sys.stdlib_module_names)
    assert imported == {"rayforce_trio", "trio", "matplotlib", "vega_datasets"}
    assert imported - {"rayforce_trio", "trio"} <= set(others)
