"""`serve`: a server as a program of its own."""

import argparse
import logging
import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any

import trio

from .. import WSServer
from ..errors import RayforceValueError
from ._arguments import DEFAULT_HOST, DEFAULT_PORT, grace, limit, query_timeout, seconds, size
from ._authentication import Authentication, add_authentication, authentication_of
from ._engine import add_engine, engine_of
from ._exits import OK, UsageError
from ._output import say, warn
from ._tls import server_context

DESCRIPTION = "Serve RayforceDB over WebSocket, until SIGINT or SIGTERM."

_LEVELS = ("debug", "info", "warning", "error")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("serve", help="run a server", description=DESCRIPTION)
    parser.set_defaults(run=serve)

    network = parser.add_argument_group("network")
    network.add_argument("--host", default=DEFAULT_HOST, help="name or address to listen on; default: %(default)s")
    network.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on, 0 for a free one; default: %(default)s"
    )
    network.add_argument("--reuse-port", action="store_true", help="share the port with other servers of the same user")
    network.add_argument(
        "--allowed-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let in browser pages of this origin, such as https://example.org; may be repeated",
    )
    network.add_argument(
        "--allowed-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name under which clients may ask for the server; may be repeated",
    )
    network.add_argument("--tls-certificate", metavar="FILE", help="speak TLS, and show this certificate; PEM")
    network.add_argument("--tls-key", metavar="FILE", help="its key, as PEM; by default in the same file")
    network.add_argument(
        "--tls-client-authority",
        metavar="FILE",
        help="let in only clients that show a certificate of this authority; PEM",
    )
    network.add_argument(
        "--max-message-size",
        metavar="SIZE",
        type=size,
        default="64M",
        help="of what clients send; default: %(default)s",
    )
    add_authentication(parser)

    limits = parser.add_argument_group("limits")
    for name, default, what in (
        ("--max-connections", "128", "connections in all"),
        ("--max-connections-per-address", "32", "connections from one address"),
        ("--max-unauthenticated", "32", "connections that are not open yet"),
        ("--max-in-flight", "1024", "requests of one connection without an answer"),
    ):
        limits.add_argument(
            name, metavar="N", type=limit, default=default, help=f"{what}, 0 for any number; default: %(default)s"
        )

    limits.add_argument(
        "--query-timeout",
        metavar="SECONDS",
        type=query_timeout,
        default="auto",
        help="that a query may run in the engine, 0 for any time; auto, which is the default, is 300, or 0 if only "
        "this machine can connect",
    )
    limits.add_argument(
        "--drain-timeout",
        metavar="SECONDS",
        type=grace,
        default="10",
        help="that queries have to finish when the server stops, 0 for none; default: %(default)s",
    )
    for name, default, what in (
        ("--open-timeout", "5", "that a client has to open a connection"),
        ("--write-timeout", "30", "after which a client is dropped that takes nothing of what it is sent"),
    ):
        limits.add_argument(
            name, metavar="SECONDS", type=seconds, default=default, help=f"{what}; default: %(default)s"
        )

    add_engine(parser)
    parser.add_argument("--metrics", action="store_true", help="answer GET /metrics, for Prometheus")
    parser.add_argument("--log-queries", action="store_true", help="log the beginning of every query")
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="of the log; default: %(default)s")


def serve(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    authentication = authentication_of(options)
    tls = _tls(options)
    _check_exposure(options, authentication)
    try:
        server = _Server(
            options.port,
            authentication.generated,
            host=options.host,
            engine=engine_of(options),
            ssl_context=tls,
            authenticate=authentication.authenticate,
            allow_unauthenticated=options.allow_unauthenticated,
            allowed_origins=options.allowed_origin,
            allowed_hosts=options.allowed_host,
            max_connections=options.max_connections,
            max_connections_per_address=options.max_connections_per_address,
            max_unauthenticated=options.max_unauthenticated,
            max_in_flight=options.max_in_flight,
            max_message_size=options.max_message_size,
            reuse_port=options.reuse_port,
            open_timeout=options.open_timeout,
            write_timeout=options.write_timeout,
            query_timeout=options.query_timeout,
            drain_timeout=options.drain_timeout,
            metrics=options.metrics,
            log_queries=options.log_queries,
        )
    except RayforceValueError as error:
        raise UsageError(error) from None
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    trio.run(server.run)
    return OK


class _Server(WSServer):
    """A server that shows the token that was made for it, once it listens."""

    def __init__(self, port: int, generated: str | None, **options: Any) -> None:
        super().__init__(port, **options)
        self._generated = generated

    async def __aenter__(self) -> "_Server":
        await super().__aenter__()
        if self._generated is not None:
            with suppress(OSError):  # nobody reads standard error
                say(f"Clients of {self.url} need this token, which is not shown again:\n{self._generated}")
        return self


def _tls(options: argparse.Namespace) -> SSLContext | None:
    if options.tls_certificate is not None:
        return server_context(options.tls_certificate, options.tls_key, options.tls_client_authority)
    for name in ("key", "client_authority"):
        if getattr(options, f"tls_{name}") is not None:
            raise UsageError(f"--tls-{name.replace('_', '-')} needs a --tls-certificate")
    return None


def _check_exposure(options: argparse.Namespace, authentication: Authentication) -> None:
    """Refuse to be open to other machines, but on purpose."""
    if options.allow_unauthenticated or _is_loopback(options.host):
        return
    if authentication.authenticate is None:
        raise UsageError(
            f"--host {options.host} is more than this machine, and whoever can connect can run any code in the engine, "
            "since nothing authenticates clients; add --generate-token, or another of the options that say who is let "
            "in (see rayforce-trio serve --help)"
        )
    if options.tls_certificate is None:
        warn(f"--host {options.host} is more than this machine; without --tls-certificate secrets travel unencrypted")


def _is_loopback(host: str) -> bool:
    """Whether listening on a host can be reached from this machine alone; a name that is unknown cannot at all."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
