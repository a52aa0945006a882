"""Expressions from a terminal. Only this module imports prompt_toolkit, which is an optional dependency."""

import errno
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

from ._console import show_warning
from ._expressions import is_unfinished

_NAME = re.compile(r"[^\s()\[\]{}\"';\\]+$")

CompleteNames = Callable[[str], Awaitable[list[str]]]
"""Returns the names known to the server that begin with a prefix."""


class Prompt:
    """Reads expressions from the terminal. An unclosed bracket or string continues on the next line.

    Args:
        complete_names: called when the user presses Tab.
        keep_history: keep the history in a file. If this fails, a warning says why, and it is kept in memory only.
    """

    def __init__(self, complete_names: CompleteNames, *, keep_history: bool) -> None:
        self._history = _open_history() if keep_history else InMemoryHistory()
        self._session = PromptSession[str](
            "rayforce> ",
            multiline=Condition(lambda: is_unfinished(get_app().current_buffer.text)),
            prompt_continuation="........> ",
            completer=_Completer(complete_names),
            complete_while_typing=False,
            enable_history_search=True,
            history=self._history,
        )

    async def read(self) -> str | None:
        """Return the entered expression, or `None` after Ctrl-D. Ctrl-C discards the input.

        A checkpoint; if cancelled, the input is discarded.
        """
        while True:
            try:
                return await self._session.prompt_async(handle_sigint=False)  # Ctrl-C is a key here, not a signal
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None
            finally:
                if isinstance(self._history, _FileHistory):
                    self._history.report_error()


def _open_history() -> History:
    try:
        path = _history_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    except OSError as error:
        _warn(error)
        return InMemoryHistory()
    return _FileHistory(path)


def _history_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state, "rayforce-trio", "history")
    try:
        home = Path.home()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "there is no home directory") from None
    home.stat()  # raises an error if it does not exist, so that it is not created
    return home / ".local" / "state" / "rayforce-trio" / "history"


def _warn(error: OSError) -> None:
    where = f"{error.filename}: " if error.filename else ""
    show_warning(f"the history is not kept: {where}{error.strerror}")


class _FileHistory(FileHistory):
    """A history that stays usable, in memory, when its file becomes unreadable or unwritable."""

    _error: OSError | None = None
    _is_reported = False

    def load_history_strings(self) -> Iterable[str]:
        try:
            return super().load_history_strings()
        except OSError as error:
            self._error = error
            return []

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError as error:
            self._error = error

    def report_error(self) -> None:
        """Warn about the first error. Not done above, where a prompt is on the terminal."""
        if self._error is not None and not self._is_reported:
            self._is_reported = True
            _warn(self._error)


class _Completer(Completer):
    def __init__(self, complete_names: CompleteNames) -> None:
        self._complete_names = complete_names

    def get_completions(self, _document: Document, _event: CompleteEvent) -> Iterable[Completion]:
        return ()  # prompt_toolkit calls `get_completions_async` instead

    async def get_completions_async(
        self, document: Document, _event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Yield the names that complete the text before the cursor. If cancelled, no completion is shown."""
        prefix = _NAME.search(document.text_before_cursor)
        if prefix is None:
            return
        for name in await self._complete_names(prefix[0]):
            yield Completion(name, start_position=-len(prefix[0]))
