"""`main`: parses the arguments, runs a command, and turns its errors into messages and exit codes."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import ConnectError, RayforceError
from . import _hash_password, _load, _publish, _query, _repl, _save, _serve, _subscribe
from ._console import (
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    CommandFailed,
    Interrupted,
    OutputClosed,
    UsageError,
    exit_code_of,
    open_standard_streams,
    show,
    show_error,
    write,
)
from ._options import EXAMPLES
from ._target import OPTIONAL_URL

_DESCRIPTION = """Serve a RayforceDB engine over WebSocket, and query such a server. rayforce-trio COMMAND --help shows
the options and examples of a command."""
_EPILOG = """Exit statuses: 0 success; 1 failure; 2 wrong usage; 3 the server cannot be reached, or the connection was
lost; 130 Ctrl-C."""


_MISSING = "the following arguments are required"  # how argparse begins this error


class _TooFewArguments(Exception):
    """Positional arguments are missing, perhaps only the URL."""


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the lines of examples, and fills other texts."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES) else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    _can_retry = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False, formatter_class=_HelpFormatter)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments. If there are too few, parse them again with the URL that the user has left out.

        A positional argument of argparse that may be left out does not suffice: in `query :8765 --sql EXPR`, argparse
        takes `:8765` for `EXPR`, because it has not yet seen the arguments behind the option.
        """
        self._can_retry = any(action.metavar == OPTIONAL_URL for action in self._actions)
        try:
            return super().parse_known_args(args, namespace)
        except _TooFewArguments:
            self._can_retry = False
            return super().parse_known_args(["", *args], namespace)

    def error(self, message: str) -> NoReturn:
        if self._can_retry and message.startswith(_MISSING):
            raise _TooFewArguments
        show_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(USAGE)

    def _print_message(self, message: str, _file: Any = None) -> None:
        """Write the help or the version. The original ignores errors."""
        write([message])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    Args:
        arguments: the arguments of the command line; `None` means those of this process.

    Raises:
        SystemExit: after `--help` and `--version`, and if the arguments are wrong.
    """
    options = argparse.Namespace()
    try:
        open_standard_streams()
        parser = _parser()
        options = parser.parse_args(arguments)
        if options.run is None:
            parser.print_help()
            return OK
        return int(options.run(options))
    except (Interrupted, KeyboardInterrupt) as interrupted:
        for text in (getattr(interrupted, "output", "").rstrip("\n"), str(interrupted)):
            if text:
                show(text)
        return INTERRUPTED
    except OutputClosed:
        return OK
    except UsageError as error:
        show_error(error)
        return USAGE
    except RayforceError as error:
        show_error(error)
        if isinstance(error, ConnectError) and getattr(options, "url", None) == "":
            show("Start a server with rayforce-trio serve, or give the URL of another one.")
        return exit_code_of(error)
    except (CommandFailed, OSError) as error:
        show_error(error)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rayforce-trio", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"rayforce-trio {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND")
    for command in (_serve, _query, _load, _save, _subscribe, _publish, _repl, _hash_password):
        command.add_parser(commands)
    return parser
