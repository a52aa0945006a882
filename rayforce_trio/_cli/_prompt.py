"""Expressions from a terminal: the one module that knows prompt_toolkit."""

import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ._brackets import is_unfinished

_NAME = re.compile(r"[^\s()\[\]{}\"';\\]+$")

Names = Callable[[str], Awaitable[list[str]]]
"""Returns the names known to the server that begin so."""


class Prompt:
    """Reads expressions; a line that leaves a bracket open is gone on with on the next one.

    Args:
        names: asked for when the user presses Tab.
        history: the file that keeps what was entered; `None`: nothing is kept.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, names: Names, history: Path | None) -> None:
        self._session = PromptSession[str](
            "rayforce> ",
            multiline=Condition(lambda: is_unfinished(get_app().current_buffer.text)),
            prompt_continuation="........> ",
            completer=_Completer(names),
            complete_while_typing=False,
            enable_history_search=True,
            history=InMemoryHistory() if history is None else _history(history),
        )

    async def read(self) -> str | None:
        """Return what is entered, `None` at the end: Ctrl-D. Ctrl-C begins anew. A checkpoint."""
        while True:
            try:
                return await self._session.prompt_async(handle_sigint=False)  # in here, Ctrl-C is a key
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None


def _history(path: Path) -> History:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    return FileHistory(str(path))


class _Completer(Completer):
    def __init__(self, names: Names) -> None:
        self._names = names

    def get_completions(self, _document: Document, _event: CompleteEvent) -> Iterable[Completion]:
        return ()  # asked for by `get_completions_async` alone

    async def get_completions_async(
        self, document: Document, _event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        begun = _NAME.search(document.text_before_cursor)
        if begun is None:
            return
        for name in await self._names(begun[0]):
            yield Completion(name, start_position=-len(begun[0]))
