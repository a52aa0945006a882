"""What evaluates for `serve`, by its arguments."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import rayforce

from .. import InProcessEngine, NativeEngine, NativeProcess
from ..errors import RayforceError
from ._exits import CommandFailed, UsageError
from ._secrets import first_line

Engine = InProcessEngine | NativeEngine | NativeProcess

_REMOTE = "HOST:PORT"
_OPTIONS = {
    "native": ("script", "read_only", "journal", "journal_sync", "memory", "cores"),
    "in-process": ("script",),
    _REMOTE: ("engine_user", "engine_password_file"),
}
"""What `--engine` may be, and the options that go with it."""


def add_engine(parser: ArgumentParser) -> None:
    """Add the arguments that say what evaluates."""
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        metavar="ENGINE",
        default="native",
        help="what evaluates: native, a child process (default); in-process, this one; or HOST:PORT, a Rayforce server",
    )
    engine.add_argument("--script", metavar="FILE", help="Rayfall code to run first; native and in-process")
    engine.add_argument("--read-only", action="store_true", default=None, help="clients may only read; native")
    engine.add_argument("--journal", metavar="BASE", help="log requests there, and replay them at start; native")
    engine.add_argument(
        "--journal-sync", action="store_true", default=None, help="have each on the disk before it runs; native"
    )
    engine.add_argument("--memory", metavar="SIZE", help="what it takes before it uses the disk, such as 4G; native")
    engine.add_argument("--cores", metavar="N", type=int, help="how many threads it may use, 0 for all; native")
    engine.add_argument("--engine-user", metavar="NAME", help="user name for the server at HOST:PORT")
    engine.add_argument("--engine-password-file", metavar="FILE", help="its password, the first line of a file")


def engine_of(options: Namespace) -> Engine:
    """Return the engine that the arguments name.

    Raises:
        UsageError: there can be no such engine.
        CommandFailed: the script of the engine in this process failed.
    """
    kind = options.engine if options.engine in _OPTIONS else _REMOTE
    given = {
        name: value for names in _OPTIONS.values() for name in names if (value := getattr(options, name)) is not None
    }
    for name in given:
        if name not in _OPTIONS[kind]:
            raise UsageError(f"--{name.replace('_', '-')} is not for --engine {options.engine}")
    if kind == _REMOTE:
        return _remote(options.engine, **given)
    if kind == "in-process":
        _load(**given)
        return InProcessEngine()
    return NativeProcess(**given)


def _remote(where: str, engine_user: str = "", engine_password_file: str | None = None) -> NativeEngine:
    host, _, port = where.rpartition(":")
    if not port.isdecimal():
        raise UsageError(f"--engine {where}: neither native nor in-process nor HOST:PORT")
    password = "" if engine_password_file is None else first_line(engine_password_file)
    return NativeEngine(host.strip("[]"), int(port), user=engine_user, password=password)


def _load(script: str | None = None) -> None:
    """Run a script in this process."""
    if script is None:
        return
    if not Path(script).is_file():
        raise UsageError(f"--script: there is no file {script!r}")
    quoted = script.replace("\\", "\\\\").replace('"', '\\"')
    try:
        rayforce.eval_str(f'(load "{quoted}")', raw=True)  # whatever it comes to
    except RayforceError as error:
        raise CommandFailed(f"the script {script} failed: {error}") from None
