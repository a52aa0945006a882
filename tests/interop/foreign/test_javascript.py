"""The JavaScript client in node and in headless Chromium, on our server."""

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import trio
from support.foreign.clients import served
from support.foreign.javascript import CLIENT, Runner, in_node, in_page
from support.foreign.with_chromium import window
from support.value_vectors import FILE, QUERIES

from rayforce_trio import InProcessEngine, NativeProcess, WSServer, auth
from rayforce_trio._engines import Engine

ENGINES = [InProcessEngine, NativeProcess]
COMPUTED = "(- [-9223372036854775807 5] 1)"
"""A vector in which null's value is not null. Only the engine makes these."""


@pytest.fixture(params=["node", "Chromium"])
def chromium(request: pytest.FixtureRequest) -> str | None:
    """The URL of Chromium's DevTools; `None`: the test uses node."""
    return None if request.param == "node" else request.getfixturevalue("devtools")


@pytest.fixture
async def run(chromium: str | None, origins: tuple[str, str]) -> AsyncIterator[Runner]:
    if chromium is None:
        yield in_node
    else:
        async with window(chromium) as page:
            yield partial(in_page, page, origins[0])


@pytest.fixture
def options(origins: tuple[str, str]) -> dict[str, Any]:
    """The options of servers that pages may use."""
    return {"serve_javascript": True, "allowed_origins": [origins[0]]}


@pytest.mark.trio
@pytest.mark.parametrize("engine", ENGINES)
async def test_every_type_and_null(run: Runner, options: dict[str, Any], engine: Callable[[], Engine]) -> None:
    expected = {each["name"]: each["value"] for each in json.loads(FILE.read_text()) if "name" in each}
    async with served(engine=engine(), **options) as server:
        found = await run("values", server.port, [*QUERIES])
    for query, (received, *returned) in zip(QUERIES, found, strict=True):
        assert (query, received) == (query, expected[query])
        if query != COMPUTED:
            assert (query, returned) == (query, [received or None if received == "" else received] * 2)


@pytest.mark.trio
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("check", ["queries", "updates", "large"])
async def test_it_queries_and_subscribes(
    run: Runner, options: dict[str, Any], engine: Callable[[], Engine], check: str
) -> None:
    async with served(engine=engine(), **options) as server:
        await run(check, server.port)


@pytest.mark.trio
@pytest.mark.parametrize("check", ["queries", "updates", "large", "abortAtOnce"])
async def test_it_can_use_the_websocket_of_a_package(check: str) -> None:
    async with served() as server:
        await in_node(check, server.port, websocket="ws")


@pytest.mark.trio
@pytest.mark.parametrize(("engine", "message"), [(InProcessEngine, "cannot add i64 and str"), (NativeProcess, "type")])
async def test_errors_have_a_code_and_a_message(
    run: Runner, options: dict[str, Any], engine: Callable[[], Engine], message: str
) -> None:
    async with served(engine=engine(), **options) as server:
        await run("errors", server.port, message)


@pytest.mark.trio
async def test_an_abort_signal_stops_queries_in_the_engine(run: Runner, options: dict[str, Any]) -> None:
    with trio.fail_after(60):
        async with WSServer(0, host="127.0.0.1", engine=NativeProcess(), **options) as server:

            async def tell(what: str) -> None:
                requests = server.statistics().requests
                while (requests.in_flight if what == "running" else requests.cancelled) == 0:
                    await trio.lowlevel.checkpoint()
                    requests = server.statistics().requests

            await run("abort", server.port, "(while true 1)", tell=tell)
            assert server.statistics().requests.cancelled == 2


@pytest.mark.trio
async def test_an_engine_that_cannot_stop_a_query_runs_it_to_its_end(run: Runner, options: dict[str, Any]) -> None:
    async with served(**options) as server:
        await run("abortAtOnce", server.port)


@pytest.mark.trio
async def test_a_token_is_a_subprotocol(run: Runner, options: dict[str, Any]) -> None:
    async with served(authenticate=auth.token("~?~?>>"), **options) as server:
        await run("token", server.port, "~?~?>>")


@pytest.mark.trio
async def test_a_server_that_is_not_there_is_an_error(run: Runner, options: dict[str, Any], free_tcp_port: int) -> None:
    async with served(**options) as server:
        await run("refusals", server.port, f"ws://127.0.0.1:{free_tcp_port}")


@pytest.mark.trio
@pytest.mark.parametrize("stops", [False, True], ids=["cancelled", "stopped"])
async def test_a_connection_comes_back_when_the_server_does(run: Runner, options: dict[str, Any], stops: bool) -> None:
    async def serve(port: int, *, task_status: trio.TaskStatus[tuple[WSServer, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with WSServer(port, host="127.0.0.1", **options) as server:
                task_status.started((server, scope))
                await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server, scope = await nursery.start(serve, 0)
            port = server.port

            async def tell(what: str) -> None:
                if stops:
                    await server.stop()
                scope.cancel()
                await nursery.start(serve, port)

            await run("reconnection", port, tell=tell)
            nursery.cancel_scope.cancel()


def test_the_unit_tests_of_the_client_pass() -> None:
    subprocess.run(["npm", "test"], cwd=CLIENT.parent, check=True, capture_output=True, timeout=100)


def test_npm_packs_what_a_program_needs(tmp_path: Any) -> None:
    packed = subprocess.run(
        ["npm", "pack", "--json", "--pack-destination", str(tmp_path)],
        cwd=CLIENT.parent,
        check=True,
        capture_output=True,
    )
    (package,) = json.loads(packed.stdout)
    assert {file["path"] for file in package["files"]} == {"package.json", "rayforce.js", "rayforce.d.ts"}
