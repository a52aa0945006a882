"""`fetch`: results as columns, through a connection."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.connected import connected_to
from support.raw import RawPeer
from support.scripted_server import answer_the_close, connected
from support.sweep import cancellation_of, swept

from rayforce_trio import Columns, errors
from rayforce_trio._protocol import Header, MessageType


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("(table [sym px] (list [a b] [1.5 0Nf]))", {"sym": ["a", "b"], "px": [1.5, None]}),
        (
            "(select {from: (table [s v] (list [a b a] [1 2 3])) by: s total: (sum v)})",
            {"s": ["a", "b"], "total": [4, 2]},
        ),
        ("[1 2 3]", {"value": [1, 2, 3]}),
        ("(dict [a b] (list [1 2] [x y]))", {"a": [1, 2], "b": ["x", "y"]}),
        ("(take (table [a] (list [1])) 0)", {"a": []}),
    ],
)
async def test_a_result_with_columns(our_port: int, query: str, columns: dict[str, list[Any]]) -> None:
    async with connected_to(our_port) as connection:
        fetched = await connection.fetch(query)
        assert isinstance(fetched, Columns)
        assert fetched.to_dict() == columns


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("(+ 1 2)", "a single I64"),
        ('"text"', "a single STRING"),
        ("null", "null"),
        ("(list 1 'a)", "a list"),
        ("(dict [a b] (list [1 2] [x]))", "a dict whose values differ in length"),
        ("(fn [x] x)", "a function"),
    ],
)
async def test_a_result_without_columns_is_an_error_that_says_what_to_use(
    in_process_port: int, query: str, kind: str
) -> None:
    async with connected_to(in_process_port) as connection:
        with pytest.raises(errors.RayforceTypeError) as raised:
            await connection.fetch(query)
        assert str(raised.value) == f"the result is {kind}, which has no columns; use execute() instead of fetch()"


@pytest.mark.anyio
async def test_an_error_of_the_evaluation_is_raised_as_by_execute(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceTypeError, match="type"):
            await connection.fetch("(+ 1 'a)")
        with pytest.raises(errors.UnsupportedQuery):
            await connection.fetch(42)  # type: ignore[arg-type]  # the wrong type is the test


@pytest.mark.anyio
async def test_a_baseline_server_reports_errors_as_strings(their_port: int) -> None:
    async with connected_to(their_port) as connection:
        assert (await connection.fetch("[1 2]")).to_dict() == {"value": [1, 2]}
        with pytest.raises(errors.RayforceTypeError, match=r"reports errors as a String: type: cannot add i64 and "):
            await connection.fetch("(+ 1 'a)")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (bytes([42, 0]), r"the result contains a type that fetch\(\) cannot read \(type code 42\); use execute\(\)"),
        (bytes([5, 0, 3, 0, 0, 0, 0, 0, 0, 0]), "the reply is damaged"),
    ],
)
async def test_a_reply_that_is_not_understood_is_an_error(payload: bytes, message: str) -> None:
    async def answer(peer: RawPeer) -> None:
        for _ in range(2):
            await peer.receive_frame()
            await peer.send_frame(Header(0, MessageType.RESPONSE, len(payload)).pack() + payload)
        await answer_the_close(peer)

    async with connected(answer) as connection:
        for _ in range(2):
            with pytest.raises(errors.RayforceConversionError, match=message):
                await connection.fetch("1")
        assert not connection.closed


@pytest.mark.anyio
async def test_a_reply_of_another_wire_version_is_an_error_that_says_so() -> None:
    async def answer(peer: RawPeer) -> None:
        await peer.receive_frame()
        frame = bytearray(Header(0, MessageType.RESPONSE, 1).pack() + b"\x7e")
        frame[4] = 4
        await peer.send_frame(bytes(frame))
        await answer_the_close(peer)

    async with connected(answer) as connection:
        with pytest.raises(errors.ProtocolError, match="wire version 4"):
            await connection.fetch("1")


@pytest.mark.anyio
async def test_other_tasks_run_while_a_large_result_is_read(in_process_port: int) -> None:
    """Reading the symbols takes many steps, and another task runs between them."""
    async with connected_to(in_process_port) as connection:
        query = "(take [alpha beta gamma] 3000000)"
        frame_arrived = anyio.Event()
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += frame_arrived.is_set()

        ask = connection._exchange.request

        async def request(frame: bytes, **options: Any) -> Any:
            reply = await ask(frame, **options)
            frame_arrived.set()
            return reply

        connection._exchange.request = request  # type: ignore[method-assign]  # to know when the reply is there
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(count_turns)
            assert len(await connection.fetch(query)) == 3_000_000
            task_group.cancel_scope.cancel()
        assert turns >= 10


@pytest.mark.anyio
async def test_fetch_can_be_cancelled_at_every_step(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:

        async def run(step: int) -> bool:
            cancelled = await cancellation_of(connection.fetch("(take [alpha beta gamma] 300000)"), step)
            assert (await connection.fetch("[1 2]")).to_dict() == {"value": [1, 2]}
            return cancelled is not None

        assert await swept(run) >= 3
