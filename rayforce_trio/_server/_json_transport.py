"""The transport of a client of `rayforce.json.v1`: to its connection, it looks like one of the extended protocol."""

from collections import deque
from collections.abc import Callable
from itertools import islice

import trio

from .._protocol import (
    JSON_SUBPROTOCOL,
    SUBPROTOCOL,
    TOO_LARGE,
    Failure,
    Frame,
    LazyFrame,
    Update,
    announced_size,
    parse_update,
)
from .._tasks import TimeSlice, enable_ki_protection
from .._transports import SharedMessage, Transport
from .._values._json import Steps
from .._websocket import CloseCode
from ..errors import ProtocolError, RayforceConversionError, RayforceWSError
from ._json_messages import JsonMessages, update_text
from ._json_updates import JsonUpdates, UpdateValue

MAX_JSON_REPLY = 64 * 1024**2
"""The length of the longest reply, in bytes, both in the wire format and in JSON."""

_MAX_AT_ONCE = 1024
"""The length of the longest frame that is converted without a checkpoint, in bytes."""

_MAX_PIECES_AT_ONCE = 4
"""The largest number of pieces that are sent without a checkpoint: a beginning, two of the value, and an end."""

_STEPS_AT_ONCE = 4
"""The number of steps in which a message is translated without a checkpoint."""

_HEAD_SIZE = 64
_COPIED_AT_ONCE = 256 * 1024  # bytes
_SENT_AT_ONCE = 256 * 1024  # bytes

_UNSUPPORTED_DATA = 1003

_TOO_LARGE = (
    f"the result has more than {MAX_JSON_REPLY} bytes in JSON, which is the limit; select fewer rows or columns, or "
    "use a client of rayforce.v1"
)


class JsonTransport(Transport):
    """Translate the messages of a client of `rayforce.json.v1`.

    Args:
        inner: the client's transport after its opening handshake. From now on, use only this object.
        updates: converts the values of updates.
    """

    def __init__(self, inner: Transport, updates: JsonUpdates) -> None:
        self.subprotocol = SUBPROTOCOL
        self.peer = inner.peer
        self._inner = inner
        self._updates = updates
        self._on_idle: Callable[[], None] = inner.on_idle
        self._update: tuple[Update, UpdateValue] | None = None  # it has been taken, and is still to be sent
        self._messages = JsonMessages()
        self._has_greeted = False
        self._arriving: Steps[Frame | str | None] | None = None  # the translation of a message that has arrived
        self._translated: Frame | str | None = None
        self._reply: bytearray | None = None  # the parts of a reply, the last of which is still to come
        self._reply_size = 0  # bytes that it has in the end
        self._text_size = 0  # bytes of the JSON of a reply

    # Receiving

    async def receive(self) -> Frame | str:
        message = self._greeting()
        while message is None:
            if self._arriving is None:
                self._arriving = self._translation(await self._inner.receive())
            else:
                await trio.lowlevel.checkpoint()
            message = await self._translate()
        return message

    def receive_nowait(self) -> Frame | str | None:
        message = self._greeting()
        if message is not None:
            return message
        if self._arriving is None:
            arrived = self._inner.receive_nowait()
            if arrived is None:
                return None
            self._arriving = self._translation(arrived)
        # `receive` takes the other steps, and yields between thousands of messages that ask for nothing.
        return self._translated if self._take_steps(_STEPS_AT_ONCE) else None

    async def _translate(self) -> Frame | str | None:
        """Translate the message that has arrived. A checkpoint if that takes long; if cancelled, it can go on."""
        time_slice = TimeSlice()
        time_slice.start()
        while not self._take_steps(1):
            await time_slice.yield_if_due()
        return self._translated

    def _take_steps(self, most: int) -> bool:
        """Take some steps of the translation; return whether it has ended, with `_translated` as its result."""
        assert self._arriving is not None
        try:
            for _ in range(most):
                next(self._arriving)
        except StopIteration as end:
            self._arriving = None
            self._translated = end.value
            return True
        return False

    def _greeting(self) -> Frame | str | None:
        """Return the message with which a client of the extended protocol asks for features, the first time."""
        if self._has_greeted:
            return None
        self._has_greeted = True
        return self._messages.HELLO

    def _translation(self, message: Frame | str) -> Steps[Frame | str | None]:
        if not isinstance(message, str):
            raise ProtocolError(f"a binary message; {JSON_SUBPROTOCOL} has text messages only", _UNSUPPORTED_DATA)
        return self._messages.receive_in_steps(message)

    # Sending

    async def send(self, message: Frame | LazyFrame | str) -> None:
        if not isinstance(message, str):
            await self.send_part(message, last=True)
            return
        text, is_answer = self._messages.control(message)
        if text is not None:
            await self._inner.send(str(text))
        if is_answer:
            self._messages.answered()

    async def send_part(self, data: Frame | LazyFrame, *, last: bool, text: bool = False) -> None:
        assert not text, "a connection of the extended protocol has no long texts"
        time_slice = TimeSlice()
        if self._reply is None:
            self._reply, self._reply_size = bytearray(), announced_size(data[:_HEAD_SIZE])
            self.on_stored(self._reply_size)
        for start in range(0, len(data), _COPIED_AT_ONCE):
            self._reply += data[start : start + _COPIED_AT_ONCE]
            await time_slice.yield_if_due()
        if last:
            await self._send_answer(self._reply, time_slice)

    async def _send_answer(self, reply: bytearray, time_slice: TimeSlice) -> None:
        """Convert an answer, and send its text. A checkpoint; if cancelled, as `send`."""
        pieces = deque[bytes]()
        try:
            for piece in self._messages.answer(memoryview(reply)).pieces():
                encoded = piece.encode()
                pieces.append(encoded)
                self._text_size += len(encoded)
                self.on_stored(len(encoded))
                if self._text_size > MAX_JSON_REPLY:
                    self._fail(pieces, Failure(TOO_LARGE, _TOO_LARGE))
                    break
                await time_slice.yield_if_due()
        except RayforceConversionError as error:
            self._fail(pieces, Failure("io", str(error)))
        self._reply = None
        while pieces:
            part = _taken_together(pieces)
            await self._inner.send_part(part, last=not pieces, text=True)
            self._text_size -= len(part)
        self._text_size = 0
        self._messages.answered()

    def _fail(self, pieces: deque[bytes], failure: Failure) -> None:
        """Replace the pieces of an answer by an error."""
        pieces.clear()
        pieces.append(str(self._messages.failed(failure)).encode())

    def send_nowait(self, message: Frame | LazyFrame | str) -> bool:
        return self._send_short(message, self._inner.send_nowait)

    def send_now(self, message: Frame | LazyFrame | str) -> bool:
        return self._send_short(message, self._inner.send_now)

    def send_between(self, message: SharedMessage | str) -> bool:
        if not self._send_update():
            return False
        if isinstance(message, str):
            return self._send_short(message, self._inner.send_between)
        update = parse_update(memoryview(message.data))
        if update is not None:
            self._update = update._replace(payload=b""), self._updates.value(update.payload)
            self._send_update()
        return True

    def _send_update(self) -> bool:
        """Send the update that was taken before, if its value is in JSON by now. Return whether none is left.

        An update is taken before its value has been converted: if it waited in the client's outbox, newer updates could
        take its place there, each time that its value had been converted.
        """
        if self._update is None:
            return True
        update, value = self._update
        if value.result is None:
            self._updates.convert(value, self._inner)
            return False
        if not self._inner.send_between(update_text(update, value.result)):
            return False
        self._update = None
        return True

    def _idle(self) -> None:
        """Send the update that was taken before, and then call `on_idle`."""
        try:
            is_sent = self._send_update()
        except RayforceWSError:  # the connection has ended or is closing, as its other methods report
            self._drop_update()
            return
        if is_sent:
            self._on_idle()

    def _drop_update(self) -> None:
        if self._update is not None:
            _, value = self._update
            value.waiting.discard(self._inner)
            self._update = None

    def _send_short(self, message: Frame | LazyFrame | str, send: Callable[[str], bool]) -> bool:
        """Convert a short message, and send it with `send`. If this returns False, nothing was done."""
        is_answer = True
        if isinstance(message, str):
            text, is_answer = self._messages.control(message)
        elif len(message) > _MAX_AT_ONCE:
            return False
        else:
            text = self._messages.answer(message[:])
        try:
            pieces = [] if text is None else list(islice(text.pieces(), _MAX_PIECES_AT_ONCE + 1))
        except RayforceConversionError:
            return False  # `send` reports it
        if len(pieces) > _MAX_PIECES_AT_ONCE:
            return False
        sent = not pieces or send("".join(pieces))
        if sent and is_answer:
            self._messages.answered()
        return sent

    @property
    def stored(self) -> int:
        return self._inner.stored + self._text_size + (0 if self._reply is None else self._reply_size)

    # The rest concerns the network only

    @property
    def max_message_size(self) -> int:
        return self._inner.max_message_size

    @max_message_size.setter
    def max_message_size(self, size: int) -> None:
        self._inner.max_message_size = size

    @property
    def on_idle(self) -> Callable[[], None]:
        return self._on_idle

    @on_idle.setter
    def on_idle(self, call: Callable[[], None]) -> None:
        self._on_idle = call
        self._inner.on_idle = self._idle

    @on_idle.deleter
    def on_idle(self) -> None:
        del self._inner.on_idle
        self._on_idle = self._inner.on_idle
        self._drop_update()

    @property
    def on_unfinished(self) -> Callable[[int], None]:
        return self._inner.on_unfinished

    @on_unfinished.setter
    def on_unfinished(self, call: Callable[[int], None]) -> None:
        self._inner.on_unfinished = call

    @property
    def on_stored(self) -> Callable[[int], None]:
        return self._inner.on_stored

    @on_stored.setter
    def on_stored(self, call: Callable[[int], None]) -> None:
        self._inner.on_stored = call

    @property
    def unfinished(self) -> int:
        return self._inner.unfinished

    def has_bytes(self) -> bool:
        return not self._has_greeted or self._arriving is not None or self._inner.has_bytes()

    def interrupt(self) -> None:
        self._inner.interrupt()

    def peer_is_gone(self) -> bool:
        return self._inner.peer_is_gone()

    def notify_when_idle(self) -> None:
        self._inner.notify_when_idle()

    def flush(self) -> None:
        self._inner.flush()

    def ping(self) -> None:
        self._inner.ping()

    @enable_ki_protection
    async def run(self) -> None:
        await self._inner.run()

    def begin_close(self, code: int, reason: str) -> None:
        self._drop_update()
        self._inner.begin_close(code, reason)

    @enable_ki_protection
    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        self._drop_update()
        await self._inner.aclose(code, reason)

    def abort(self) -> None:
        self._drop_update()
        self._inner.abort()


def _taken_together(pieces: deque[bytes]) -> bytes:
    """Take short pieces from the beginning, and return them together."""
    taken = [pieces.popleft()]
    size = len(taken[0])
    while pieces and size < _SENT_AT_ONCE:
        taken.append(pieces.popleft())
        size += len(taken[-1])
    return b"".join(taken)
