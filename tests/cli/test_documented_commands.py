"""Every command in docs/reference/command_line.md does what the page shows."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support.commands import BOUND, COMMAND, environment, serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(BLOCKS), re.MULTILINE)
SERVES = "rayforce-trio serve --script docs/examples/prices.rfl"

_URL_LEFT_OUT = re.compile(r"rayforce-trio (query|load|save|repl)\b(?! :8765)")
_SECONDS = re.compile(r" in \d+\.\d s$", re.MULTILINE)


def output_of(command: str, url: str, directory: Path) -> str:
    """Run a command of the page in a shell, with the server at `url` in the place of the default one."""
    command = _URL_LEFT_OUT.sub(r"\g<0> :8765", command).replace(":8765", url)
    done = subprocess.run(
        command.replace("rayforce-trio", shlex.join(COMMAND)),
        shell=True,
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    return _SECONDS.sub(" in 0.0 s", done.stdout)


def test_the_page_shows_a_server_and_what_it_says() -> None:
    assert SHOWN[0] == (SERVES, "Rayforce WebSocket served on ws://127.0.0.1:8765\n")


@pytest.mark.timeout(300)
def test_the_commands_on_the_page_write_what_the_page_shows(tmp_path: Path) -> None:
    with serving("--script", str(ROOT / "docs" / "examples" / "prices.rfl")) as server:
        for command, output in SHOWN[1:]:  # in their order: later commands use the files and tables of earlier ones
            assert (command, output_of(command, server.url, tmp_path)) == (command, output)
