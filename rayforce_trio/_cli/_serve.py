"""`serve`: a server as a program of its own."""

import argparse
import logging
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import rayforce
import trio

from .. import InProcessEngine, NativeEngine, NativeProcess, WSServer
from ..errors import RayforceError, RayforceValueError
from ._arguments import DEFAULT_HOST, DEFAULT_PORT, size
from ._exits import OK, CommandFailed, UsageError

DESCRIPTION = "Serve RayforceDB over WebSocket, until SIGINT or SIGTERM."

Engine = InProcessEngine | NativeEngine | NativeProcess

_REMOTE = "HOST:PORT"
_OPTIONS = {
    "native": ("script", "read_only", "journal", "journal_sync", "memory", "cores"),
    "in-process": ("script",),
    _REMOTE: ("engine_user", "engine_password_file"),
}
"""What `--engine` may be, and the options that go with it."""

_LEVELS = ("debug", "info", "warning", "error")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("serve", help="run a server", description=DESCRIPTION)
    parser.set_defaults(run=serve)

    network = parser.add_argument_group("network")
    network.add_argument("--host", default=DEFAULT_HOST, help="name or address to listen on; default: %(default)s")
    network.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on, 0 for a free one; default: %(default)s"
    )
    network.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="let in everybody who can reach the port; they can run any code in the engine",
    )
    network.add_argument(
        "--allowed-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let in browser pages of this origin, such as https://example.org; may be repeated",
    )
    network.add_argument(
        "--max-message-size",
        metavar="SIZE",
        type=size,
        default="64M",
        help="of what clients send; default: %(default)s",
    )

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

    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="of the log; default: %(default)s")


def serve(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    _check_exposure(options)
    try:
        server = WSServer(
            options.port,
            host=options.host,
            engine=_engine(options),
            allow_unauthenticated=options.allow_unauthenticated,
            allowed_origins=options.allowed_origin,
            max_message_size=options.max_message_size,
        )
    except RayforceValueError as error:
        raise UsageError(error) from None
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    trio.run(server.run)
    return OK


def _check_exposure(options: argparse.Namespace) -> None:
    """Refuse to be open to other machines, but on purpose."""
    if options.allow_unauthenticated or _is_loopback(options.host):
        return
    raise UsageError(
        f"--host {options.host} is more than this machine, and whoever can connect can run any code in the engine, "
        "since nothing authenticates clients; if that is what you want, add --allow-unauthenticated"
    )


def _is_loopback(host: str) -> bool:
    """Whether listening on a host can be reached from this machine alone; a name that is unknown cannot at all."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _engine(options: argparse.Namespace) -> Engine:
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
    password = "" if engine_password_file is None else _first_line(engine_password_file)
    return NativeEngine(host.strip("[]"), int(port), user=engine_user, password=password)


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").partition("\n")[0]
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None


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
