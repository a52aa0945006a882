"""Plain HTTP on the server's own port: whether it is well, and its metrics."""

import logging
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse
from support.certificates import client_context, local_certificates, server_context
from support.engine_processes import ended, pid_of
from support.engines import GateEngine
from support.leaks import no_leaks
from support.namespaces import two_hosts
from support.opening import LOCAL, HttpResponse, parse_answer, try_to_connect
from support.raw import connect_raw, open_raw, response, upgrade
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import (
    InProcessEngine,
    NativeEngine,
    NativeProcess,
    RoundRobinEngine,
    WSClient,
    WSClientConnection,
    WSServer,
    auth,
    prometheus,
)
from rayforce_trio._server._counters import LATENCY_BOUNDS
from rayforce_trio.errors import RayforceValueError
from rayforce_trio.prometheus import Collector
from rayforce_trio.statistics import Connections, Histogram, Posts, Requests, Statistics, Streams, Topic

CLIENT = Path(prometheus.__file__).with_name("javascript") / "rayforce.js"
TOKEN = "t0ken"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def plain(path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> bytes:
    return response(f"{method} {path} HTTP/1.1", {"Host": "127.0.0.1", **(headers or {})})


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(30):
        async with WSServer(0, host=LOCAL, **options) as server:
            yield server


async def ask(port: int, request: bytes) -> HttpResponse:
    """Return the answer to a request; the server must close the connection after it."""
    with trio.fail_after(10), connect_raw(port) as peer:
        await peer.send(request)
        return parse_answer(await peer.receive_head(), await peer.receive_rest())


async def health(port: int, **options: Any) -> HttpResponse:
    return await ask(port, plain("/healthz", **options))


# Health

WELL = HttpResponse(
    200,
    {
        "content-type": "text/plain; charset=utf-8",
        "cache-control": "no-store",
        "connection": "close",
        "content-length": "3",
    },
    "ok\n",
)


@pytest.mark.trio
async def test_a_server_that_serves_says_that_it_is_healthy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with no_leaks(within=5.0), served() as server:
        assert await health(server.port) == WELL
        assert await ask(server.port, plain("/healthz?from=balancer")) == WELL
        head = await health(server.port, method="HEAD")
        assert (head.status, head.headers, head.body) == (200, WELL.headers, "")
        connections = server.statistics().connections
        assert (connections.probes, connections.refused, connections.total) == (3, {}, 0)
    assert caplog.messages == []


@pytest.mark.trio
@pytest.mark.parametrize("headers", [{}, {"Host": "127.0.0.1"}], ids=["HAProxy", "nginx"])
async def test_it_answers_http_1_0_which_proxies_speak(headers: dict[str, str]) -> None:
    async with served(metrics=True) as server:
        assert await ask(server.port, response("GET /healthz HTTP/1.0", {"Connection": "close", **headers})) == WELL
        head = await ask(server.port, response("HEAD /healthz HTTP/1.0", headers))
        assert (head.status, head.headers, head.body) == (200, WELL.headers, "")
        metrics = await ask(server.port, response("GET /metrics HTTP/1.0", {"Host": "127.0.0.1"}))
        assert metrics.status == 200


@pytest.mark.trio
async def test_it_answers_a_request_for_its_whole_url() -> None:
    async with served() as server:
        assert await ask(server.port, plain("http://127.0.0.1/healthz")) == WELL


@pytest.mark.trio
async def test_probes_are_logged_for_who_wants_to_know_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rayforce_trio.server")
    async with served() as server:
        await health(server.port)
    [message] = caplog.messages
    assert re.fullmatch(r"connection 1 \(127\.0\.0\.1:\d+\): /healthz: 200", message)


@pytest.mark.trio
async def test_it_says_so_to_whoever_asks() -> None:
    engine = GateEngine()
    async with served(authenticate=auth.token(TOKEN), allowed_hosts=["prices.example"], engine=engine) as server:
        for headers in ({}, {"Host": "192.0.2.7"}, {"Origin": "http://foreign.example"}, {"Authorization": "Basic x"}):
            assert await ask(server.port, plain("/healthz", headers)) == WELL
        assert engine.sessions == 0


@pytest.mark.parametrize("options", ["", "allow_unauthenticated=True, "])
def test_other_machines_are_told_of_health_and_shown_no_metrics(options: str) -> None:
    with two_hosts() as hosts:
        if hosts is None:
            pytest.skip("this needs network namespaces")
        here, there = hosts
        program = (
            "import trio; from rayforce_trio import WSServer\n"
            "async def main():\n"
            f"    async with WSServer(0, {options}metrics=True) as server:\n"
            "        print(server.port, flush=True); await trio.sleep_forever()\n"
            "trio.run(main)"
        )
        child = subprocess.Popen(here.command(sys.executable, "-c", program), stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            url = f"http://{here.address}:{int(child.stdout.readline())}"
            asking = (
                "import sys, urllib.request, urllib.error\n"
                "try: print(urllib.request.urlopen(sys.argv[1], timeout=10).read())\n"
                "except urllib.error.HTTPError as error: print(error.code)"
            )
            for path, said in (("/healthz", "b'ok\\n'"), ("/metrics", "403")):
                command = there.command(sys.executable, "-c", asking, url + path)
                done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
                assert done.stdout == f"{said}\n"
        finally:
            child.kill()
            child.communicate()


@pytest.mark.trio
async def test_it_says_so_over_tls() -> None:
    async with served(ssl_context=server_context(local_certificates()), authenticate=auth.token(TOKEN)) as server:

        def get() -> bytes:
            url, context = f"https://localhost:{server.port}/healthz", client_context(local_certificates())
            with urllib.request.urlopen(url, timeout=10, context=context) as answer:
                return bytes(answer.read())

        assert await trio.to_thread.run_sync(get) == b"ok\n"
        plainly = await health(server.port)
        assert plainly.status == 400
        assert "TLS" in plainly.body


@pytest.mark.trio
async def test_a_request_with_a_body_or_another_behind_it_is_answered_once() -> None:
    async with served() as server:
        assert await ask(server.port, plain("/healthz", {"Content-Length": "4"}) + b"body") == WELL
        assert await ask(server.port, 2 * plain("/healthz")) == WELL


@pytest.mark.trio
@pytest.mark.parametrize(
    "request_",
    [
        plain("/healthz", method="POST"),
        plain("/healthz", method="get"),
        plain("/healthz", method="OPTIONS"),
        plain("http://foreign.example/healthz"),
        response("GET /healthz HTTP/1.1", {}),
        plain("/healthz", {"Host": "a\r\nHost: b"}),
        plain("/healthz", {"Authorization": "a\r\nAuthorization: b"}),
        plain("/healthz", {"Bad header": "x"}),
        plain("/healthz", {"Upgrade": "h2c", "Connection": "Upgrade"}),
    ],
)
async def test_everything_else_is_refused_as_ever(request_: bytes) -> None:
    async with served() as server:
        assert (await ask(server.port, request_)).status in (400, 426)
        while not server.statistics().connections.refused:
            await trio.lowlevel.checkpoint()
        assert await health(server.port) == WELL
        assert server.statistics().connections.probes == 1


@pytest.mark.trio
@pytest.mark.parametrize("path", ["/", "/health", "/healthz/", "/index.html?healthz"])
async def test_who_wants_no_websocket_is_told_what_this_is(path: str) -> None:
    async with served() as server:
        answer = await ask(server.port, plain(path))
        assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
        assert answer.body == (
            "This is a Rayforce server over WebSocket, and this request does not ask for a WebSocket. A proxy in "
            "between has to pass on the headers Upgrade and Connection.\n"
        )


@pytest.mark.trio
async def test_metrics_that_nobody_turned_on_are_said_to_be_off() -> None:
    async with served() as server:
        answer = await ask(server.port, plain("/metrics"))
        assert answer.status == 404
        assert answer.body == "This server has no metrics page. To enable it, start the server with metrics.\n"


@pytest.mark.trio
async def test_what_makes_no_sense_is_answered_once() -> None:
    async with served() as server:
        for line in ("POST / HTTP/1.1", "GET / HTTP/1.0", "garbage"):
            with connect_raw(server.port) as peer:
                await peer.send(upgrade(start=line))
                assert (await peer.receive_head() + await peer.receive_rest()).count(b"HTTP/1.1 ") == 1


@pytest.mark.trio
async def test_a_client_may_use_the_path_for_its_connection() -> None:
    async with served() as server, WSClient(LOCAL, server.port, path="/healthz").connect() as connection:
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_a_flood_of_requests_does_not_keep_it_waiting() -> None:
    async with served() as server, trio.open_nursery() as nursery:

        async def keep_asking(connection: WSClientConnection) -> None:
            while True:
                await connection.execute("(+ 1 2)")

        for _ in range(4):
            connection = await WSClient(LOCAL, server.port).connect(nursery)
            for _ in range(100):
                nursery.start_soon(keep_asking, connection)
        for _ in range(10):
            assert await health(server.port) == WELL
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_peers_that_do_not_ask_do_not_keep_a_probe_waiting() -> None:
    async with served(max_unauthenticated=2) as server, AsyncExitStack() as peers:
        for _ in range(40):
            await peers.enter_context(connect_raw(server.port)).send(plain("/healthz")[:-2])
        assert await health(server.port) == WELL


@pytest.mark.trio
async def test_a_server_that_is_full_is_healthy() -> None:
    async with served(max_connections=1) as server, WSClient(LOCAL, server.port).connect():
        assert await health(server.port) == WELL


@pytest.mark.trio
async def test_openings_that_wait_for_the_server_are_a_reason_to_send_clients_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = trio.Event()

    async def authenticate(request: auth.Request) -> None:
        await release.wait()

    monkeypatch.setattr("rayforce_trio._server._openings.QUEUE_TIMEOUT", 0.1)
    async with served(max_unauthenticated=2, authenticate=authenticate) as server:
        with connect_raw(server.port) as peer:
            await peer.send(upgrade())
            await wait_all_tasks_blocked()
            answer = await health(server.port)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            release.set()
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 401 ")
        assert await health(server.port) == WELL


@pytest.mark.trio
async def test_a_server_whose_engines_are_all_down_is_not_well() -> None:
    class Down(InProcessEngine):
        is_down = True

    async with served(engine=Down()) as server:
        answer = await health(server.port)
        assert (answer.status, answer.body) == (503, "unavailable\n")
        assert server.statistics().connections.probes == 1
    async with served(engine=Down(), engines={"up": InProcessEngine()}, authenticate=auth.token(TOKEN)) as server:
        assert await health(server.port) == WELL


@pytest.mark.trio
async def test_an_engine_process_that_died_is_known_to_be_down_until_it_is_back() -> None:
    engine = NativeProcess()
    assert engine.is_down
    async with served(engine=engine) as server:
        assert await health(server.port) == WELL
        pid = pid_of(engine)
        await trio.run_process(["kill", "-9", str(pid)])
        await ended(pid)
        while not engine.is_down:
            await trio.lowlevel.checkpoint()
        assert (await health(server.port)).status == 503
        while engine.is_down:
            await trio.lowlevel.checkpoint()
        assert await health(server.port) == WELL


@pytest.mark.trio
async def test_replicas_are_down_once_none_of_them_could_be_reached(native_port: int) -> None:
    nobody = connect_raw(native_port).socket  # a port that is taken, where nobody listens
    with nobody:
        gone = NativeEngine(LOCAL, nobody.getsockname()[1])
        for engines, status in (([gone, gone], 503), ([gone, NativeEngine(LOCAL, native_port)], 200)):
            async with served(engine=RoundRobinEngine(engines)) as server:
                assert await health(server.port) == WELL  # nothing is known yet
                rejected = await try_to_connect("trio", server.port)
                assert (200 if rejected is None else rejected.status) == status
                assert (await health(server.port)).status == status


@pytest.mark.trio
async def test_a_server_that_stops_is_not_well() -> None:
    async with served() as server:
        with await open_raw(server.port) as peer:
            assert server._is_healthy()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.stop)
                assert await peer.receive_close() == 1001
                assert not server._is_healthy()
                await peer.send_close(1001)
    assert not server._is_healthy()


# Metrics

NUMBERS = Statistics(
    since=1_700_000_000.5,
    connections=Connections(open=2, opening=1, total=7, refused={401: 3, 503: 1}, failed=4, probes=5),
    requests=Requests(total=12, in_flight=1, cancelled=2, abandoned=1, errors={"type": 2, 'a"\n\\': 1}),
    posts=Posts(total=6, failed=1),
    queued=3,
    latencies=Histogram((0.1, 0.25, 1.0), (4, 0, 5, 1), 6.5),
    bytes_in=1000,
    bytes_out=2000,
    streams=Streams(total=8, batches=90),
    topics={"trades": Topic(subscribers=3, updates=30, lost=4), "other": Topic(0, 1, 0)},
)

SAMPLES = {
    ("rayforce_start_time_seconds",): 1_700_000_000.5,
    ("rayforce_connections",): 2,
    ("rayforce_connections_opening",): 1,
    ("rayforce_connections_opened_total",): 7,
    ("rayforce_connections_refused_total", ("status", "401")): 3,
    ("rayforce_connections_refused_total", ("status", "503")): 1,
    ("rayforce_connections_failed_total",): 4,
    ("rayforce_probes_total",): 5,
    ("rayforce_requests_total",): 12,
    ("rayforce_requests_in_flight",): 1,
    ("rayforce_requests_cancelled_total",): 2,
    ("rayforce_requests_abandoned_total",): 1,
    ("rayforce_request_errors_total", ("code", "type")): 2,
    ("rayforce_request_errors_total", ("code", 'a"\n\\')): 1,
    ("rayforce_request_duration_seconds_bucket", ("le", "0.1")): 4,
    ("rayforce_request_duration_seconds_bucket", ("le", "0.25")): 4,
    ("rayforce_request_duration_seconds_bucket", ("le", "1.0")): 9,
    ("rayforce_request_duration_seconds_bucket", ("le", "+Inf")): 10,
    ("rayforce_request_duration_seconds_count",): 10,
    ("rayforce_request_duration_seconds_sum",): 6.5,
    ("rayforce_posts_total",): 6,
    ("rayforce_posts_failed_total",): 1,
    ("rayforce_queued",): 3,
    ("rayforce_received_bytes_total",): 1000,
    ("rayforce_sent_bytes_total",): 2000,
    ("rayforce_streams_total",): 8,
    ("rayforce_batches_total",): 90,
    ("rayforce_subscribers", ("topic", "trades")): 3,
    ("rayforce_subscribers", ("topic", "other")): 0,
    ("rayforce_updates_total", ("topic", "trades")): 30,
    ("rayforce_updates_total", ("topic", "other")): 1,
    ("rayforce_updates_lost_total", ("topic", "trades")): 4,
    ("rayforce_updates_lost_total", ("topic", "other")): 0,
}


class Fixed:
    def statistics(self) -> Statistics:
        return NUMBERS


def samples(families: Iterable[Metric]) -> dict[tuple[Any, ...], float]:
    return {(each.name, *each.labels.items()): each.value for family in families for each in family.samples}


def test_the_collector_tells_every_number() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(Fixed()))
    families = list(parse(generate_latest(registry).decode()))
    assert samples(families) == SAMPLES
    kinds = {family.name: family.type for family in families}
    assert kinds["rayforce_request_duration_seconds"] == "histogram"
    assert kinds["rayforce_connections"] == "gauge"
    assert all(family.documentation for family in families)


def test_a_registry_takes_one_server() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(Fixed()))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(Collector(Fixed()))


@pytest.mark.trio
async def test_metrics_are_served_in_the_format_that_is_asked_for() -> None:
    async with served(metrics=True) as server:
        async with WSClient(LOCAL, server.port).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
        answer = await ask(server.port, plain("/metrics"))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        found = samples(parse(answer.body))
        assert found[("rayforce_requests_total",)] == found[("rayforce_request_duration_seconds_count",)] == 1
        assert len([name for name, *_ in found if name.endswith("_bucket")]) == len(LATENCY_BOUNDS) + 1
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = await ask(server.port, plain("/metrics", accept))
        assert answer.headers["content-type"].startswith("application/openmetrics-text;")
        assert samples(parse_open_metrics(answer.body))[("rayforce_probes_total",)] == 1  # type: ignore[no-untyped-call]
        assert (await ask(server.port, plain("/metrics", method="HEAD"))).body == ""


@pytest.mark.trio
async def test_metrics_are_for_whom_the_server_knows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with served(metrics=True, authenticate=auth.token(TOKEN)) as server:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer guess"}, 401),
            (BEARER, 200),
            ({**BEARER, "Host": "foreign.example"}, 421),
            ({**BEARER, "Origin": "http://foreign.example"}, 403),
        ):
            assert (await ask(server.port, plain("/metrics", headers))).status == status
        assert server.statistics().connections.refused == {401: 2, 421: 1, 403: 1}
        assert server.statistics().connections.probes == 1
    assert [message.partition("): ")[2][:18] for message in caplog.messages] == [
        f"refused with {status}: " for status in (401, 401, 421, 403)
    ]


# The client for JavaScript


@pytest.mark.trio
@pytest.mark.parametrize("options", [{}, {"authenticate": auth.token(TOKEN)}])
async def test_the_client_for_javascript_is_served_to_pages_that_may_connect(options: dict[str, Any]) -> None:
    allowed = "https://prices.example"
    async with served(serve_javascript=True, allowed_origins=[allowed], **options) as server:
        for headers in {}, {"Origin": allowed}, {"Origin": f"http://127.0.0.1:{server.port}"}:
            answer = await ask(server.port, plain("/rayforce.js", headers))
            assert (answer.status, answer.body) == (200, CLIENT.read_text())
            assert answer.headers == {
                "content-type": "text/javascript; charset=utf-8",
                "cache-control": "public, max-age=3600",
                "access-control-allow-origin": "*",
                "x-content-type-options": "nosniff",
                "connection": "close",
                "content-length": str(len(answer.body)),
            }
        head = await ask(server.port, plain("/rayforce.js", method="HEAD"))
        assert (head.status, head.headers, head.body) == (200, answer.headers, "")
        assert (await ask(server.port, plain("/rayforce.js", {"Origin": "https://other.example"}))).status == 403
        assert (await ask(server.port, plain("/rayforce.js", {"Host": "other.example"}))).status == 421
        assert (await ask(server.port, plain("/rayforce.js/"))).status == 426


@pytest.mark.trio
async def test_a_server_does_not_serve_the_client_unless_that_is_asked_for() -> None:
    async with served() as server:
        answer = await ask(server.port, plain("/rayforce.js"))
        assert (answer.status, "start the server with serve_javascript" in answer.body) == (404, True)


@pytest.mark.parametrize("option", ["metrics", "log_queries", "serve_javascript", "console"])
def test_an_option_is_true_or_false(option: str) -> None:
    with pytest.raises(RayforceValueError, match=f"Invalid {option}: 'yes'. Must be True or False"):
        WSServer(0, **{option: "yes"})  # type: ignore[arg-type]


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
import rayforce_trio
try:
    rayforce_trio.WSServer(0, metrics=True)
except rayforce_trio.errors.RayforceWSError as error:
    print(error)
try:
    import rayforce_trio.prometheus
except ImportError as error:
    print(error)
rayforce_trio.WSServer(0).statistics()
"""


def test_without_the_library_the_error_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=True)
    needs = "needs the prometheus_client library; install it with: pip install 'rayforce-trio[prometheus]'"
    assert done.stdout.splitlines() == [f"metrics=True {needs}", f"rayforce_trio.prometheus {needs}"]
