"""Input from a terminal. Only this module imports prompt_toolkit, which is an optional dependency."""

import errno
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import lru_cache
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import split_lines
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import HighlightMatchingBracketProcessor
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.styles import Style

from ._console import show_warning
from ._expressions import is_unfinished, tokens, unfinished_lines
from ._names import Names, completion_request
from ._plain_prompt import PROMPTS, continuation

_STYLE = Style.from_dict(
    {
        "string": "ansigreen",
        "number": "ansicyan",
        "symbol": "ansimagenta",
        "keyword": "bold",
        "comment": "italic ansibrightblack",
        "command": "ansiyellow",
        "matching-bracket.cursor": "bold underline",
        "matching-bracket.other": "bold underline",
    }
)
_MAX_COLORED = 20_000  # characters; a longer input would make typing slow


class Prompt:
    """Reads inputs from the terminal. An unclosed bracket or string continues on the next line.

    Args:
        names: the names that Tab completes.
        is_sql: whether the shell is in the SQL mode.
        keep_history: keep the history in a file. If this fails, a warning says why, and it is kept in memory only.
    """

    def __init__(self, names: Names, is_sql: Callable[[], bool], *, keep_history: bool) -> None:
        self._is_sql = is_sql
        self._history = _open_history() if keep_history else InMemoryHistory()
        self._session = PromptSession[str](
            lambda: PROMPTS[is_sql()],
            multiline=Condition(lambda: is_unfinished(get_app().current_buffer.text, sql=is_sql())),
            prompt_continuation=self._continuation,
            completer=_Completer(names, is_sql),
            complete_while_typing=False,
            enable_history_search=True,
            history=self._history,
            lexer=_Lexer(is_sql),
            style=_STYLE,
            input_processors=[HighlightMatchingBracketProcessor()],
            key_bindings=_key_bindings(),
        )

    async def read(self) -> str | None:
        """Return the entered text, or `None` after Ctrl-D. Ctrl-C discards the input.

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

    def _continuation(self, width: int, line: int, wraps: int) -> str:
        """Return the prompt of a further line; a wrapped line, and one that begins a statement, have none."""
        continues = _unfinished_lines(get_app().current_buffer.text, self._is_sql())
        if wraps or line >= len(continues) or not continues[line]:
            return " " * (0 if wraps else width)
        return continuation(PROMPTS[self._is_sql()])


@lru_cache(maxsize=1)
def _unfinished_lines(text: str, sql: bool) -> list[bool]:
    return unfinished_lines(text, sql=sql)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


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
    def __init__(self, names: Names, is_sql: Callable[[], bool]) -> None:
        self._names = names
        self._is_sql = is_sql
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, _document: Document, _event: CompleteEvent) -> Iterable[Completion]:
        return ()  # prompt_toolkit calls `get_completions_async` instead

    async def get_completions_async(self, document: Document, event: CompleteEvent) -> AsyncGenerator[Completion, None]:
        """Yield what completes the text before the cursor. If cancelled, no completion is shown."""
        request = completion_request(document.text_before_cursor, sql=self._is_sql())
        if request is None:
            return
        if request.is_file:
            for file in self._files.get_completions(Document(request.prefix), event):
                yield file
            return
        for found in await self._names.complete(request):
            yield Completion(found.text, start_position=-found.replaced, display_meta=found.kind)


class _Lexer(Lexer):
    """Colors the input."""

    def __init__(self, is_sql: Callable[[], bool]) -> None:
        self._is_sql = is_sql

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        is_short = len(document.text) <= _MAX_COLORED
        parts = tokens(document.text, sql=self._is_sql()) if is_short else [("", document.text)]
        lines = list(split_lines([(f"class:{kind}" if kind else "", text) for kind, text in parts]))
        return lambda number: lines[number] if number < len(lines) else []
