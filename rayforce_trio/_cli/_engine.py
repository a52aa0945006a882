"""The engine that `serve` uses."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import rayforce

from .. import InProcessEngine, NativeEngine, NativeProcess
from ..errors import RayforceError
from ._console import CommandFailed, UsageError
from ._options import stop_timeout
from ._secrets import first_line

Engine = InProcessEngine | NativeEngine | NativeProcess

_REMOTE = "HOST:PORT"
_OPTIONS = {
    "native": ("script", "read_only", "journal", "journal_sync", "memory", "cores", "stop_timeout"),
    "in-process": ("script",),
    _REMOTE: ("engine_user", "engine_password_file"),
}
"""The values of `--engine`, and the options that each accepts."""


def add_engine(parser: ArgumentParser) -> None:
    """Add the options for the engine."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        metavar="ENGINE",
        default="native",
        help="native, a child process; in-process, this process; or HOST:PORT, a running Rayforce server; "
        "default: %(default)s",
    )
    group.add_argument("--script", metavar="FILE", help="run this Rayfall file first; native and in-process")
    group.add_argument("--read-only", action="store_true", default=None, help="forbid clients to write; native")
    group.add_argument(
        "--journal", metavar="BASE", help="write requests to a journal, and replay it at the next start; native"
    )
    group.add_argument(
        "--journal-sync", action="store_true", default=None, help="sync each request to the disk before it runs; native"
    )
    group.add_argument(
        "--memory", metavar="SIZE", help="memory that the engine may use before it uses the disk, such as 4G; native"
    )
    group.add_argument("--cores", metavar="N", type=int, help="number of threads, 0 for one per core; native")
    group.add_argument(
        "--stop-timeout",
        metavar="SECONDS",
        type=stop_timeout,
        help="seconds after which an engine that does not stop a query is killed and restarted, 0 for never; default: "
        "auto, which means 30 with --read-only, otherwise 0; native",
    )
    group.add_argument("--engine-user", metavar="NAME", help="user name for the Rayforce server at HOST:PORT")
    group.add_argument(
        "--engine-password-file",
        metavar="FILE",
        help="file whose first line is the password for the Rayforce server at HOST:PORT",
    )


def engine_of(options: Namespace) -> Engine:
    """Return the engine that the options name. The script of an in-process engine runs now.

    Raises:
        UsageError: the engine does not exist or does not accept an option.
        CommandFailed: the script failed.
    """
    kind = options.engine if options.engine in _OPTIONS else _REMOTE
    given = {
        name: value for names in _OPTIONS.values() for name in names if (value := getattr(options, name)) is not None
    }
    for name in given:
        if name not in _OPTIONS[kind]:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to --engine {options.engine}")
    if kind == _REMOTE:
        return _remote(options.engine, **given)
    if kind == "in-process":
        _run_script(**given)
        return InProcessEngine()
    if "stop_timeout" in given:
        given["stop_timeout"] = given["stop_timeout"] or None
    return NativeProcess(**given)


def _remote(address: str, engine_user: str = "", engine_password_file: str | None = None) -> NativeEngine:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise UsageError(f"--engine {address} is not native, in-process or HOST:PORT")
    password = "" if engine_password_file is None else first_line(engine_password_file)
    return NativeEngine(host.strip("[]"), int(port), user=engine_user, password=password)


def _run_script(script: str | None = None) -> None:
    """Run a script in this process."""
    if script is None:
        return
    if not Path(script).is_file():
        raise UsageError(f"--script: there is no file {script!r}")
    quoted = script.replace("\\", "\\\\").replace('"', '\\"')
    try:
        rayforce.eval_str(f'(load "{quoted}")', raw=True)  # raw: the result may be a value that Python cannot represent
    except RayforceError as error:
        raise CommandFailed(f"the script {script} failed: {error}") from None
