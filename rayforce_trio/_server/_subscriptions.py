"""The subscriptions of one connection: it carries out what the client asks for."""

from collections.abc import Callable
from functools import partial

from .._engines import Engine
from .._protocol import (
    ACCESS,
    LIMIT,
    Failure,
    Position,
    SubscribeNotice,
    dump_subscribed,
    dump_unsubscribed,
)
from ..errors import ProtocolError
from ._hub import Hub
from ._side_messages import SideMessages


def _any_topic(topic: str) -> bool:  # noqa: ARG001 - one of several such functions
    return True


class Subscriptions:
    """The subscriptions of one client. None of these methods is a checkpoint.

    Args:
        hub: where the topics are.
        engine: the engine of the client's session: see `Session.source`.
        messages: sends notices and updates to the client.
        may_subscribe: returns whether the client may subscribe to a topic.
        max_subscriptions: how many subscriptions the client may have. `None`: any number.
    """

    def __init__(
        self,
        hub: Hub,
        engine: Engine,
        messages: SideMessages,
        *,
        may_subscribe: Callable[[str], bool] = _any_topic,
        max_subscriptions: int | None = 1024,
    ) -> None:
        self._hub = hub
        self._engine = engine
        self.messages = messages
        self._may_subscribe = may_subscribe
        self._max_subscriptions = max_subscriptions
        self._active: dict[int, _Subscription] = {}

    def subscribe(self, notice: SubscribeNotice) -> None:
        """Begin a subscription; the client is told whether it is active.

        Raises:
            ProtocolError: the client uses the id of another subscription.
        """
        number, topic = notice.id, notice.topic
        if number in self._active:
            raise ProtocolError(f"the client used the id {number} for two subscriptions")
        subscription = _Subscription(self, number, topic)
        if not self._may_subscribe(topic):
            subscription.ended(Failure(ACCESS, f"you may not subscribe to {topic!r}"))
        elif self._max_subscriptions is not None and len(self._active) >= self._max_subscriptions:
            limit = f"this server allows {self._max_subscriptions} subscriptions per connection (max_subscriptions)"
            subscription.ended(Failure(LIMIT, limit))
        else:
            self._active[number] = subscription
            self._hub.subscribe(self._engine, topic, subscription, notice.resume)

    def unsubscribe(self, number: int) -> None:
        """End a subscription. Do nothing if it has ended already."""
        subscription = self._active.pop(number, None)
        if subscription is not None:
            self._hub.unsubscribe(subscription)
            self.messages.discard(number)

    def next_sequence(self, number: int) -> tuple[str, int] | None:
        """Return the topic of a subscription and the number of its next update; `None` unless it is active."""
        found = self._active.get(number)
        sequence = None if found is None else self._hub.next_sequence(found)
        return None if found is None or sequence is None else (found.topic, sequence)

    def close(self) -> None:
        """End all subscriptions without telling the client. Idempotent."""
        active, self._active = self._active, {}
        for subscription in active.values():
            self._hub.unsubscribe(subscription)

    def forget(self, number: int) -> None:
        """Remove a subscription that has ended."""
        self._active.pop(number, None)


class _Subscription:
    """One subscription of a client; a `Subscriber` of the hub."""

    __slots__ = ("_owner", "number", "topic", "updated")

    def __init__(self, owner: Subscriptions, number: int, topic: str) -> None:
        self.number = number
        self.topic = topic
        self.updated = partial(owner.messages.update, number)
        self._owner = owner

    def confirmed(self, position: Position) -> None:
        self._owner.messages.notify(dump_subscribed(self.number, position))

    def ended(self, reason: Failure) -> None:
        self._owner.forget(self.number)
        self._owner.messages.notify(dump_unsubscribed(self.number, reason.code, reason.message))
