"""The server's half of a connection, without I/O: requests come in, wait, run, and are answered in order.

The I/O code reports events to a `RequestPipeline` by calling its methods, and performs the actions that it names:

- `due` is the action that the current request needs next. The I/O code performs it, and reports the result.
- `STOP_ENGINE`, returned by an event, is performed at once.

A connection serves, then drains when the server stops, and is closed:

    SERVING --drain--> DRAINING --first refused request--> CLOSING --all answered--> CLOSED

A client that leaves takes the connection to LEAVING while its last messages are still to be received, and to CLOSING
when they have been; in both, only posts are carried out. A lost engine and the end of the time to drain take it to
CLOSED directly. So does the drain itself, once nothing is left to do.

If too much waits, `is_full` asks the I/O code to receive no more. A cancel or a close would remain unread behind the
rest, so this ends after a while: see `waited`.
"""

import enum
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from typing import TypeGuard

from .._text import counted
from ._control import CancelNotice, HelloNotice, Notice, TraceNotice, dump_error, parse_control
from ._frames import (
    COARSE_HEADER,
    COMPRESSED_FLAG,
    HEADER_SIZE,
    Frame,
    FrameError,
    Header,
    MessageType,
    parse_frame,
    string_frame,
)
from ._replies import BUSY, CANCELLED, CLOSING, TIMEOUT, Failure, LazyFrame, Reply, Result, too_large
from ._requests import CancelRequested, NewRequest, Outcome, RequestState, ServerRequest
from ._server_calls import is_server_call, parse_server_call
from ._verbose import join_verbose, split_verbose
from ._violation import ProtocolViolation

MAX_WAITING_POSTS = 1024
"""The limit on the waiting posts of one connection. Posts cannot be refused, since they are not answered."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""The limit on the memory of the waiting requests and posts of one connection. One of them may always wait."""

REQUEST_OVERHEAD = 2048
"""Bytes that a waiting request counts besides its frame. It takes less, but dropping many requests takes time."""

WAIT_INTERVAL = 0.1
"""The interval in which `waited` must be called while the pipeline is full, in seconds."""

_MAX_WAITS = 5
"""A client that waits for answers is disconnected after this many intervals in which nothing is finished."""

_MAX_WAITS_OF_POSTS = 100
"""The limit for a client that has sent only posts, and so has nothing to cancel. The engine may be busy for others."""

_MAX_SKIPPED = 64
"""`next_ahead` skips at most this many refused requests in one call, because other tasks wait meanwhile."""

_CANCELLED = Failure(CANCELLED, "the client cancelled the request")
_CLOSING = Failure(CLOSING, "the server is shutting down, and did not start the query")
_COMPRESSED = Failure("nyi", "compressed requests are not supported")  # their size once decompressed has no bound
_VERBOSE_CALL = Failure("nyi", "this function of the server prints nothing; call it without the flag for output")
_TEXT = Failure("type", "expected a binary message, got text")

Message = Frame | LazyFrame | str
"""A message for the client."""


# How the headers of requests without flags begin. In the baseline protocol, every message is a request.
_PLAIN_BASELINE = frozenset(Header(0, message_type, 1).pack()[:8] for message_type in MessageType)
_PLAIN_EXTENDED = frozenset([Header(0, MessageType.SYNC, 1).pack()[:8]])


class ConnectionState(enum.Enum):
    """The state of the server's end of a connection."""

    SERVING = enum.auto()
    """Requests are accepted and answered."""
    LEAVING = enum.auto()
    """The client has closed its side. Posts that it sent before are accepted and carried out; requests are dropped."""
    DRAINING = enum.auto()
    """The server stops: requests that have arrived are finished, those that arrive are refused in their turn."""
    CLOSING = enum.auto()
    """Nothing is accepted any more. Refused requests are answered, or, if the client is gone, posts carried out."""
    CLOSED = enum.auto()
    """Nothing is started or answered any more."""


class Action(enum.Enum):
    """Something that the I/O code has to do."""

    NOTHING = enum.auto()
    """Wait for an event. An action that is being performed will cause one."""
    START = enum.auto()
    """Start the request `current` on the engine."""
    SEND = enum.auto()
    """Send `message`, the whole answer."""
    SEND_PART = enum.auto()
    """Send `message`, a part of the answer; it is the last part if `unread` is 0."""
    READ_PART = enum.auto()
    """Read the next part of the reply from the engine."""
    CLOSE = enum.auto()
    """Close the connection."""
    STOP_ENGINE = enum.auto()
    """Have the engine stop the request that it runs."""


# The members that every request needs. Looking one up in its enum takes long on Python 3.11.
_NOTHING, _START, _SEND = Action.NOTHING, Action.START, Action.SEND
_SERVING, _LEAVING, _DRAINING = ConnectionState.SERVING, ConnectionState.LEAVING, ConnectionState.DRAINING
_STREAMING, _DONE = RequestState.STREAMING, RequestState.DONE
_REQUEST, _TIMED_OUT = MessageType.SYNC, Outcome.TIMED_OUT


class RequestPipeline:
    """Number, queue and answer the requests of one connection.

    Args:
        extended: whether the extended protocol was agreed on.
        max_in_flight: how many requests may be unanswered; further ones are refused. `None`: any number.
        query_timeout: how long a query may run, in seconds, for the error that says so.
        max_reply_size: the longest reply to send, in bytes; a longer one becomes an error.
        new_traced: makes the requests of a server that takes traces. Do not use `is_plain` with it. `None`: traces are
            ignored.

    Attributes:
        state: the state of the connection.
        due: the action to perform for `current`; `NOTHING` while it is being performed.
        current: the request whose turn it is, from before it starts until its answer has been sent.
        message: the answer of `current`, or a part of it, until it has been sent.
        unread: how many bytes of the reply of `current` are still in the engine's session.
        ahead: how many of the first requests in the queue were started ahead, or will be refused.
        is_full: whether too much waits, so that the caller is to receive no more for now, and to call `waited`.
        notices: what the client has announced or asked for, except cancels, in order. The I/O code takes them.
        has_hello: whether the client has sent a hello. Only then may it use server calls.
        answered: how many requests have been answered.
        busy: how many requests were refused because too many were unanswered.
        late_posts: how many posts arrived too late to be carried out.
    """

    def __init__(
        self,
        *,
        extended: bool,
        max_in_flight: int | None = None,
        query_timeout: float | None = None,
        max_reply_size: float = inf,
        new_traced: NewRequest | None = None,
    ) -> None:
        self._extended = extended
        self._new_traced = new_traced
        self._trace: TraceNotice | None = None  # that of the next request or post
        self._plain = _PLAIN_EXTENDED if extended else _PLAIN_BASELINE
        self.max_in_flight = max_in_flight
        self.query_timeout = query_timeout
        self._max_reply_size = max_reply_size
        limit = counted(max_in_flight or 0, "unanswered request")
        too_many = f"this connection has reached its limit of {limit} (max_in_flight)"
        self._too_many = Failure(BUSY, too_many)
        self._last_number = 0
        self._queue = deque[ServerRequest]()
        self._queued_bytes = 0
        self._queued_numbers: dict[int, ServerRequest] = {}
        self.ahead = 0
        self.notices = deque[Notice]()
        self.has_hello = False
        self.state = ConnectionState.SERVING
        self.due = Action.NOTHING
        self.current: ServerRequest | None = None
        self.message: Message | None = None
        self.unread = 0
        self.is_full = False
        self._waits = 0  # calls of `waited` in a row without progress
        self._last_queued = 0  # `queued` at the last of these calls
        self.answered = self.busy = self.late_posts = 0

    @property
    def queued(self) -> int:
        """The number of requests and posts that wait for earlier ones."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """The memory that the waiting requests and posts take, in bytes."""
        return self._queued_bytes + REQUEST_OVERHEAD * len(self._queue)

    @property
    def held_bytes(self) -> int:
        """The memory that the unfinished requests and posts take, in bytes."""
        return self.queued_bytes + (0 if self.current is None else len(self.current.frame))

    @property
    def unfinished(self) -> int:
        """The number of requests and posts that have arrived and are not done."""
        return len(self._queue) + (self.current is not None)

    @property
    def unfinished_posts(self) -> int:
        """The number of posts that have arrived and are not done."""
        return self._posts + (self.current is not None and self.current.number is None)

    @property
    def unanswered(self) -> int:
        """The number of requests that have arrived and were not answered. In the end, they were abandoned."""
        return self._last_number - self.answered

    # Messages from the client

    def receive(self, message: Frame | str, now: float = 0.0) -> ServerRequest | CancelRequested | None:
        """Take a message that arrived at `now`; return the request in it, or the request that it cancels, if any.

        Raises:
            ProtocolViolation: the client must not have sent this. Nothing is changed by it.
        """
        failure: Failure | None = None
        if not self._extended:
            number: int | None = self._next_number()
            message, failure = _check_baseline(message)
        elif isinstance(message, str):
            return self._receive_control(message)
        else:
            header = parse_frame(message)
            if header.message_type is _REQUEST:
                number = self._next_number()
            elif header.message_type is MessageType.ASYNC:
                number = None
            else:
                raise ProtocolViolation("a reply from the client, but the server has sent no request")
            if header.flags & COMPRESSED_FLAG:
                failure = _COMPRESSED
        if self._new_traced is None:
            request = ServerRequest(number, message, now)
        else:
            request, self._trace = self._new_traced(number, message, now, self._trace), None
        if self.has_hello and failure is None and is_server_call(message):
            call = _VERBOSE_CALL if header.verbose else parse_server_call(message, is_post=number is None)
            if isinstance(call, Failure):
                failure = call
            else:
                request.call = call
        if failure is not None:
            _refuse(request, Outcome.INVALID, failure)
        if self.current is not None or self.state is not _SERVING or failure is not None:
            self._enqueue(request)
        else:
            self.current = request
            self.due = _START
        return request

    # A shortcut for a request that can be evaluated as soon as it arrives

    def is_plain(self, message: Frame | str) -> TypeGuard[bytes]:
        """Return whether a message is a valid request without flags, and nothing has to be done before it.

        The I/O code may then evaluate the request and send its value without `receive`, and report this with
        `answered_at_once`. If it cannot send the value without waiting, it calls `receive`.
        """
        if self.current is not None or self.state is not _SERVING or type(message) is not bytes:
            return False
        if len(message) <= HEADER_SIZE or (self.has_hello and is_server_call(message)):
            return False
        beginning, size = COARSE_HEADER.unpack_from(message)
        return beginning in self._plain and size == len(message) - HEADER_SIZE

    def answered_at_once(self) -> None:
        """Report that a request for which `is_plain` is true has been evaluated, and that its value has been sent."""
        if self.current is not None or self.state is not _SERVING:
            raise ValueError("a request is before this one, or the connection accepts no requests")
        self._last_number += 1
        self.answered += 1

    # What the I/O code has done

    def performing(self) -> None:
        """Report that the I/O code has begun to perform the action that was due, and will report the result.

        Not needed for an action that is performed and reported without a checkpoint in between.
        """
        if self.due is Action.START:
            assert self.current is not None
            self.current.state = RequestState.RUNNING
        elif self.due in (Action.NOTHING, Action.CLOSE):
            raise ValueError("no action of a request is due")
        self.due = Action.NOTHING

    def next_ahead(self) -> ServerRequest | None:
        """Return the request that could be started ahead next, or `None`.

        A post never runs at the same time as another request, and neither does a server call.
        """
        current = self.current
        if current is None or current.number is None or current.call is not None:
            return None
        if current.state is RequestState.QUEUED:
            return None
        queue = self._queue
        end = min(len(queue), self.ahead + _MAX_SKIPPED)
        while self.ahead < end:
            request = queue[self.ahead]
            if request.failure is None:
                return None if request.number is None or request.call is not None else request
            self.ahead += 1
        return None

    def started_ahead(self, ticket: int) -> None:
        """Report that the engine's session has started the request that `next_ahead` returns, with this ticket."""
        request = self.next_ahead()
        if request is None:
            raise ValueError("no request can be started ahead")
        request.ticket = ticket
        request.state = RequestState.RUNNING
        self.ahead += 1

    def replied(self, reply: Reply, unread: int = 0) -> None:
        """Report the engine's reply to `current`, of which `unread` bytes are still to be read."""
        request = self.current
        if request is None or request.number is None:
            raise ValueError("no request is running")
        if self.due is not _START and request.state is not RequestState.RUNNING:
            raise ValueError("no request is running")
        request.state = _STREAMING
        self.unread = unread
        if self.state is not _SERVING and self.state is not _DRAINING:
            self._skip_answer()
            return
        if request.outcome is _TIMED_OUT:
            reply = self._explain_timeout(request, reply)
        elif type(reply) is Result and len(reply.frame) > self._max_reply_size:
            reply = too_large(len(reply.frame), self._max_reply_size)
        request.frame, request.call = b"", None
        self.message = reply.frame if isinstance(reply, Result) else self._encode(request, reply)
        self.due = Action.SEND_PART if unread else _SEND

    def part_received(self, data: bytes, unread: int) -> None:
        """Report the next part of the engine's reply to `current`, of which `unread` bytes are still to be read."""
        if self.current is None or self.current.state is not RequestState.STREAMING or self.message is not None:
            raise ValueError("no reply is being read")
        self.unread = unread
        if self.state is ConnectionState.SERVING or self.state is ConnectionState.DRAINING:
            self.message = data
            self.due = Action.SEND_PART
        else:
            self._skip_answer()

    def sent(self) -> None:
        """Report that `message` has been sent."""
        if self.message is None:
            raise ValueError("no answer is being sent")
        if self.unread:
            self._skip_answer()
        else:
            self.answered += 1
            self.message = None
            self._finish()

    def send_failed(self) -> None:
        """Report that `message` could not be sent: the client is gone."""
        if self.message is None:
            raise ValueError("no answer is being sent")
        self._abandon_requests(ConnectionState.CLOSING)
        self._skip_answer()

    def post_done(self, failure: Failure | None = None) -> None:
        """Report that the engine has carried out the post `current`, or why it failed."""
        if self.current is None or self.current.number is not None or self.current.state is not RequestState.RUNNING:
            raise ValueError("no post is running")
        self.current.failure = failure
        self._finish()

    # Events that do not depend on an action. Each is allowed at any time.

    def timed_out(self, ticket: int = 0) -> Action:
        """Report that the engine has run a request for too long; return `STOP_ENGINE` if it is to be stopped now.

        Args:
            ticket: the ticket of a request that was started ahead; 0 for `current`.
        """
        if not ticket:
            return self._stop_running(Outcome.TIMED_OUT)
        for request in (self.current, *self._queue):
            # `current` may have the same ticket while its answer is being sent.
            if request is not None and request.ticket == ticket and request.state is RequestState.RUNNING:
                return self._stop_request(request, Outcome.TIMED_OUT)
        return Action.NOTHING

    def drain(self) -> None:
        """Finish all that has arrived, and accept nothing more."""
        if self.state is _SERVING or self.state is _LEAVING:
            self.state = _DRAINING if self.state is _SERVING else ConnectionState.CLOSING
            self._check_full()
            if self.current is None:
                self._close()

    def waited(self) -> None:
        """Report that the pipeline was full for another `WAIT_INTERVAL`, in which nothing was received.

        Intervals are counted, and not seconds, because the I/O code itself may have been held up.

        Raises:
            ProtocolViolation: nothing is being finished, so the client has to be disconnected. Otherwise its next
                message, such as a cancel, could remain unread indefinitely.
        """
        if self.state is _LEAVING:
            return  # the rest is read as posts are carried out
        current = self.current
        if self.queued < self._last_queued or current is None or current.state is RequestState.STREAMING:
            self._waits = 0
        else:
            self._waits += 1
        self._last_queued = self.queued
        posts_only = not self._queued_numbers and (current is None or current.number is None)
        if self._waits >= (_MAX_WAITS_OF_POSTS if posts_only else _MAX_WAITS):
            limit = f"{MAX_WAITING_POSTS} posts" if self._posts > MAX_WAITING_POSTS else f"{MAX_WAITING_BYTES} bytes"
            raise ProtocolViolation(f"more than {limit} are waiting for the engine", code=1008)

    def client_leaves(self) -> Action:
        """Report that the client has closed its side, although messages that it sent before are still to be received.

        Otherwise like `client_gone`, which follows when everything has been received.
        """
        serving = self.state is _SERVING or self.state is _LEAVING
        return self._abandon(_LEAVING if serving else ConnectionState.CLOSING)

    def client_gone(self) -> Action:
        """Abandon the requests, since nobody waits for their answers; the posts are still carried out.

        Returns `STOP_ENGINE` if the engine runs a request. A reply that has begun is read to its end.
        """
        return self._abandon(ConnectionState.CLOSING)

    def stop(self) -> Action:
        """Drop all that has arrived; return `STOP_ENGINE` if the engine runs a request or post."""
        action = self._stop_running(Outcome.CLOSING)
        self._close()
        return action

    def engine_lost(self) -> None:
        """Drop all that has arrived, since it cannot be evaluated any more."""
        self._close()

    # Inside

    def _abandon(self, state: ConnectionState) -> Action:
        """Abandon the requests, go to `state` unless the connection is closed, and continue with the next post."""
        self._abandon_requests(state)
        request = self.current
        if request is None:
            self._finish()
        elif request.number is not None:
            if self.due is Action.SEND or self.due is Action.SEND_PART:
                self._skip_answer()
            elif self.due is Action.START:
                self._finish()
            else:
                return self._stop_running(Outcome.CANCELLED)
        return Action.NOTHING

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _receive_control(self, text: str) -> CancelRequested | None:
        cancelled = None
        for notice in parse_control(text):
            if isinstance(notice, CancelNotice):
                cancelled = self._cancel(notice.number)
            elif isinstance(notice, TraceNotice):
                self._trace = None if self._new_traced is None else notice
            elif self.has_hello or isinstance(notice, HelloNotice):
                self.has_hello = True
                self.notices.append(notice)
        return cancelled

    def _cancel(self, number: int) -> CancelRequested | None:
        current = self.current
        if current is not None and current.number == number:
            if self._stop_running(Outcome.CANCELLED) is Action.STOP_ENGINE:
                return CancelRequested(current, running=True)
            if self.due is not Action.START or current.ticket:
                return None
            _refuse(current, Outcome.CANCELLED, _CANCELLED)
            self._take(current)
            return CancelRequested(current, running=False)
        request = self._queued_numbers.get(number)
        if request is None or request.failure is not None:
            return None
        if request.state is RequestState.RUNNING:
            stop = self._stop_request(request, Outcome.CANCELLED) is Action.STOP_ENGINE
            return CancelRequested(request, running=True) if stop else None
        self._queued_bytes -= len(request.frame)
        _refuse(request, Outcome.CANCELLED, _CANCELLED)
        self._check_full()
        return CancelRequested(request, running=False)

    def _enqueue(self, request: ServerRequest) -> None:
        if self.state is not _SERVING and (self.state is not _LEAVING or request.number is not None):
            _refuse(request, Outcome.CLOSING, _CLOSING)
            if request.number is None:
                self.late_posts += 1
            if request.number is None or self.state is not ConnectionState.DRAINING:
                request.state = RequestState.DONE
                return
        elif request.number is None:
            if request.failure is not None:
                request.state = RequestState.DONE
                return
            if self.current is None:
                self._take(request)
                return
        elif self.current is None:
            self._take(request)
            return
        elif self.max_in_flight is not None and self._in_flight >= self.max_in_flight:
            self.busy += 1
            _refuse(request, Outcome.BUSY, self._too_many)
        if request.number is not None:
            self._queued_numbers[request.number] = request
        self._queue.append(request)
        self._queued_bytes += len(request.frame)
        self._check_full()

    @property
    def _in_flight(self) -> int:
        """The number of requests without an answer. A request whose answer is being sent does not count."""
        current = self.current
        waits = current is not None and current.number is not None and current.state is not RequestState.STREAMING
        return len(self._queued_numbers) + waits

    @property
    def _posts(self) -> int:
        """The number of waiting posts."""
        return len(self._queue) - len(self._queued_numbers)

    def _check_full(self) -> None:
        waiting = len(self._queue)
        is_full = waiting > 1 and (
            waiting - len(self._queued_numbers) > MAX_WAITING_POSTS or self.queued_bytes > MAX_WAITING_BYTES
        )
        if is_full and not self.is_full:
            self._waits = 0
            self._last_queued = waiting
        self.is_full = is_full and self.state in (_SERVING, _LEAVING, _DRAINING)

    def _take(self, request: ServerRequest) -> None:
        """Make a request the current one."""
        self.current = request
        if request.failure is None:
            self.due = Action.START
            return
        if request.outcome is Outcome.CLOSING:
            # Everything before it is answered. A client that keeps sending must not delay the end.
            self.state = ConnectionState.CLOSING
            self.is_full = False
        request.state = RequestState.STREAMING
        self.unread = 0
        self.message = self._encode(request, request.failure)
        self.due = Action.SEND

    def _finish(self) -> None:
        """Continue with the next request. Close if the queue is empty and no more requests are accepted."""
        if self.current is not None:
            self.current.state = _DONE
            self.current = None
        if self._queue:
            request = self._queue.popleft()
            if self.ahead:
                self.ahead -= 1
            self._queued_bytes -= len(request.frame)
            if request.number is not None:
                del self._queued_numbers[request.number]
            self._check_full()
            self._take(request)
        elif self.state is _SERVING or self.state is _LEAVING:
            self.due = _NOTHING
        else:
            self._close()

    def _skip_answer(self) -> None:
        """Go on to what follows `message`: the rest of the reply, or the next request."""
        self.message = None
        if self.unread and self.state is not ConnectionState.CLOSED:
            self.due = Action.READ_PART
        else:
            self._finish()

    def _encode(self, request: ServerRequest, failure: Failure) -> Message:
        """Return the message that answers a request with an error."""
        request.failure = failure
        if self._extended:
            assert request.number is not None
            return dump_error(request.number, failure.code, failure.message)
        return string_frame(str(failure))

    def _explain_timeout(self, request: ServerRequest, reply: Reply) -> Reply:
        """Return the reply to a request that ran for too long, with the reason in place of the engine's `cancel`."""
        limit = counted(self.query_timeout or 0, "second")
        failure = Failure(TIMEOUT, f"the query ran for more than {limit} and was stopped (query_timeout)")
        if isinstance(reply, Failure):
            return failure if reply.code == CANCELLED else reply
        if not self.unread and parse_frame(request.frame).verbose:
            with suppress(FrameError):
                output, stopped = split_verbose(reply.frame[:])
                if isinstance(stopped, Failure) and stopped.code == CANCELLED:
                    return join_verbose(output.encode(), failure)
        return reply

    def _stop_running(self, outcome: Outcome) -> Action:
        """Have the engine stop the current request, unless it does not run or was stopped before."""
        return Action.NOTHING if self.current is None else self._stop_request(self.current, outcome)

    def _stop_request(self, request: ServerRequest, outcome: Outcome) -> Action:
        """Have the engine stop a request, which may have been started ahead; otherwise like `_stop_running`."""
        if (
            request.state is not RequestState.RUNNING
            or request.outcome is not Outcome.NONE
            or self.state is ConnectionState.CLOSED
        ):
            return Action.NOTHING
        request.outcome = outcome
        return Action.STOP_ENGINE

    def _abandon_requests(self, state: ConnectionState) -> None:
        """Keep nothing but the posts in the queue, and go to `state` unless the connection is closed."""
        if self.state is not ConnectionState.CLOSED:
            self.state = state
            self._drop([request for request in self._queue if request.number is not None])
            self._queue = deque(request for request in self._queue if request.number is None)
            self._check_full()

    def _close(self) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self._drop(self._queue)
        self._queue.clear()
        if self.due is not Action.NOTHING:
            self.message = None
            self._finish()
        self.due = Action.CLOSE

    def _drop(self, requests: Iterable[ServerRequest]) -> None:
        self.ahead = 0
        for request in requests:
            self._queued_bytes -= len(request.frame)
            request.frame, request.call = b"", None
            request.state = RequestState.DONE
        self._queued_numbers.clear()
        self.is_full = False


def _check_baseline(message: Frame | str) -> tuple[Frame, Failure | None]:
    """Return the frame in a baseline message, which is always a request, and an error if it is invalid."""
    if isinstance(message, str):
        return b"", _TEXT
    try:
        return message, _COMPRESSED if parse_frame(message).compressed else None
    except FrameError as error:
        return b"", Failure("domain", str(error))


def _refuse(request: ServerRequest, outcome: Outcome, failure: Failure) -> None:
    """Have a request answered with an error instead of being started."""
    request.outcome = outcome
    request.failure = failure
    request.frame, request.call = b"", None
