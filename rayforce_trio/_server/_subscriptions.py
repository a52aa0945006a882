"""The subscriptions of one connection: it carries out the client's notices, and sends notices and updates.

Nothing here waits. What cannot be sent at once waits in the outbox until the transport is idle, so a client that reads
slowly delays nobody else.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter

from .._engines import Engine
from .._protocol import (
    ACCESS,
    LIMIT,
    SUBSCRIPTIONS,
    Failure,
    HelloNotice,
    Notice,
    Outbox,
    Position,
    SubscribeNotice,
    UnsubscribeNotice,
    dump_hello,
    dump_subscribed,
    dump_unsubscribed,
)
from .._tasks import TIME_SLICE
from .._transports import Transport
from ..errors import ProtocolError, RayforceWSError
from ._hub import Hub, SharedUpdate

FEATURES = frozenset([SUBSCRIPTIONS])
"""The features that a client can ask for."""

_POLICY_VIOLATION = 1008


def _any_topic(topic: str) -> bool:  # noqa: ARG001 - one of several such functions
    return True


class Subscriptions:
    """The subscriptions of one client.

    Args:
        transport: the connection.
        hub: where the topics are.
        engine: the engine of the client's session: see `Session.source`.
        fail: ends the connection with an error.
        may_subscribe: returns whether the client may subscribe to a topic.
        max_buffer: how many bytes of updates may wait for this client.
        max_subscriptions: how many subscriptions the client may have. `None`: any number.
    """

    def __init__(
        self,
        transport: Transport,
        hub: Hub,
        engine: Engine,
        fail: Callable[[RayforceWSError], None],
        *,
        may_subscribe: Callable[[str], bool] = _any_topic,
        max_buffer: int = 8 * 1024**2,
        max_subscriptions: int | None = 1024,
    ) -> None:
        self._transport = transport
        self._hub = hub
        self._engine = engine
        self._fail = fail
        self._may_subscribe = may_subscribe
        self._max_subscriptions = max_subscriptions
        self._outbox = Outbox[SharedUpdate](max_buffer)
        self._active: dict[int, _Subscription] = {}
        self._closed = False
        transport.on_idle = self._send_waiting

    def take(self, notice: Notice) -> None:
        """Carry out a notice of the client. No checkpoint.

        Raises:
            ProtocolError: the client used an id twice, or reads none of many notices.
        """
        match notice:
            case HelloNotice(features):
                self.notify(dump_hello(features & FEATURES))
            case SubscribeNotice(number, topic, resume):
                self._subscribe(number, topic, resume)
            case UnsubscribeNotice(number):
                self._unsubscribe(number)
        if self._outbox.is_flooded:
            raise ProtocolError("the client reads none of the messages that it asks for", _POLICY_VIOLATION)

    def next_sequence(self, subscription: int) -> tuple[str, int] | None:
        """Return the topic of a subscription and the number of its next update; `None` unless it is active."""
        found = self._active.get(subscription)
        sequence = None if found is None else self._hub.position(found)
        return None if found is None or sequence is None else (found.topic, sequence)

    def close(self) -> None:
        """End all subscriptions without telling the client. No checkpoint. Idempotent."""
        if self._closed:
            return
        self._closed = True
        del self._transport.on_idle  # it refers to this object
        active, self._active = self._active, {}
        for subscription in active.values():
            self._hub.unsubscribe(subscription)

    def _subscribe(self, number: int, topic: str, resume: Position | None) -> None:
        if number in self._active:
            raise ProtocolError(f"the client used the id {number} for two subscriptions")
        subscription = _Subscription(self, number, topic)
        if not self._may_subscribe(topic):
            subscription.ended(Failure(ACCESS, f"you may not subscribe to {topic!r}"))
        elif self._max_subscriptions is not None and len(self._active) >= self._max_subscriptions:
            limit = f"this server allows {self._max_subscriptions} subscriptions per connection (max_subscriptions)"
            subscription.ended(Failure(LIMIT, limit))
        elif not self._closed:
            self._active[number] = subscription
            self._hub.subscribe(self._engine, topic, subscription, resume)

    def _unsubscribe(self, number: int) -> None:
        subscription = self._active.pop(number, None)
        if subscription is not None:
            self._hub.unsubscribe(subscription)
            self._outbox.discard(number)

    # What the subscriptions call

    def forget(self, number: int) -> None:
        """Remove a subscription that has ended."""
        self._active.pop(number, None)

    def notify(self, text: str) -> None:
        """Send a notice as soon as that is possible. No checkpoint."""
        if self._closed:
            return
        is_first = not self._outbox
        self._outbox.add_notice(text)
        if is_first:
            self._send_waiting()

    def update(self, number: int, update: SharedUpdate) -> None:
        """Send an update as soon as that is possible. No checkpoint."""
        outbox = self._outbox
        if self._closed:
            return
        if outbox.is_clear:
            try:
                if self._transport.send_between(update.message(number)):
                    return
            except RayforceWSError as error:
                self._end(error)
                return
            outbox.add_update(number, update)
        else:
            is_first = not outbox
            outbox.add_update(number, update)
            if is_first:
                self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits in the outbox, as far as that is possible. No checkpoint."""
        outbox, transport = self._outbox, self._transport
        end = perf_counter() + TIME_SLICE
        try:
            while (first := outbox.first()) is not None and not self._closed:
                message = first if isinstance(first, str) else first.update.message(first.subscription, first.lost)
                if not transport.send_between(message):
                    return
                outbox.sent()
                if perf_counter() >= end:
                    transport.notify_when_idle()
                    return
        except RayforceWSError as error:
            self._end(error)

    def _end(self, error: RayforceWSError) -> None:
        """End the connection, which broke or is closing."""
        self.close()
        self._fail(error)


class _Subscription:
    """One subscription of a client."""

    __slots__ = ("_owner", "number", "topic", "updated")

    def __init__(self, owner: Subscriptions, number: int, topic: str) -> None:
        self.number = number
        self.topic = topic
        self.updated = partial(owner.update, number)
        self._owner = owner

    def confirmed(self, position: Position) -> None:
        self._owner.notify(dump_subscribed(self.number, position))

    def ended(self, reason: Failure) -> None:
        self._owner.forget(self.number)
        self._owner.notify(dump_unsubscribed(self.number, reason.code, reason.message))
