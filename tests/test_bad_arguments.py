"""Wrong arguments and calls at the wrong time: each raises an error of this package that says what to do instead."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from support.connected import connected_to

from rayforce_trio import (
    InProcessEngine,
    NativeEngine,
    NativeProcess,
    RoundRobinEngine,
    WSClient,
    WSClientConnection,
    WSServer,
    auth,
    errors,
    sql,
)

LOCAL = "127.0.0.1"
NO_VALUES = [-1, 1.5, float("nan"), "x\0", "\ud800", b"x", [5], {5: 5}, object(), object]
"""Values of many types, most of which no argument may have. Those that it may have are none of its errors."""

MAKERS: list[tuple[Callable[..., object], dict[str, Any]]] = [
    (WSServer, {"port": 0}),
    (WSClient, {"host": LOCAL, "port": 1}),
    (NativeProcess, {}),
    (NativeEngine, {"host": LOCAL, "port": 1}),
    (RoundRobinEngine, {"engines": [InProcessEngine()]}),
    (auth.Principal, {"name": "ann"}),
    (auth.password, {"secret": "secret"}),
    (WSClient(LOCAL, 1).connect, {}),
]
OPTIONS = [
    pytest.param(make, given, name, id=f"{make.__name__}-{name}")
    for make, given in MAKERS
    for name in inspect.signature(make).parameters
]


@pytest.mark.parametrize(("make", "given", "name"), OPTIONS)
def test_no_value_of_an_option_raises_a_foreign_error(
    make: Callable[..., object], given: dict[str, Any], name: str
) -> None:
    for value in NO_VALUES:
        with suppress(errors.RayforceValueError):
            make(**{**given, name: value})


# Without types: the arguments are wrong on purpose.
SERVER: Any = WSServer
CLIENT: Any = WSClient
PROCESS: Any = NativeProcess
AUTH: Any = auth

ADVICE = [
    (lambda: SERVER(0, allowed_origins=5), "Invalid allowed_origins: 5. Must be a list of origins"),
    (lambda: SERVER(0, allowed_hosts=None), "Invalid allowed_hosts: None. Must be a list of host names"),
    (lambda: SERVER(0, trusted_proxies=b"x"), "Invalid trusted_proxies: b'x'. Must be a list of IP addresses"),
    (lambda: SERVER(0, engines=0), "Invalid engines: 0. Must be a dict"),
    (lambda: CLIENT("\ud800", 1), r"Invalid host: '\ud800'. Must be a host name"),
    (lambda: CLIENT.from_url("ws://a\nb"), "Invalid URL. Must look like"),
    (lambda: CLIENT.from_url("ws://\ud800"), "Invalid URL. Must look like"),
    (lambda: CLIENT.from_urls(5), "Invalid urls: 5. Must be a list of URLs"),
    (lambda: CLIENT.from_urls("ws://a"), "Invalid urls: 'ws://a'. Must be a list; write ['ws://a']"),
    (lambda: CLIENT.from_urls([]), "Invalid urls: []. Must be a list of one or more URLs"),
    (lambda: CLIENT(LOCAL, 1).connect(reconnect="no"), "Invalid reconnect: 'no'. Must be True or False"),
    (lambda: PROCESS(read_only="no"), "Invalid read_only: 'no'. Must be True or False"),
    (lambda: PROCESS(journal="x", journal_sync=1), "Invalid journal_sync: 1. Must be True or False"),
    (lambda: PROCESS(memory=-1), "Invalid memory: -1. Must be a number of bytes, an int above 0, or a str such"),
    (lambda: PROCESS(memory=0), "Invalid memory: 0. "),
    (lambda: PROCESS(memory="4X"), "Invalid memory: '4X'. "),
    (lambda: PROCESS(memory="0G"), "Invalid memory: '0G'. "),
    (lambda: PROCESS(memory=True), "Invalid memory: True. "),
    (lambda: AUTH.token("secret", principal="ann"), "Invalid principal: 'ann'. Must be a Principal, or None"),
    (lambda: AUTH.password("secret", principal="ann"), "Invalid principal: 'ann'. Must be a Principal, or None"),
]


@pytest.mark.parametrize(("make", "says"), ADVICE)
def test_an_argument_is_checked_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(errors.RayforceValueError) as caught:
        make()
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("memory", [1, 2**40, "4G", "512m", "1.5G", "1k", "10T"])
def test_the_engines_notation_of_sizes_is_accepted(memory: int | str) -> None:
    NativeProcess(memory=memory)


CALLS: dict[str, Callable[[WSClientConnection, Any], Awaitable[object]]] = {
    "execute": lambda connection, value: connection.execute(value),
    "execute, params": lambda connection, value: connection.execute("1", value),
    "execute, sql params": lambda connection, value: connection.execute(sql("SELECT a FROM t WHERE a = :a"), value),
    "fetch": lambda connection, value: connection.fetch(value),
    "fetch, params": lambda connection, value: connection.fetch("1", value),
    "post, params": lambda connection, value: connection.post("1", value),
    "call": lambda connection, value: connection.call(value),
    "schema": lambda connection, value: connection.schema(value),
    "insert": lambda connection, value: connection.insert(value, {"a": [1]}),
    "insert, data": lambda connection, value: connection.insert("bad_arguments", value),
    "insert, progress": lambda connection, value: connection.insert("no_table", {"a": [1]}, progress=value),
    "upsert": lambda connection, value: connection.upsert(value, {"a": [1]}, ["a"]),
    "upsert, data": lambda connection, value: connection.upsert("bad_arguments", value, ["a"]),
    "upsert, keys": lambda connection, value: connection.upsert("no_table", {"a": [1]}, value),
    "create_table": lambda connection, value: connection.create_table(value, {"a": [1]}),
    "create_table, data": lambda connection, value: connection.create_table("no_table", value),
    "create_table, replace": lambda connection, value: connection.create_table("no_table", {"a": [1]}, replace=value),
    "publish": lambda connection, value: connection.publish(value, 1),
    "subscribe": lambda connection, value: _entered(connection.subscribe(value)),
    "subscribe, snapshot": lambda connection, value: _entered(connection.subscribe("t", snapshot=value)),
    "subscribe, params": lambda connection, value: _entered(connection.subscribe("t", params=value)),
    "subscribe, max_buffer": lambda connection, value: _entered(connection.subscribe("t", max_buffer=value)),
    "subscribe, overflow": lambda connection, value: _entered(connection.subscribe("t", overflow=value)),
    "subscribe, resume": lambda connection, value: _entered(connection.subscribe("t", resume=value)),
    "stream": lambda connection, value: _entered(connection.stream(value)),
    "stream, batch_size": lambda connection, value: _entered(connection.stream("1", batch_size=value)),
}


async def _entered(block: Any) -> None:
    async with block:
        pass


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.anyio
async def test_no_argument_of_a_call_raises_a_foreign_error_or_ends_the_connection(
    call: Callable[[WSClientConnection, Any], Awaitable[object]], in_process_port: int
) -> None:
    async with connected_to(in_process_port) as connection:
        await connection.create_table("bad_arguments", {"a": [1]}, replace=True)
        for value in NO_VALUES:
            with pytest.raises(errors.RayforceError):
                await call(connection, value)
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.anyio
async def test_keys_are_checked_before_the_server_is_asked(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:
        with pytest.raises(errors.RayforceValueError, match=r"^Invalid keys: 'a'\. Must be a list of one or more"):
            await connection.upsert("no_table", {"a": [1]}, "a")


@pytest.mark.parametrize("nursery", [None, 5, "nursery"])
@pytest.mark.trio
async def test_a_server_starts_only_in_a_nursery(nursery: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"^Invalid nursery: .*\. Must be a trio\.Nursery$"):
        await WSServer(0, host=LOCAL).start(nursery)


@pytest.mark.trio
async def test_a_server_starts_only_in_an_open_nursery() -> None:
    async with trio.open_nursery() as nursery:
        pass
    with pytest.raises(errors.RayforceWSError, match="the nursery cannot start the server, because it is closed"):
        await WSServer(0, host=LOCAL).start(nursery)


@pytest.mark.trio
async def test_an_engines_own_error_is_not_taken_for_a_closed_nursery() -> None:
    class Broken(InProcessEngine):
        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ARG002 - the caller's
            raise RuntimeError("broken")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="^broken$"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await WSServer(0, host=LOCAL, engine=Broken()).start(nursery)


@pytest.mark.trio
async def test_a_servers_block_cannot_be_left_before_it_is_entered() -> None:
    with pytest.raises(errors.RayforceWSError, match=r"^Server not started$"):
        await WSServer(0, host=LOCAL).__aexit__(None, None, None)


METHODS: list[Callable[[WSServer], Awaitable[object]]] = [
    WSServer.run,
    WSServer.serve,
    WSServer.stop,
    WSServer.__aenter__,
    lambda server: server.start(None),  # type: ignore[arg-type]  # wrong on purpose
    lambda server: server.publish("t", 1),
]


@pytest.mark.parametrize("call", METHODS)
def test_a_server_says_that_it_needs_trio(call: Callable[[WSServer], Awaitable[object]]) -> None:
    async def on_asyncio() -> None:
        await call(WSServer(0, host=LOCAL))

    with pytest.raises(errors.RayforceWSError, match=r"^the server needs trio: use trio\.run\(server\.run\)"):
        asyncio.run(on_asyncio())
    outside = on_asyncio()
    with pytest.raises(errors.RayforceWSError, match=r"^the server needs trio"):
        outside.send(None)


@pytest.mark.anyio
async def test_what_was_used_or_closed_says_so(in_process_port: int) -> None:
    async with connected_to(in_process_port) as closed:
        pass
    arguments: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(["execute", "execute_verbose", "fetch", "post", "stream", "subscribe", "schema"], ("x",)),
        **dict.fromkeys(["publish", "insert", "create_table"], ("x", {"a": [1]})),
        "upsert": ("x", {"a": [1]}, ["a"]),
        "tables": (),
        "call": ("count", 1),
    }
    for method, given in arguments.items():
        with pytest.raises(errors.ConnectionClosed, match=r"^Cannot execute on closed connection$"):
            await getattr(closed, method)(*given)
    async with connected_to(in_process_port) as connection:
        for block in connection.subscribe("t"), connection.stream("(table [a] (list (til 3)))"):
            with pytest.raises(errors.RayforceWSError, match=r"^write 'async with connection"):
                await anext(block)
            async with block:
                with pytest.raises(errors.RayforceWSError, match=r"can be used once; call \w+\(\) again$"):
                    await block.__aenter__()
            with pytest.raises(errors.RayforceWSError, match=r"block of this \w+ has ended; call \w+\(\) again$"):
                await anext(block)
