"""The reader task answers a plain request by a shortcut: its effects are those of the general path."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import anyio
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio import InProcessEngine, errors
from rayforce_trio._codec import encode
from rayforce_trio._protocol import COMPRESSED_FLAG, Header, LazyFrame, MessageType, dump_cancel
from rayforce_trio._server._connection import WSServerConnection
from rayforce_trio._server._counters import Counters
from rayforce_trio._server._log import ConnectionLog
from rayforce_trio._transports._memory import MemoryTransport, memory_pair

LONG = '(map (fn [x] "0123456789") (til 60000))'  # its reply is sent in slices


@dataclass
class Network:
    """What the network does with an answer of a given size: it takes it at once, takes it later, or breaks."""

    refused: frozenset[int] = frozenset()
    breaks_at: int = -1

    def attach(self, transport: MemoryTransport) -> list[int]:
        """Replace the sending methods of a transport; return the list to which they add the sizes of the answers."""
        sizes: list[int] = []
        send = transport.send

        def check(message: object) -> int:
            assert isinstance(message, bytes | memoryview | LazyFrame | str)
            if len(message) == self.breaks_at:
                raise errors.ConnectionLost("the connection broke")
            return len(message)

        async def slow_send(message: bytes | memoryview | LazyFrame | str) -> None:
            sizes.append(check(message))
            await send(message)

        def send_nowait(message: bytes | memoryview | LazyFrame | str) -> bool:
            size = check(message)
            if isinstance(message, LazyFrame) or size in self.refused:
                return False
            sizes.append(size)
            transport.sent.append(message if isinstance(message, str) else bytes(message))
            return True

        transport.send = slow_send  # type: ignore[method-assign]  # like a network that takes some messages later
        transport.send_nowait = send_nowait  # type: ignore[method-assign]
        return sizes


async def outcome(
    messages: list[bytes | str], extended: bool, together: bool, network: Network, *, shortcut: bool
) -> object:
    """Serve a client that sends messages; return the answers, the counters and the state of the pipeline.

    Args:
        together: whether all messages have arrived when the server reads the first.
    """
    client, transport = memory_pair("rayforce.v1" if extended else None)
    network.attach(transport)
    counters = Counters()
    session = await InProcessEngine().open_session()
    connection = WSServerConnection(ConnectionLog(1, "peer"), transport, session, counters=counters, max_in_flight=3)
    if not shortcut:
        connection._evaluate_at_once = None
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await trio.testing.wait_all_tasks_blocked()
            for message in messages:
                with suppress(anyio.BrokenResourceError):  # the connection has ended
                    client._outgoing.send_nowait(message)
                if not together:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            client.abort()
    pipeline = connection._pipeline
    statistics = counters.take(since=None, queued=0)
    assert statistics.requests.total == (
        statistics.requests.in_flight + statistics.requests.abandoned + statistics.latencies.count
    )
    return (
        transport.sent,
        statistics.requests,
        statistics.posts,
        (statistics.bytes_in, statistics.bytes_out, statistics.latencies.count),
        (pipeline._last_number, pipeline.answered, pipeline.busy, pipeline.state),
    )


QUERIES = ["(+ 1 2)", "[a b]", "(til 40)", "null", "(+ 1 'a)", "(", "undefined_name", LONG]
EXAMPLES: dict[str, bytes | str] = {
    **{query: encode(query, MessageType.SYNC) for query in QUERIES},
    "post": encode("(+ 1 2)", MessageType.ASYNC),
    "failing post": encode("(+ 1 'a)", MessageType.ASYNC),
    "verbose": encode("(+ 1 2)", MessageType.SYNC, verbose=True),
    "compressed": Header(COMPRESSED_FLAG, MessageType.SYNC, 1).pack() + b"\0",
    "violation": Header(0, MessageType.RESPONSE, 1).pack() + b"\0",
    "damaged": Header(0, MessageType.SYNC, 1).pack() + b"\x05",
    "cancel": dump_cancel(2),
}


@given(
    st.lists(st.sampled_from(list(EXAMPLES)), max_size=8),
    st.booleans(),
    st.booleans(),
    st.builds(Network, st.frozensets(st.sampled_from([26, 28, 346, 17])), st.sampled_from([-1, -1, -1, 28, 346])),
)
def test_answers_and_counters_are_those_of_the_general_path(
    names: list[str], extended: bool, together: bool, network: Network
) -> None:
    messages = [EXAMPLES[name] for name in names]
    together = together and "violation" not in names  # it ends the connection, perhaps before the answers are sent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayforce_trio._server._connection.TIME_SLICE", 60.0)  # the time must not change the outcome
        by_shortcut, by_general_path = (
            trio.run(partial(outcome, messages, extended, together, network, shortcut=shortcut))
            for shortcut in (True, False)
        )
    assert by_shortcut == by_general_path


@pytest.mark.trio
@pytest.mark.parametrize("network", [Network(), Network(frozenset([26]))], ids=["at once", "later"])
async def test_the_shortcut_evaluates_a_request_once(network: Network) -> None:
    client, transport = memory_pair("rayforce.v1")
    sizes = network.attach(transport)
    session = await InProcessEngine().open_session()
    evaluated = 0
    evaluate = session.evaluate
    assert evaluate is not None

    def counting(frame: bytes | memoryview) -> object:
        nonlocal evaluated
        evaluated += 1
        return evaluate(frame)

    session.evaluate = counting  # type: ignore[assignment]  # an object is enough
    async with trio.open_nursery() as nursery:
        nursery.start_soon(WSServerConnection(ConnectionLog(1, "peer"), transport, session).run)
        await client.send(EXAMPLES["(+ 1 2)"])
        await trio.testing.wait_all_tasks_blocked()
        client.abort()
    assert (evaluated, sizes) == (1, [26])


@pytest.mark.trio
@pytest.mark.parametrize(("interval", "flushes"), [(60.0, [50]), (0.0, [1] * 50)], ids=["at the end", "every interval"])
async def test_the_reader_yields_between_requests_and_sends_their_answers_together(
    monkeypatch: pytest.MonkeyPatch, interval: float, flushes: list[int]
) -> None:
    monkeypatch.setattr("rayforce_trio._server._connection.TIME_SLICE", 0.0)
    monkeypatch.setattr("rayforce_trio._server._connection.FLUSH_INTERVAL", interval)
    client, transport = memory_pair("rayforce.v1")
    sizes = Network().attach(transport)
    flushed = [0]

    def flush() -> None:
        if len(sizes) > flushed[-1]:
            flushed.append(len(sizes))

    transport.flush = flush  # type: ignore[method-assign]
    session = await InProcessEngine().open_session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(WSServerConnection(ConnectionLog(1, "peer"), transport, session).run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(50):
            client._outgoing.send_nowait(EXAMPLES["(+ 1 2)"])
        steps = 0
        while len(sizes) < 50:
            await trio.lowlevel.checkpoint()
            steps += 1
        assert steps >= 50
        await trio.testing.wait_all_tasks_blocked()
        client.abort()
    assert [after - before for before, after in pairwise(flushed)] == flushes
