"""The command `serve`."""

import argparse
import logging
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from inspect import signature
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any

import trio

from .. import WSServer, systemd_sockets
from ..errors import ListenError, RayforceValueError
from ._authentication import Authentication, add_authentication, authentication_of
from ._console import OK, CommandFailed, OutputClosed, UsageError, flush_output, show, show_warning
from ._engine import add_engine, engine_of
from ._options import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    drain_timeout,
    examples,
    file_mode,
    limit,
    query_timeout,
    seconds,
    size,
    size_limit,
    size_text,
)
from ._tls import add_certificate, server_context

DESCRIPTION = "Serve a RayforceDB engine over WebSocket until SIGINT or SIGTERM."
_EXAMPLES = examples(
    "serve --script tables.rfl",
    "serve --host 0.0.0.0 --tls-certificate server.pem --generate-token",
    "serve --port 0 --engine in-process --console",
    "serve --engine 127.0.0.1:5000 --engine-password-file password",
)

_LOG_LEVELS = ("debug", "info", "warning", "error")
_SERVER_PARAMETERS = signature(WSServer).parameters


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("serve", help="start a server", description=DESCRIPTION, epilog=_EXAMPLES)
    parser.set_defaults(run=serve)
    _add_network(parser.add_argument_group("network"))
    add_authentication(parser)
    _add_limits(parser.add_argument_group("limits"))
    add_engine(parser)
    parser.add_argument("--metrics", action="store_true", help="answer GET /metrics for Prometheus")
    parser.add_argument("--javascript", action="store_true", help="answer GET /rayforce.js with the JavaScript client")
    parser.add_argument("--console", action="store_true", help="answer GET /console with a page for queries")
    parser.add_argument("--log-queries", action="store_true", help="log the first characters of every query")
    parser.add_argument(
        "--trace-queries", action="store_true", help="record queries and messages of errors in OpenTelemetry traces"
    )
    parser.add_argument(
        "--log-level", choices=_LOG_LEVELS, default="info", help="the lowest level that is logged; default: %(default)s"
    )


def _add_network(group: Any) -> None:
    group.add_argument(
        "--host", help=f"name or address to listen on, or unix:/path for a Unix socket; default: {DEFAULT_HOST}"
    )
    group.add_argument("--port", type=int, help=f"port to listen on, 0 for a free one; default: {DEFAULT_PORT}")
    group.add_argument(
        "--unix-mode",
        metavar="MODE",
        type=file_mode,
        default=_SERVER_PARAMETERS["unix_mode"].default,
        help="permissions of the file of the Unix socket, in octal; users that may write can connect; default: 600",
    )
    group.add_argument(
        "--socket-activation", action="store_true", help="listen on the sockets that systemd passes to this process"
    )
    group.add_argument("--reuse-port", action="store_true", help="share the port with other servers of the same user")
    group.add_argument(
        "--allowed-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let browser pages of this origin connect, such as https://example.org; may be repeated",
    )
    group.add_argument(
        "--allowed-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a host name that clients may use for the server; may be repeated",
    )
    group.add_argument(
        "--trusted-proxy",
        metavar="NETWORK",
        action="append",
        default=[],
        help="address or network of a proxy in front of the server, such as 127.0.0.1 or 10.0.0.0/8, or unix: for all "
        "peers on Unix sockets; may be repeated",
    )
    group.add_argument(
        "--proxy-header",
        metavar="NAME",
        help="header in which the trusted proxies report the addresses of clients: X-Forwarded-For or Forwarded",
    )
    group.add_argument(
        "--proxy-protocol",
        action="store_true",
        help="the trusted proxies report the addresses of clients with the PROXY protocol, version 2",
    )
    add_certificate(group, "use TLS, with this certificate")
    group.add_argument(
        "--tls-client-authority", metavar="FILE", help="let in only clients with a certificate of this authority; PEM"
    )
    _add_server_option(group, "--max-message-size", "SIZE", size, "size limit of a message from a client", size_text)


def _add_limits(group: Any) -> None:
    for name, help_ in (
        ("--max-connections", "connections in total"),
        ("--max-connections-per-address", "connections from one address"),
        ("--max-unauthenticated", "connections that are still being opened"),
        ("--max-in-flight", "unanswered requests of one connection"),
        ("--max-subscriptions", "subscriptions of one connection"),
        ("--max-topics", "topics that the server keeps"),
    ):
        _add_server_option(group, name, "N", limit, f"{help_}, 0 for no limit")
    for name, help_ in (
        ("--max-buffered-bytes", "messages of all clients that are arriving or wait"),
        ("--max-reply-size", "size limit of a reply"),
        ("--max-spooled-bytes", "long replies of all clients that wait to be read"),
    ):
        _add_server_option(group, name, "SIZE", size_limit, f"{help_}, 0 for no limit", size_text)
    _add_server_option(
        group,
        "--query-timeout",
        "SECONDS",
        query_timeout,
        "seconds that a query may run in the engine, 0 for no limit; auto means 300, or 0 if only this machine can "
        "connect",
    )
    _add_server_option(
        group,
        "--drain-timeout",
        "SECONDS",
        drain_timeout,
        "seconds to wait for running queries on shutdown, 0 to stop them at once",
    )
    _add_server_option(
        group,
        "--drain-delay",
        "SECONDS",
        drain_timeout,
        "seconds to keep serving on shutdown while /healthz returns 503, so that load balancers turn to other servers",
    )
    for name, help_ in (
        ("--open-timeout", "seconds that a client may take to open a connection"),
        ("--write-timeout", "seconds after which a client that does not read is disconnected"),
    ):
        _add_server_option(group, name, "SECONDS", seconds, help_)
    _add_server_option(
        group,
        "--resume-window",
        "SECONDS",
        drain_timeout,
        "seconds to keep a topic after its last subscriber has left, so that subscribers can resume",
    )
    for name, help_ in (
        ("--max-topic-history", "latest updates of each topic to keep for subscribers that resume"),
        ("--max-subscription-buffer", "updates that wait for one client to read them"),
    ):
        _add_server_option(group, name, "SIZE", size, help_, size_text)


def _add_server_option(
    group: Any, name: str, metavar: str, type_: Callable[[str], Any], help_: str, shown: Callable[[Any], str] = str
) -> None:
    """Add an option with the default of the parameter of `WSServer` that has its name."""
    default = _SERVER_PARAMETERS[name.removeprefix("--").replace("-", "_")].default
    text = f"{default:g}" if isinstance(default, float) else shown(default)
    group.add_argument(name, metavar=metavar, type=type_, default=default, help=f"{help_}; default: {text}")


def serve(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    sockets = _passed_sockets(options)
    try:
        return _serve(options, sockets)
    finally:
        for one in sockets or ():
            one.close()


def _serve(options: argparse.Namespace, sockets: list[socket.socket] | None) -> int:
    """Serve on these sockets; `None`: on the address in the options. Returns the exit code of the command."""
    authentication = authentication_of(options)
    tls = _tls(options)
    if sockets is None:
        _set_address_defaults(options)
    try:
        server = _Server(
            authentication.generated_token,
            **({"port": options.port, "host": options.host} if sockets is None else {"sockets": sockets}),
            unix_mode=options.unix_mode,
            engine=engine_of(options),
            ssl_context=tls,
            authenticate=authentication.authenticate,
            allow_unauthenticated=options.allow_unauthenticated,
            allowed_origins=options.allowed_origin,
            allowed_hosts=options.allowed_host,
            trusted_proxies=options.trusted_proxy,
            proxy_header=options.proxy_header,
            proxy_protocol=options.proxy_protocol,
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
            drain_delay=options.drain_delay,
            max_reply_size=options.max_reply_size,
            max_buffered_bytes=options.max_buffered_bytes,
            max_spooled_bytes=options.max_spooled_bytes,
            resume_window=options.resume_window,
            max_topic_history=options.max_topic_history,
            max_subscription_buffer=options.max_subscription_buffer,
            max_subscriptions=options.max_subscriptions,
            max_topics=options.max_topics,
            metrics=options.metrics,
            serve_javascript=options.javascript,
            console=options.console,
            log_queries=options.log_queries,
            trace_queries=options.trace_queries,
        )
    except RayforceValueError as error:
        raise UsageError(error) from None
    _check_exposure(options, sockets, authentication)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    trio.run(server.run)
    with suppress(OutputClosed, CommandFailed):  # the server stopped as asked, whether or not its output was read
        flush_output()
    return OK


class _Server(WSServer):
    """A server that shows its generated token as soon as it listens."""

    def __init__(self, generated_token: str | None, **options: Any) -> None:
        super().__init__(**options)
        self._generated_token = generated_token

    async def __aenter__(self) -> "_Server":
        """Start the server, and show the token. A checkpoint; if cancelled, the server is stopped."""
        await super().__aenter__()
        if self._generated_token is not None:
            show(f"Clients of {self.url} need this token, which is not shown again:\n{self._generated_token}")
        return self


def _tls(options: argparse.Namespace) -> SSLContext | None:
    if options.tls_certificate is not None:
        return server_context(options.tls_certificate, options.tls_key, options.tls_client_authority)
    for name in ("key", "client_authority"):
        if getattr(options, f"tls_{name}") is not None:
            raise UsageError(f"--tls-{name.replace('_', '-')} needs --tls-certificate")
    return None


def _passed_sockets(options: argparse.Namespace) -> list[socket.socket] | None:
    """Return the sockets that systemd has passed, if they are to be used.

    Raises:
        UsageError: there are none, or the options contradict each other.
    """
    if not options.socket_activation:
        return None
    if options.host is not None or options.port is not None:
        raise UsageError("--socket-activation contradicts --host and --port: the socket unit has the addresses")
    try:
        return systemd_sockets()
    except ListenError as error:
        raise UsageError(error) from None


def _set_address_defaults(options: argparse.Namespace) -> None:
    if options.host is None:
        options.host = DEFAULT_HOST
    if options.port is None and not _is_unix(options.host):
        options.port = DEFAULT_PORT


def _check_exposure(
    options: argparse.Namespace, sockets: Iterable[socket.socket] | None, authentication: Authentication
) -> None:
    """Refuse to let in clients on other machines without authentication, unless the user asks for it.

    Warn if the server would refuse the clients of trusted proxies for that reason.
    """
    if options.trusted_proxy and authentication.authenticate is None and not options.allow_unauthenticated:
        show_warning(
            "the clients of --trusted-proxy are refused, because nothing authenticates them; add --generate-token, or "
            "another option for authentication"
        )
    exposed = _exposed_address(options, sockets)
    if options.allow_unauthenticated or exposed is None:
        return
    if authentication.authenticate is None:
        raise UsageError(
            f"{exposed} lets other machines connect, and clients can run any code in the engine, but "
            "nothing authenticates them; add --generate-token, or another option for authentication (see rayforce-trio "
            "serve --help)"
        )
    if options.tls_certificate is None:
        show_warning(f"{exposed} lets other machines connect; without --tls-certificate, secrets are not encrypted")


def _exposed_address(options: argparse.Namespace, sockets: Iterable[socket.socket] | None) -> str | None:
    """Return what lets other machines connect, for an error, or `None`."""
    if sockets is None:
        return None if _is_unix(options.host) or _is_loopback(options.host) else f"--host {options.host}"
    hosts = (one.getsockname()[0] for one in sockets if one.family != socket.AF_UNIX)
    host = next((host for host in hosts if not _is_loopback(host)), None)
    return None if host is None else f"the socket at {host}"


def _is_unix(host: str) -> bool:
    return host.startswith("unix:")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a host. True for an unknown name, on which the server cannot listen."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
