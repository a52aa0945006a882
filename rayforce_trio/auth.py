"""Who is asking: what a server's `authenticate` gets and returns, and the kinds of it that most servers need.

All of the latter take the same time whether a secret is nearly right, wrong, or of a user that does not exist.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

import trio

from ._addresses import network_of
from ._credentials import check_password, check_token, check_user
from .errors import RayforceValueError

__all__ = ["Principal", "Request", "hash_password", "password", "token", "users"]


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A request to be let in, as `authenticate` gets it.

    Attributes:
        path: of the URL, with its query.
        headers: the HTTP headers, names in lower case; of one that came several times, all values, joined by ", ".
        peer: the client's IP address.
        username: of HTTP Basic; `None` if there is none.
        password: of HTTP Basic; `None` if there is none.
        token: the bearer token, from the header or, of a browser, the subprotocol; `None` if there is none.
        certificate: the client's TLS certificate; `None` if there is none.
    """

    path: str
    headers: Mapping[str, str]
    peer: str
    username: str | None = None
    password: str | None = None
    token: str | None = None
    certificate: Mapping[str, object] | None = None

    def __repr__(self) -> str:
        return f"Request(path={self.path.partition('?')[0]!r}, peer={self.peer!r})"


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom the server has let in.

    Attributes:
        name: for the log.
        engine: the name of the engine in `WSServer(engines=...)` that evaluates what this client asks; `None` means
            the one given as `engine`.

    Raises:
        RayforceValueError: the name is empty, or one of both is no string.
    """

    name: str
    engine: str | None = None

    def __post_init__(self) -> None:
        if not _is_text(self.name):
            raise RayforceValueError("Invalid name of a Principal. Must be a str that is not empty")
        if self.engine is not None and not isinstance(self.engine, str):
            raise RayforceValueError("Invalid engine of a Principal. Must be a name in WSServer(engines=...), or None")


def password(secret: str, *, principal: Principal | None = None) -> Callable[[Request], Principal | None]:
    """Return an `authenticate` that lets in who knows a password, whatever user name comes with it.

    Args:
        secret: the password.
        principal: whom they count as. Default: `Principal("password")`.

    Raises:
        RayforceValueError: the password is empty, no str, or has control characters, which no client can send.
    """
    known, whom = _Secret(check_password(secret)), principal or Principal("password")

    def authenticate(request: Request) -> Principal | None:
        return whom if known.equals(request.password) else None

    return authenticate


def token(secret: str, *others: str, principal: Principal | None = None) -> Callable[[Request], Principal | None]:
    """Return an `authenticate` that lets in who has a token.

    Args:
        secret: the token; `secrets.token_urlsafe()` makes one that nobody guesses.
        others: further tokens that are as good: the old one, say, while clients change to the new.
        principal: whom they count as. Default: `Principal("token")`.

    Raises:
        RayforceValueError: a token is empty, no str, or not of visible ASCII characters.
    """
    known, whom = [_Secret(check_token(one)) for one in (secret, *others)], principal or Principal("token")

    def authenticate(request: Request) -> Principal | None:
        return whom if any([one.equals(request.token) for one in known]) else None  # noqa: C419 - all, each time

    return authenticate


def users(table: Mapping[str, str | tuple[str, Principal]]) -> Callable[[Request], Awaitable[Principal | None]]:
    """Return an async `authenticate` that lets in the users of a table, each with a password.

    To check one takes a good part of a second of a processor, on purpose; it happens in a thread, and takes half of the
    machine's processors at most, half of those for one network.

    Args:
        table: for each user name, what `hash_password` made of the password; or that and a `Principal`, which by
            default has the user name. The hashes should have the same parameters: a user name that is unknown takes as
            long as the first user's.

    Raises:
        RayforceValueError: the table is empty, or something in it is none of these.
    """
    if not table or not isinstance(table, Mapping):
        raise RayforceValueError("Invalid users. Must be a dict of user names and what hash_password made, not empty")
    known = {name: _user(name, entry) for name, entry in table.items()}
    unknown = replace(next(iter(known.values()))[0], digest=secrets.token_bytes(_DIGEST_SIZE))
    half = max(1, (os.cpu_count() or 1) // 2)
    threads = trio.CapacityLimiter(half)
    of_network: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()  # or one could fill the queue for them

    async def authenticate(request: Request) -> Principal | None:
        if request.username is None or request.password is None:
            await trio.lowlevel.checkpoint()
            return None
        kept, principal = known.get(request.username, (unknown, None))
        async with of_network.setdefault(network_of(request.peer), trio.Semaphore(max(1, half // 2))):
            fits = await trio.to_thread.run_sync(kept.fits, request.password, limiter=threads)
        return principal if fits else None

    return authenticate


def hash_password(password: str) -> str:
    """Return what `users` has to know of a password, and from which nobody can tell it: made by scrypt, salted.

    This takes a good part of a second. It is no checkpoint.

    Raises:
        RayforceValueError: the password is empty, no str, or has control characters, which no client can send.
    """
    return str(_Hash.of(check_password(password)))


def _user(name: object, entry: object) -> tuple["_Hash", Principal]:
    name = check_user(name)
    match entry:
        case str(text):
            return _Hash.parse(text, name), Principal(name)
        case (str(text), Principal() as principal):
            return _Hash.parse(text, name), principal
    raise RayforceValueError(
        f"Invalid entry of user {name!r}. Must be what hash_password made, or that and a Principal"
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


class _Secret:
    """What is kept of a secret: enough to know it again, whatever its length, in the same time."""

    def __init__(self, secret: str) -> None:
        self._key = secrets.token_bytes(32)
        self._digest = self._digest_of(secret)

    def equals(self, given: str | None) -> bool:
        return hmac.compare_digest(self._digest, self._digest_of(given or ""))

    def _digest_of(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), "sha256")


_LN, _R, _P = 14, 8, 5  # OWASP's parameters of least memory: 16 MiB for each password under way
_MAX_P = 16
_MAX_MEMORY = 256 * 1024 * 1024  # bytes
_SALT_SIZE = 16
_DIGEST_SIZE = 32
_MIN_DIGEST_SIZE = 16
_FORM = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII)


@dataclass(frozen=True, slots=True, repr=False)
class _Hash:
    """A password's hash by scrypt; its text is that of the PHC string format."""

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
                if parsed._makes_sense:
                    return parsed
        # It is not shown: it may be the password itself.
        raise RayforceValueError(f"The entry of user {user!r} is not what hash_password makes")

    def fits(self, password: str) -> bool:
        return hmac.compare_digest(self.digest, self._digest_of(password))

    def __str__(self) -> str:
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_encoded(self.salt)}${_encoded(self.digest)}"

    @property
    def _memory(self) -> int:
        return 128 * self.r * ((1 << self.ln) + self.p + 4)

    @property
    def _makes_sense(self) -> bool:
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
