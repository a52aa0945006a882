"""Posts that wait: of clients that leave, of those that send too many, and of honest ones."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from support.clients import run_until_it_prints
from support.engines import GateEngine
from support.polling import until
from support.probed_server import QUERY
from support.raw import BINARY, PING, TEXT, RawPeer, close_frame, frame, open_raw
from support.scripted_server import answer_the_close, connected

from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSClientConnection, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._engines import Engine
from rayforce_trio._protocol import MAX_WAITING_POSTS, MessageType, dump_cancel, string_frame
from rayforce_trio._protocol._client import MAX_UNCONFIRMED_POSTS

LOCAL = "127.0.0.1"
POSTS = MAX_WAITING_POSTS + 200
ENDLESS = encode("(while true 1)", MessageType.SYNC)
POST = encode("(set posted (+ posted 1))", MessageType.ASYNC)
SLOW_POST = encode("(do (set moment 0) (while (< moment 20000) (set moment (+ moment 1))))", MessageType.ASYNC)

CLIENT_PROGRAM = """
import sys
import trio
import trio.testing
from rayforce_trio import WSClient

async def main():
    async with WSClient("127.0.0.1", int(sys.argv[1])).connect() as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.execute, "(while true 1)")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(1000):
                await connection.post("(set posted (+ posted 1))")
            print("posted", flush=True)
            await connection.post("(set posted 0)")

trio.run(main)
"""


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[tuple[WSServer, WSClientConnection]]:
    """Serve, and connect a well-behaved client. Requests and posts that are unfinished at the end are dropped."""
    async with WSServer(0, host=LOCAL, engine=engine) as server:
        async with WSClient(LOCAL, server.port).connect() as other:
            yield server, other
        await server.stop(grace=0)


async def check_posted(server: WSServer, connection: WSClientConnection, number: int) -> None:
    """Wait until only this connection is left, and check that all posts of the other have been carried out.

    Queries in between would take turns with the posts, which are dropped 10 seconds after their client has left.

    Args:
        number: how many posts the server must have received.
    """
    await until(lambda: server.statistics().connections.open == 1)
    assert server.statistics().posts.total >= number
    assert await connection.execute("posted") == server.statistics().posts.total


def leave(peer: RawPeer, how: str) -> None:
    match how:
        case "fin":
            peer.close()
        case "rst":
            peer.reset()
        case "half-close":
            peer.half_close()


@pytest.mark.trio
@pytest.mark.parametrize("how", ["fin", "rst", "half-close"])
async def test_a_client_leaves_behind_a_query_and_many_posts_which_are_all_carried_out(how: str) -> None:
    async with serving(NativeProcess()) as (server, other):
        await other.execute("(set posted 0)")
        peer = await open_raw(server.port)
        await peer.send(frame(ENDLESS) + frame(POST) * POSTS)
        await until(lambda: server.statistics().posts.total > MAX_WAITING_POSTS)
        leave(peer, how)
        with trio.fail_after(20):
            await other.execute("(+ 1 2)")
            assert server.statistics().queued > 0  # not only when all posts are done
        read = MAX_WAITING_POSTS + 1 if how == "rst" else POSTS  # a reset discards bytes that the server has not read
        await check_posted(server, other, read)
        peer.close()


@pytest.mark.trio
async def test_a_client_of_ours_is_killed_after_it_has_sent_a_query_and_posts() -> None:
    async with serving(NativeProcess()) as (server, other):
        await other.execute("(set posted 0)")
        await run_until_it_prints(CLIENT_PROGRAM, server.port)
        await check_posted(server, other, MAX_UNCONFIRMED_POSTS)


@pytest.mark.trio
@pytest.mark.parametrize("engine", [InProcessEngine, NativeProcess])
async def test_the_posts_of_a_client_that_has_left_take_turns_with_the_requests_of_others(
    engine: Callable[[], Engine],
) -> None:
    async with WSServer(0, host=LOCAL, engine=engine()) as server, WSClient(LOCAL, server.port).connect() as other:
        peer = await open_raw(server.port)
        await peer.send(frame(SLOW_POST) * 500)
        await until(lambda: server.statistics().posts.total == 500)
        peer.close()
        before = server.statistics().queued
        for _ in range(5):
            await other.execute("(+ 1 2)")
        assert before - server.statistics().queued < 50


@pytest.mark.trio
@pytest.mark.parametrize("behind", [frame(dump_cancel(1).encode(), TEXT), close_frame(1000)], ids=["cancel", "close"])
async def test_more_posts_than_may_wait_behind_a_request_close_the_connection(behind: bytes) -> None:
    """What follows them would not be read."""
    engine = GateEngine()
    with trio.fail_after(20):
        async with WSServer(0, host=LOCAL, engine=engine) as server:
            peer = await open_raw(server.port)
            await peer.send(frame(QUERY) + frame(POST) * (MAX_WAITING_POSTS + 1) + behind)
            await engine.until(begun=1)
            assert await peer.receive_close() == 1008
            await peer.send_close(1008)
            assert engine.cancels == 1
            engine.release()
            await engine.until(begun=1 + MAX_WAITING_POSTS + 1)
            peer.close()


@pytest.mark.trio
async def test_a_cancel_behind_as_many_posts_and_requests_as_may_wait_is_read() -> None:
    engine = GateEngine()
    async with WSServer(0, host=LOCAL, engine=engine, max_in_flight=1) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(QUERY) + frame(POST) * MAX_WAITING_POSTS + frame(QUERY) * 3000)
        await engine.until(begun=1)
        await peer.send_frame(dump_cancel(1).encode(), TEXT)
        await engine.until(cancels=1)
        engine.release()
        peer.close()


@pytest.mark.trio
async def test_a_publisher_that_sends_faster_than_the_engine_works_is_slowed_down_but_not_disconnected() -> None:
    async with WSServer(0, host=LOCAL) as server, WSClient(LOCAL, server.port).connect() as other:
        await other.execute("(set posted 0)")
        peer = await open_raw(server.port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, frame(POST) * 3 * POSTS + frame(encode("posted", MessageType.SYNC)))
            with trio.fail_after(50):
                while (await peer.receive_frame())[0] == PING:
                    pass
        assert await other.execute("posted") == 3 * POSTS
        peer.close()


@pytest.mark.trio
async def test_cancels_behind_slow_requests_are_read_although_the_engine_is_in_this_process() -> None:
    slow = encode("(do (set moment 0) (while (< moment 300000) (set moment (+ moment 1))))", MessageType.SYNC)
    async with WSServer(0, host=LOCAL) as server:
        peer = await open_raw(server.port)
        cancels = b"".join(frame(dump_cancel(number).encode(), TEXT) for number in range(3, 51))
        await peer.send(frame(slow) * 50 + cancels)
        with trio.fail_after(30):
            replies = [await peer.receive_frame() for _ in range(50)]
        assert [opcode for opcode, _ in replies].count(BINARY) <= 4
        assert server.statistics().requests.cancelled >= 46
        peer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 20])
async def test_a_client_of_ours_posts_as_fast_as_it_can(our_port: int, number: int, name: str) -> None:
    total = 2000
    async with WSClient(LOCAL, our_port).connect() as connection:
        await connection.execute(f"(set {name} 0)")

        async def post() -> None:
            for _ in range(total // number):
                await connection.post(f"(set {name} (+ {name} 1))")

        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(post)
        assert await connection.execute(name) == total


@pytest.mark.anyio
async def test_a_post_that_waits_for_others_can_be_cancelled_and_the_connection_goes_on() -> None:
    """The reply to the fence is received even if earlier calls have received their own replies."""
    received: list[bytes] = []
    silent, answers = anyio.Event(), anyio.Event()

    async def script(peer: RawPeer) -> None:
        for _ in range(5):  # one call after the other, so that the calls receive
            await peer.receive_frame()
            await peer.send_frame(string_frame("reply"))
        for _ in range(MAX_UNCONFIRMED_POSTS + 1):
            received.append((await peer.receive_frame())[1])
        silent.set()
        await answers.wait()
        for _ in range(2):
            await peer.send_frame(string_frame("reply"))
            received.append((await peer.receive_frame())[1])
        await peer.send_frame(string_frame("reply"))
        await answer_the_close(peer)

    async with connected(script) as connection:
        for _ in range(5):
            await connection.execute("1")
        for _ in range(MAX_UNCONFIRMED_POSTS):
            await connection.post("(posted)")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.post, "(held back)")
            await silent.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        answers.set()
        await connection.post("(after it)")
        assert await connection.execute("1") == "reply"
    assert [frame[7] for frame in received].count(1) == 2  # the fences; the request follows
    assert b"(after it)" in received[-1]
    assert not [frame for frame in received if b"(held back)" in frame]
