"""Spans of OpenTelemetry: those of client, server and engine form one trace, tell no secrets, and all of them end."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, get_args

import anyio
import pytest
import trio
import trio.testing
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from rayforce import I64, Table, Vector
from support.engines import GateEngine
from support.guest import run_as_guest
from support.polling import until
from support.proxy import proxy
from support.raw import BINARY, TEXT, RawPeer, connect_raw, open_raw, upgrade
from support.scripted_server import connected as connected_to_script
from support.spans import Recorder

from rayforce_trio import (
    InProcessEngine,
    NativeProcess,
    WSClient,
    WSClientConnection,
    WSServer,
    errors,
    sql,
)
from rayforce_trio._addresses import Endpoint
from rayforce_trio._client._traces import ClientTraces
from rayforce_trio._codec import encode
from rayforce_trio._engines import Engine
from rayforce_trio._protocol import MessageType, ServerCall
from rayforce_trio._server._request_spans import _NAMES
from rayforce_trio._traces import TEXT_LIMIT, find_tracing, parse_headers

LOCAL = "127.0.0.1"
ENGINES = pytest.mark.parametrize("make_engine", [InProcessEngine, NativeProcess])
REQUEST = encode("1", MessageType.SYNC)

Use = Callable[[WSClientConnection], Awaitable[None]]


@asynccontextmanager
async def traced(recorder: Recorder, engine: Engine | None = None, **options: Any) -> AsyncIterator[WSServer]:
    """Serve with spans, in a bounded block. When it has ended, all spans have."""
    with trio.fail_after(60):
        async with WSServer(0, host=LOCAL, engine=engine, tracer_provider=recorder.provider, **options) as server:
            yield server
    assert not recorder.open


async def use_connection(recorder: Recorder | None, use: Use, port: int, options: dict[str, Any]) -> None:
    """Connect with spans, and use the connection in a bounded block."""
    reconnect = options.pop("reconnect", False)
    provider = None if recorder is None else recorder.provider
    client = WSClient(LOCAL, port, tracer_provider=provider, **options)
    with anyio.fail_after(30):
        async with client.connect(reconnect=reconnect) as connection:
            await use(connection)


async def use_on_trio(recorder: Recorder | None, use: Use, server: WSServer, **options: Any) -> None:
    """Use a connection in the server's event loop."""
    await use_connection(recorder, use, server.port, options)


async def use_on_asyncio(recorder: Recorder, use: Use, engine: Engine, options: dict[str, Any]) -> None:
    """Use a connection on asyncio, while the server runs on trio as a guest."""
    started: asyncio.Future[WSServer] = asyncio.get_running_loop().create_future()
    used = trio.Event()

    async def guest() -> None:
        async with traced(recorder, engine) as server:
            started.set_result(server)
            await used.wait()

    running = asyncio.create_task(run_as_guest(guest))
    either: list[asyncio.Future[Any]] = [running, started]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        if started.done():
            await use_connection(recorder, use, started.result().port, options)
    finally:
        used.set()
        await running


def use_on(library: str, recorder: Recorder, use: Use, engine: Engine, **options: Any) -> None:
    """Serve with spans, and use a connection on an event loop. When this returns, all spans have ended."""

    async def on_trio() -> None:
        async with traced(recorder, engine) as server:
            await use_on_trio(recorder, use, server, **options)

    if library == "trio":
        trio.run(on_trio)
    else:
        asyncio.run(use_on_asyncio(recorder, use, engine, options))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@ENGINES
@pytest.mark.parametrize("reconnect", [False, True], ids=["plain", "reconnecting"])
@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_the_spans_of_a_call_form_one_trace(
    library: str, reconnect: bool, make_engine: Callable[[], Engine], recorder: Recorder
) -> None:
    async def use(connection: WSClientConnection) -> None:
        assert len(await connection.fetch("(til 3)")) == 3

    use_on(library, recorder, use, make_engine(), reconnect=reconnect)
    assert recorder.tree() == ["rayforce fetch", "  rayforce request", "    rayforce engine"]
    call, request, engine = (recorder.one(f"rayforce {name}") for name in ("fetch", "request", "engine"))
    assert [span.kind for span in (call, request, engine)] == [SpanKind.CLIENT, SpanKind.SERVER, SpanKind.INTERNAL]
    assert len({span.context.trace_id for span in (call, request, engine) if span.context}) == 1
    assert request.parent is not None
    assert request.parent.is_remote
    told = dict(call.attributes or {})
    assert isinstance(told.pop("server.port"), int)
    assert told == {
        "db.system.name": "rayforce",
        "db.operation.name": "fetch",
        "server.address": LOCAL,
        "db.response.returned_rows": 3,
    }
    told = dict(request.attributes or {})
    assert told.pop("rayforce.request.size") == len(encode("(til 3)", MessageType.SYNC))
    assert isinstance(size := told.pop("rayforce.response.size"), int)
    assert size > 3 * 8
    assert told == {"db.system.name": "rayforce", "rayforce.connection.id": 1, "rayforce.request.number": 1}
    assert dict(engine.attributes or {}) == {}


@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_calls_that_are_made_at_once_keep_their_traces_apart(library: str, recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(connection.fetch, "(til 3)")
                tasks.start_soon(connection.post, "1")

    use_on(library, recorder, use, NativeProcess())
    one = ["rayforce fetch", "  rayforce request", "    rayforce engine"]
    post = ["rayforce post", "  rayforce post", "    rayforce engine"]
    lines = recorder.tree()
    assert (
        sorted(map(tuple, (lines[at : at + 3] for at in range(0, len(lines), 3))))
        == [tuple(one)] * 20 + [tuple(post)] * 20
    )


@pytest.mark.trio
async def test_every_call_has_a_span(recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        await connection.create_table("traced", {"a": [1, 2, 3]})
        await connection.insert("traced", {"a": [4]})
        await connection.upsert("traced", {"a": [4]}, ["a"])
        assert "traced" in await connection.tables()
        assert await connection.schema("traced") == {"a": "I64"}
        await connection.execute("(+ 1 2)")
        await connection.execute_verbose("(+ 1 2)")
        await connection.call("(fn [x] x)", 1)
        await connection.post("(set traced 1)")
        async with connection.subscribe("topic", snapshot="(+ 1 2)") as updates:
            await connection.publish("topic", 1)
            await anext(updates)

    async with traced(recorder, InProcessEngine()) as server:
        await use_on_trio(recorder, use, server)
    calls = [line.removeprefix("rayforce ") for line in recorder.tree() if not line.startswith(" ")]
    assert calls == [
        *("create_table", "insert", "upsert", "tables", "schema", "execute", "execute_verbose", "call", "post"),
        *("subscribe", "publish"),
    ]
    requests = [span for span in recorder.ended if span.kind is SpanKind.SERVER]
    assert len(requests) > len(calls)
    assert all(span.parent is not None for span in requests)
    named = [(span.attributes or {}).get("rayforce.call") for span in recorder.named("rayforce request")]
    assert [name for name in named if name] == [".ws.snapshot", ".ws.publish"]


@pytest.mark.trio
async def test_a_stream_has_one_span_from_the_beginning_of_its_block_to_its_end(recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        async with connection.stream("(til 5)", batch_size=2) as batches:
            assert [len(batch) async for batch in batches] == [2, 2, 1]
            assert not recorder.named("rayforce stream")

    async with traced(recorder, InProcessEngine()) as server:
        await use_on_trio(recorder, use, server)
    request = ["  rayforce request", "    rayforce engine"]
    assert recorder.tree() == ["rayforce stream", *request * 4, "  rayforce post", "    rayforce engine"]
    assert (recorder.one("rayforce stream").attributes or {})["db.response.returned_rows"] == 5


@pytest.mark.trio
async def test_the_span_of_a_stream_has_the_error_that_ended_it(recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        with pytest.raises(errors.NoColumns):
            async with connection.stream("(+ 1 2)"):
                raise AssertionError
        stream = connection.stream("(til 5)", batch_size=1)
        async with stream:
            for _ in range(2):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await anext(stream)
                await anext(stream)
            with pytest.raises(errors.RayforceWSError, match="call stream"):
                await stream.__aenter__()
        with trio.CancelScope() as scope:
            async with connection.stream("(til 5)", batch_size=1) as stream:
                scope.cancel()
                await anext(stream)

    async with traced(recorder, InProcessEngine()) as server:
        await use_on_trio(recorder, use, server)
    kinds = [(span.attributes or {}).get("error.type") for span in recorder.named("rayforce stream")]
    assert kinds == ["NoColumns", None, "cancel"]


@ENGINES
@pytest.mark.trio
async def test_an_error_is_told_by_its_kind(make_engine: Callable[[], Engine], recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        with pytest.raises(errors.RayforceTypeError):
            await connection.execute("(+ 1 'secret)")

    async with traced(recorder, make_engine()) as server:
        await use_on_trio(recorder, use, server)
    assert recorder.tree() == [
        "rayforce execute RayforceTypeError",
        "  rayforce request type",
        "    rayforce engine",
    ]
    for name in ("execute", "request"):
        span = recorder.one(f"rayforce {name}")
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert not span.events


@pytest.mark.trio
async def test_a_failed_post_is_an_error_on_the_server(recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        await connection.post("(+ 1 'a)")
        await connection.execute("1")

    async with traced(recorder, InProcessEngine()) as server:
        await use_on_trio(recorder, use, server)
    assert recorder.tree()[:3] == ["rayforce post", "  rayforce post type", "    rayforce engine"]


@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_a_cancelled_call_ends_its_spans(library: str, recorder: Recorder) -> None:
    engine = GateEngine()

    async def use(connection: WSClientConnection) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.fetch, "1")
            tasks.start_soon(connection.fetch, "2")
            await until(lambda: len(engine.begun) == 1)
            tasks.cancel_scope.cancel()

    use_on(library, recorder, use, engine)
    tree = recorder.tree()
    assert tree.count("rayforce fetch cancel") == 2
    assert tree.count("  rayforce request cancel") + tree.count("  rayforce request abandoned") == 2
    started = len(engine.begun)  # the second request starts if its cancellation arrives after that of the first
    assert sum(line.startswith("    rayforce engine") for line in tree) == started


async def attempt(connection: WSClientConnection, query: str, outcomes: list[str]) -> None:
    """Execute a query, and note the name of its error, or `ok`."""
    try:
        await connection.execute(query)
    except errors.RayforceError as error:
        outcomes.append(type(error).__name__)
    else:
        outcomes.append("ok")


@pytest.mark.trio
async def test_a_request_that_is_refused_has_no_span_of_the_engine(recorder: Recorder) -> None:
    engine = GateEngine()
    outcomes: list[str] = []

    async def use(connection: WSClientConnection) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(attempt, connection, "1", outcomes)
            await until(lambda: server.statistics().requests.total == 3)
            engine.release()

    async with traced(recorder, engine, max_in_flight=1) as server:
        await use_on_trio(recorder, use, server)
    assert sorted(outcomes) == ["ServerBusy", "ServerBusy", "ok"]
    assert sorted(recorder.tree()) == [
        "    rayforce engine",
        "  rayforce request",
        *["  rayforce request busy"] * 2,
        "rayforce execute",
        *["rayforce execute ServerBusy"] * 2,
    ]


@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_the_spans_of_a_client_that_leaves_end(library: str, recorder: Recorder) -> None:
    engine = GateEngine()

    async def use(connection: WSClientConnection) -> None:
        async def leave() -> None:
            await until(lambda: len(engine.begun) == 1)
            connection.abort()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            with pytest.raises(errors.ConnectionClosed):
                await connection.fetch("1")

    use_on(library, recorder, use, engine)
    assert recorder.tree() == [
        "rayforce fetch ConnectionClosed",
        "  rayforce request abandoned",
        "    rayforce engine",
    ]


@pytest.mark.trio
async def test_the_spans_of_a_lost_engine_end(recorder: Recorder) -> None:
    outcomes: list[str] = []

    async def use(connection: WSClientConnection) -> None:
        await attempt(connection, "(exit 3)", outcomes)

    async with traced(recorder, NativeProcess()) as server:
        await use_on_trio(recorder, use, server)
    assert outcomes == ["ConnectionClosed"]
    assert recorder.tree() == [
        "rayforce execute ConnectionClosed",
        "  rayforce request abandoned",
        "    rayforce engine abandoned",
    ]


@pytest.mark.trio
async def test_the_spans_of_a_server_that_is_cancelled_end(recorder: Recorder) -> None:
    engine = GateEngine()
    outcomes: list[str] = []

    async def use(connection: WSClientConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, connection, "1", outcomes)
            nursery.start_soon(attempt, connection, "2", outcomes)
            await until(lambda: server.statistics().requests.total == 2)
            await connection.post("3")
            await until(lambda: server.statistics().posts.total == 1)
            await server.stop(0)

    async with traced(recorder, engine) as server:
        await use_on_trio(recorder, use, server)
    assert len(outcomes) == 2
    assert len(recorder.named("rayforce request")) == 2
    assert {(span.attributes or {}).get("error.type") for span in recorder.named("rayforce request")} <= {
        "abandoned",
        "cancel",
        "closing",
    }
    assert "  rayforce post abandoned" in recorder.tree()


@pytest.mark.trio
async def test_a_retry_is_an_event_of_the_span(recorder: Recorder) -> None:
    async with traced(recorder, InProcessEngine()) as server, proxy(server.port) as cut:
        client = WSClient(LOCAL, cut.port, tracer_provider=recorder.provider)
        async with client.connect(reconnect=True) as connection, trio.open_nursery() as nursery:
            cut.to_server.freeze()
            nursery.start_soon(partial(connection.execute, "1", idempotent=True))
            await trio.testing.wait_all_tasks_blocked()
            await cut.reset()
            cut.to_server.thaw()
    assert recorder.tree()[:2] == ["rayforce execute", "  rayforce request"]
    assert all(line.startswith("  ") for line in recorder.tree()[1:])  # the first attempt may have arrived, too
    assert [event.name for event in recorder.one("rayforce execute").events] == ["rayforce.retry"]


# What the spans tell

SECRET = "s3cret"


async def use_secrets(connection: WSClientConnection) -> None:
    """Make calls whose queries, parameters, values, topics, errors and names have a secret."""
    await connection.execute(f'(do "{SECRET}")')
    await connection.execute("(do low)", {"low": SECRET})
    await connection.execute(sql(f"SELECT '{SECRET}' AS a"))
    await connection.call(f'(fn [x] (do "{SECRET}"))', SECRET)
    await connection.create_table(SECRET, {SECRET: [SECRET]})
    await connection.insert(SECRET, {SECRET: [SECRET]})
    await connection.schema(SECRET)
    await connection.post(f'(do "{SECRET}")')
    async with connection.stream(SECRET) as batches:
        assert [len(batch) async for batch in batches] == [2]
    async with connection.subscribe(SECRET, snapshot=f'(do "{SECRET}")'):
        await connection.publish(SECRET, SECRET)
    with pytest.raises(errors.RayforceError, match=SECRET):
        await connection.execute(f"(+ 1 {SECRET}-undefined)")
    with pytest.raises(errors.RayforceError, match=SECRET):
        await connection.schema(f"{SECRET}-undefined")


@ENGINES
@pytest.mark.trio
async def test_nothing_of_queries_and_values_is_recorded_by_default(
    make_engine: Callable[[], Engine], recorder: Recorder
) -> None:
    async with traced(recorder, make_engine(), authenticate=lambda _: SECRET) as server:
        await use_on_trio(recorder, use_secrets, server, password=SECRET)
    assert len(recorder.named("rayforce execute")) == 4
    assert SECRET not in recorder.text()


@ENGINES
@pytest.mark.parametrize("by_server", [False, True], ids=["client", "server"])
@pytest.mark.trio
async def test_the_texts_of_queries_are_recorded_on_request_but_no_parameters(
    by_server: bool, make_engine: Callable[[], Engine], recorder: Recorder
) -> None:
    async def use(connection: WSClientConnection) -> None:
        await connection.execute("(do 1 2)")
        await connection.execute("(do 1 low)", {"low": SECRET})
        with pytest.raises(errors.RayforceError):
            await connection.execute("(+ 1 undefined-name)")
        await connection.execute('"' + 5000 * "x" + '"')

    async with traced(recorder, make_engine(), trace_queries=by_server) as server:
        await use_on_trio(recorder, use, server, trace_queries=not by_server)
    spans = {name: recorder.named(f"rayforce {name}") for name in ("execute", "request")}
    texts = {name: [(span.attributes or {}).get("db.query.text") for span in spans[name]] for name in spans}
    if by_server:
        assert texts["execute"] == [None] * 4
        # A parameter is a part of the expression that the server gets.
        assert texts["request"][:3] == ["(do 1 2)", None, "(+ 1 undefined-name)"]
    else:
        assert texts["request"] == [None] * 4
        assert texts["execute"][:3] == ["(do 1 2)", "(do 1 low)", "(+ 1 undefined-name)"]
    longest = texts["request" if by_server else "execute"][3]
    assert longest == '"' + (TEXT_LIMIT - 1) * "x" + "..."
    failed = spans["execute"][2].status.description
    assert (failed or "").startswith("name: ") is not by_server
    assert SECRET not in recorder.text()


@pytest.mark.trio
async def test_the_text_of_a_query_of_any_kind_is_recorded_on_request(recorder: Recorder) -> None:
    async def use(connection: WSClientConnection) -> None:
        await connection.execute(sql("SELECT 1 AS a"))
        await connection.execute(query=Table({"a": Vector([1], ray_type=I64)}).select("a"))
        await connection.call("(fn [x] x)", SECRET)
        async with connection.stream("(til 3)"):
            pass
        async with connection.subscribe("topic", snapshot="(til 4)"):
            pass
        await connection.tables()

    async with traced(recorder, InProcessEngine()) as server:
        await use_on_trio(recorder, use, server, trace_queries=True)
    calls = [span for span in recorder.started if span.kind is SpanKind.CLIENT]
    texts = [(span.attributes or {}).get("db.query.text") for span in calls]
    assert texts[0] == "SELECT 1 AS a"
    assert "select" in str(texts[1])
    assert texts[2:] == ["(fn [x] x)", "(til 3)", "(til 4)", None]
    assert SECRET not in recorder.text()


@pytest.mark.parametrize(
    ("endpoint", "attributes"),
    [
        (Endpoint("unix:/run/x.sock"), {"server.address": "/run/x.sock"}),
        (Endpoint("example.org"), {"server.address": "example.org", "server.port": 80}),
    ],
)
def test_the_span_of_a_call_names_the_server(
    endpoint: Endpoint, attributes: dict[str, str | int], recorder: Recorder
) -> None:
    tracing = find_tracing(recorder.provider, queries=False)
    assert tracing is not None
    with ClientTraces(tracing, endpoint).call("execute"):
        pass
    told = dict(recorder.one("rayforce execute").attributes or {})
    assert {name: value for name, value in told.items() if name.startswith("server.")} == attributes


# The wire

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.trio
async def test_the_trace_of_a_foreign_client_is_joined_and_an_invalid_one_ignored(recorder: Recorder) -> None:
    async with traced(recorder, InProcessEngine()) as server:
        with await open_raw(server.port) as peer:
            for trace in (
                f'{{"traceparent": "{PARENT}", "tracestate": "a=b,c@d=e"}}',
                '{"traceparent": "made up"}',
                f'{{"traceparent": "{PARENT}", "tracestate": "{"x" * 600}"}}',
            ):
                await peer.send_frame(f'{{"trace": {trace}}}'.encode(), TEXT)
                await peer.send_frame(REQUEST)
                await peer.receive_frame()
            await peer.send_frame(b'{"trace": []}', TEXT)
            assert await peer.receive_close() == 1002
    contexts = [span.parent for span in recorder.named("rayforce request")]
    assert [context and f"{context.trace_id:032x}" for context in contexts] == [PARENT[3:35], None, PARENT[3:35]]
    assert contexts[0] is not None
    assert contexts[0].trace_state.to_header() == "a=b,c@d=e"
    assert contexts[2] is not None
    assert not contexts[2].trace_state


@pytest.mark.parametrize(
    ("traceparent", "tracestate", "state"),
    [
        (PARENT, "", {}),
        (PARENT, "a=b", {"a": "b"}),
        (PARENT, "a=b , ,1t@v=!~ x", {"a": "b", "1t@v": "!~ x"}),
        (PARENT, "a=b,a=c", {}),
        (PARENT, "A=b", {}),
        (PARENT, "a", {}),
        (PARENT, "a=b\n", {}),
        (PARENT, "a=\u00e9", {}),
        (PARENT, ",".join(f"a{number}=b" for number in range(33)), {}),
        (PARENT.replace("00-", "01-", 1), "", {}),
        (PARENT.replace("00-", "01-", 1) + "-more", "", {}),
        (PARENT + "-more", "", None),
        (PARENT + "\n", "", None),
        (PARENT.replace("00-", "ff-", 1), "", None),
        (PARENT.upper(), "", None),
        (PARENT[:-1], "", None),
        ("00-" + "0" * 32 + PARENT[35:], "", None),
        (PARENT[:36] + "0" * 16 + "-01", "", None),
        ("", "", None),
        (PARENT.replace("00-", "01-", 1) + "-" + "x" * 1000, "", None),
    ],
)
def test_what_names_the_span_of_another_process(traceparent: str, tracestate: str, state: Any) -> None:
    parent = parse_headers(traceparent, tracestate)
    assert (None if parent is None else parent.state) == state
    if parent is not None:
        assert (parent.trace_id, parent.span_id, parent.flags) == (int(PARENT[3:35], 16), int(PARENT[36:52], 16), 1)


@pytest.mark.parametrize(("subprotocol", "announced"), [("rayforce.v1", True), (None, False)])
@pytest.mark.parametrize("traces", [False, True], ids=["without", "with"])
@pytest.mark.trio
async def test_a_server_that_traces_announces_it(
    traces: bool, subprotocol: str | None, announced: bool, recorder: Recorder
) -> None:
    provider = recorder.provider if traces else None
    async with WSServer(0, host=LOCAL, tracer_provider=provider) as server:
        with connect_raw(server.port) as peer:
            await peer.send(upgrade({"Sec-WebSocket-Protocol": subprotocol}))
            assert (b"\r\nRayforce-Traces: 1\r\n" in await peer.receive_head()) == (traces and announced)


@pytest.mark.trio
async def test_the_decision_not_to_sample_reaches_the_server(recorder: Recorder) -> None:
    unsampled = Recorder(sampler=ALWAYS_OFF)

    async def use(connection: WSClientConnection) -> None:
        await connection.execute("1")

    async with traced(recorder, InProcessEngine()) as server:
        await use_on_trio(unsampled, use, server)
        assert recorder.tree() == []
        await use_on_trio(None, use, server)
    assert recorder.tree() == ["rayforce request", "  rayforce engine"]
    assert unsampled.tree() == []


@pytest.mark.trio
async def test_a_server_that_does_not_trace_gets_no_traces(recorder: Recorder) -> None:
    messages: list[int] = []

    async def script(peer: RawPeer) -> None:
        for _ in range(2):
            opcode, _ = await peer.receive_frame()
            messages.append(opcode)
        await peer.send_close(1000)

    with trio.fail_after(30):
        async with connected_to_script(script, tracer_provider=recorder.provider) as connection:
            await connection.post("1")
            with pytest.raises(errors.ConnectionClosed):
                await connection.execute("1")
    assert messages == [BINARY, BINARY]
    assert recorder.tree() == ["rayforce post", "rayforce execute ConnectionClosed"]


# Without a tracer provider

PROGRAM = """
import sys
{before}
import trio
from rayforce_trio import InProcessEngine, WSClient, WSServer

async def main():
    async with WSServer(0, host="127.0.0.1", engine=InProcessEngine()) as server:
        async with WSClient("127.0.0.1", server.port).connect() as connection:
            print(await connection.execute("(+ 1 2)"), type(connection).__name__)
            print(server._handler._tracing, connection._exchange.traces)
            print(bool(sys.modules.get("opentelemetry.trace")))

trio.run(main)
"""


@pytest.mark.parametrize(
    ("before", "imported"),
    [
        pytest.param("sys.modules['opentelemetry'] = None", False, id="not installed"),
        pytest.param("", False, id="not used"),
        pytest.param("from opentelemetry import trace", True, id="not configured"),
        pytest.param(
            "from opentelemetry import trace; trace.set_tracer_provider(trace.NoOpTracerProvider())",
            True,
            id="a provider that does nothing",
        ),
    ],
)
def test_without_a_tracer_provider_there_are_no_spans(before: str, imported: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["3 WSClientConnection", "None None", f"{imported}"]


def test_the_provider_of_the_program_is_used_by_default() -> None:
    before = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 TracedConnection\n<rayforce_trio._traces.Tracing")


@pytest.mark.parametrize("make", [partial(WSServer, 0), partial(WSClient, LOCAL)], ids=["server", "client"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tracer_provider": "console"}, "Invalid tracer_provider: 'console'. Must be an OpenTelemetry TracerProvider"),
        ({"trace_queries": "yes"}, "Invalid trace_queries: 'yes'. Must be True or False"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Callable[..., Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.RayforceValueError, match=says):
        make(**options)


def test_every_call_of_the_server_has_a_name_in_spans() -> None:
    assert set(_NAMES) == set(get_args(ServerCall))
