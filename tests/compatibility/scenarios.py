"""The conversations that are recorded and replayed: the calls of the client, and the options of the server.

The scenarios use the public API only, since every later version plays them against the recordings of every earlier
version. Do not change a scenario that a recording names, except to follow a change of the public API: add another one.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.abc
from rayforce import Column, List, Operation, String, Table
from rayforce.errors import RayforceError
from rayforce.network.websocket import WSClient as RayforceClient
from support import raw
from support.raw import RawPeer, connect_raw, frame

from compatibility.recording import EventLog, Kind, Side
from rayforce_trio import Columns, VerboseResult, WSClient, WSClientConnection, auth

LOCAL = "127.0.0.1"

GATED = '(do (write "begun" "") (while (== 0 (count (.fs.list "gate"))) 1) 42)'
"""A query that ends when the step `open gate` is done."""

ENDLESS = '(do (write "begun" "") (while true 1))'
"""A query that ends only if it is stopped."""

USER, PASSWORD, TOKEN = "ann", "open sesame", "a-token-of-32-characters-at-least"

_LONG = 100  # rows


class Driver(ABC):
    """Connects the client of a scenario, waits for events, and keeps the outcomes of calls.

    Attributes:
        port: where the client connects.
        log: the events that the proxy, or the replaying server, has seen so far.
        outcomes: the results of the client's calls.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.log = EventLog()
        self.outcomes: dict[str, Any] = {}

    @abstractmethod
    async def step(self, name: str) -> None:
        """Do a step of `hosts.py`; returns when it is done."""

    async def until(self, side: Side, kind: Kind, number: int = 1) -> None:
        """Wait until a side has sent this number of messages, pongs or the like; the greeting is the first message."""
        await self.log.until(lambda: self.log.counts[side, kind] >= number)

    async def outcome_of(self, label: str, call: Awaitable[Any]) -> None:
        """Await a call and keep its result, or its error."""
        try:
            self.outcomes[label] = described(await call)
        except RayforceError as error:
            self.outcomes[label] = described_error(error)

    def start(self, tasks: anyio.abc.TaskGroup, label: str, call: Awaitable[Any]) -> anyio.CancelScope:
        """Start a task that makes a call, and return the scope that cancels it."""
        scope = anyio.CancelScope()

        async def make() -> None:
            with scope:
                await self.outcome_of(label, call)
            if scope.cancelled_caught:
                self.outcomes[label] = "cancelled"

        tasks.start_soon(make)
        return scope

    @asynccontextmanager
    async def connection(self, **options: Any) -> AsyncIterator[WSClientConnection]:
        """Connect with this package's client."""
        async with WSClient(LOCAL, self.port, **options).connect() as connection:
            yield connection
            self.outcomes["stopped_queries"] = connection.stopped_queries
            if connection.closed:
                self.outcomes["closed"] = described_error(connection.closed)

    async def connect(self, label: str, **options: Any) -> None:
        """Connect and close, and keep the outcome."""

        async def connect() -> str:
            async with WSClient(LOCAL, self.port, **options).connect():
                return "connected"

        await self.outcome_of(label, connect())


def described(value: Any) -> Any:
    """Return a result as JSON."""
    match value:
        case None | bool() | int() | str() | dict():
            return value
        case VerboseResult(output=output, value=inner, error=error):
            shown = None if error is None else described_error(error)
            return {"output": output, "value": described(inner), "error": shown}
        case Columns() if len(value) > _LONG:
            arrays = {name: hashlib.sha256(array.tobytes()) for name, array in value.to_numpy().items()}
            return {"rows": len(value), "sha256": {name: digest.hexdigest() for name, digest in arrays.items()}}
        case Columns():
            return {"columns": {name: _plain(values) for name, values in value.to_dict().items()}}
        case Table():
            return {"Table": {name: _plain(values) for name, values in value.to_dict().items()}}
    return {type(value).__name__: _plain(value.to_python())}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "to_python"):
        return _plain(value.to_python())
    return value if isinstance(value, int | float | str | None) else str(value)


def described_error(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON; its `text` is for people, and may differ from version to version."""
    attributes = {name: getattr(error, name) for name in ("status", "code", "by_peer") if hasattr(error, name)}
    return {"error": type(error).__name__, **attributes, "text": str(error)}


Play = Callable[[Driver], Awaitable[None]]
Serve = Callable[[RawPeer], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """A conversation.

    Attributes:
        play: makes the client's calls.
        client: this package's client on both loops, rayforce-py's, or one made by hand.
        engine: the server's engine; or `rayforce-py`: its server instead of this package's.
        server_options: further options of `WSServer`.
        serve: a server made by hand, in place of any other.
        replay_to_server: whether the order of the events is certain enough to replay the client to a server.
    """

    play: Play
    client: Literal["ours", "rayforce-py", "raw"] = "ours"
    engine: Literal["in-process", "native", "unreachable", "rayforce-py"] = "in-process"
    server_options: dict[str, Any] = field(default_factory=dict)
    serve: Serve | None = None
    replay_to_server: bool = True

    @property
    def name(self) -> str:
        return self.play.__name__


SCENARIOS: dict[str, Scenario] = {}


def scenario(**options: Any) -> Callable[[Play], Play]:
    """Register a function as the client of a scenario; the options are those of `Scenario`, or of `WSServer`."""
    fields = Scenario.__dataclass_fields__.keys()
    own = {name: value for name, value in options.items() if name in fields}
    server_options = {name: value for name, value in options.items() if name not in fields}

    def register(play: Play) -> Play:
        made = Scenario(play, server_options=server_options, **own)
        SCENARIOS[made.name] = made
        return play

    return register


# Requests and replies


@scenario()
async def values(driver: Driver) -> None:
    async with driver.connection() as connection:
        for query in (
            "(+ 1 2)",
            "(til 5)",
            '"text"',
            '(list 1 2.5 \'a "b" [2024.01.02])',
            "(dict [a b] (list 1 [2 3]))",
            "(table [sym px day] (list [a b] [1.5 0Nf] [2024.01.02 0Nd]))",
            "(take 0 0)",
            "(if false 1)",
        ):
            await driver.outcome_of(query, connection.execute(query))
        await driver.outcome_of("String", connection.execute(String("(+ 1 2)")))
        await driver.outcome_of("List", connection.execute(List([Operation.ADD, 1, 2])))


@scenario()
async def parameters(driver: Driver) -> None:
    async with driver.connection() as connection:
        params = {"low": 2, "name": "a'b", "many": [1.5, None], "raw": b"\x00\x01"}
        await driver.outcome_of("params", connection.execute("(list low name many raw)", params))
        await driver.outcome_of("call", connection.call("(fn [x y] (+ x y))", 1, 2))


@scenario()
async def query_objects(driver: Driver) -> None:
    async with driver.connection() as connection:
        create = "(set recorded_prices (table [id px] (list [1 2 3] [1.5 2.5 3.5])))"
        await driver.outcome_of("create", connection.execute(create))
        table = Table("recorded_prices")
        px: Any = Column("px")  # rayforce-py does not declare its operators
        await driver.outcome_of("select", connection.execute(table.select("id").where(px > 2.0)))
        await driver.outcome_of("update", connection.execute(table.update(px=9.5).where(Column("id") == 1)))
        await driver.outcome_of("insert", connection.execute(table.insert(id=4, px=4.5)))
        await driver.outcome_of("fetch", connection.fetch("recorded_prices"))


@scenario(max_message_size=64 * 1024)
async def bulk(driver: Driver) -> None:
    async with driver.connection() as connection:
        rows = {"id": list(range(6000)), "px": [0.5] * 6000}
        created = connection.create_table("recorded_bulk", rows, replace=True)
        await driver.outcome_of("create_table", created)
        await driver.outcome_of("insert", connection.insert("recorded_bulk", rows))
        await driver.outcome_of("upsert", connection.upsert("recorded_bulk", {"id": [1], "px": [7.5]}, ["id"]))
        await driver.outcome_of("schema", connection.schema("recorded_bulk"))
        await driver.outcome_of("count", connection.execute("(count recorded_bulk)"))


@scenario()
async def verbose(driver: Driver) -> None:
    async with driver.connection() as connection:
        for query in ('(do (println "x") 3)', '(do (println "%" [1 2]) (+ 1 "one"))', "(+ 1 2)"):
            await driver.outcome_of(query, connection.execute_verbose(query))


@scenario(engine="native")
async def verbose_natively(driver: Driver) -> None:
    await verbose(driver)


async def _check_errors(driver: Driver) -> None:
    async with driver.connection() as connection:
        for query in ('(+ 1 "one")', "recorded_undefined", "(foo", "(raise 'mine)", "(+ 1 2)"):
            await driver.outcome_of(query, connection.execute(query))


@scenario()
async def errors(driver: Driver) -> None:
    await _check_errors(driver)


@scenario(engine="native")
async def errors_natively(driver: Driver) -> None:
    await _check_errors(driver)


async def _check_posts(driver: Driver) -> None:
    async with driver.connection() as connection:
        await connection.post("(set recorded_posted 7)")
        await connection.post('(+ 1 "one")')
        await driver.outcome_of("posted", connection.execute("recorded_posted"))


@scenario()
async def posts(driver: Driver) -> None:
    await _check_posts(driver)


@scenario(engine="native")
async def posts_natively(driver: Driver) -> None:
    await _check_posts(driver)


@scenario(engine="native")
async def pipelined(driver: Driver) -> None:
    """Several requests at once: the first one runs while the others arrive."""
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        for number, query in enumerate([GATED, "(+ 1 2)", '(+ 1 "one")', "(til 3)"], 1):
            driver.start(tasks, query, connection.execute(query))
            await driver.until("client", "message", 1 + number)
        await driver.step("open gate")


@scenario(engine="native")
async def long_reply(driver: Driver) -> None:
    """The server sends the reply in fragments, as it comes from the engine."""
    async with driver.connection() as connection:
        await driver.outcome_of("fetch", connection.fetch("(take 0x07 4000000)"))
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


@scenario()
async def long_request(driver: Driver) -> None:
    """The client sends the request in fragments."""
    async with driver.connection() as connection:
        sent = connection.execute("(count data)", {"data": bytes(9 * 1024 * 1024)})
        await driver.outcome_of("count", sent)
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


# Cancellation


@scenario(engine="native")
async def cancel_while_running(driver: Driver) -> None:
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        scope = driver.start(tasks, "endless", connection.execute(ENDLESS))
        await driver.step("begun")
        scope.cancel()
        await driver.until("client", "message", 3)
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


@scenario(engine="native")
async def cancel_before_start(driver: Driver) -> None:
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        driver.start(tasks, "running", connection.execute(GATED))
        await driver.step("begun")
        scope = driver.start(tasks, "waiting", connection.execute("(+ 1 2)"))
        await driver.until("client", "message", 3)
        scope.cancel()
        await driver.until("client", "message", 4)
        await driver.step("open gate")
        await driver.until("server", "message", 3)
        await driver.outcome_of("next", connection.execute("(+ 3 4)"))


@scenario(engine="native")
async def cancel_after_the_reply(driver: Driver) -> None:
    """The client cancels a request whose reply is on its way."""
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        await driver.step("hold replies")
        scope = driver.start(tasks, "answered", connection.execute("(+ 1 2)"))
        await driver.until("client", "message", 2)
        await driver.until("server", "message", 2)
        scope.cancel()
        await driver.until("client", "message", 3)
        await driver.step("pass replies")
        await driver.outcome_of("next", connection.execute("(+ 3 4)"))


@scenario(replay_to_server=False)
async def cancel_of_a_query_that_cannot_be_stopped(driver: Driver) -> None:
    """An engine in the server's process runs the query to its end. A server in the test's process would block it."""
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        scope = driver.start(tasks, "running", connection.execute(GATED))
        await driver.step("begun")
        scope.cancel()
        await driver.until("client", "message", 3)
        await driver.step("open gate")
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


# Refused requests


@scenario(engine="native", max_in_flight=1)
async def busy(driver: Driver) -> None:
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        for number, label in enumerate(["running", "second", "third"], 1):
            driver.start(tasks, label, connection.execute(GATED))
            await driver.until("client", "message", 1 + number)
            if number == 1:
                await driver.step("begun")
        await driver.step("open gate")


@scenario(engine="native")
async def closing(driver: Driver) -> None:
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        driver.start(tasks, "running", connection.execute(GATED))
        await driver.step("begun")
        await driver.step("stop server")
        driver.start(tasks, "late", connection.execute("(+ 1 2)"))
        await driver.until("client", "message", 3)
        await driver.step("open gate")
        await driver.until("server", "close")
        await driver.until("client", "close")
        await driver.outcome_of("after the close", connection.execute("(+ 1 2)"))


@scenario(engine="native", query_timeout=0.1)
async def timeout(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.outcome_of("endless", connection.execute(ENDLESS))
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


# Pings


@scenario(ping_interval=0.05)
async def pings_of_the_server(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.until("client", "pong")
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


@scenario()
async def pings_of_the_client(driver: Driver) -> None:
    async with driver.connection(ping_interval=0.05) as connection:
        await driver.until("server", "pong")
        await driver.outcome_of("next", connection.execute("(+ 1 2)"))


# The end of a connection


@scenario()
async def close_1000_by_the_client(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.outcome_of("query", connection.execute("(+ 1 2)"))


@scenario()
async def close_1001_by_the_client(driver: Driver) -> None:
    with anyio.CancelScope() as scope:
        async with driver.connection() as connection:
            await driver.outcome_of("query", connection.execute("(+ 1 2)"))
            scope.cancel()
            await anyio.sleep_forever()
    await driver.until("server", "end")


@scenario()
async def close_1009_by_the_client(driver: Driver) -> None:
    async with driver.connection(max_message_size=4096) as connection:
        await driver.outcome_of("too long", connection.execute("(take 0x07 5000)"))
        await driver.outcome_of("after the close", connection.execute("(+ 1 2)"))


@scenario()
async def end_without_a_close_by_the_client(driver: Driver) -> None:
    async with driver.connection() as connection:
        connection.abort()
        await driver.outcome_of("after the end", connection.execute("(+ 1 2)"))


@scenario()
async def close_1001_by_the_server(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.step("stop server")
        await driver.until("client", "close")
        await driver.outcome_of("after the close", connection.execute("(+ 1 2)"))


@scenario(max_message_size=4096)
async def close_1009_by_the_server(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.outcome_of("too long", connection.execute("(count data)", {"data": bytes(5000)}))
        await driver.outcome_of("after the close", connection.execute("(+ 1 2)"))


@scenario(engine="native")
async def close_1011_by_the_server(driver: Driver) -> None:
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        driver.start(tasks, "running", connection.execute(ENDLESS))
        await driver.step("begun")
        await driver.step("kill engine")
        await driver.until("client", "close")


# Opening


@scenario(authenticate=auth.password(PASSWORD))
async def basic_auth(driver: Driver) -> None:
    await driver.connect("right", user=USER, password=PASSWORD)


@scenario(authenticate=auth.token(TOKEN))
async def bearer_token(driver: Driver) -> None:
    await driver.connect("right", token=TOKEN)


@scenario(allowed_origins=["https://example.org"])
async def other_headers(driver: Driver) -> None:
    headers = {"Origin": "https://example.org", "X-Request-Id": "a b, c", "Cookie": "a=1; b=2"}
    await driver.connect("right", path="/some/path?q=%20", headers=headers)


@scenario(authenticate=auth.password(PASSWORD))
async def refused_401(driver: Driver) -> None:
    await driver.connect("wrong", user=USER, password="wrong")


@scenario()
async def refused_403(driver: Driver) -> None:
    await driver.connect("wrong", headers={"Origin": "https://elsewhere.example"})


@scenario(engine="unreachable")
async def refused_503(driver: Driver) -> None:
    await driver.connect("wrong")


# rayforce-py's client and server, which speak the baseline protocol


@scenario(client="rayforce-py")
async def baseline_client(driver: Driver) -> None:
    connection = await RayforceClient(LOCAL, driver.port).connect()
    for query in ("(+ 1 2)", "(til 5)", '(+ 1 "one")', "recorded_undefined", "(table [a] (list [1 2]))"):
        await driver.outcome_of(query, connection.execute(query))
    await driver.outcome_of("List", connection.execute(List([Operation.ADD, 1, 2])))
    await connection.close()


@scenario(client="rayforce-py", engine="native")
async def baseline_client_natively(driver: Driver) -> None:
    await baseline_client(driver)


@scenario(engine="rayforce-py")
async def baseline_server(driver: Driver) -> None:
    async with driver.connection() as connection:
        for query in ("(+ 1 2)", "(til 5)", '(+ 1 "one")', "recorded_undefined"):
            await driver.outcome_of(query, connection.execute(query))
        await connection.post("(set recorded_posted 7)")
        await driver.outcome_of("posted", connection.execute("recorded_posted"))
        await driver.outcome_of("verbose", connection.execute_verbose("(+ 1 2)"))
        await driver.outcome_of("params", connection.execute("(+ low 1)", {"low": 2}))


@scenario(engine="rayforce-py")
async def baseline_cancel(driver: Driver) -> None:
    async with driver.connection() as connection, anyio.create_task_group() as tasks:
        await driver.step("hold replies")
        scope = driver.start(tasks, "cancelled", connection.execute("(+ 1 2)"))
        await driver.until("client", "message", 2)
        await driver.until("server", "message", 2)
        scope.cancel()
        driver.start(tasks, "next", connection.execute("(+ 3 4)"))
        await driver.until("client", "message", 3)
        await driver.step("pass replies")


# Clients made by hand: requests for pages, browsers, and clients that break the protocol


async def _request_page(driver: Driver, start: str, headers: dict[str, str | None]) -> None:
    with connect_raw(driver.port) as peer:
        await peer.send(raw.response(start, {"Host": LOCAL, **headers}))
        await peer.receive_rest()


@scenario(client="raw")
async def page_healthz(driver: Driver) -> None:
    await _request_page(driver, "GET /healthz HTTP/1.1", {})


@scenario(client="raw")
async def page_without_metrics(driver: Driver) -> None:
    await _request_page(driver, "GET /metrics HTTP/1.1", {})


@scenario(client="raw")
async def refused_426(driver: Driver) -> None:
    await _request_page(driver, "GET / HTTP/1.1", {"User-Agent": "a browser"})


async def _request_upgrade(driver: Driver, headers: dict[str, str | None]) -> None:
    with connect_raw(driver.port) as peer:
        await peer.send(raw.upgrade(headers))
        await peer.receive_rest()


@scenario(client="raw")
async def refused_421(driver: Driver) -> None:
    await _request_upgrade(driver, {"Host": "rebound.example:8765"})


@scenario(client="raw")
async def refused_400_without_a_key(driver: Driver) -> None:
    await _request_upgrade(driver, {"Sec-WebSocket-Key": None})


async def _converse(
    driver: Driver, *frames: bytes, replies: int | None = None, subprotocol: str | None = raw.SUBPROTOCOL
) -> None:
    """Open, send frames together, and shake hands at the end.

    Args:
        replies: the number of replies after which the client closes; `None`: the server closes.
    """
    with connect_raw(driver.port) as peer:
        await peer.send(raw.upgrade({"Sec-WebSocket-Protocol": subprotocol}))
        await peer.receive_head()
        await peer.send_frame(raw.HELLO)
        await peer.receive_frame()
        await peer.send(b"".join(frames))
        if replies is None:
            await peer.send_close(await peer.receive_close())
        else:
            await driver.until("server", "message", 1 + replies)
            await peer.send_close(1000)
        await peer.receive_rest()


def _rayforce_frame(payload: bytes, *, flags: int = 0, message_type: int = 1, masked: bool = True) -> bytes:
    header = b"\xfa\xde\xfa\xce\x03" + bytes([flags, 0, message_type]) + len(payload).to_bytes(8, "little")
    return frame(header + payload, masked=masked)


def _query(text: bytes, *, flags: int = 0, message_type: int = 1) -> bytes:
    payload = b"\xf3\x00" + len(text).to_bytes(8, "little") + text
    return _rayforce_frame(payload, flags=flags, message_type=message_type)


@scenario(client="raw", authenticate=auth.token(TOKEN))
async def browser_with_a_token(driver: Driver) -> None:
    item = "rayforce.token.YS10b2tlbi1vZi0zMi1jaGFyYWN0ZXJzLWF0LWxlYXN0"
    await _converse(driver, _query(b"(+ 1 2)"), subprotocol=f"rayforce.v1, {item}", replies=1)


@scenario(client="raw")
async def unknown_control_keys(driver: Driver) -> None:
    texts = [frame(text, raw.TEXT) for text in (b'{"unassigned": {}}', b'{"unassigned": [1], "cancel": 9}')]
    await _converse(driver, texts[0], _query(b"(+ 1 2)"), texts[1], _query(b"(til 2)"), replies=2)


@scenario(client="raw")
async def compressed_request(driver: Driver) -> None:
    await _converse(driver, _query(b"(+ 1 2)", flags=1), _query(b"(+ 1 2)"), replies=2)


@scenario(client="raw")
async def fragmented_request_and_pings(driver: Driver) -> None:
    whole = _query(b"(+ 1 2)")[6:]
    parts = [whole[:5], b"", whole[5:20], whole[20:]]
    opcodes = [raw.BINARY] + [raw.CONTINUATION] * 3
    frames = [frame(part, opcode, fin=part is parts[-1]) for part, opcode in zip(parts, opcodes, strict=True)]
    await _converse(driver, *frames[:2], frame(b"ping", raw.PING), *frames[2:], frame(b"", raw.PING), replies=1)


@scenario(client="raw")
async def baseline_messages_that_are_no_requests(driver: Driver) -> None:
    frames = [
        frame(b"text", raw.TEXT),
        frame(b"no frame"),
        _query(b"(+ 1 2)", message_type=0),
        _query(b"(+ 1 2)", message_type=2),
        _query(b"(+ 1 2)", flags=4),
    ]
    await _converse(driver, *frames, subprotocol=None, replies=5)


@scenario(client="raw")
async def close_without_a_code_by_the_client(driver: Driver) -> None:
    await _converse(driver, frame(b"", raw.CLOSE))


@scenario(client="raw")
async def close_1002_after_a_control_message_that_is_not_json(driver: Driver) -> None:
    await _converse(driver, frame(b"cancel 7", raw.TEXT))


@scenario(client="raw")
async def close_1002_after_a_response(driver: Driver) -> None:
    await _converse(driver, _query(b"(+ 1 2)", message_type=2))


@scenario(client="raw")
async def close_1002_after_a_message_that_is_no_frame(driver: Driver) -> None:
    await _converse(driver, frame(b"no frame"))


@scenario(client="raw")
async def close_1002_after_a_frame_without_a_mask(driver: Driver) -> None:
    await _converse(driver, frame(b"", raw.PING, masked=False))


@scenario(client="raw")
async def close_1007_by_the_server(driver: Driver) -> None:
    await _converse(driver, frame(b"\xff", raw.TEXT))


@scenario(client="raw")
async def close_1008_by_the_server(driver: Driver) -> None:
    fragments = [frame(b"", raw.BINARY, fin=False), *[frame(b"", raw.CONTINUATION, fin=False)] * 1024]
    await _converse(driver, *fragments)


@scenario(client="raw")
async def wrong_greeting(driver: Driver) -> None:
    with connect_raw(driver.port) as peer:
        await peer.send(raw.upgrade({"Sec-WebSocket-Protocol": raw.SUBPROTOCOL}))
        await peer.receive_head()
        await peer.send_frame(b"hello")
        await peer.send_close(await peer.receive_close())
        await peer.receive_rest()


# Servers made by hand: later versions, and servers that break the protocol


async def _serve(peer: RawPeer, *frames: bytes) -> None:
    """Open, wait for a request, send frames together, and shake hands at the end."""
    await raw.accept_raw(peer)
    await peer.receive_frame()
    await peer.send(b"".join(frames))
    await peer.send_close(await peer.receive_close())


def _reply(value: int, *, message_type: int = 2) -> bytes:
    return _rayforce_frame(b"\xfb\x00" + value.to_bytes(8, "little"), message_type=message_type, masked=False)


def _text(text: bytes) -> bytes:
    return frame(text, raw.TEXT, masked=False)


async def _execute(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.outcome_of("query", connection.execute("(+ 1 2)"))


async def _serve_news(peer: RawPeer) -> None:
    later = _text(b'{"unassigned": [1]}')
    await _serve(peer, later, _reply(9, message_type=0), frame(b"x", raw.PING, masked=False), _reply(3))


@scenario(serve=_serve_news)
async def unknown_keys_and_pushes_of_a_later_server(driver: Driver) -> None:
    await _execute(driver)


@scenario(serve=lambda peer: _serve(peer, _text(b'{"error": {"request": 1, "code": "later", "message": ""}}')))
async def unknown_error_code(driver: Driver) -> None:
    await _execute(driver)


@scenario(serve=lambda peer: _serve(peer, _text(b'{"error": {"request": 2, "code": "type", "message": ""}}')))
async def close_1002_after_an_error_out_of_turn(driver: Driver) -> None:
    await _execute(driver)


@scenario(serve=lambda peer: _serve(peer, _reply(3) + _reply(4)))
async def close_1002_after_a_reply_to_nothing(driver: Driver) -> None:
    async with driver.connection() as connection:
        await driver.outcome_of("query", connection.execute("(+ 1 2)"))
        await driver.until("client", "close")
        await driver.outcome_of("after the close", connection.execute("(+ 1 2)"))


@scenario(serve=lambda peer: _serve(peer, _text(b"\xff")))
async def close_1007_by_the_client(driver: Driver) -> None:
    await _execute(driver)


async def _close_normally(peer: RawPeer) -> None:
    await raw.accept_raw(peer)
    await peer.receive_frame()
    await peer.send(frame(b"\x03\xe8the end", raw.CLOSE, masked=False))
    await peer.receive_close()


@scenario(serve=_close_normally)
async def close_1000_by_the_server(driver: Driver) -> None:
    await _execute(driver)


@scenario(serve=lambda peer: raw.accept_raw(peer, hello=frame(b"\x01\x00", masked=False)))
async def wrong_answer_to_the_greeting(driver: Driver) -> None:
    await driver.connect("wrong")
