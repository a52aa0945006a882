"""Input from a terminal without prompt_toolkit: the terminal itself edits the line."""

import sys
from collections.abc import Callable
from functools import partial

from ._console import Interrupted, UsageError, show_error, write_to_terminal
from ._expressions import is_unfinished
from ._interrupts import Interruptible
from ._lines import InputReader

PROMPTS = {False: "rayforce> ", True: "sql> "}
"""The prompts in the Rayfall mode and in the SQL mode."""


def continuation(prompt: str) -> str:
    """Return the prompt of a line that continues a statement."""
    return f"{'.' * (len(prompt) - 2)}> "


class PlainPrompt:
    """Reads inputs from standard input, with a prompt for each line.

    Args:
        interruptible: receives Ctrl-C.
        is_sql: whether the shell is in the SQL mode.
    """

    def __init__(self, interruptible: Interruptible, is_sql: Callable[[], bool]) -> None:
        self._interruptible = interruptible
        self._is_sql = is_sql
        self._reader = InputReader(sys.stdin.fileno())

    async def read(self) -> str | None:
        """Return the entered text, or `None` after Ctrl-D. Ctrl-C discards the input.

        A checkpoint; if cancelled, the input is discarded.
        """
        read = partial(self._reader.read, partial(is_unfinished, sql=self._is_sql()), self._show_prompt)
        while True:
            try:
                text = await self._interruptible.call(read, show_progress=False)
            except Interrupted:
                write_to_terminal("\n")
            except UsageError as error:
                show_error(error)
            else:
                if text is None:
                    write_to_terminal("\n")  # after the prompt
                return text

    def _show_prompt(self, continues: bool) -> None:
        prompt = PROMPTS[self._is_sql()]
        write_to_terminal(continuation(prompt) if continues else prompt)
