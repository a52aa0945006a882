"""The client's side of the protocol, without I/O.

Replies carry no request number. The server answers in the order of the requests, so a reply belongs to the oldest
request that was sent and is unanswered. A request that is cancelled before it was sent is forgotten. A request that is
cancelled later keeps its place in that order, and its reply is discarded.

Posts have no reply, so the client has them confirmed by a request of its own, the fence, and holds posts back while
many are unconfirmed. A server may allow only one unanswered request. So the fence is sent when no other request is
unanswered, and other requests wait for its reply. The server evaluates them after the posts in any case.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from ._control import (
    STREAMS,
    SUBSCRIPTIONS,
    ErrorNotice,
    HelloNotice,
    SubscribedNotice,
    TraceNotice,
    UnsubscribedNotice,
    dump_cancel,
    dump_hello,
    dump_subscribe,
    dump_trace,
    dump_unsubscribe,
    parse_control,
)
from ._frames import COARSE_HEADER, FENCE, HEADER_SIZE, RESPONSE_START, Frame, FrameError, MessageType, parse_frame
from ._replies import BUSY, CANCELLED, CLOSING, TIMEOUT, Failure, LazyFrame, Reply, Result
from ._subscription import ClientSubscription, SubscriptionState
from ._unconfirmed import UnconfirmedPosts
from ._updates import parse_update
from ._verbose import split_verbose, verbose_error_code
from ._violation import ProtocolViolation

MAX_IN_FLIGHT = 512
"""The limit on unanswered requests. Further requests wait in the client, where cancelling them costs nothing."""

MAX_UNCONFIRMED_POSTS = 1000
"""The limit on unconfirmed posts. If more than 1,024 wait, a server stops reading, and may disconnect the client."""

MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024
"""The limit on the bytes of all unanswered requests and unconfirmed posts. A single one may have any size."""

_STOPPED = frozenset({BUSY, CANCELLED, CLOSING, TIMEOUT})
"""The error codes of requests that the server has stopped or never started."""


class ClientRequestState(Enum):
    """The states of a request or a post. A post whose reply nobody waits for goes from QUEUED to DISCARDED or DONE."""

    QUEUED = auto()
    """It was not sent yet."""
    SENT = auto()
    """It was sent, and its reply is awaited."""
    DISCARDED = auto()
    """It was sent, and its reply will be discarded."""
    DONE = auto()
    """It was answered, needs no reply, or is never sent."""


_QUEUED, _SENT, _DISCARDED, _DONE = ClientRequestState
_ASYNC, _RESPONSE = MessageType.ASYNC, MessageType.RESPONSE


@dataclass(eq=False, slots=True)
class ClientRequest:
    """A request or a post. Only the protocol changes it.

    Attributes:
        frame: the message to send; empty once it was sent. The caller that fails to send it completely restores it.
        number: the number of a request that was sent. A post has none in the extended protocol.
        size: the size of a frame that was sent, in bytes.
        reply: the reply; `None` until it arrives, and if it is discarded.
    """

    frame: bytes
    is_post: bool = False
    state: ClientRequestState = _QUEUED
    number: int | None = None
    size: int = 0
    reply: Reply | None = None


@dataclass(slots=True)
class Outgoing:
    """A message to send; `request` is the one that it contains, or `None` for a control message."""

    message: bytes | str
    request: ClientRequest | None

    def restore(self) -> None:
        """Report that the message was not sent completely, and never will be: the connection has ended."""
        if self.request is not None and isinstance(self.message, bytes):
            self.request.frame = self.message


class ClientProtocol:
    """Numbers, sends, matches and cancels the requests of one connection.

    Call `submit`, `post` and `cancel` for the users of the connection. Send the messages that `next_outgoing` returns,
    each one completely, until it returns `None`. Pass every message that arrives to `receive`. `submit_alone` replaces
    `submit` and `next_outgoing` if nothing else is in progress.

    Args:
        extended: whether the server has accepted the extended protocol.

    Attributes:
        stopped: the number of cancelled requests that were never sent, or whose reply says that they were stopped.
        stopped_output: the text that the last one of them had printed, if it was verbose.
        features: the features of the server; `None` until it has answered a hello.
        on_features: called when `features` is known.
    """

    def __init__(self, *, extended: bool) -> None:
        self._extended = extended
        self._controls: deque[str] = deque()
        # Any of them can be removed. Finding the first key of a dict takes longer with each key removed before it.
        self._queued: OrderedDict[ClientRequest, TraceNotice | None] = OrderedDict()
        self._traced: Outgoing | None = None  # its trace was taken, so it must be the next message
        self._unanswered: deque[ClientRequest] = deque()
        self._unanswered_bytes = 0
        self._unconfirmed = UnconfirmedPosts()
        self._fence: ClientRequest | None = None  # the one that is unanswered
        self._last_number = 0
        self._refused_number: int | None = None  # the first one that a stopping server did not start
        self.stopped = 0
        self.stopped_output = ""
        self.features: frozenset[str] | None = None
        self.on_features: Callable[[], None] = _nothing
        self._subscriptions: dict[int, ClientSubscription] = {}
        self._last_subscription = 0

    @property
    def pending(self) -> int:
        """The number of requests and posts that are queued or unanswered, including cancelled ones."""
        return len(self._queued) + len(self._unanswered) - (self._fence is not None)

    @property
    def has_outgoing(self) -> bool:
        """Whether a message is queued, even if it must wait until other requests are answered."""
        return bool(self._controls or self._queued or self._traced)

    def submit(self, frame: bytes, trace: TraceNotice | None = None) -> ClientRequest:
        """Queue a request; `frame` has message type 1. A trace is for servers that take traces."""
        request = ClientRequest(frame)
        self._queued[request] = trace
        return request

    def say_hello(self) -> None:
        """Queue the hello, which asks the server for its features. Call it once, in the extended protocol."""
        self._controls.append(dump_hello([STREAMS, SUBSCRIPTIONS]))

    def subscribe(self, topic: str, subscription: ClientSubscription) -> int:
        """Queue the control message that subscribes to a topic; return the id of the subscription here."""
        self._last_subscription += 1
        self._subscriptions[self._last_subscription] = subscription
        self._controls.append(dump_subscribe(self._last_subscription, topic, subscription.resume_from))
        return self._last_subscription

    def unsubscribe(self, number: int) -> None:
        """End a subscription of this connection, and drop what the server still sends for it. Idempotent."""
        if self._subscriptions.pop(number, None) is not None:
            self._controls.append(dump_unsubscribe(number))

    def submit_alone(self, frame: bytes) -> ClientRequest | None:
        """Submit a request that counts as sent, so send `frame` now; `None` if something is queued or unanswered.

        Also return `None` if the request has to wait for posts. The effect is that of `submit` and `next_outgoing`.
        """
        if self._unanswered or self._queued or self._controls:
            return None
        if self._unconfirmed.count and not self._has_room_for(frame):
            return None
        self._last_number = number = self._last_number + 1
        self._unanswered_bytes = size = len(frame)
        request = ClientRequest(b"", False, _SENT, number, size)
        self._unanswered.append(request)
        return request

    def post(self, frame: bytes, trace: TraceNotice | None = None) -> ClientRequest:
        """Queue a message whose reply nobody awaits; `frame` has message type 0. A trace is as for `submit`."""
        request = ClientRequest(frame, is_post=True)
        self._queued[request] = trace
        return request

    def cancel(self, request: ClientRequest) -> None:
        """Forget a request. If it was sent, cancel it on the server and discard its reply."""
        if request.state is _QUEUED:
            request.state = _DONE
            del self._queued[request]
            self.stopped += 1
            self.stopped_output = ""
        elif request.state is _SENT:
            request.state = _DISCARDED
            if self._extended and request.number is not None:
                self._controls.append(dump_cancel(request.number))

    def is_refused(self, request: ClientRequest) -> bool:
        """Return whether a request was sent behind one that the server did not start because it is stopping.

        Such a request is never started either, and not answered.
        """
        return self._refused_number is not None and request.number is not None and request.number > self._refused_number

    def abandon(self) -> None:
        """Forget all requests, because the connection is closing: send nothing more, and discard all replies.

        Subscriptions receive nothing more, and are told of a change.
        """
        self._controls.clear()
        if self._traced is not None:
            self._traced.restore()
            self._traced = None
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.on_change()
        for request in self._queued:
            request.state = _DONE
        self._queued.clear()
        for request in self._unanswered:
            request.state = _DISCARDED

    def next_outgoing(self) -> Outgoing | None:
        """Return the next message to send, or `None` if nothing is to be sent now.

        From here on, the request in it counts as sent: the next reply that is due may be its own. The trace of a
        request is a message before it, with which the request counts as sent.
        """
        if self._traced is not None:
            outgoing, self._traced = self._traced, None
            return outgoing
        if self._controls:
            return Outgoing(self._controls.popleft(), None)
        request = next(iter(self._queued), None)
        if request is None:
            return None
        is_post = request.is_post and self._extended  # a baseline server answers posts like requests
        has_room = self._has_room_for(request.frame, is_post=is_post)
        fence_due = not has_room or (is_post and self._unconfirmed.is_fence_due(self._last_number))
        if fence_due and self._unconfirmed.count and not self._unanswered:
            self._fence = ClientRequest(FENCE)
            return self._send_request(self._fence, _DISCARDED)
        if not has_room or (self._fence is not None and not is_post):
            return None
        trace = self._queued.pop(request)
        if is_post:
            request.state = _DONE
            self._unconfirmed.sent(len(request.frame), self._last_number)
            outgoing = _outgoing(request)
        else:
            outgoing = self._send_request(request, _DISCARDED if request.is_post else _SENT)
        if trace is None:
            return outgoing
        self._traced = outgoing
        return Outgoing(dump_trace(trace), None)

    def receive(self, message: Frame | str) -> ClientRequest | None:
        """Take a message from the server. If it is a reply that a request awaits, return that request.

        Raises:
            ProtocolViolation: the server must not send this message. The protocol's state has not changed.
        """
        if isinstance(message, str):
            return self._receive_control(message)
        size = len(message) - HEADER_SIZE
        # Most messages are responses without flags. They need no further check.
        if size < 1 or COARSE_HEADER.unpack_from(message) != (RESPONSE_START, size):
            header = parse_frame(message)
            if self._extended and header.message_type is _ASYNC:
                self._receive_update(message)
                return None
            if self._extended and header.message_type is not _RESPONSE:
                raise ProtocolViolation("a request from the server")
        return self._answer(Result(message))

    def _send_request(self, request: ClientRequest, state: ClientRequestState) -> Outgoing:
        """Number a request, and return the message with it."""
        request.state = state
        self._last_number += 1
        request.number = self._last_number
        request.size = len(request.frame)
        self._unanswered.append(request)
        self._unanswered_bytes += request.size
        return _outgoing(request)

    def _has_room_for(self, frame: bytes, *, is_post: bool = False) -> bool:
        unanswered, posts = len(self._unanswered), self._unconfirmed
        if not unanswered and not posts.count:
            return True
        if self._unanswered_bytes + posts.size + len(frame) > MAX_IN_FLIGHT_BYTES:
            return False
        return posts.count < MAX_UNCONFIRMED_POSTS if is_post else unanswered < MAX_IN_FLIGHT

    def _receive_control(self, text: str) -> ClientRequest | None:
        if not self._extended:
            raise ProtocolViolation("a text message, which the baseline protocol does not have")
        received = None
        for notice in parse_control(text):
            if isinstance(notice, ErrorNotice):
                if not self._unanswered or self._unanswered[0].number != notice.number:
                    raise ProtocolViolation(f"an error for request {notice.number} out of order")
                received = self._answer(Failure(notice.code, notice.message))
                if notice.code == CLOSING and self._refused_number is None:
                    self._refused_number = notice.number
            elif isinstance(notice, HelloNotice) and self.features is None:
                self.features = notice.features
                self.on_features()
            elif isinstance(notice, SubscribedNotice) and notice.id in self._subscriptions:
                subscription = self._subscriptions[notice.id]
                subscription.confirmed(notice.position)
                self._unsubscribe_if_ended(notice.id, subscription)
            elif isinstance(notice, UnsubscribedNotice) and notice.id in self._subscriptions:
                self._subscriptions.pop(notice.id).refused(notice.code, notice.message)
        return received

    def _receive_update(self, message: Frame) -> None:
        """Pass an update to its subscription. One that has been ended, and pushes of other kinds, are dropped."""
        update = parse_update(message)
        subscription = None if update is None else self._subscriptions.get(update.subscription)
        if subscription is not None and update is not None:
            subscription.received(update)
            self._unsubscribe_if_ended(update.subscription, subscription)

    def _unsubscribe_if_ended(self, number: int, subscription: ClientSubscription) -> None:
        """Have the server send nothing more for a subscription that has ended by what arrived, such as a gap."""
        if subscription.state is SubscriptionState.ENDED:
            self.unsubscribe(number)

    def _answer(self, reply: Reply) -> ClientRequest | None:
        if not self._unanswered:
            raise ProtocolViolation("a reply without a request")
        request = self._unanswered.popleft()
        self._unanswered_bytes -= request.size
        if self._unconfirmed.count:
            assert request.number is not None
            self._unconfirmed.answered(request.number)
        if request is self._fence:
            self._fence = None
            request.state = _DONE
            return None
        if request.state is _DISCARDED:
            request.state = _DONE
            if _was_stopped(reply):
                self.stopped += 1
                self.stopped_output = _output_of(reply)
            return None
        request.state = _DONE
        request.reply = reply
        return request


def _nothing() -> None:
    """Do nothing."""


def _outgoing(request: ClientRequest) -> Outgoing:
    outgoing = Outgoing(request.frame, request)
    request.frame = b""  # a large request must not be kept until its reply arrives
    return outgoing


def _was_stopped(reply: Reply) -> bool:
    """Return whether the reply to a cancelled request says that it was stopped, or that it was never started."""
    if isinstance(reply, Failure):
        return reply.code in _STOPPED
    return not isinstance(reply.frame, LazyFrame) and verbose_error_code(reply.frame) in _STOPPED


def _output_of(reply: Reply) -> str:
    """Return the text that a stopped request had printed; it is in the reply if the request was verbose."""
    if not isinstance(reply, Failure):
        with suppress(FrameError):
            return split_verbose(reply.frame[:])[0]
    return ""
