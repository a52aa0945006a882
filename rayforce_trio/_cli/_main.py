"""`main`: which command, and what becomes of its errors."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import RayforceError
from . import _hash_password, _load, _query, _repl, _serve
from ._exits import FAILED, INTERRUPTED, OK, USAGE, CommandFailed, Interrupted, OutputClosed, UsageError, code_of
from ._output import complain, open_standard_streams, say

_EPILOG = "Exit codes: 0 done; 1 it failed; 2 wrong usage; 3 no connection, or lost; 130 Ctrl-C."


class _Parser(argparse.ArgumentParser):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    Args:
        arguments: those of the command line, by default this process's.

    Raises:
        SystemExit: after `--help` and `--version`, and where the arguments are wrong.
    """
    try:
        open_standard_streams()
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except (Interrupted, KeyboardInterrupt) as interrupted:
        if str(interrupted):
            say(str(interrupted))
        return INTERRUPTED
    except OutputClosed:
        return OK
    except UsageError as error:
        complain(error)
        return USAGE
    except RayforceError as error:
        complain(error)
        return code_of(error)
    except (CommandFailed, OSError) as error:
        complain(error)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rayforce-trio", description="RayforceDB over WebSocket.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"rayforce-trio {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (_serve, _query, _load, _repl, _hash_password):
        command.add_parser(commands)
    return parser
