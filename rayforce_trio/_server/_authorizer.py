"""Who gets in, and to which engine."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf

import trio

from .._addresses import network_of
from .._engines import Engine, Session
from .._transports import OpeningRequest, Refusal
from ..auth import Principal, Request
from ..errors import RayforceValueError, RayforceWSError
from ._access import AccessPolicy, is_loopback
from ._credentials import read_request
from ._failures import FailureLimit
from ._log import ConnectionLog

Authenticate = Callable[[Request], object | Awaitable[object]]
"""Says who is asking, at once or asynchronously; something falsy: nobody who may get in."""

ANSWER_TIME = 1.0
"""How much longer than it has a peer's opening may take, to be told that it is refused; in seconds."""

_UNKNOWN = Refusal(
    401,
    "This server lets in only whom it knows. Send a user name and a password, or a token, that it knows.",
    (("WWW-Authenticate", 'Basic realm="rayforce", charset="UTF-8"'),),
)
_TOO_LATE = Refusal(503, "This server did not find out in time who you are. Try again later.", (("Retry-After", "1"),))
_FAILED = Refusal(500, "This server failed when it was to find out who you are. Its log says why.")
_FROM_ELSEWHERE = Refusal(
    403,
    "This server shows this to its own machine alone, since nothing authenticates its clients. To show it to those who "
    "authenticate themselves, start the server with authenticate.",
)
_NO_ENGINE = Refusal(503, "This server has no engine for you. Its log says why.")


@dataclass(frozen=True, slots=True)
class Authorized:
    """Who is let in, and the session that was opened for them."""

    principal: object
    session: Session


class Authorizer:
    """Decides about requests.

    Args:
        policy: what to check first.
        authenticate: says who is asking; `None`: nobody does.
        engine: what evaluates.
        engines: others, by their names, which principals may be bound to.

    Raises:
        RayforceValueError: an argument is none of these, or they contradict each other.
    """

    def __init__(
        self,
        policy: AccessPolicy,
        authenticate: Authenticate | None,
        engine: Engine,
        engines: Mapping[str, Engine] | None,
    ) -> None:
        if authenticate is not None and not callable(authenticate):
            raise RayforceValueError("Invalid authenticate. Must be a function that takes a Request, or None")
        self._policy = policy
        self._authenticate = authenticate
        self._engine = engine
        self._named = _checked(engines)
        if self._named and authenticate is None:
            raise RayforceValueError("engines needs authenticate, whose principals say which of them is theirs")
        self._failures = FailureLimit()

    @property
    def engines(self) -> list[Engine]:
        """All engines, each once."""
        return list(dict.fromkeys([self._engine, *self._named.values()]))

    async def decide(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> Authorized | Refusal:
        """Let a request in, or not. A checkpoint.

        Args:
            opening: the scope of the peer's opening, cancelled by its deadline. If `authenticate` refuses, or has not
                come to an end by then, the deadline is put off by `ANSWER_TIME`.
            log: is told who was let in.
        """
        principal = await self._principal_of(request, opening, log)
        if isinstance(principal, Refusal):
            return principal
        name = principal.engine if isinstance(principal, Principal) else None
        engine = self._engine if name is None else self._named.get(name)
        if engine is None:
            log.error(
                "the engine %r of this principal is not among those that WSServer was given as engines: %s",
                name,
                ", ".join(map(repr, self._named)) or "none",
            )
            return _NO_ENGINE
        try:
            return Authorized(principal, await engine.open_session())
        except RayforceWSError as error:
            return Refusal(503, f"The engine cannot be reached: {error}")

    async def decide_about_reader(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> Refusal | None:
        """Let a request see what the server tells of itself, or not: one that could connect, and is either of somebody
        whom `authenticate` knows or, without that, from this machine. A checkpoint, with arguments as for `decide`.
        """
        principal = await self._principal_of(request, opening, log)
        if isinstance(principal, Refusal):
            return principal
        return None if self._authenticate is not None or is_loopback(request.peer) else _FROM_ELSEWHERE

    async def _principal_of(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> object | Refusal:
        refusal = self._policy.decide(request)
        if refusal is not None or self._authenticate is None:
            return refusal
        return await self._identify(self._authenticate, request, opening, log)

    async def _identify(
        self, authenticate: Authenticate, opening_request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> object:
        """Return the principal, or a `Refusal`."""
        request = read_request(opening_request)
        deadline, opening.deadline = opening.deadline, inf
        found: object = None
        try:
            with trio.move_on_at(deadline):
                found = await self._ask(authenticate, request)
        except Exception:
            log.exception("authenticate failed")
            found = _FAILED
        else:
            if trio.current_time() >= deadline:  # it may not have heeded that
                log.warning("authenticate took too long")
                found = _TOO_LATE
        if isinstance(found, Refusal):
            opening.deadline = max(deadline, trio.current_time()) + ANSWER_TIME
            return found
        opening.deadline = deadline
        log.principal = _name_of(found, request)
        return found

    async def _ask(self, authenticate: Authenticate, request: Request) -> object:
        async with self._failures.attempt(network_of(request.peer)) as attempt:
            if attempt.retry_after:
                return _slow_down(attempt.retry_after)
            principal = authenticate(request)
            if inspect.isawaitable(principal):
                principal = await principal
            attempt.failed = not principal
        return _UNKNOWN if attempt.failed else principal


def _checked(engines: Mapping[str, Engine] | None) -> dict[str, Engine]:
    try:
        named = dict(engines or {})
    except (TypeError, ValueError):
        named = None
    if named is None or not all(map(_is_named_engine, named.items())):
        raise RayforceValueError(f"Invalid engines: {engines!r}. Must be a dict of names and engines")
    return named


def _is_named_engine(item: tuple[object, object]) -> bool:
    name, engine = item
    return isinstance(name, str) and name != "" and isinstance(engine, Engine)


def _slow_down(seconds: float) -> Refusal:
    return Refusal(
        429,
        "Too many requests from your address did not say who they are. Try again later.",
        (("Retry-After", str(max(1, ceil(seconds)))),),
    )


def _name_of(principal: object, request: Request) -> str:
    """Return how the log names a principal: by nothing that could be a secret."""
    if isinstance(principal, Principal):
        return principal.name
    if isinstance(principal, str) and principal not in (request.password, request.token):
        return principal
    return f"some {type(principal).__name__}"
