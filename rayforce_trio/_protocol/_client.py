"""The client's half of the conversation, without I/O.

Replies carry no request number: the server answers in the order it was asked, so the oldest request that was sent
owns the next reply. A request that is cancelled before it was sent is forgotten. One cancelled later keeps its place in
the order, and its reply is discarded when it comes: that is what keeps a connection in step.
"""

from collections import deque
from dataclasses import dataclass

from ._control import ErrorNotice, dump_cancel, parse_control
from ._frames import Frame, MessageType, parse_frame
from ._replies import BUSY, CANCELLED, CLOSING, TIMEOUT, Failure, LazyFrame, Reply, Result
from ._verbose import verbose_error_code
from ._violation import ProtocolViolation

MAX_IN_FLIGHT = 512
"""How many requests may be unanswered; further ones wait here, where cancelling them costs nothing.

Below what a server takes without reading on, so that it sees a cancel at any time.
"""

MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024
"""How many bytes they may have together; a single request may have any size."""

_STOPPED = frozenset({BUSY, CANCELLED, CLOSING, TIMEOUT})
"""The error codes of requests that the server has stopped or never started."""


@dataclass(eq=False, slots=True)
class ClientRequest:
    """A request or a post on its way; the protocol alone writes to it.

    Attributes:
        wanted: whether anybody still waits for the reply.
        number: the request's number once it was sent; a post has none in the extended protocol.
        size: of the frame, in bytes, once it was sent.
    """

    frame: bytes
    wanted: bool
    is_post: bool = False
    number: int | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send; `request` is the one it carries, `None` for a control message."""

    message: bytes | str
    request: ClientRequest | None


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """The reply of a request somebody waits for."""

    request: ClientRequest
    reply: Reply


class ClientProtocol:
    """Numbers, sends, matches and cancels the requests of one connection.

    Call `submit`, `post` and `cancel` as users ask for it; send what `next_outgoing` returns, message by message and
    each one whole, until it returns `None`; give every message that arrives to `receive`.

    Args:
        extended: whether the server agreed to the extended protocol.

    Attributes:
        stopped: how many cancelled requests were never sent, or were answered by an error that says they were stopped.
    """

    def __init__(self, *, extended: bool) -> None:
        self._extended = extended
        self._controls: deque[str] = deque()
        self._unsent: dict[ClientRequest, None] = {}  # ordered, and any of them can leave
        self._unanswered: deque[ClientRequest] = deque()
        self._unanswered_bytes = 0
        self._last_number = 0
        self.stopped = 0

    @property
    def pending(self) -> int:
        """How many requests are queued or unanswered, cancelled ones included."""
        return len(self._unsent) + len(self._unanswered)

    @property
    def has_outgoing(self) -> bool:
        """Whether anything waits to be sent, if only for room."""
        return bool(self._controls or self._unsent)

    def submit(self, frame: bytes) -> ClientRequest:
        """Queue a request; `frame` has message type 1."""
        request = ClientRequest(frame, wanted=True)
        self._unsent[request] = None
        return request

    def post(self, frame: bytes) -> ClientRequest:
        """Queue a message whose reply nobody wants; `frame` has message type 0."""
        request = ClientRequest(frame, wanted=False, is_post=True)
        self._unsent[request] = None
        return request

    def cancel(self, request: ClientRequest) -> None:
        """Forget a request. What was sent of it is still answered by the server; the answer is discarded here."""
        if request in self._unsent:
            del self._unsent[request]
            self.stopped += 1
        elif request.wanted:
            request.wanted = False
            if self._extended and request.number is not None:
                self._controls.append(dump_cancel(request.number))

    def abandon(self) -> None:
        """Forget all requests: the connection is closing, nothing more is sent and no reply is wanted."""
        self._controls.clear()
        self._unsent.clear()
        for request in self._unanswered:
            request.wanted = False

    def next_outgoing(self) -> Outgoing | None:
        """Return the next message to send, or `None` if there is none now.

        The request in it counts as sent from here on: its place among the replies is taken.
        """
        if self._controls:
            return Outgoing(self._controls.popleft(), None)
        request = next(iter(self._unsent), None)
        if request is None or not self._has_room_for(request):
            return None
        del self._unsent[request]
        if not (self._extended and request.is_post):  # a baseline server answers posts like everything else
            self._last_number += 1
            request.number = self._last_number
            request.size = len(request.frame)
            self._unanswered.append(request)
            self._unanswered_bytes += request.size
        outgoing = Outgoing(request.frame, request)
        request.frame = b""  # a large request must not be kept until its reply is there
        return outgoing

    def receive(self, message: Frame | str) -> ReplyReceived | None:
        """Take a message from the server; returns the reply in it, if somebody waits for that.

        Raises:
            ProtocolViolation: the server must not have sent this. Nothing is changed by it.
        """
        if isinstance(message, str):
            return self._receive_control(message)
        header = parse_frame(message)
        if self._extended and header.message_type is MessageType.ASYNC:
            return None  # a push; nobody can have subscribed to one yet
        if self._extended and header.message_type is not MessageType.RESPONSE:
            raise ProtocolViolation("the server sent a request")
        return self._answer(Result(message))

    def _has_room_for(self, request: ClientRequest) -> bool:
        return not self._unanswered or (
            len(self._unanswered) < MAX_IN_FLIGHT and self._unanswered_bytes + len(request.frame) <= MAX_IN_FLIGHT_BYTES
        )

    def _receive_control(self, text: str) -> ReplyReceived | None:
        if not self._extended:
            raise ProtocolViolation("a text message from a server that speaks binary only")
        received = None
        for notice in parse_control(text):
            if isinstance(notice, ErrorNotice):
                if not self._unanswered or self._unanswered[0].number != notice.number:
                    raise ProtocolViolation(f"an error for request {notice.number}, whose turn it is not")
                received = self._answer(Failure(notice.code, notice.message))
        return received

    def _answer(self, reply: Reply) -> ReplyReceived | None:
        if not self._unanswered:
            raise ProtocolViolation("a reply to nothing that was asked")
        request = self._unanswered.popleft()
        self._unanswered_bytes -= request.size
        if not request.wanted:
            self.stopped += _was_stopped(reply)
            return None
        request.wanted = False  # answered: cancelling it now means nothing
        return ReplyReceived(request, reply)


def _was_stopped(reply: Reply) -> bool:
    """Return whether the reply to a cancelled request says that it was stopped, or that it was never started."""
    if isinstance(reply, Failure):
        return reply.code in _STOPPED
    return not isinstance(reply.frame, LazyFrame) and verbose_error_code(reply.frame) in _STOPPED
