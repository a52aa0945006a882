"""Authorization: which clients may connect, and to which engine."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf

import trio

from .._addresses import network_of
from .._engines import Client, ClientMustWait, Engine, Session
from .._transports import OpeningRequest, Refusal
from ..auth import Authenticator, Principal, Request, authenticator_of
from ..errors import RayforceValueError, RayforceWSError
from ._access import AccessPolicy
from ._credentials import read_request
from ._failures import FailureLimit
from ._log import ConnectionLog

Authenticate = Callable[[Request], object | Awaitable[object]]
"""A function that returns the principal of a request, or something falsy to refuse it. It may be async."""

REFUSAL_TIMEOUT = 1.0
"""Seconds that sending a refusal may take beyond the deadline of the opening."""

_UNKNOWN = Refusal(
    401,
    "This server requires authentication. Send a valid user name and password, or a valid token.",
    (("WWW-Authenticate", 'Basic realm="rayforce", charset="UTF-8"'),),
)
_TOO_LATE = Refusal(503, "Authentication took too long. Try again later.", (("Retry-After", "1"),))
_FAILED = Refusal(500, "Authentication failed because of an error in the server. See the server's log.")
_FROM_ELSEWHERE = Refusal(
    403,
    "This server shows this page only to clients on its own machine that do not come through a proxy, because it does "
    "not authenticate clients. To show it to authenticated clients, start the server with authenticate.",
)
_NO_ENGINE = Refusal(503, "This server has no engine for this user. See the server's log.")


@dataclass(frozen=True, slots=True)
class Authorized:
    """An authorized client: its principal, the session that was opened for it, and the engine that evaluates."""

    principal: object
    session: Session
    engine: Engine


class Authorizer:
    """Decide whether clients may connect, and open their sessions.

    Args:
        policy: the checks that come first.
        authenticate: the function that authenticates; `None`: clients are not authenticated.
        engine: the engine of principals that name no other.
        engines: further engines, by the names that principals use.

    Raises:
        RayforceValueError: an argument has the wrong type, or the arguments contradict each other.

    Attributes:
        engine: as given.
    """

    def __init__(
        self,
        policy: AccessPolicy,
        authenticate: Authenticate | None,
        engine: Engine,
        engines: Mapping[str, Engine] | None,
    ) -> None:
        if authenticate is not None and not callable(authenticate):
            raise RayforceValueError("Invalid authenticate. Must be a function that takes an auth.Request, or None")
        self._policy = policy
        self._authenticator = None if authenticate is None else authenticator_of(authenticate)
        self.engine = engine
        self._named = _checked(engines)
        if self._named and authenticate is None:
            raise RayforceValueError("engines needs authenticate, which selects one of them for each client")
        self._failures = FailureLimit()

    @property
    def engines(self) -> dict[Engine, str]:
        """All engines, each with its name for sentences, such as `the engine 'eu'`."""
        names = {self.engine: "the engine"}
        for name, engine in self._named.items():
            names.setdefault(engine, f"the engine {name!r}")
        return names

    @property
    def accepts_passwords(self) -> bool:
        """Whether user names and passwords may be valid credentials."""
        return self._authenticator is not None and self._authenticator.accepts_passwords

    async def decide(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> Authorized | Refusal:
        """Authorize a client that wants to connect, or refuse it. A checkpoint; if cancelled, no session is open.

        Args:
            request: the client's opening request.
            opening: the scope of the client's opening. If `authenticate` refuses, or does not return before the scope's
                deadline, the deadline is extended by `REFUSAL_TIMEOUT` so that the refusal can be sent.
            log: receives the name of the principal.
        """
        principal = await self._principal_of(request, opening, log)
        if isinstance(principal, Refusal):
            return principal
        name = principal.engine if isinstance(principal, Principal) else None
        engine = self.engine if name is None else self._named.get(name)
        if engine is None:
            log.error(
                "authenticate returned a Principal with the engine %r, which WSServer does not have; it has: %s",
                name,
                ", ".join(map(repr, self._named)) or "none",
            )
            return _NO_ENGINE
        try:
            client = Client(request.peer.network, log.principal or "")
            session = await engine.open_session_for(client)
            return Authorized(principal, session, session.source or engine)
        except ClientMustWait as error:
            return Refusal(
                503, f"This server does not accept you at the moment: {error}.", _retry_after(error.retry_after)
            )
        except RayforceWSError as error:
            return Refusal(503, f"The engine is not available: {error}")

    def check_origin(self, request: OpeningRequest) -> Refusal | None:
        """Return the refusal of a request by protected mode, its Host or its Origin; `None` if they allow it."""
        return self._policy.decide(request)

    async def authorize_page(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> Refusal | None:
        """Return the refusal of a request for a page that not everybody may see, or `None`. A checkpoint.

        The client must be allowed to connect, and must be authenticated or, on a server without `authenticate`, on this
        machine. Arguments and cancellation are as for `decide`.
        """
        principal = await self._principal_of(request, opening, log)
        if isinstance(principal, Refusal):
            return principal
        return None if self._authenticator is not None or request.peer.is_local else _FROM_ELSEWHERE

    async def _principal_of(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> object | Refusal:
        """Check and authenticate a client, and return its principal or a refusal. As `_identify`, also if cancelled."""
        refusal = self._policy.decide(request)
        if refusal is not None or self._authenticator is None:
            return refusal
        return await self._identify(self._authenticator, request, opening, log)

    async def _identify(
        self,
        authenticator: Authenticator,
        opening_request: OpeningRequest,
        opening: trio.CancelScope,
        log: ConnectionLog,
    ) -> object:
        """Return the principal or a `Refusal`. A checkpoint if the client has to wait, or if `authenticate` is one.

        If cancelled, the deadline of the opening may have been removed.
        """
        request = read_request(opening_request)
        deadline, opening.deadline = opening.deadline, inf
        found: object = None
        try:
            with trio.move_on_at(deadline):
                found = await self._ask(authenticator, request)
        except Exception:
            log.exception("authenticate raised an exception")
            found = _FAILED
        else:
            if trio.current_time() >= deadline:  # it may have shielded itself from the deadline
                log.warning("authenticate took too long (open_timeout)")
                found = _TOO_LATE
        if isinstance(found, Refusal):
            opening.deadline = max(deadline, trio.current_time()) + REFUSAL_TIMEOUT
            return found
        opening.deadline = deadline
        log.principal = _name_of(found, request)
        return found

    async def _ask(self, authenticator: Authenticator, request: Request) -> object:
        """Return the principal or a `Refusal`. A checkpoint if `authenticate` is one, or if the client has to wait.

        Only requests with credentials that could be guesses count as attempts, and their number is limited. If
        cancelled, the attempt is not counted.
        """
        principal = authenticator.check_strong_token(request)
        if principal:
            return principal
        if not authenticator.has_credentials(request):
            return await _result_of(authenticator.check(request)) or _UNKNOWN
        async with self._failures.attempt(network_of(request.peer)) as attempt:
            if attempt.retry_after:
                return _too_many_failures(attempt.retry_after)
            principal = await _result_of(authenticator.check(request))
            attempt.failed = not principal
        return _UNKNOWN if attempt.failed else principal


async def _result_of(principal: object | Awaitable[object]) -> object:
    """Return the result of an `authenticate` function, which may be async. If cancelled, the function is cancelled.

    A checkpoint if the function is one.
    """
    return await principal if inspect.isawaitable(principal) else principal


def _checked(engines: Mapping[str, Engine] | None) -> dict[str, Engine]:
    named: object = {} if engines is None else engines
    if not isinstance(named, Mapping) or not all(map(_is_named_engine, named.items())):
        raise RayforceValueError(f"Invalid engines: {engines!r}. Must be a dict of names (non-empty str) and engines")
    return dict(named)


def _is_named_engine(item: tuple[object, object]) -> bool:
    name, engine = item
    return isinstance(name, str) and name != "" and isinstance(engine, Engine)


def _too_many_failures(seconds: float) -> Refusal:
    return Refusal(
        429,
        "Authentication has failed too often from your network. Try again later.",
        _retry_after(seconds),
    )


def _retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(max(1, ceil(seconds)))),)


def _name_of(principal: object, request: Request) -> str:
    """Return the name of a principal for the log. It is never a secret."""
    if isinstance(principal, Principal):
        return principal.name
    if isinstance(principal, str) and principal not in (request.password, request.token):
        return principal
    return f"a {type(principal).__name__}"
