"""The hub: it subscribes at each engine once, and passes the updates on to all subscribers of all connections.

`Topic` decides what to do; the hub performs it. A source is an engine that pushes, on one connection. The engines that
do not push are one source together, for which the server itself publishes and numbers the updates.
"""

import secrets
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Protocol

import trio

from .._engines import Engine, Feed
from .._protocol import (
    ENGINE,
    LIMIT,
    Confirm,
    Deliver,
    End,
    Failure,
    Frame,
    KeptBytes,
    Position,
    Push,
    Replay,
    Reply,
    StoredUpdate,
    Subscribe,
    Topic,
    TopicAction,
    TopicState,
    Update,
    update_frame,
)
from .._tasks import enable_ki_protection
from .._transports import SharedMessage
from ..errors import EngineError
from ._counters import Counters
from ._engine_requests import EngineRequests
from ._log import logger
from ._options import SubscriptionOptions

MAX_KEPT = 1024**3
"""Bytes of updates that are kept for subscribers that resume, of all topics. The topic that has most gives way."""

_EPOCH_BYTES = 12  # random bytes

_SHARED_IDS = 4
"""The messages of the first ids of clients are shared. Most clients have few subscriptions, numbered from 1."""

_STOPPED = "the server is shutting down"


class SharedUpdate(StoredUpdate):
    """An update that is being delivered: its message is packed once for all subscribers that use the same low id.

    Args:
        update: the update.
    """

    __slots__ = ("_messages",)

    def __init__(self, update: StoredUpdate) -> None:
        self.sequence, self.payload, self.size = update.sequence, update.payload, update.size
        self._messages: dict[int, SharedMessage] = {}

    def message(self, subscription: int) -> SharedMessage:
        """Return the message for a subscription before which nothing was dropped."""
        message = self._messages.get(subscription)
        if message is None:
            message = pack_update(self, subscription, 0)
            if subscription <= _SHARED_IDS:
                self._messages[subscription] = message
        return message


def pack_update(update: StoredUpdate, subscription: int, lost: int) -> SharedMessage:
    """Return the message for a subscription; `lost` is the number of updates that were dropped before it."""
    return SharedMessage(update_frame(Update(subscription, update.sequence, lost, update.payload)))


class Subscriber(Protocol):
    """A subscription of a client. None of these methods is a checkpoint, and none raises an exception."""

    def confirmed(self, position: Position) -> None:
        """Tell the client that the subscription is active."""

    def updated(self, update: SharedUpdate) -> None:
        """Send an update, or keep it until it can be sent."""

    def replayed(self, updates: list[StoredUpdate], size: int) -> None:
        """Send updates that the client has missed, before any later one; `size` is how many bytes they have."""

    def ended(self, reason: Failure) -> None:
        """Tell the client that the subscription was refused, or has ended."""


_Topic = Topic[Subscriber]


class Hub:
    """The topics and subscribers of one server.

    Args:
        options: those of the server.
        counters: count the subscribers and updates of each topic.
    """

    def __init__(self, options: SubscriptionOptions, counters: Counters) -> None:
        self._options = options
        self._counters = counters
        self._sources: dict[Engine | None, _Source] = {}  # `None`: the engines that do not push
        self._places: dict[Subscriber, tuple[_Source, str]] = {}
        self._lingering: dict[_Topic, tuple[_Source, str]] = {}  # in the order in which they expire
        self._topics = 0
        self._total_kept = KeptBytes()
        self._timer = trio.CancelScope()  # its deadline is the time at which the next topic expires
        self._nursery: trio.Nursery | None = None
        self._requesters: dict[Engine, EngineRequests] = {}

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the feeds of the engines, and end the topics that nobody needs any more, until cancelled. A checkpoint.

        If cancelled, all subscriptions have ended, and no feed is left connected.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    with trio.CancelScope(deadline=self._next_expiry()) as self._timer:
                        await trio.sleep_forever()
                    self._expire()
        finally:
            self._nursery = None
            self._requesters.clear()
            for source in [*self._sources.values()]:
                self._lose(source, _STOPPED)

    def subscribe(self, engine: Engine, name: str, subscriber: Subscriber, resume: Position | None = None) -> None:
        """Subscribe to a topic of an engine. No checkpoint. The subscriber is told the outcome, perhaps at once.

        Args:
            engine: see `Session.source`.
            name: the topic.
            subscriber: takes the updates until it is told of the end, or `unsubscribe` is called.
            resume: the position to continue from.
        """
        if self._nursery is None:
            subscriber.ended(Failure(ENGINE, _STOPPED))
            return
        source = self._sources.get(_key(engine))
        topic = None if source is None else source.topics.get(name)
        if topic is None:
            if resume is None and not self._has_room():
                subscriber.ended(Failure(LIMIT, "the server has reached its limit of topics (max_topics)"))
                return
            # An engine may just have lost its last topic, and its source with it.
            source = self._sources.get(_key(engine))
            topic = Topic(
                secrets.token_urlsafe(_EPOCH_BYTES),
                resume_window=self._options.resume_window,
                max_history=self._options.max_topic_history,
                total_kept=self._total_kept,
            )
            if resume is None:
                source = self._source_of(engine) if source is None else source
                source.topics[name] = topic
                self._topics += 1
        actions = topic.subscribe(subscriber, resume)
        if subscriber in topic.subscribers:
            assert source is not None
            self._lingering.pop(topic, None)
            self._places[subscriber] = source, name
            self._counters.topic(name).subscribers += 1
            self._perform(source, name, topic, actions)
        else:
            for action in actions:
                if isinstance(action, End):
                    subscriber.ended(action.reason)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber. No checkpoint. Do nothing if its subscription has ended already."""
        place = self._places.pop(subscriber, None)
        if place is None:
            return
        source, name = place
        self._counters.topic(name).subscribers -= 1
        topic = source.topics[name]
        actions = topic.unsubscribe(subscriber, trio.current_time())
        if topic.state is TopicState.LINGERING:
            self._lingering[topic] = place
            self._timer.deadline = min(self._timer.deadline, topic.expires_at)
        self._perform(source, name, topic, actions)

    def next_sequence(self, subscriber: Subscriber) -> int | None:
        """Return the number of the next update of a subscription; `None` unless it is active."""
        place = self._places.get(subscriber)
        if place is None:
            return None
        topic = place[0].topics[place[1]]
        return topic.next_sequence if topic.state is TopicState.ACTIVE else None

    def count_lost(self, name: str) -> None:
        """Count an update of a topic that was dropped because a client reads too slowly."""
        self._counters.topic(name).lost += 1

    def publish(self, name: str, payload: Frame) -> int:
        """Publish an update for the engines that do not push; return its number, or 0 if nobody has subscribed.

        No checkpoint: all subscribers have the update when this returns, or it waits to be sent to them.
        """
        source = self._sources.get(None)
        topic = None if source is None else source.topics.get(name)
        if source is None or topic is None:
            return 0
        sequence = topic.next_sequence
        self._perform(source, name, topic, topic.pushed(sequence, payload))
        return sequence

    async def request(self, engine: Engine, frame: Frame) -> Reply:
        """Have an engine evaluate a request of the server. A checkpoint; if cancelled, it may still be evaluated.

        Raises:
            EngineError: the engine cannot be reached, or is lost. It may have evaluated the request.
        """
        if self._nursery is None:
            await trio.lowlevel.checkpoint()
            raise EngineError(_STOPPED)
        if engine not in self._requesters:
            self._requesters[engine] = EngineRequests(engine, self._nursery)
        return await self._requesters[engine].request(frame)

    # Sources

    def _source_of(self, engine: Engine) -> "_Source":
        """Return the source for an engine, and start its feed if the engine pushes."""
        key = _key(engine)
        feed = None if key is None else engine.open_feed()
        source = self._sources[key] = _Source(key, feed, self._perform)
        if feed is not None:
            assert self._nursery is not None
            self._nursery.start_soon(partial(self._run_feed, source, feed))
        return source

    @enable_ki_protection
    async def _run_feed(self, source: "_Source", feed: Feed) -> None:
        """Receive what an engine pushes until the source is not needed, or is lost. A checkpoint.

        If cancelled, the feed is closed.
        """
        reason = "internal error in the server"
        try:
            with source.scope:
                await feed.run(source)
        except EngineError as error:
            reason = str(error)
            if any(topic.state is not TopicState.SUBSCRIBING for topic in source.topics.values()):
                logger.warning("%s; all subscriptions to its topics are ended", reason)
        except Exception:  # noqa: BLE001 - logged
            logger.exception("internal error while receiving updates from an engine")
        if not source.scope.cancelled_caught:
            self._lose(source, reason)

    def _lose(self, source: "_Source", reason: str) -> None:
        """End all topics of a source."""
        if self._sources.get(source.engine) is source:
            del self._sources[source.engine]
        for name, topic in [*source.topics.items()]:
            self._perform(source, name, topic, topic.lost(reason))

    # Topics

    def _perform(self, source: "_Source", name: str, topic: _Topic, actions: list[TopicAction[Subscriber]]) -> None:
        """Perform the actions of a topic. No checkpoint."""
        for action in actions:
            if isinstance(action, Deliver):
                update = SharedUpdate(action.update)
                subscribers = [*action.subscribers]
                self._counters.topic(name).updates += len(subscribers)
                for subscriber in subscribers:
                    subscriber.updated(update)
            elif isinstance(action, Replay):
                self._counters.topic(name).updates += len(action.updates)
                action.subscriber.replayed(action.updates, action.size)
            elif isinstance(action, Confirm):
                action.subscriber.confirmed(action.position)
            elif isinstance(action, End):
                if self._places.pop(action.subscriber, None) is not None:
                    self._counters.topic(name).subscribers -= 1
                action.subscriber.ended(action.reason)
            elif isinstance(action, Subscribe):
                if source.feed is not None:
                    source.feed.subscribe(name)
                else:
                    self._perform(source, name, topic, topic.confirmed(1))
            elif source.feed is not None:
                source.feed.unsubscribe(name)
        while self._total_kept.size > MAX_KEPT:
            topics = (topic for each in self._sources.values() for topic in each.topics.values())
            max(topics, key=lambda topic: topic.kept).halve_history()
        if topic.state is TopicState.ENDED:
            self._forget(source, name, topic)

    def _forget(self, source: "_Source", name: str, topic: _Topic) -> None:
        """Remove a topic that has ended, and close the feed if it was the last one of its source."""
        if source.topics.get(name) is not topic:
            return
        del source.topics[name]
        self._topics -= 1
        self._lingering.pop(topic, None)
        if not source.topics and self._sources.get(source.engine) is source:
            del self._sources[source.engine]
            source.scope.cancel()

    def _has_room(self) -> bool:
        """Return whether there can be another topic. One without subscribers may have to end for it."""
        limit = self._options.max_topics
        if limit is None or self._topics < limit:
            return True
        for topic, (source, name) in self._lingering.items():
            self._perform(source, name, topic, topic.abandon())
            return True
        return False

    def _next_expiry(self) -> float:
        return next(iter(self._lingering)).expires_at if self._lingering else inf

    def _expire(self) -> None:
        """End the topics whose time has come."""
        now = trio.current_time()
        for topic, (source, name) in [*self._lingering.items()]:
            if topic.expires_at > now:
                break
            self._perform(source, name, topic, topic.time_passed(now))


def _key(engine: Engine) -> Engine | None:
    return engine if engine.pushes else None


class _Source:
    """An engine and its topics. It passes on the reports of the feed.

    Args:
        engine: the engine; `None` for those that do not push.
        feed: its feed; `None` if there is none.
        perform: performs the actions of a topic.

    Attributes:
        topics: the topics by name.
        scope: around the task of the feed.
    """

    def __init__(
        self,
        engine: Engine | None,
        feed: Feed | None,
        perform: "Callable[[_Source, str, _Topic, list[TopicAction[Subscriber]]], None]",
    ) -> None:
        self.engine = engine
        self.feed = feed
        self.topics: dict[str, _Topic] = {}
        self.scope = trio.CancelScope()
        self._perform = perform

    def subscribed(self, name: str, next_sequence: int) -> None:
        topic = self.topics.get(name)
        if topic is not None:
            self._perform(self, name, topic, topic.confirmed(next_sequence))

    def refused(self, name: str, reason: str) -> None:
        topic = self.topics.get(name)
        if topic is not None:
            self._perform(self, name, topic, topic.refused(Failure(ENGINE, reason)))

    def pushed(self, push: Push) -> None:
        topic = self.topics.get(push.topic)
        if topic is not None:
            self._perform(self, push.topic, topic, topic.pushed(push.sequence, push.payload))
