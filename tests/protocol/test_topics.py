"""One epoch of a topic: every event in every state, and a model that knows what each subscriber must get."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayforce_trio._protocol import (
    ENGINE,
    GAP,
    Confirm,
    Deliver,
    End,
    Failure,
    KeptBytes,
    Position,
    Replay,
    StoredUpdate,
    Subscribe,
    Topic,
    TopicAction,
    TopicState,
    Unsubscribe,
)
from rayforce_trio._protocol._topics import UPDATE_OVERHEAD

EPOCH = "epoch"
WINDOW = 60.0
IDLE, SUBSCRIBING, ACTIVE, LINGERING, ENDED = TopicState
REFUSED = Failure(ENGINE, "it refuses")


def new_topic(history: int = 10_000) -> Topic[str]:
    return Topic(EPOCH, resume_window=WINDOW, max_history=history, total_kept=KeptBytes())


def topic_in(state: TopicState) -> Topic[str]:
    """Return a topic in a state; if it is active, subscriber `a` waits for update 5, and updates 3 and 4 are kept."""
    topic = new_topic()
    if state is not IDLE:
        topic.subscribe("a")
    if state in (ACTIVE, LINGERING, ENDED):
        topic.confirmed(3)
        topic.pushed(3, b"three")
        topic.pushed(4, b"four")
    if state in (LINGERING, ENDED):
        topic.unsubscribe("a", 100.0)
    if state is ENDED:
        topic.time_passed(100.0 + WINDOW)
    assert topic.state is state
    return topic


def kinds(actions: list[TopicAction[str]]) -> list[object]:
    """Return the actions in short: the code of an end, and the subscribers of a delivery as they are now."""
    short: list[object] = []
    for action in actions:
        match action:
            case End(subscriber, reason):
                short.append((subscriber, reason.code))
            case Confirm(subscriber, position):
                short.append((subscriber, position.sequence))
            case Replay(subscriber, updates):
                short += [(subscriber, "gets", update.sequence) for update in updates]
            case Deliver(subscribers, update):
                short.append((*subscribers, "gets", update.sequence))
            case _:
                short.append(type(action))
    return short


def at(sequence: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, sequence)


Event = Callable[[Topic[str]], list[TopicAction[str]]]
Outcomes = dict[TopicState, tuple[TopicState, list[object]]]

# For each event, in each state: the state after it, and the actions.
EVENTS: dict[str, tuple[Event, Outcomes]] = {
    "subscribe": (
        lambda topic: topic.subscribe("b"),
        {
            IDLE: (SUBSCRIBING, [Subscribe]),
            SUBSCRIBING: (SUBSCRIBING, []),
            ACTIVE: (ACTIVE, [("b", 4)]),
            LINGERING: (ACTIVE, [("b", 4)]),
        },
    ),
    "resume": (
        lambda topic: topic.subscribe("b", at(3)),
        {
            IDLE: (IDLE, [("b", GAP)]),
            SUBSCRIBING: (SUBSCRIBING, [("b", GAP)]),
            ACTIVE: (ACTIVE, [("b", 3), ("b", "gets", 4)]),
            LINGERING: (ACTIVE, [("b", 3), ("b", "gets", 4)]),
        },
    ),
    "resume at the end": (
        lambda topic: topic.subscribe("b", at(4)),
        {ACTIVE: (ACTIVE, [("b", 4)]), LINGERING: (ACTIVE, [("b", 4)])},
    ),
    "resume at the beginning": (
        lambda topic: topic.subscribe("b", at(2)),
        {
            ACTIVE: (ACTIVE, [("b", 2), ("b", "gets", 3), ("b", "gets", 4)]),
            LINGERING: (ACTIVE, [("b", 2), ("b", "gets", 3), ("b", "gets", 4)]),
        },
    ),
    "resume too early": (
        lambda topic: topic.subscribe("b", at(1)),
        {ACTIVE: (ACTIVE, [("b", GAP)]), LINGERING: (LINGERING, [("b", GAP)])},
    ),
    "resume too late": (
        lambda topic: topic.subscribe("b", at(5)),
        {ACTIVE: (ACTIVE, [("b", GAP)]), LINGERING: (LINGERING, [("b", GAP)])},
    ),
    "resume another epoch": (
        lambda topic: topic.subscribe("b", at(3, "other")),
        {ACTIVE: (ACTIVE, [("b", GAP)]), LINGERING: (LINGERING, [("b", GAP)])},
    ),
    "the last unsubscribes": (
        lambda topic: topic.unsubscribe("a", 100.0),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (SUBSCRIBING, []),
            ACTIVE: (LINGERING, []),
            LINGERING: (LINGERING, []),
            ENDED: (ENDED, []),
        },
    ),
    "somebody else unsubscribes": (
        lambda topic: topic.unsubscribe("b", 100.0),
        {state: (state, []) for state in TopicState},
    ),
    "confirmed": (
        lambda topic: topic.confirmed(7),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (ACTIVE, [("a", 6)]),
            ACTIVE: (ACTIVE, []),
            LINGERING: (LINGERING, []),
            ENDED: (ENDED, []),
        },
    ),
    "refused": (
        lambda topic: topic.refused(REFUSED),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (ENDED, [("a", ENGINE)]),
            ACTIVE: (ACTIVE, []),
            LINGERING: (LINGERING, []),
            ENDED: (ENDED, []),
        },
    ),
    "the next push": (
        lambda topic: topic.pushed(5, b"five"),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (SUBSCRIBING, []),
            ACTIVE: (ACTIVE, [("a", "gets", 5)]),
            LINGERING: (LINGERING, []),
            ENDED: (ENDED, []),
        },
    ),
    "an unexpected push": (
        lambda topic: topic.pushed(6, b"six"),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (SUBSCRIBING, []),
            ACTIVE: (ENDED, [("a", GAP), Unsubscribe]),
            LINGERING: (ENDED, [Unsubscribe]),
            ENDED: (ENDED, []),
        },
    ),
    "the source is lost": (
        lambda topic: topic.lost("it is gone"),
        {
            IDLE: (ENDED, []),
            SUBSCRIBING: (ENDED, [("a", ENGINE)]),
            ACTIVE: (ENDED, [("a", GAP)]),
            LINGERING: (ENDED, []),
            ENDED: (ENDED, []),
        },
    ),
    "little time passes": (
        lambda topic: topic.time_passed(100.0 + WINDOW - 1),
        {state: (state, []) for state in TopicState},
    ),
    "the window passes": (
        lambda topic: topic.time_passed(100.0 + WINDOW),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (SUBSCRIBING, []),
            ACTIVE: (ACTIVE, []),
            LINGERING: (ENDED, [Unsubscribe]),
            ENDED: (ENDED, []),
        },
    ),
    "abandoned": (
        lambda topic: topic.abandon(),
        {
            IDLE: (IDLE, []),
            SUBSCRIBING: (SUBSCRIBING, []),
            ACTIVE: (ACTIVE, []),
            LINGERING: (ENDED, [Unsubscribe]),
            ENDED: (ENDED, []),
        },
    ),
}


def rows() -> Iterator[tuple[str, TopicState]]:
    return ((event, state) for event, (_, outcomes) in EVENTS.items() for state in outcomes)


@pytest.mark.parametrize(("event", "state"), [*rows()])
def test_every_event_in_every_state(event: str, state: TopicState) -> None:
    happen, outcomes = EVENTS[event]
    topic = topic_in(state)
    after, actions = outcomes[state]
    assert kinds(happen(topic)) == actions
    assert topic.state is after


def test_nobody_can_subscribe_to_an_epoch_that_has_ended() -> None:
    with pytest.raises(ValueError, match="has ended"):
        topic_in(ENDED).subscribe("b")


def test_a_topic_whose_subscribers_have_not_waited_ends_when_it_is_confirmed() -> None:
    topic = topic_in(SUBSCRIBING)
    topic.unsubscribe("a", 0.0)
    assert kinds(topic.confirmed(3)) == [Unsubscribe]
    assert topic.state is ENDED


def test_another_subscriber_in_time_takes_over_the_subscription() -> None:
    topic = topic_in(SUBSCRIBING)
    topic.unsubscribe("a", 0.0)
    assert topic.subscribe("b") == []
    assert kinds(topic.confirmed(3)) == [("b", 2)]


def test_without_a_window_a_topic_ends_with_its_last_subscriber() -> None:
    topic = Topic[str](EPOCH, resume_window=0.0, max_history=100, total_kept=KeptBytes())
    topic.subscribe("a")
    topic.confirmed(1)
    assert kinds(topic.unsubscribe("a", 5.0)) == [Unsubscribe]


def test_the_history_is_bounded_in_bytes() -> None:
    topic = new_topic(history=3 * (UPDATE_OVERHEAD + 10))
    topic.subscribe("a")
    topic.confirmed(1)
    for sequence in range(1, 6):
        topic.pushed(sequence, bytes(10))
    assert kinds(topic.subscribe("b", at(1))) == [("b", GAP)]
    assert kinds(topic.subscribe("b", at(2))) == [("b", 2), *(("b", "gets", number) for number in (3, 4, 5))]
    topic.pushed(6, bytes(10_000))
    assert kinds(topic.subscribe("c", at(5))) == [("c", GAP)]
    assert kinds(topic.subscribe("c", at(6))) == [("c", 6)]


def test_subscribers_that_resume_share_the_updates() -> None:
    topic = topic_in(ACTIVE)
    _, first = topic.subscribe("b", at(2))
    _, second = topic.subscribe("c", at(2))
    assert isinstance(first, Replay)
    assert isinstance(second, Replay)
    assert all(one is other for one, other in zip(first.updates, second.updates, strict=True))


def test_the_bytes_of_several_topics_are_counted_together() -> None:
    total = KeptBytes()
    topics = [Topic[str](EPOCH, resume_window=0.0, max_history=1000, total_kept=total) for _ in range(2)]
    for topic in topics:
        topic.subscribe("a")
        topic.confirmed(1)
        for sequence in range(1, 10):
            topic.pushed(sequence, bytes(100))
    assert total.size == sum(topic.kept for topic in topics) == 2 * 4 * (UPDATE_OVERHEAD + 100)
    topics[0].halve_history()
    assert kinds(topics[0].subscribe("b", at(6))) == [("b", GAP)]
    assert kinds(topics[0].subscribe("b", at(7))) == [("b", 7), ("b", "gets", 8), ("b", "gets", 9)]
    topics[1].unsubscribe("a", 0.0)
    assert total.size == topics[0].kept == 2 * (UPDATE_OVERHEAD + 100)
    for _ in range(3):
        topics[0].halve_history()
    assert total.size == topics[0].kept == 0


class Subscribers(RuleBasedStateMachine):
    """Each subscriber gets every update from its position on, in order, or is told of the end."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.now = 0.0
        self.next_name = 0
        self.received: dict[str, Position] = {}  # of those that are subscribed and confirmed
        self.waiting: set[str] = set()
        self.left: list[Position] = []
        self.total_kept = KeptBytes()
        self.begin()

    def begin(self) -> None:
        self.epochs += 1
        self.at_source = False
        self.published = 0
        self.topic = Topic[str](
            str(self.epochs),
            resume_window=WINDOW,
            max_history=5 * (UPDATE_OVERHEAD + 1),
            total_kept=self.total_kept,
        )

    def perform(self, actions: list[TopicAction[str]]) -> None:
        for action in actions:
            match action:
                case Confirm(subscriber, position):
                    self.waiting.discard(subscriber)
                    self.received[subscriber] = position
                case Deliver(subscribers, update):
                    for subscriber in subscribers:
                        self.receive(subscriber, update)
                case Replay(subscriber, updates, size):
                    assert size == sum(update.size for update in updates)
                    for update in updates:
                        self.receive(subscriber, update)
                case End(subscriber):
                    self.waiting.discard(subscriber)
                    self.received.pop(subscriber, None)
                case Subscribe():
                    assert not self.at_source
                    self.at_source = True
                case Unsubscribe():
                    assert self.at_source
                    self.at_source = False
        if self.topic.state is ENDED:
            assert not self.received
            assert not self.waiting
            self.begin()

    def receive(self, subscriber: str, update: StoredUpdate) -> None:
        sequence = update.sequence
        assert update.payload == bytes([sequence % 256])
        epoch, last = self.received[subscriber].epoch, self.received[subscriber].sequence
        assert sequence == last + 1
        self.received[subscriber] = Position(epoch, sequence)

    @rule()
    def subscribe(self) -> None:
        self.next_name += 1
        self.waiting.add(str(self.next_name))
        self.perform(self.topic.subscribe(str(self.next_name)))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(self.left))
        self.next_name += 1
        name = str(self.next_name)
        self.perform(self.topic.subscribe(name, position))
        if name in self.received:
            assert self.received[name] == Position(position.epoch, self.published)

    @precondition(lambda self: self.received)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.received)))
        self.left.append(self.received.pop(name))
        self.perform(self.topic.unsubscribe(name, self.now))

    @rule()
    def confirm(self) -> None:
        self.perform(self.topic.confirmed(self.published + 1))

    @precondition(lambda self: self.topic.state in (ACTIVE, LINGERING))
    @rule()
    def push(self) -> None:
        self.published += 1
        self.perform(self.topic.pushed(self.published, bytes([self.published % 256])))

    @rule(seconds=st.sampled_from([1.0, WINDOW]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.topic.time_passed(self.now))

    @rule()
    def halve_history(self) -> None:
        self.topic.halve_history()

    @rule()
    def lose(self) -> None:
        self.perform(self.topic.lost("gone"))

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert set(self.topic.subscribers) == self.waiting | set(self.received)
        if self.topic.state in (ACTIVE, LINGERING):
            assert all(position == Position(self.topic.epoch, self.published) for position in self.received.values())
        assert self.total_kept.size == self.topic.kept <= 5 * (UPDATE_OVERHEAD + 1)


TestSubscribers = Subscribers.TestCase
TestSubscribers.settings = settings(max_examples=60, stateful_step_count=40)
