"""The server that a client's command is about, and what it is told of the client."""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from ipaddress import IPv6Address
from ssl import SSLContext
from urllib.parse import unquote, urlsplit

from .. import WSClient
from ..errors import RayforceValueError
from ._arguments import DEFAULT_HOST, DEFAULT_PORT
from ._exits import UsageError
from ._secrets import PASSWORD_VARIABLE, add_secrets, secrets_of
from ._tls import client_context

_SHORT = re.compile(r"(?P<user>[^/?#@]+@)?(?P<host>\[[^\]/?#@]*\]|[^:/?#@\[\]]*)(:(?P<port>\d+))?", re.ASCII)

_NO_URL = (
    "this is no URL of a server; such look like ws://host:port, wss://user@host:port/path or, in short and without a "
    "path, host:port or :port"
)


def add_target(parser: ArgumentParser) -> None:
    """Add the arguments that say which server to connect to, and as whom."""
    parser.add_argument(
        "url",
        metavar="URL",
        type=address,
        help=f"wss://user@host:port/path, ws://host:port, or in short host:port or :port; in these, this machine and "
        f"port {DEFAULT_PORT} are the defaults",
    )
    who = parser.add_argument_group("who you are")
    who.add_argument("--user", metavar="NAME", help="your user name; or in the URL")
    add_secrets(who.add_mutually_exclusive_group(), "your")
    tls = parser.add_argument_group("TLS, where the URL begins with wss")
    tls.add_argument(
        "--tls-authority", metavar="FILE", help="the authority to trust, as PEM; by default whom the system trusts"
    )
    tls.add_argument("--tls-certificate", metavar="FILE", help="a certificate to show to the server, as PEM")
    tls.add_argument("--tls-key", metavar="FILE", help="its key, as PEM; by default in the same file")


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A server, and what it is told of the client.

    Attributes:
        url: where it is, without a user name.
        tls: how to speak TLS; `None`: not at all.
        user: the user name; `None`: there is none.
        password: what goes with it; `None`: there is none, so the user name is not sent either.
        token: `None`: there is none.
    """

    url: str
    tls: SSLContext | None
    user: str | None
    password: str | None
    token: str | None

    @property
    def has_secret(self) -> bool:
        return self.password is not None or self.token is not None

    def client(self) -> WSClient:
        """Return a client for it.

        Raises:
            UsageError: there can be no such server, or nothing like this can be sent to one.
        """
        try:
            return WSClient.from_url(
                self.url,
                ssl=False if self.tls is None else self.tls,
                user=None if self.password is None else self.user,
                password=self.password,
                token=self.token,
            )
        except RayforceValueError as error:
            raise UsageError(error) from None


def target_of(options: Namespace, *, may_ask: bool = False) -> Target:
    """Return the server that the arguments name, with the secrets that they and the environment have.

    Args:
        may_ask: a user name can do without a password, for which the user is going to be asked.

    Raises:
        UsageError: they contradict each other, or something is missing in them.
    """
    url, in_url = options.url
    if in_url is not None and options.user is not None:
        raise UsageError("there is a user name in the URL already; leave out --user")
    user = options.user if in_url is None else in_url
    password, token = secrets_of(options)
    if user is not None and token is not None:
        raise UsageError("a user name goes with a password, not with a token")
    if user is not None and password is None and not may_ask:
        raise UsageError(f"a user name needs a password, from --password-file or {PASSWORD_VARIABLE}")
    return Target(url, _tls(options, url), user, password, token)


def address(text: str) -> tuple[str, str | None]:
    """Return the URL without its user name, and the user name, of `wss://user@host:port/path` or `user@host:port`.

    Raises:
        ArgumentTypeError: it is none of these. It is not shown: there may be a password in it.
    """
    if _is_ipv6(text.removeprefix("ws://").removeprefix("wss://")):
        raise ArgumentTypeError("an IPv6 address stands in brackets, as in [::1]:8765")
    short = _SHORT.fullmatch(text)
    if short is not None:
        text = f"ws://{short['user'] or ''}{short['host'] or DEFAULT_HOST}:{short['port'] or DEFAULT_PORT}"
    try:
        parts = urlsplit(text)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(_NO_URL) from None
    if parts.password is not None:
        raise ArgumentTypeError(
            f"other users could read a password in a URL, in the list of processes; use --password-file or "
            f"{PASSWORD_VARIABLE}"
        )
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ArgumentTypeError("the port of a server is a number between 1 and 65535")
    user = unquote(parts.username) if parts.username else None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), user


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _tls(options: Namespace, url: str) -> SSLContext | None:
    if url.startswith("wss:"):
        if options.tls_key is not None and options.tls_certificate is None:
            raise UsageError("--tls-key is the key of a --tls-certificate")
        return client_context(options.tls_authority, options.tls_certificate, options.tls_key)
    for name in ("authority", "certificate", "key"):
        if getattr(options, f"tls_{name}") is not None:
            raise UsageError(f"--tls-{name} is for URLs that begin with wss://")
    return None
