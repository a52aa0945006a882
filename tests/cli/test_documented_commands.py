"""Every command in docs/reference/command_line.md does what the page shows."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import BOUND, COMMAND, Serving, environment, serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(BLOCKS), re.MULTILINE)
SERVES = "rayforce-trio serve --script docs/examples/prices.rfl"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving("--script", str(ROOT / "docs" / "examples" / "prices.rfl")) as made:
        yield made


def test_the_page_shows_a_server_and_what_it_says() -> None:
    assert SHOWN[0] == (SERVES, "Rayforce WebSocket served on ws://127.0.0.1:8765\n")


@pytest.mark.parametrize(("command", "output"), SHOWN[1:])
def test_a_command_on_the_page_writes_what_the_page_shows(server: Serving, command: str, output: str) -> None:
    real = command.replace("rayforce-trio", shlex.join(COMMAND)).replace(":8765", server.url)
    done = subprocess.run(
        real,
        shell=True,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    assert done.stdout == output
