"""The server's half of the conversation, without I/O."""

from dataclasses import dataclass

from ._control import CancelNotice, dump_error, parse_control
from ._frames import Frame, FrameError, MessageType, parse_frame, string_frame
from ._replies import CANCELLED, Failure, LazyFrame, Reply
from ._violation import ProtocolViolation

_COMPRESSED = Failure("nyi", "compressed requests are not supported")  # what they grow to has no bound here


@dataclass(eq=False, slots=True)
class ServerRequest:
    """A request or post that arrived; the protocol alone writes to it.

    Attributes:
        number: 1, 2, 3, ... in the order of arrival; `None` for a post.
        frame: what to evaluate.
        failure: set if the answer is known without asking the engine: it was cancelled, or it makes no sense.
    """

    number: int | None
    frame: Frame
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The client no longer wants this request, which has its `failure` now; one under way may still come to a value."""

    request: ServerRequest


class ServerProtocol:
    """Numbers the requests of one connection and shapes their answers.

    Give every message that arrives to `receive`; evaluate requests in the order they came; pass each one that has a
    number to `answer`, in that order too, and send what comes back.

    Args:
        extended: whether the extended protocol was agreed on.
    """

    def __init__(self, *, extended: bool) -> None:
        self._extended = extended
        self._last_number = 0
        self._unanswered: dict[int, ServerRequest] = {}

    @property
    def unanswered(self) -> int:
        """How many requests have no answer yet."""
        return len(self._unanswered)

    def receive(self, message: Frame | str) -> list[ServerRequest | CancelRequested]:
        """Take a message from the client.

        Raises:
            ProtocolViolation: the client must not have sent this.
        """
        if not self._extended:
            return [self._receive_baseline(message)]
        if isinstance(message, str):
            return self._receive_control(message)
        header = parse_frame(message)
        failure = _COMPRESSED if header.compressed else None
        match header.message_type:
            case MessageType.ASYNC:
                return [ServerRequest(None, message, failure)]
            case MessageType.SYNC:
                return [self._request(message, failure)]
        raise ProtocolViolation("a response to nothing that was asked")

    def answer(self, request: ServerRequest, reply: Reply) -> Frame | LazyFrame | str:
        """Return the message that answers `request`; it counts as answered from here on."""
        if request.number is None:
            raise ValueError("a post is not answered")
        del self._unanswered[request.number]
        if not isinstance(reply, Failure):
            return reply.frame
        if self._extended:
            return dump_error(request.number, reply.code, reply.message)
        return string_frame(str(reply))

    def _request(self, frame: Frame, failure: Failure | None = None) -> ServerRequest:
        self._last_number += 1
        request = ServerRequest(self._last_number, frame, failure)
        self._unanswered[self._last_number] = request
        return request

    def _receive_baseline(self, message: Frame | str) -> ServerRequest:
        """Every message is a request; one that makes no sense is answered in its turn, with a String that says so."""
        if isinstance(message, str):
            return self._request(b"", Failure("type", "expected a binary message, got text"))
        try:
            compressed = parse_frame(message).compressed
        except FrameError as error:
            return self._request(b"", Failure("domain", str(error)))
        return self._request(message, _COMPRESSED if compressed else None)

    def _receive_control(self, text: str) -> list[ServerRequest | CancelRequested]:
        cancelled: list[ServerRequest | CancelRequested] = []
        for notice in parse_control(text):
            if isinstance(notice, CancelNotice):
                request = self._unanswered.get(notice.number)
                if request is not None and request.failure is None:
                    request.failure = Failure(CANCELLED, "the client cancelled the request")
                    request.frame = b""
                    cancelled.append(CancelRequested(request))
        return cancelled
