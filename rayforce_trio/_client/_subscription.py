"""Subscriptions: the public classes `Subscription` and `Update`."""

import struct
from contextlib import suppress
from types import TracebackType

from .._codec import Parameters, Query, Value, check_topic, decode_payload, encode, engine_error, reply_payload
from .._protocol import (
    GAP,
    HEADER_SIZE,
    SLOW,
    SNAPSHOT,
    SUBSCRIPTIONS,
    ClientSubscription,
    Failure,
    Frame,
    MessageType,
    Overflow,
    Position,
    SubscriptionState,
    is_valid_position,
)
from .._tasks import TimeSlice, checkpoint_if_cancelled_function, enable_ki_protection, event_class
from .._values._columns import Columns
from .._values._payloads import NULL, i64
from .._values._types import Type
from ..errors import ConnectionLost, ProtocolError, RayforceValueError, RayforceWSError, SlowSubscriber, SubscriptionGap
from ._exchange import Exchange
from ._fetching import read_columns, read_columns_at_once
from ._reconnecting import AnyExchange, Attempts, ReconnectingExchange, Session
from ._server_call import server_call

DEFAULT_MAX_BUFFER = 8 * 1024**2
"""Bytes."""

_SNAPSHOT = struct.Struct("<BBqbBqB")  # a list of three, its first item, the next number, and its second item, null
_ENDED = SubscriptionState.ENDED


class Update:
    """An update of a subscription.

    Attributes:
        topic (str): the name of the topic.
        sequence (int): the number of the update. The numbers of a topic are consecutive, and begin anew when its engine
            restarts.
        lost (int): the number of updates that the server or the client dropped directly before this one. Always 0 with
            `overflow="error"`.
    """

    __slots__ = ("_decoded", "_payload", "_value", "lost", "sequence", "topic")

    def __init__(self, topic: str, sequence: int, lost: int, payload: Frame) -> None:
        self.topic = topic
        self.sequence = sequence
        self.lost = lost
        self._payload = payload
        self._decoded = False
        self._value: Value = None

    @property
    def value(self) -> Value:
        """The published value, as `execute` returns it. It is decoded on first use.

        Raises:
            RayforceConversionError: rayforce-py cannot represent the value.
        """
        if not self._decoded:
            self._value = decode_payload(self._payload)
            self._decoded = True
        return self._value

    def columns(self) -> Columns:
        """Return the published value as `fetch` returns it.

        Raises:
            RayforceTypeError: the value has no columns.
            RayforceConversionError: the value has a type that only `value` can represent.
        """
        return read_columns_at_once(self._payload)

    def __repr__(self) -> str:
        lost = f", lost={self.lost}" if self.lost else ""
        return f"Update(topic={self.topic!r}, sequence={self.sequence}{lost})"


class Subscription:
    """The updates of a topic, returned by `WSClientConnection.subscribe`. It is an async context manager.

    Iterate over it with `async for`, in one task at a time. The connection's own task receives the updates and keeps
    them until they are taken. The connection can be used for other calls at the same time. If the connection is made
    again (`reconnect=True`), the subscription continues where it was, or raises `SubscriptionGap`.
    """

    def __init__(
        self, exchange: AnyExchange, topic: str, state: ClientSubscription, snapshot: tuple[Query, bytes] | None
    ) -> None:
        self._connection = exchange
        self._comes_back = isinstance(exchange, ReconnectingExchange)
        self._exchange: Exchange  # the one on which the subscription is active
        self._topic = topic
        self._state = state
        self._query = snapshot  # and the frame that carries it
        self._number: int | None = None  # on the connection, within the block
        self._was_entered = False
        self._in_use = False
        self._snapshot: memoryview | None = None  # its payload
        self._new_event = event_class
        self._changed = event_class()()
        self._checkpoint_if_cancelled = checkpoint_if_cancelled_function()
        self._time_slice = TimeSlice()

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self._topic

    @property
    def position(self) -> Position:
        """The position behind the last update that was returned. `subscribe(topic, resume=position)` continues there.

        Raises:
            RayforceWSError: the block was not entered.
        """
        if self._state.position is None:
            raise RayforceWSError(_NOT_ENTERED)
        return self._state.position

    @property
    def snapshot(self) -> Value:
        """The value of the query `snapshot`, as `execute` returns it. It is decoded on each use.

        Raises:
            RayforceWSError: there is no snapshot.
            RayforceConversionError: rayforce-py cannot represent the value.
        """
        return decode_payload(self._snapshot_payload())

    @enable_ki_protection
    async def snapshot_columns(self) -> Columns:
        """Return the value of the query `snapshot`, as `fetch` returns it.

        A checkpoint. While a large value is read, other tasks run every few milliseconds. If cancelled, nothing has
        changed.

        Raises:
            RayforceWSError: there is no snapshot.
            RayforceTypeError: the value has no columns.
            RayforceConversionError: the value has a type that only `snapshot` can represent.
        """
        return await read_columns(self._snapshot_payload(), self._exchange)

    def __repr__(self) -> str:
        return f"<Subscription to {self._topic!r}, {self._state.state.name.lower()}>"

    @enable_ki_protection
    async def __aenter__(self) -> "Subscription":
        """Subscribe, and return this subscription when it is active and the snapshot has arrived.

        A checkpoint. If cancelled, the subscription ends, and the query of the snapshot is stopped as by a cancelled
        `execute`.

        Raises:
            SubscriptionGap: the server cannot continue behind the position in `resume`.
            UnsupportedByServer: the server has no subscriptions.
            RayforceError: the server refuses the subscription (code `access` or `limit`), it cannot reach its engine
                (code `engine`), or the query of the snapshot failed. Other errors are those of
                `WSClientConnection.execute`.
            RayforceWSError: the block was entered before.
        """
        if self._was_entered:
            raise RayforceWSError("a subscription can be used once; call subscribe() again")
        self._connection.check_usable()
        state = self._state
        self._was_entered = self._in_use = True  # only one task can wait for changes
        try:
            exchange = await self._connection.require(SUBSCRIPTIONS)
            state.on_change = self.wake
            self._attach(exchange)
            if isinstance(self._connection, ReconnectingExchange):
                self._connection.subscribers.add(self)
            await self._join()
        except BaseException:
            self._leave()
            raise
        finally:
            self._in_use = False
        return self

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the subscription. No checkpoint, so this cannot be cancelled."""
        self._leave()

    def __aiter__(self) -> "Subscription":
        return self

    @enable_ki_protection
    async def __anext__(self) -> Update:
        """Return the next update.

        A checkpoint if it has to wait, or if the task has run for a while; a cancellation is raised in any case. If
        cancelled, no update is lost: the next call returns it.

        Raises:
            SlowSubscriber: updates arrived faster than they were taken.
            SubscriptionGap: updates are missing.
            RayforceError: the server has ended the subscription.
            RayforceWSError: the block was not entered or was left, another task is entering it or waiting for an
                update, or the connection has ended.
        """
        if self._in_use:
            raise RayforceWSError("another task is using this subscription; call subscribe() once for each task")
        if self._number is None:
            raise RayforceWSError(_LEFT if self._was_entered else _NOT_ENTERED)
        self._exchange.check_loop()
        self._in_use = True
        try:
            await self._checkpoint_if_cancelled()
            await self._time_slice.yield_if_due()
            while (taken := self._state.take()) is None:
                if self._state.end is not None:
                    raise self._error(self._state.end)
                await self._wait()
                self._time_slice.start()
        finally:
            self._in_use = False
        return Update(self._topic, *taken)

    async def _join(self) -> None:
        """Wait until the subscription is active and the snapshot has arrived, on this connection or a later one.

        A checkpoint; if cancelled, the query of the snapshot is stopped as one of `execute`. Raises as `__aenter__`.
        """
        state = self._state
        attempts = Attempts(idempotent=True)
        while state.state is not SubscriptionState.ACTIVE:
            exchange = self._exchange
            if state.end is not None:
                raise self._error(state.end)
            if state.state is SubscriptionState.SUBSCRIBING:
                await self._wait()
                continue
            assert self._query is not None
            try:
                is_answered = await self._take_snapshot(exchange, *self._query)
                if state.is_joined:
                    return
                if is_answered:
                    continue
            except ConnectionLost as error:
                if not self._comes_back:
                    raise
                attempts.check(error, exchange)
            while state.state is SubscriptionState.JOINING and self._exchange is exchange:
                await self._wait()

    async def _take_snapshot(self, exchange: Exchange, query: Query, frame: bytes) -> bool:
        """Have the server evaluate the query; return False if it did not start it because it is stopping.

        A checkpoint; if cancelled, the query is stopped as one of `execute`.
        """
        number = self._number
        assert number is not None
        request = server_call(MessageType.SYNC, SNAPSHOT, i64(number), frame[HEADER_SIZE:])
        reply = await exchange.request(request)
        if isinstance(exchange, Session) and await exchange.refuses(reply):
            return False
        payload = reply_payload(reply, query)
        if len(payload) <= _SNAPSHOT.size:
            raise ProtocolError("the server sent a malformed snapshot")
        kind, _, count, item, _, next_sequence, null = _SNAPSHOT.unpack_from(payload)
        if (kind, count, item, bytes([null])) != (Type.LIST, 3, -Type.I64, NULL) or next_sequence < 1:
            raise ProtocolError("the server sent a malformed snapshot")
        if self._exchange is exchange:  # otherwise the connection was lost since, and another one has taken its place
            self._snapshot = payload[_SNAPSHOT.size :]
            self._state.snapshot_taken(next_sequence)
            if self._state.state is _ENDED:
                exchange.stop_updates(number)
        return True

    async def _wait(self) -> None:
        """Wait for a change. A checkpoint; if cancelled, nothing has changed.

        Raises:
            RayforceWSError: the connection has ended, or the server that it has come back to has no subscriptions.
        """
        self._connection.check_open()
        changed = self._changed = self._new_event()()
        if self._comes_back and self._state.state is SubscriptionState.SUBSCRIBING:
            with suppress(ConnectionLost):  # this is a change
                await self._exchange.require(SUBSCRIPTIONS)
        await changed.wait()

    def _attach(self, exchange: Exchange) -> None:
        """Subscribe on a connection. Raises `RayforceWSError` if it has ended. No checkpoint."""
        self._number = exchange.subscribe(self._topic, self._state)
        self._exchange = exchange

    def resume(self, exchange: Exchange) -> None:
        """Continue on another connection, in place of the one that was lost. No checkpoint."""
        if self._state.resume():
            self._attach(exchange)
            self.wake()

    def wake(self) -> None:
        """Have the task that waits look for a change. No checkpoint."""
        self._changed.set()

    def _leave(self) -> None:
        """End the subscription. No checkpoint. Idempotent."""
        number, self._number = self._number, None
        if number is not None:
            self._exchange.unsubscribe(number)
            self._state.close()
        if isinstance(self._connection, ReconnectingExchange):
            self._connection.subscribers.discard(self)

    def _snapshot_payload(self) -> memoryview:
        if self._snapshot is None:
            raise RayforceWSError(
                "this subscription has no snapshot; write 'async with connection.subscribe(topic, snapshot=query)' "
                "to get one"
            )
        return self._snapshot

    def _error(self, end: Failure) -> Exception:
        if not end.code:
            return RayforceWSError(_LEFT)
        text = f"topic {self._topic!r}: {end.message}"
        error = _ERRORS.get(end.code)
        return engine_error(Failure(end.code, text)) if error is None else error(text)


_POLICIES = {policy.value: policy for policy in Overflow}
_ERRORS = {GAP: SubscriptionGap, SLOW: SlowSubscriber}
_NOT_ENTERED = "write 'async with connection.subscribe(...) as updates' before using the subscription"
_LEFT = "the 'async with' block of this subscription has ended; call subscribe() again"


def make_subscription(
    make: type[Subscription],
    exchange: AnyExchange,
    topic: str,
    snapshot: Query | None,
    params: Parameters | None,
    max_buffer: int,
    overflow: object,
    resume: Position | None,
) -> Subscription:
    """Return a subscription of a class. Other arguments and errors are those of `WSClientConnection.subscribe`."""
    check_topic(topic)
    if type(max_buffer) is not int or max_buffer < 1:
        raise RayforceValueError(f"Invalid max_buffer: {max_buffer!r}. Must be a number of bytes, an int above 0")
    policy = _POLICIES.get(overflow) if isinstance(overflow, str) else None
    if policy is None:
        raise RayforceValueError(f"Invalid overflow: {overflow!r}. Must be one of {', '.join(map(repr, _POLICIES))}")
    if resume is not None and not is_valid_position(resume):
        raise RayforceValueError(
            f"Invalid resume: {resume!r:.200}. Must be the position attribute of a subscription, or None"
        )
    if resume is not None and snapshot is not None:
        raise RayforceValueError(
            "resume and snapshot cannot be used together, because a snapshot has a position of its own; leave out one"
        )
    if params is not None and snapshot is None:
        raise RayforceValueError("params needs snapshot, the query that uses the parameters")
    query = None if snapshot is None else (snapshot, encode(snapshot, MessageType.SYNC, params=params))
    state = ClientSubscription(max_buffer=max_buffer, overflow=policy, joins=query is not None, resume=resume)
    return make(exchange, topic, state, query)
