"""Pages of the documentation: the files that they show, and their commands, run as they are."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .commands import BOUND, COMMAND, environment
from .native import free_port

ROOT = Path(__file__).parents[2]

_FILE = re.compile(r"`(?P<name>[^`\n]+)`:\n\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_PORT = re.compile(r"(?<=:|=| )(?:876\d|5000)\b")  # the ports that pages use
_TIME = re.compile(r"\bin \d+\.\d+ ?s$", re.MULTILINE)
_UNTIL_INTERRUPTED = re.compile(r"rayforce-trio (?:serve|subscribe)\b(?!.*--count)")
_INTERRUPT = "^C\n"


@dataclass(frozen=True)
class Shown:
    """A command that a page shows, and its output; `^C` stands for the user's Ctrl-C."""

    command: str
    output: str

    @property
    def goes_on(self) -> bool:
        """Whether the command has to be interrupted: the next one is for another terminal."""
        return bool(_UNTIL_INTERRUPTED.match(self.command)) and not self.output.startswith("error:")


def page_of(name: str) -> str:
    """Return the text of a page, given its name in `docs`."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page shows: each follows its name and a colon."""
    return {found["name"]: found["text"] for found in _FILE.finditer(page)}


def blocks_of(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page that are in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def cells_of(page: str) -> list[tuple[str, str]]:
    """Return the cells of a notebook that a page shows, each with its output."""
    cell = r"^```py\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    return re.findall(cell, page, re.MULTILINE | re.DOTALL)


def commands_of(page: str) -> list[Shown]:
    """Return the commands of a page with their outputs."""
    return [Shown(*found) for found in _SHOWN.findall("".join(blocks_of(page, "console")))]


class Ports:
    """Free ports in place of those that a page uses."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def real(self, text: str) -> str:
        """Return a text of the page with the real ports."""
        return _PORT.sub(lambda found: self._real_one(found[0]), text)

    def documented(self, text: str) -> str:
        """Return a real text with the ports of the page."""
        for documented, real in self._real.items():
            text = re.sub(rf"(?<=:){real}\b", documented, text)
        return text

    def _real_one(self, documented: str) -> str:
        if documented not in self._real:
            self._real[documented] = str(free_port())
        return self._real[documented]


def real_command(command: str, ports: Ports) -> str:
    """Return a command of a page as this machine has to run it: this very package, on free ports."""
    if command.startswith("rayforce-trio serve") and "--port" not in command and "unix:" not in command:
        command += " --port 8765"
    real = ports.real(command).replace("rayforce-trio", shlex.join(COMMAND))
    return re.sub(r"^python (?=-m )", f"{shlex.quote(sys.executable)} ", real)


def check_commands(page: str, directory: Path) -> None:
    """Run all commands of a page, one after another, and compare their outputs with those that the page shows.

    Args:
        page: its text.
        directory: the folder to run them in; the files that the page shows are written there first.
    """
    for name, text in files_of(page).items():
        if not Path(name).is_absolute():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
    ports = Ports()
    with ExitStack() as running:
        for shown in commands_of(page):
            if shown.goes_on:
                running.enter_context(_going_on(shown, ports, directory))
            else:
                output = _alike(_output(shown, ports, directory))
                assert output == _alike(shown.output), f"$ {shown.command}\n{output}"


def _alike(output: str) -> str:
    """Return an output without the times that it tells."""
    return _TIME.sub("in 0.0 s", output)


def _output(shown: Shown, ports: Ports, directory: Path) -> str:
    done = subprocess.run(
        real_command(shown.command, ports),
        shell=True,
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    return ports.documented(done.stdout)


@contextmanager
def _going_on(shown: Shown, ports: Ports, directory: Path) -> Iterator[None]:
    """Run a command for the block, which begins when it has written a line; then interrupt it."""
    before, _, after = shown.output.partition(_INTERRUPT)
    with subprocess.Popen(
        shlex.split(real_command(shown.command, ports)),
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ) as child:
        assert child.stdout is not None
        try:
            out = child.stdout.readline()
            yield
            while out.count("\n") < before.count("\n"):
                out += child.stdout.readline()
            child.send_signal(signal.SIGINT)
            rest, _ = child.communicate(timeout=BOUND)
        finally:
            child.kill()
            child.wait()
    assert ports.documented(out) == before, shown.command
    if _INTERRUPT in shown.output:
        assert ports.documented(rest) == after, shown.command
