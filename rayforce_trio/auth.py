"""Authentication: the argument and the result of a server's `authenticate`, and functions for common cases.

These functions take the same time whether a secret is almost right, wrong, or belongs to no user.
"""

import base64
import binascii
import hashlib
import hmac
import inspect
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

import trio

from ._addresses import UnixPeer, network_of
from ._credentials import check_password, check_token, check_user
from ._tasks import call_async_unprotected
from .errors import RayforceValueError

__all__ = ["Principal", "Request", "UnixPeer", "any_of", "hash_password", "password", "token", "users"]


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A client's request to connect: the argument of `authenticate`.

    Attributes:
        path: the path and query of the URL.
        headers: the HTTP headers, with names in lower case. The values of a repeated header are joined by ", ". They
            are decoded as Latin-1; for UTF-8, use `value.encode("latin-1").decode()`.
        peer: the client's IP address. Behind a proxy in `trusted_proxies` that reports it, this is the address of the
            proxy's client. On a Unix socket, it is `unix:uid=` and the id of the peer's user, which is the user of a
            proxy if there is one: decide by `unix_peer`.
        username: the user name of HTTP Basic authentication, if there is one.
        password: the password of HTTP Basic authentication, if there is one.
        token: the bearer token, if there is one. It comes from the `Authorization` header or, in browsers, from a
            subprotocol.
        certificate: the client's TLS certificate, as `ssl.SSLSocket.getpeercert` returns it, if there is one.
        unix_peer: the client's process, if it has connected to a Unix socket of the server. `None` for clients on TCP,
            and for clients that come through a proxy.
    """

    path: str
    headers: Mapping[str, str]
    peer: str
    username: str | None = None
    password: str | None = None
    token: str | None = None
    certificate: Mapping[str, object] | None = None
    unix_peer: UnixPeer | None = None

    def __repr__(self) -> str:
        return f"Request(path={self.path.partition('?')[0]!r}, peer={self.peer!r})"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated client.

    Attributes:
        name: the client's name in the log.
        engine: the name, in `WSServer(engines=...)`, of the engine that evaluates this client's queries. `None`: the
            server's `engine`.
        topics: the topics to which this client may subscribe. A name that ends with `*` stands for all topics that
            begin with the part before it. `None`: all topics.

    Raises:
        RayforceValueError: the name is empty, or an argument has the wrong type.
    """

    name: str
    engine: str | None = None
    topics: Iterable[str] | None = None

    def __post_init__(self) -> None:
        if not _is_text(self.name):
            raise RayforceValueError("Invalid name of a Principal. Must be a non-empty str")
        if self.engine is not None and not isinstance(self.engine, str):
            raise RayforceValueError("Invalid engine of a Principal. Must be a name in WSServer(engines=...), or None")
        if self.topics is not None:
            object.__setattr__(self, "topics", _topics(self.topics))


def password(secret: str, *, principal: Principal | None = None) -> Callable[[Request], Principal | None]:
    """Return an `authenticate` function that accepts one password, with any user name.

    Args:
        secret: the password.
        principal: the principal of the clients. Default: `Principal("password")`.

    Raises:
        RayforceValueError: the password is empty, is not a `str`, or has control characters, which clients cannot
            send; or `principal` is not a `Principal`.
    """
    return _Password(_Secret(check_password(secret)), _principal(principal, "password"))


def token(secret: str, *others: str, principal: Principal | None = None) -> Callable[[Request], Principal | None]:
    """Return an `authenticate` function that accepts bearer tokens.

    A valid token of 16 characters or more is always accepted. A shorter one could be guessed, so it is refused while
    there are too many failures from the client's address.

    Args:
        secret: the token. `secrets.token_urlsafe()` generates one that cannot be guessed.
        others: further tokens, for example the old one while clients change to the new one.
        principal: the principal of the clients. Default: `Principal("token")`.

    Raises:
        RayforceValueError: a token is empty, is not a `str`, or has characters other than visible ASCII; or
            `principal` is not a `Principal`.
    """
    tokens = [check_token(one) for one in (secret, *others)]
    return _Tokens(tokens, _principal(principal, "token"))


def users(table: Mapping[str, str | tuple[str, Principal]]) -> Callable[[Request], Awaitable[Principal | None]]:
    """Return an async `authenticate` function that accepts the users of a table with their passwords.

    Checking a password deliberately takes a good part of a second of processor time, in a thread. All checks together
    use at most half of the machine's processors, and those of one network half of that. Each check is a checkpoint; if
    cancelled, the thread finishes in the background.

    Args:
        table: for each user name, the hash that `hash_password` returned, or a tuple of that hash and a `Principal`.
            Without one, the principal has the user name as its name. All hashes should have the same parameters,
            because the check of an unknown user takes as long as that of the first user.

    Raises:
        RayforceValueError: the table is empty, or an entry is malformed.
    """
    if not table or not isinstance(table, Mapping):
        raise RayforceValueError(
            "Invalid users. Must be a non-empty dict of user names and entries, such as hashes from hash_password"
        )
    return _Users({name: _user(name, entry) for name, entry in table.items()})


def any_of(
    *functions: Callable[[Request], object | Awaitable[object]],
) -> Callable[[Request], Awaitable[object]]:
    """Return an async `authenticate` function that accepts the clients that any of several functions accepts.

    The functions are called in order until one of them accepts the client, so put expensive ones last. A valid token of
    16 characters or more is accepted first, however many failures there are from the client's address. A call is a
    checkpoint if one of the functions is; if cancelled, that function is cancelled.

    Args:
        functions: functions of this module or your own; they may be async.

    Raises:
        RayforceValueError: there is no function, or an argument is not a function.
    """
    if not functions or not all(map(callable, functions)):
        raise RayforceValueError("Invalid functions. Must be one or more functions that take an auth.Request")
    return _AnyOf([authenticator_of(function) for function in functions])


def hash_password(password: str) -> str:
    """Return a salted scrypt hash of a password, for `users`.

    This takes a good part of a second and is no checkpoint.

    Args:
        password: the password.

    Raises:
        RayforceValueError: the password is empty, is not a `str`, or has control characters, which clients cannot send.
    """
    return str(_Hash.of(check_password(password)))


def _principal(given: object, default_name: str) -> Principal:
    if given is not None and not isinstance(given, Principal):
        raise RayforceValueError(f"Invalid principal: {given!r}. Must be a Principal, or None")
    return given or Principal(default_name)


def _user(name: object, entry: object) -> tuple["_Hash", Principal]:
    name = check_user(name)
    match entry:
        case str(text):
            return _Hash.parse(text, name), Principal(name)
        case (str(text), Principal() as principal):
            return _Hash.parse(text, name), principal
    raise RayforceValueError(
        f"Invalid entry of user {name!r}. Must be a hash from hash_password, or a tuple of it and a Principal"
    )


def _topics(given: object) -> tuple[str, ...]:
    topics = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
    if not all(map(_is_text, topics)):
        raise RayforceValueError("Invalid topics of a Principal. Must be a list of topic names, or None")
    return topics


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


class _Secret:
    """A digest of a secret, for comparison in constant time."""

    def __init__(self, secret: str) -> None:
        self._key = secrets.token_bytes(32)
        self._digest = self._digest_of(secret)

    def equals(self, given: str | None) -> bool:
        return hmac.compare_digest(self._digest, self._digest_of(given or ""))

    def _digest_of(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), "sha256")


MIN_STRONG_TOKEN_SIZE = 16
"""Characters. Nobody can guess a token of this length over the network, so checking one needs no limit."""

_HEADERS_WITHOUT_CREDENTIALS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "content-length",
        "dnt",
        "forwarded",
        "host",
        "origin",
        "pragma",
        "priority",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "sec-fetch-storage-access",
        "sec-gpc",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "upgrade",
        "user-agent",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-real-ip",
    }
)
"""The headers of requests that contain no credentials, from clients and proxies of all kinds."""


class Authenticator(ABC):
    """An `authenticate` function in parts, so that a server limits only those attempts that could be guesses."""

    @property
    def accepts_passwords(self) -> bool:
        """Whether user names and passwords may be valid credentials."""
        return True

    @abstractmethod
    def has_credentials(self, request: Request) -> bool:
        """Return whether a request has credentials. Without any, its refusal is not a failed attempt."""

    def check_strong_token(self, request: Request) -> object:  # noqa: ARG002 - for subclasses
        """Return the principal of a request with a token that cannot be guessed and is cheap to check, or `None`."""
        return None

    @abstractmethod
    def check(self, request: Request) -> object | Awaitable[object]:
        """Return the principal of a request, or something falsy to refuse it, or an awaitable of one of them."""

    def __call__(self, request: Request) -> object | Awaitable[object]:
        return self.check(request)


def authenticator_of(function: Callable[[Request], object | Awaitable[object]]) -> Authenticator:
    """Return the parts of an `authenticate` function."""
    return function if isinstance(function, Authenticator) else _Function(function)


class _Function(Authenticator):
    """A function of the user's own, which may find credentials anywhere in a request."""

    def __init__(self, function: Callable[[Request], object | Awaitable[object]]) -> None:
        self._function = function

    def has_credentials(self, request: Request) -> bool:
        given = request.username, request.token, request.certificate
        return (
            any(one is not None for one in given)
            or "?" in request.path
            or not _HEADERS_WITHOUT_CREDENTIALS.issuperset(request.headers)
        )

    def check(self, request: Request) -> Awaitable[object]:
        return call_async_unprotected(self._function, request)


class _Password(Authenticator):
    def __init__(self, secret: "_Secret", principal: Principal) -> None:
        self._secret = secret
        self._principal = principal

    def has_credentials(self, request: Request) -> bool:
        return request.password is not None

    def check(self, request: Request) -> Principal | None:
        return self._principal if self._secret.equals(request.password) else None

    __call__ = check


class _Tokens(Authenticator):
    def __init__(self, tokens: list[str], principal: Principal) -> None:
        self._secrets = [_Secret(one) for one in tokens]
        pairs = zip(self._secrets, tokens, strict=True)
        self._strong_secrets = [secret for secret, one in pairs if len(one) >= MIN_STRONG_TOKEN_SIZE]
        self._principal = principal

    @property
    def accepts_passwords(self) -> bool:
        return False

    def has_credentials(self, request: Request) -> bool:
        return request.token is not None

    def check_strong_token(self, request: Request) -> Principal | None:
        return self._found(self._strong_secrets, request)

    def check(self, request: Request) -> Principal | None:
        return self._found(self._secrets, request)

    __call__ = check

    def _found(self, among: "list[_Secret]", request: Request) -> Principal | None:
        fitting = [one.equals(request.token) for one in among]  # all of them, so that the time tells nothing
        return self._principal if any(fitting) else None


class _Users(Authenticator):
    def __init__(self, known: "dict[str, tuple[_Hash, Principal]]") -> None:
        self._known = known
        self._unknown = replace(next(iter(known.values()))[0], digest=secrets.token_bytes(_DIGEST_SIZE))
        half = max(1, (os.cpu_count() or 1) // 2)
        self._threads = trio.CapacityLimiter(half)
        self._share = max(1, half // 2)
        # so that one network cannot fill the queue
        self._of_network: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()

    def has_credentials(self, request: Request) -> bool:
        return request.username is not None and request.password is not None

    async def check(self, request: Request) -> Principal | None:
        """Check the password in a thread. A checkpoint; if cancelled, a check that runs is finished first."""
        if request.username is None or request.password is None:
            await trio.lowlevel.checkpoint()
            return None
        kept, principal = self._known.get(request.username, (self._unknown, None))
        async with self._of_network.setdefault(network_of(request.peer), trio.Semaphore(self._share)):
            fits = await trio.to_thread.run_sync(kept.fits, request.password, limiter=self._threads)
        return principal if fits else None

    __call__ = check


class _AnyOf(Authenticator):
    def __init__(self, parts: list[Authenticator]) -> None:
        self._parts = parts

    @property
    def accepts_passwords(self) -> bool:
        return any(part.accepts_passwords for part in self._parts)

    def has_credentials(self, request: Request) -> bool:
        return any(part.has_credentials(request) for part in self._parts)

    def check_strong_token(self, request: Request) -> object:
        return next(filter(None, (part.check_strong_token(request) for part in self._parts)), None)

    async def check(self, request: Request) -> object:
        """Call the functions in order. A checkpoint if one of them is; if cancelled, that one is cancelled."""
        for part in self._parts:
            principal = part.check(request)
            if inspect.isawaitable(principal):
                principal = await principal
            if principal:
                return principal
        return None

    __call__ = check


_LN, _R, _P = 14, 8, 5  # OWASP's parameters with the least memory: 16 MiB per check
_MAX_P = 16
_MAX_MEMORY = 256 * 1024 * 1024  # bytes
_SALT_SIZE = 16
_DIGEST_SIZE = 32
_MIN_DIGEST_SIZE = 16
_FORM = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII)


@dataclass(frozen=True, slots=True, repr=False)
class _Hash:
    """An scrypt hash of a password. Its text is in the PHC string format."""

    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> "_Hash":
        empty = cls(_LN, _R, _P, secrets.token_bytes(_SALT_SIZE), bytes(_DIGEST_SIZE))
        return replace(empty, digest=empty._digest_of(password))

    @classmethod
    def parse(cls, text: str, user: str) -> "_Hash":
        found = _FORM.fullmatch(text)
        if found is not None:
            try:
                ln, r, p = map(int, found.groups()[:3])
                parsed = cls(ln, r, p, _decoded(found[4]), _decoded(found[5]))
            except binascii.Error:
                pass
            else:
                if parsed._is_valid:
                    return parsed
        # The error does not show the entry, which may be the password itself.
        raise RayforceValueError(f"Invalid entry of user {user!r}. Must be a hash from hash_password")

    def fits(self, password: str) -> bool:
        return hmac.compare_digest(self.digest, self._digest_of(password))

    def __str__(self) -> str:
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_encoded(self.salt)}${_encoded(self.digest)}"

    @property
    def _memory(self) -> int:
        return 128 * self.r * ((1 << self.ln) + self.p + 4)

    @property
    def _is_valid(self) -> bool:
        in_range = 0 < self.ln < 16 * self.r and 0 < self.p <= _MAX_P and self._memory <= _MAX_MEMORY
        return in_range and len(self.digest) >= _MIN_DIGEST_SIZE

    def _digest_of(self, password: str) -> bytes:
        return hashlib.scrypt(
            password.encode(),
            salt=self.salt,
            n=1 << self.ln,
            r=self.r,
            p=self.p,
            maxmem=self._memory,
            dklen=len(self.digest),
        )


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
