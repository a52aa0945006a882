"""A WebSocket connection after its opening handshake, over a byte stream, on trio and asyncio.

`WebSocketConnection` decides what is sent and what the received bytes mean. This module moves the bytes and waits. It
starts no tasks: the owner of a transport receives, sends and runs `run` in tasks of its own.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

import anyio
import trio

from .._addresses import os_error_text
from .._protocol import Frame, LazyFrame
from .._protocol._frames import announced_size
from .._streams import READ_SIZE, STREAM_ERRORS, BrokenResourceError, ByteStream, ClosedResourceError
from .._tasks import Event, TimeSlice, checkpoint_if_cancelled_function, event_class, race
from .._text import counted
from .._websocket import (
    Close,
    CloseCode,
    EndedBy,
    FragmentReceived,
    LocalProtocolError,
    Ping,
    Pong,
    State,
    WebSocketConnection,
    WebSocketViolation,
)
from ..errors import ConnectionLost, MessageTooLarge, ProtocolError, RayforceWSError
from ._base import CLOSE_TIMEOUT, TEXT_LIMIT, SharedMessage, Transport, closed_by_peer, closed_by_us
from ._keepalive import KeepAlive
from ._write_rate import MIN_RATE, WriteRate

_MAX_READ = 256 * 1024  # bytes; the payload of a long message is received in pieces of at most this size


class WebSocketTransport(Transport):
    """A WebSocket connection over a byte stream.

    Args:
        stream: the stream of the opening handshake. The transport owns it from now on.
        client: whether this end is the client.
        leftover: the bytes that were received after the opening handshake.
        subprotocol: the negotiated subprotocol.
        peer: the peer's address, for people to read.
        max_message_size: the longest message to accept, in bytes.
        keepalive: when to send pings.
        peer_max_message_size: the longest message that the server accepts, in bytes; `None` if unknown.
        peer_takes_traces: whether the server takes traces.
        write_timeout: the connection is lost if the peer takes less than `MIN_RATE` on average over this many seconds
            while bytes wait to be sent.
    """

    # Slots for what is read when an update is sent to each of many clients, as fewer reads miss the cache then.
    __slots__ = ("_connection", "_send_bytes")

    def __init__(
        self,
        stream: ByteStream,
        *,
        client: bool,
        leftover: bytes,
        subprotocol: str | None,
        peer: str,
        max_message_size: int,
        keepalive: KeepAlive,
        peer_max_message_size: int | None = None,
        peer_takes_traces: bool = False,
        write_timeout: float = math.inf,
    ) -> None:
        self.subprotocol = subprotocol
        self.peer = peer
        self.peer_max_message_size = peer_max_message_size
        if peer_takes_traces:
            self.peer_takes_traces = True
        self._stream = stream
        self._keepalive = keepalive
        self._write_timeout = write_timeout
        self._write_rate = WriteRate(write_timeout)
        self._taken = 0  # bytes that `_write` has sent since it last had to wait
        self._connection = WebSocketConnection(
            client=client,
            max_message_size=max_message_size,
            max_text_size=TEXT_LIMIT,
            expected_size=announced_size,
        )
        self._connection.receive_data(leftover)
        # Bound here because every message calls them.
        self._next_short_message = self._connection.next_short_message
        self._wait_readable = stream.wait_readable
        self._receive_bytes = stream.receive_nowait
        self._send_bytes = stream.send_nowait
        self._new_event = event_class()
        if self._new_event is trio.Event:  # anyio's functions look for the running loop on every call
            self._current_time: Callable[[], float] = trio.lowlevel.current_clock().current_time
        else:
            self._current_time = asyncio.get_running_loop().time
        self._checkpoint_if_cancelled = checkpoint_if_cancelled_function()
        self._last_sign_of_life = self._current_time()
        self._time_slice = TimeSlice(self.flush)
        self._receiving = False  # a task is in `receive`
        self._unfinished_reported = 0  # bytes
        self._receive_left: Event | None = None  # `aclose` waits for that task to leave
        self._write_lock = anyio.Lock()
        self._buffered = False  # `send_nowait` was called after the last `flush`
        self._writing = False  # the lock is held by a task that sends all there is to send
        self._flush_due = self._new_event()
        self._closed = self._new_event()  # the stream is being closed
        self._close_lock = anyio.Lock()
        self._close_reads = False  # `aclose` reads until the peer's close frame, now or soon; no other task may

    @property
    def max_message_size(self) -> int:
        """The longest message to accept, in bytes; may be changed at any time."""
        return self._connection.reader.max_message_size

    @max_message_size.setter
    def max_message_size(self, size: int) -> None:
        self._connection.reader.max_message_size = size

    # Receiving

    async def receive(self) -> Frame | str:
        if self._close_reads:
            await self._closed.wait()
        connection = self._connection
        self._receiving = True
        try:
            read = not connection.reader.has_bytes
            if not read:
                await self._checkpoint_if_cancelled()
                await self._time_slice.yield_if_due()
            while True:
                if read:
                    if not connection.receiving:
                        raise self._error()
                    if self._buffered:
                        self.flush()
                    try:
                        await self._wait_readable()
                        self._read_nowait()
                    except STREAM_ERRORS as error:
                        if self._close_reads:  # `interrupt` was called
                            raise self._error() from None
                        raise self._broken(error) from None
                    message = self._next_short_message()
                    if message is not None:
                        return message
                event = self._next_event()
                if isinstance(event, (Ping, Pong, FragmentReceived)):
                    await self._checkpoint_if_cancelled()  # one read can contain thousands of these
                    await self._time_slice.yield_if_due()
                elif event is not None:
                    return event
                if self._close_reads:
                    raise self._error()
                read = event is None
                if read and connection.reader.unfinished >= READ_SIZE:
                    self._report_unfinished(connection.reader.unfinished)
        finally:
            self._receiving = False
            if self._receive_left is not None:
                self._receive_left.set()

    def _report_unfinished(self, size: int) -> None:
        grown = size - self._unfinished_reported
        self._unfinished_reported = size
        self.on_unfinished(grown if grown > 0 else size)  # else another message has begun

    @property
    def unfinished(self) -> int:
        return self._connection.reader.unfinished

    def receive_nowait(self) -> Frame | str | None:
        message = self._next_short_message()
        if message is not None:
            return message
        event = self._next_event()
        # `receive` yields between thousands of these.
        return None if isinstance(event, (Ping, Pong, FragmentReceived)) else event

    def _next_event(self) -> Frame | str | Ping | Pong | FragmentReceived | None:
        """Return the next message, ping, pong or fragment, or `None`.

        Raises the error of a violation or a close frame.
        """
        try:
            event = self._connection.next_event()
        except WebSocketViolation:
            raise self._error() from None
        if isinstance(event, Close):
            raise self._error()
        if isinstance(event, Ping):
            self._flush_due.set()  # the pong
        return event

    def interrupt(self) -> None:
        if self._receiving:
            self._close_reads = True
            self._stream.wake_reader()

    def has_bytes(self) -> bool:
        return self._connection.reader.has_bytes

    def peer_is_gone(self) -> bool:
        return self._stream.peer_is_gone()

    def _read_nowait(self) -> None:
        """Pass bytes that have arrived to the connection. Raises the errors of the stream, and the error of the end."""
        connection = self._connection
        buffer = connection.get_buffer()
        if buffer is not None and len(buffer) > READ_SIZE:
            count = self._stream.receive_into_nowait(buffer[:_MAX_READ])
            if count is None:
                return
            connection.buffer_updated(count)
        else:
            data = self._receive_bytes(READ_SIZE)
            if data is None:
                return
            count = len(data)
            connection.receive_data(data)
        if not count:
            del buffer  # otherwise the error keeps the unfinished message: its traceback refers to this frame
            connection.receive_eof()
            raise self._error()
        self._last_sign_of_life = self._current_time()

    # Sending

    async def send(self, message: Frame | LazyFrame | str) -> None:
        await self._send(lambda: self._connection.send(message))

    async def send_part(self, data: Frame | LazyFrame, *, last: bool, text: bool = False) -> None:
        await self._send(lambda: self._connection.send_part(data, last=last, text=text))

    def send_between(self, message: SharedMessage | str) -> bool:
        connection = self._connection
        if isinstance(message, str):
            sent = self.send_now(message)
        elif (frame := message.packed) is None:
            sent = self._send_medium_now(message.data, any_size=True)
        else:
            sent = connection.can_begin()
            if sent:
                try:
                    count = self._send_bytes(frame)
                except (BrokenResourceError, ClosedResourceError) as error:
                    raise self._broken(error) from None
                if count < len(frame):
                    connection.keep_unsent(frame[count:])
                    self._flush_due.set()
        if not sent:
            if connection.state is not State.OPEN:
                raise self._error()
            self.notify_when_idle()
        return sent

    def notify_when_idle(self) -> None:
        if not self._connection.within_message:  # otherwise the task that sends that message calls `on_idle`
            self._flush_due.set()

    async def _send(self, queue: Callable[[], None]) -> None:
        """Call `queue`, and send until the message is sent. A checkpoint.

        If cancelled, `run` sends the rest of a short message. A long message of which something was sent has been
        cut: nothing can follow it.
        """
        connection = self._connection
        async with self._write_lock:
            if connection.sending:  # a message that `send_now` has begun
                await self._write()
            try:
                queue()
            except LocalProtocolError:
                raise self._error() from None
            try:
                await self._write()
                if connection.sending:  # the connection closes
                    raise self._error()
            finally:
                connection.abandon()
        self.on_idle()

    def send_nowait(self, message: Frame | LazyFrame | str) -> bool:
        if self._writing:
            return False
        self._buffered = True
        try:
            return self._connection.send_short(message)
        except LocalProtocolError:
            raise self._error() from None

    def send_now(self, message: Frame | LazyFrame | str) -> bool:
        frame = self._connection.pack_next(message)
        if frame is None:
            return self._send_medium_now(message) or super().send_now(message)
        try:
            count = self._send_bytes(frame)
        except (BrokenResourceError, ClosedResourceError) as error:
            raise self._broken(error) from None
        if count < len(frame):
            self._connection.keep_unsent(frame[count:])
            self._flush_due.set()
        return True

    def _send_medium_now(self, message: Frame | LazyFrame | str, *, any_size: bool = False) -> bool:
        """Send a message of medium length; `run` sends the rest. If False, nothing was done.

        A switch to another task for each piece would take longer than everything else.
        """
        connection = self._connection
        if self._write_lock.locked() or not connection.begin_message(message, any_size=any_size):
            return False
        while (data := connection.data_to_send()) is not None:
            size = len(data)
            try:
                count = self._send_bytes(data)
            except (BrokenResourceError, ClosedResourceError) as error:
                raise self._broken(error) from None
            connection.bytes_sent(count)
            if count < size:
                self._flush_due.set()
                break
        return True

    def flush(self) -> None:
        if self._writing:
            return
        self._buffered = False
        data = self._connection.data_to_send()
        if data is None:
            return
        size = len(data)
        try:
            count = self._stream.send_nowait(data)
        except (BrokenResourceError, ClosedResourceError) as error:
            raise self._broken(error) from None
        self._connection.bytes_sent(count)
        if count < size:
            self._flush_due.set()

    async def _write(self) -> None:
        """Send everything there is to send. The caller holds the lock.

        A checkpoint only if the network does not take everything, or the time slice is used up. If cancelled, `run`
        sends the rest of short messages.

        Raises:
            ConnectionLost: the connection broke, or the peer took too little for `write_timeout` seconds.
        """
        connection, stream = self._connection, self._stream
        self._writing = True
        try:
            while (data := connection.data_to_send()) is not None:
                size = len(data)
                try:
                    count = stream.send_nowait(data)
                except (BrokenResourceError, ClosedResourceError) as error:
                    raise self._broken(error) from None
                connection.bytes_sent(count)
                self._taken += count
                if count < size:
                    await self._wait_writable()
                elif connection.sending and self._time_slice.is_used_up:
                    await self._time_slice.yield_if_due()
        except BaseException:
            self._flush_due.set()
            raise
        finally:
            self._writing = False

    async def _wait_writable(self) -> None:
        """Wait until the network takes more bytes. A checkpoint; cancelling it changes nothing."""
        # A server disconnects a peer that does not read. A client waits: the server may be evaluating.
        rate, taken = self._write_rate, self._taken
        self._taken = 0
        with anyio.CancelScope(deadline=rate.wait(self._current_time(), taken)) as scope:
            try:
                await self._stream.wait_writable()
            except (BrokenResourceError, ClosedResourceError) as error:
                raise self._broken(error) from None
        if scope.cancelled_caught:
            self._connection.connection_lost(
                f"the peer has read less than {MIN_RATE // 1024} KiB per second for "
                f"{counted(self._write_timeout, 'second')}"
            )
            raise self._error()
        rate.resume(self._current_time())
        self._last_sign_of_life = self._current_time()

    async def run(self) -> None:
        await race(self._flush_when_due, self._keep_alive)

    async def _keep_alive(self) -> None:
        """Send pings when the peer is silent, until cancelled. A checkpoint.

        Raises:
            ConnectionLost: the peer stays silent.
        """
        await self._keepalive.run(lambda: self._last_sign_of_life, self.ping, lambda: self._receiving)

    def ping(self) -> None:
        self._connection.ping()
        self._flush_due.set()

    async def _flush_when_due(self) -> None:
        """Send what `flush` could not send, and pings and pongs, until cancelled, which cuts no frame."""
        while True:
            await self._flush_due.wait()
            self._flush_due = self._new_event()
            async with self._write_lock:
                await self._write()
            self.on_idle()

    # Ending

    def begin_close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)
        self._flush_due.set()

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        if self._closed.is_set():
            await self._stream.aclose()
            return
        self._connection.close(code, reason)
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT), suppress(RayforceWSError):
                await self._closing_handshake()
        finally:
            self._disconnect()
            await self._stream.aclose()

    async def _closing_handshake(self) -> None:
        """Send the close frame, and read until the peer's close frame arrives. A checkpoint.

        If cancelled, the close frame may not have been sent.

        Raises:
            ConnectionLost: the connection broke, or the peer closed it without a close frame.
        """
        connection = self._connection
        async with self._write_lock:
            await self._write()
            if connection.state is State.FAILED:
                # An answer would not be read, so wait for the peer to disconnect.
                with suppress(BrokenResourceError, ClosedResourceError):
                    await self._stream.send_eof()
        async with self._close_lock:  # of several tasks that close, one reads
            state = connection.state
            while connection.state is state is not State.CLOSED:
                if self._receiving:  # that task reads the peer's answer
                    self._receive_left = self._new_event()
                    await self._receive_left.wait()
                    continue
                self._close_reads = True
                try:
                    arrived = connection.next_event() is not None  # the answer may have arrived behind a message
                except WebSocketViolation:
                    break
                if arrived:
                    await self._time_slice.yield_if_due()
                elif connection.state is state:
                    try:
                        await self._wait_readable()
                        self._read_nowait()
                    except STREAM_ERRORS as error:
                        raise self._broken(error) from None

    def abort(self) -> None:
        self._disconnect()
        self._stream.close()

    def _disconnect(self) -> None:
        self._connection.abort()
        self._time_slice = TimeSlice()  # without `flush`, which refers to this transport
        self._closed.set()

    def _broken(self, error: Exception) -> RayforceWSError:
        """Record that the network connection broke, and return the error to raise."""
        text = os_error_text(error)
        for one in (error, error.__cause__):
            if one is not None:
                one.__traceback__ = None  # its frames refer to the message that was being sent or received
        self._connection.connection_lost(f"the connection broke: {text}")
        return self._error()

    def _error(self) -> RayforceWSError:
        """Return a new error that says how the connection ended.

        An error that is kept would refer, by its traceback, to this connection and to the message it was sending.
        """
        ending = self._connection.ending
        if ending is None or ending.by is EndedBy.US:
            return closed_by_us()
        if ending.by is EndedBy.PEER:
            return closed_by_peer(ending.code, ending.reason)
        if ending.by is EndedBy.LOSS:
            return ConnectionLost(ending.reason)
        if ending.code == CloseCode.MESSAGE_TOO_BIG:
            return MessageTooLarge(ending.reason)
        return ProtocolError(f"the peer broke the WebSocket protocol: {ending.reason}", ending.code)
