"""`rayforce.json.v1` with a real server: the promises of any connection, for a client that speaks JSON only."""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from support.json_peer import JsonPeer, json_peer, open_json
from support.raw import connect_raw, upgrade
from support.watched import Queries

from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSServer, auth
from rayforce_trio._engines import Engine
from rayforce_trio._protocol import response_frame
from rayforce_trio._server import _json_transport
from rayforce_trio._server._json_transport import MAX_JSON_REPLY, JsonTransport
from rayforce_trio._server._json_updates import JsonUpdates
from rayforce_trio._transports._memory import memory_pair
from rayforce_trio._values._payloads import string

pytestmark = pytest.mark.trio

ENGINES: list[Callable[[], Engine]] = [InProcessEngine, NativeProcess]
THREE = {"type": "i64", "value": 3}

serve = partial(WSServer, port=0, host="127.0.0.1")


@pytest.fixture(params=ENGINES, ids=["in-process", "child"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[WSServer]:
    async with serve(engine=request.param()) as server:
        yield server


@pytest.fixture
async def peer(server: WSServer) -> AsyncIterator[JsonPeer]:
    async with json_peer(server) as peer:
        yield peer


async def test_requests_are_answered_in_their_order_with_their_ids(peer: JsonPeer) -> None:
    await peer.send(
        {"id": 1, "query": "(+ 1 2)"},
        {"id": "two", "query": "(+ x y)", "params": {"x": 1, "y": 2}},
        "nonsense",
        {"id": 4, "call": "(fn [x y] (* x y))", "arguments": [1, 3]},
        {"id": 5, "query": "(nonsense)"},
        {"id": 6, "query": '(do (println "printed") 3)', "output": True},
    )
    answers = [await peer.receive() for _ in range(6)]
    assert [answer["id"] for answer in answers] == [1, "two", None, 4, 5, 6]
    assert [answer.get("result") for answer in answers] == [THREE, THREE, None, THREE, None, THREE]
    assert [answer.get("error", {}).get("code") for answer in answers[:5]] == [None, None, "request", None, "name"]
    assert answers[5]["output"] == "printed\n"


async def test_a_parameter_is_never_evaluated(peer: JsonPeer) -> None:
    for value in ("(exit 1)", ["exit", 1], {"type": "list", "values": [{"type": "symbol", "value": "exit"}, THREE]}):
        answer = await peer.ask(query="x", params={"x": value})
        assert "result" in answer
    assert await peer.ask(query="3") == {"result": THREE}


async def test_a_result_can_be_sent_back_as_a_parameter(peer: JsonPeer) -> None:
    query = "(table [a b c] (list (til 3) [0.5 0Nf 2.0] [x y z]))"
    result = (await peer.ask(query=query))["result"]
    assert (await peer.ask(query="t", params={"t": result}))["result"] == result


async def test_a_long_table_comes_in_one_message(peer: JsonPeer) -> None:
    count = 300_000  # megabytes: the engine process sends it in parts
    answer = await peer.ask(query=f"(table [n x] (list (til {count}) (* 0.5 (til {count}))))")
    first, second = answer["result"]["columns"]
    assert answer["result"]["length"] == count
    assert first["values"] == list(range(count))
    assert second["values"] == [0.5 * number for number in range(count)]


async def test_a_subscription_with_a_snapshot_and_updates(peer: JsonPeer) -> None:
    topic = "json-test"
    await peer.send({"subscribe": {"id": 1, "topic": topic}})
    subscribed = (await peer.receive())["subscribed"]
    sequence = subscribed["sequence"]
    assert await peer.ask(snapshot=1, query="3") == {"sequence": sequence + 1, "result": THREE}
    await peer.send({"id": 2, "publish": topic, "value": 3})
    messages = [await peer.receive(), await peer.receive()]
    assert {"id": 2, "sequence": sequence + 1} in messages
    assert {"update": {"id": 1, "sequence": sequence + 1, "lost": 0, "value": THREE}} in messages
    await peer.send({"unsubscribe": 1}, {"subscribe": {"id": 2, "topic": topic, "resume": dict(subscribed, id=2)}})
    messages = [await peer.receive(), await peer.receive()]
    assert messages[0]["subscribed"]["id"] == 2
    assert messages[1]["update"] == {"id": 2, "sequence": sequence + 1, "lost": 0, "value": THREE}


async def test_an_update_whose_text_is_longer_than_the_buffer_arrives(server: WSServer, peer: JsonPeer) -> None:
    await peer.send({"subscribe": {"id": 1, "topic": "json-long"}})
    await peer.receive()
    async with WSClient("127.0.0.1", server.port).connect() as connection:
        await connection.publish("json-long", [False] * 60_000)  # 60 kB in the wire format, 360 kB in JSON
        await connection.publish("json-long", 3)
    assert (await peer.receive())["update"]["value"]["values"] == [False] * 60_000
    assert (await peer.receive())["update"]["value"] == THREE


async def test_a_publication_reaches_the_clients_of_both_protocols(server: WSServer, peer: JsonPeer) -> None:
    client = WSClient("127.0.0.1", server.port)
    async with client.connect() as connection, connection.subscribe("json-both") as updates:
        await peer.send({"subscribe": {"id": 1, "topic": "json-both"}})
        await peer.receive()
        await peer.send({"id": 2, "publish": "json-both", "value": {"type": "symbol", "value": "a"}})
        assert [await peer.receive() for _ in range(2)]
        assert (await updates.__anext__()).value.to_python() == "a"
        await connection.publish("json-both", 3)
        assert (await peer.receive())["update"]["value"] == THREE


async def test_cancelling_stops_the_query_in_the_engine(queries: Queries) -> None:
    query = queries()
    async with serve(engine=NativeProcess()) as server, json_peer(server) as peer:
        await peer.send({"id": "slow", "query": query.text}, {"id": 2, "query": query.text})
        await query.begun()
        await peer.send({"cancel": 2}, {"cancel": "slow"}, {"id": 3, "query": "3"})
        answers = [await peer.receive() for _ in range(3)]
        assert [(answer["id"], answer.get("error", {}).get("code")) for answer in answers] == [
            ("slow", "cancel"),
            (2, "cancel"),
            (3, None),
        ]
        assert not query.has_ended


async def test_a_client_that_leaves_frees_the_engine(queries: Queries) -> None:
    query = queries()
    async with serve(engine=NativeProcess()) as server:
        async with json_peer(server) as peer:
            await peer.send({"id": 1, "query": query.text})
            await query.begun()
        async with json_peer(server) as peer:
            assert await peer.ask(query="3") == {"result": THREE}
        assert not query.has_ended


async def test_a_query_that_runs_for_too_long_is_stopped() -> None:
    async with serve(engine=NativeProcess(), query_timeout=0.1) as server, json_peer(server) as peer:
        assert (await peer.ask(query="(while true 1)"))["error"]["code"] == "timeout"


async def test_a_stopping_server_finishes_requests_and_refuses_later_ones(queries: Queries) -> None:
    query = queries()
    async with serve(engine=NativeProcess()) as server, json_peer(server) as peer, trio.open_nursery() as nursery:
        await peer.send({"id": 1, "query": query.text})
        await query.begun()
        nursery.start_soon(server.stop)
        await trio.testing.wait_all_tasks_blocked()  # the server has begun to stop
        await peer.send({"id": 2, "query": "3"})
        query.release()
        assert (await peer.receive())["result"]["value"] == query.value
        assert (await peer.receive())["error"]["code"] == "closing"
        assert await peer.peer.receive_close() == 1001


async def test_too_many_requests_are_refused_in_their_turn(queries: Queries) -> None:
    query = queries()
    async with serve(engine=NativeProcess(), max_in_flight=2) as server, json_peer(server) as peer:
        await peer.send({"id": 1, "query": query.text})
        await query.begun()
        await peer.send(*({"id": number, "query": "3"} for number in range(2, 5)))
        query.release()
        answers = [await peer.receive() for _ in range(4)]
        assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, "busy", "busy"]


async def test_a_reply_beyond_the_limit_of_the_server_is_an_error(server: WSServer) -> None:
    del server
    async with serve(max_reply_size=1024**2) as small, json_peer(small) as peer:
        assert (await peer.ask(query="(til 200000)"))["error"]["code"] == "toobig"
        assert await peer.ask(query="3") == {"result": THREE}


async def test_a_reply_whose_json_is_too_long_is_an_error(peer: JsonPeer) -> None:
    count = MAX_JSON_REPLY // 16  # eight bytes each on the wire, and about eighteen in JSON
    error = (await peer.ask(query=f"(/ 1.0 (+ 3 (til {count})))"))["error"]
    assert error["code"] == "toobig"
    assert f"more than {MAX_JSON_REPLY} bytes in JSON" in error["message"]
    assert await peer.ask(query="3") == {"result": THREE}


async def test_a_binary_message_ends_the_connection(peer: JsonPeer) -> None:
    await peer.peer.send_frame(b"\x01\x00")
    assert await peer.peer.receive_close() == 1003


async def test_a_message_beyond_the_limit_ends_the_connection(peer: JsonPeer) -> None:
    await peer.send({"id": 1, "query": "a" * 65_536})
    assert await peer.peer.receive_close() == 1009


async def test_a_subscription_id_that_is_used_twice_ends_the_connection(peer: JsonPeer) -> None:
    await peer.send({"subscribe": {"id": 1, "topic": "a"}}, {"subscribe": {"id": 1, "topic": "b"}})
    assert await peer.peer.receive_close() == 1002


async def test_clients_are_authenticated_and_topics_are_theirs() -> None:
    def authenticate(request: auth.Request) -> auth.Principal | None:
        return auth.Principal("ann", topics=["mine"]) if request.password == "secret" else None

    async with serve(authenticate=authenticate) as server:
        refused, status = await open_json(server)
        refused.close()
        assert status.startswith("HTTP/1.1 401 ")
        async with json_peer(server, {"Authorization": "Basic YW5uOnNlY3JldA=="}) as peer:
            await peer.send({"subscribe": {"id": 1, "topic": "theirs"}})
            assert (await peer.receive())["unsubscribed"]["code"] == "access"


async def test_a_client_that_offers_both_subprotocols_gets_the_binary_one(peer: JsonPeer, server: WSServer) -> None:
    del peer
    with connect_raw(server.port) as other:
        await other.send(upgrade({"Sec-WebSocket-Protocol": "rayforce.json.v1, rayforce.v1"}))
        assert b"\r\nsec-websocket-protocol: rayforce.v1\r\n" in (await other.receive_head()).lower()


async def test_other_tasks_run_while_a_reply_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    ours, theirs = memory_pair("rayforce.json.v1")
    transport = JsonTransport(ours, JsonUpdates())
    assert isinstance(await transport.receive(), str)
    await theirs.send('{"id": 1, "query": "x"}')
    await transport.receive()
    rounds = 0

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            await trio.lowlevel.checkpoint()
            rounds += 1

    size = 8 * 1024**2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_rounds)
        await transport.send(response_frame(string("a" * size)))
        nursery.cancel_scope.cancel()
    text = ours.sent[-1]
    assert isinstance(text, str)
    assert json.loads(text)["result"]["value"] == "a" * size
    assert rounds > size / _json_transport._COPIED_AT_ONCE
    assert transport.stored == 0
    transport.abort()
    theirs.abort()


async def test_bytes_that_wait_are_counted() -> None:
    ours, theirs = memory_pair("rayforce.json.v1")
    transport = JsonTransport(ours, JsonUpdates())
    stored: list[Any] = []
    transport.on_stored = stored.append
    transport.receive_nowait()
    await theirs.send('{"id": 1, "query": "x"}')
    transport.receive_nowait()
    frame = response_frame(string("a" * 10_000))
    await transport.send_part(frame[:5000], last=False)
    assert transport.stored == len(frame) == sum(stored)
    await transport.send_part(frame[5000:], last=True)
    assert transport.stored == 0
    transport.abort()
    theirs.abort()
