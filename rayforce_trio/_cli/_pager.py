"""Long results in a pager."""

import os
import shlex
import shutil
import subprocess
from typing import Any

import anyio.to_thread
from rayforce import Table

from ._console import encoded, has_unicode, is_terminal
from ._drawing import Space
from ._formats import drawn

MAX_ROWS = 10_000
"""How many rows of a table a pager shows."""

_DEFAULT = "less -RS"


def pager_command() -> list[str] | None:
    """Return the command of the pager from the environment, by default `less`; `None` if it is not installed."""
    try:
        command = shlex.split(os.environ.get("PAGER", _DEFAULT))
    except ValueError:
        return None
    return command if command and shutil.which(command[0]) else None


async def page(value: Any) -> bool:
    """Show a table in a pager if it is longer or wider than the terminal. Return whether it was shown.

    A checkpoint if it was. If cancelled, the pager goes on until the user leaves it.
    """
    command = pager_command()
    if not isinstance(value, Table) or not is_terminal() or command is None:
        return False
    text = drawn(value, Space(rows=MAX_ROWS, cell_width=1000, ascii=not has_unicode()))
    width, height = shutil.get_terminal_size()
    lines = text.splitlines()
    if len(lines) < height and len(lines[0]) <= width:
        return False
    with anyio.CancelScope(shield=True):  # the terminal belongs to the pager until the user leaves it
        await anyio.to_thread.run_sync(lambda: subprocess.run(command, input=encoded(text), check=False))
    return True
