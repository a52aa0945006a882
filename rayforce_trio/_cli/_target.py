"""The server that a client command connects to, and the client's secrets."""

import re
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from ssl import SSLContext

from .. import WSClient
from .._addresses import ParsedUrl, parse_url
from ..errors import RayforceValueError
from ._console import UsageError
from ._options import DEFAULT_HOST, DEFAULT_PORT
from ._secrets import PASSWORD_VARIABLE, add_secrets, secrets_of
from ._tls import add_certificate, client_context

OPTIONAL_URL = "[URL]"
"""The name in the help of a URL that may be left out."""

_LOOKS_LIKE_URL = re.compile(r"wss?://\S*|unix:\S+|[\w.@-]*:\d+", re.ASCII)
_SHORT_URL = re.compile(r"(?P<user>[^/?#@]+@)?(?P<host>\[[^\]/?#@]*\]|[^:/?#@\[\]]*)(:(?P<port>\d+))?", re.ASCII)


def add_target(parser: ArgumentParser, *, needs_url: bool = False) -> None:
    """Add the options for the server, the user and TLS.

    Args:
        parser: the parser of the command. Its other positional arguments are added after this call.
        needs_url: the URL cannot be left out, because the command has another positional argument that can.
    """
    default = "" if needs_url else f"; default: {DEFAULT_HOST}:{DEFAULT_PORT}, the default of rayforce-trio serve"
    parser.add_argument(
        "url",
        metavar="URL" if needs_url else OPTIONAL_URL,
        help="the server: ws://host:port, wss://user@host:port/path, unix:/path, or a short form: host:port, :port or "
        "host" + default,
    )
    user = parser.add_argument_group("authentication")
    user.add_argument("--user", metavar="NAME", help="the user name, if it is not in the URL")
    add_secrets(user.add_mutually_exclusive_group(), "use the {}")
    tls = parser.add_argument_group("TLS, for URLs that begin with wss://")
    tls.add_argument(
        "--tls-authority",
        metavar="FILE",
        help="the certificate authority to trust, PEM; default: those that the system trusts",
    )
    add_certificate(tls, "the certificate to show to the server")


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A server, and the client's secrets.

    Attributes:
        url: the parts of the server's URL.
        tls: the TLS context; `None` means no TLS.
        user: the user name, if there is one.
        password: the password, if there is one. Without it, the user name is not sent.
        token: the token, if there is one.
    """

    url: ParsedUrl
    tls: SSLContext | None
    user: str | None
    password: str | None
    token: str | None

    @property
    def has_secret(self) -> bool:
        return self.password is not None or self.token is not None

    def client(self) -> WSClient:
        """Return a client for the server.

        Raises:
            UsageError: the host, the path, the user name or a secret is not valid.
        """
        try:
            return WSClient(
                self.url.host,
                self.url.port,
                path=self.url.target,
                ssl=False if self.tls is None else self.tls,
                user=None if self.password is None else self.user,
                password=self.password,
                token=self.token,
            )
        except RayforceValueError as error:
            raise UsageError(error) from None


def target_of(options: Namespace, *, can_ask: bool = False) -> Target:
    """Return the server that the options name, with the secrets from files and the environment.

    Args:
        can_ask: accept a user name without a password, because the command can ask for the password.

    Raises:
        UsageError: the URL is not valid, the options contradict each other, or one is missing.
    """
    url = server_url(options.url)
    if url.user is not None and options.user is not None:
        raise UsageError("the URL already contains a user name; leave out --user")
    user = options.user if url.user is None else url.user
    password, token = secrets_of(options)
    if user is not None and token is not None:
        raise UsageError("a user name needs a password, and cannot be used with a token")
    if user is not None and password is None and not can_ask:
        raise UsageError(f"a user name needs a password; use --password-file or set {PASSWORD_VARIABLE}")
    return Target(url, _tls(options, is_secure=url.is_secure), user, password, token)


def check_not_url(text: str, name: str) -> None:
    """Check the argument behind the URL: if the user has left it out, it is the URL.

    Args:
        text: the argument.
        name: its name in the help.

    Raises:
        UsageError: the argument is a URL.
    """
    if _LOOKS_LIKE_URL.fullmatch(text):
        raise UsageError(f"{name} is missing: {text} is the URL of a server")


def server_url(text: str) -> ParsedUrl:
    """Parse a URL such as `wss://user@host:port/path` or `unix:/path`, or the short form `user@host:port`.

    Raises:
        UsageError: the text is neither. The error does not show the text, which may contain a password.
    """
    short = _SHORT_URL.fullmatch(text)
    if short is not None:
        text = f"ws://{short['user'] or ''}{short['host'] or DEFAULT_HOST}:{short['port'] or DEFAULT_PORT}"
    try:
        return parse_url(text)
    except RayforceValueError as error:
        hint = "" if "://" in text else "; the short forms are host:port, :port and host"
        raise UsageError(f"{error}{hint}") from None


def _tls(options: Namespace, *, is_secure: bool) -> SSLContext | None:
    if is_secure:
        if options.tls_key is not None and options.tls_certificate is None:
            raise UsageError("--tls-key needs --tls-certificate")
        return client_context(options.tls_authority, options.tls_certificate, options.tls_key)
    for name in ("authority", "certificate", "key"):
        if getattr(options, f"tls_{name}") is not None:
            raise UsageError(f"--tls-{name} needs a URL that begins with wss://")
    return None
