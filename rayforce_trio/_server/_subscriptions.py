"""The subscriptions of one connection: it carries out the client's requests."""

from collections.abc import Callable

import trio

from .._engines import Engine, Session
from .._protocol import (
    ACCESS,
    HEADER_SIZE,
    LIMIT,
    Failure,
    Position,
    Publish,
    Reply,
    Result,
    Snapshot,
    StoredUpdate,
    SubscribeNotice,
    dump_subscribed,
    dump_unsubscribed,
    response_frame,
)
from .._text import counted
from .._values._payloads import NULL, i64
from ..auth import Principal
from ..errors import ProtocolError
from ._expressions import numbered_snapshot_request, publish_request, snapshot_request, value_request
from ._hub import Hub, SharedUpdate
from ._side_messages import SideMessages


def topic_filter(principal: object) -> Callable[[str], bool]:
    """Return a function that tells whether a client with this principal may subscribe to a topic."""
    topics = principal.topics if isinstance(principal, Principal) else None
    if topics is None:
        return lambda _topic: True
    names = {topic for topic in topics if not topic.endswith("*")}
    prefixes = tuple(topic[:-1] for topic in topics if topic.endswith("*"))
    return lambda topic: topic in names or topic.startswith(prefixes)


class Subscriptions:
    """The subscriptions of one client. Only `snapshot` and `publish` are checkpoints.

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
        may_subscribe: Callable[[str], bool],
        max_subscriptions: int | None,
    ) -> None:
        self._hub = hub
        self._engine = engine
        self.messages = messages
        self._may_subscribe = may_subscribe
        self._max_subscriptions = max_subscriptions
        self._active: dict[int, _Subscription] = {}
        messages.on_dropped = self._count_dropped

    def subscribe(self, notice: SubscribeNotice) -> None:
        """Begin a subscription; the client is told whether it is active.

        Raises:
            ProtocolError: the client uses the id of another subscription.
        """
        number, topic = notice.id, notice.topic
        if number in self._active:
            raise ProtocolError(f"two subscriptions of the client have the id {number}")
        subscription = _Subscription(self, number, topic)
        if not self._may_subscribe(topic):
            subscription.ended(Failure(ACCESS, f"this user may not subscribe to {topic!r}"))
        elif self._max_subscriptions is not None and len(self._active) >= self._max_subscriptions:
            limit = counted(self._max_subscriptions, "subscription")
            reason = f"this connection has reached its limit of {limit} (max_subscriptions)"
            subscription.ended(Failure(LIMIT, reason))
        else:
            self._active[number] = subscription
            self._hub.subscribe(self._engine, topic, subscription, notice.resume)

    def unsubscribe(self, number: int) -> None:
        """End a subscription. Do nothing if it has ended already."""
        subscription = self._active.pop(number, None)
        if subscription is not None:
            self._hub.unsubscribe(subscription)
        self.messages.discard(number)

    async def snapshot(self, snapshot: Snapshot, session: Session) -> Reply:
        """Return the number of the next update of a subscription, null, and the value of a query, or an error.

        A checkpoint. If cancelled, the session can only be closed.

        Args:
            snapshot: the client's call.
            session: the client's session.

        Raises:
            EngineError: the engine is lost.
        """
        subscription = self._active.get(snapshot.subscription)
        if subscription is None or self._hub.next_sequence(subscription) is None:
            await trio.lowlevel.checkpoint()
            return Failure("domain", f"there is no active subscription with the id {snapshot.subscription}")
        if self._engine.pushes:
            return await session.request(snapshot_request(subscription.topic, snapshot.query))
        if session.evaluate is None:
            return await session.request(self._numbered(subscription, snapshot))
        await trio.lowlevel.checkpoint()
        return session.evaluate(self._numbered(subscription, snapshot))  # nothing is published in between

    def _numbered(self, subscription: "_Subscription", snapshot: Snapshot) -> bytes:
        return numbered_snapshot_request(self._hub.next_sequence(subscription) or 1, snapshot.query)

    async def publish(self, publish: Publish, session: Session) -> Reply:
        """Publish a value, and return the number of the update, 0 if nobody has subscribed, or an error.

        A checkpoint. If cancelled, the session can only be closed, and the value may still be published.

        Args:
            publish: the client's call.
            session: the client's session.

        Raises:
            EngineError: the engine is lost.
        """
        if publish.value[0] == NULL[0]:
            await trio.lowlevel.checkpoint()
            return Failure("type", "null cannot be published")
        if self._engine.pushes:
            return await session.request(publish_request(publish.topic, publish.value))
        # The engine reads the value, so that no subscriber gets one that is damaged.
        reply = await session.request(value_request(publish.value))
        if isinstance(reply, Failure):
            return reply
        payload = (await session.receive_whole(reply))[HEADER_SIZE:]
        return Result(response_frame(i64(self._hub.publish(publish.topic, payload))))

    def close(self) -> None:
        """End all subscriptions without telling the client. Idempotent."""
        active, self._active = self._active, {}
        for subscription in active.values():
            self._hub.unsubscribe(subscription)

    def _count_dropped(self, number: int) -> None:
        subscription = self._active.get(number)
        if subscription is not None:
            self._hub.count_lost(subscription.topic)

    def forget(self, number: int) -> None:
        """Remove a subscription that has ended."""
        self._active.pop(number, None)


class _Subscription:
    """One subscription of a client; a `Subscriber` of the hub."""

    __slots__ = ("_messages", "_owner", "number", "topic")

    def __init__(self, owner: Subscriptions, number: int, topic: str) -> None:
        self.number = number
        self.topic = topic
        self._owner = owner
        self._messages = owner.messages

    def confirmed(self, position: Position) -> None:
        self._messages.notify(dump_subscribed(self.number, position))

    def updated(self, update: SharedUpdate) -> None:
        self._messages.update(self.number, update)

    def replayed(self, updates: list[StoredUpdate], size: int) -> None:
        self._messages.updates(self.number, updates, size)

    def ended(self, reason: Failure) -> None:
        self._owner.forget(self.number)
        self._messages.end(self.number, dump_unsubscribed(self.number, reason.code, reason.message))
