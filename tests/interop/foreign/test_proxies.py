"""nginx and HAProxy in front of a server, configured as the page about proxies says, and as they were installed."""

import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support.certificates import SERVER, client_context, local_certificates, server_context
from support.foreign.with_proxies import documented, haproxy, installed_defaults, nginx
from support.opening import LOCAL, HttpResponse, parse_answer
from support.raw import HELLO, HELLO_REPLY, RawPeer, response, upgrade

from rayforce_trio import WSClient, WSServer, auth
from rayforce_trio.auth import Request

CLIENT, OTHER_CLIENT = "127.0.0.5", "127.0.0.6"
HOST = "prices.example"

Running = Callable[[str, Path], AbstractContextManager[int]]

NGINX = documented("proxy_pass")
NGINX_FORWARDED = documented("map $remote_addr $forwarded") + NGINX.replace(
    "X-Forwarded-For $remote_addr", "Forwarded $forwarded"
)
HAPROXY = documented("option forwardfor")
HAPROXY_TCP = documented("send-proxy-v2")

HTTP = [
    pytest.param(nginx, NGINX, "X-Forwarded-For", id="nginx"),
    pytest.param(nginx, NGINX_FORWARDED, "Forwarded", id="nginx-Forwarded"),
    pytest.param(
        nginx, NGINX.replace("$remote_addr", "$proxy_add_x_forwarded_for"), "X-Forwarded-For", id="nginx-adding"
    ),
    pytest.param(haproxy, HAPROXY, "X-Forwarded-For", id="HAProxy"),
]


def configured(config: str, server: WSServer, *, tls: bool = False) -> str:
    """Return a documented configuration for a server of a test; without TLS unless that is asked for."""
    certificate = str(local_certificates() / SERVER)
    for documented_text, text in (
        ("127.0.0.1:8765", f"127.0.0.1:{server.port}"),
        ("/etc/ssl/prices.pem", certificate),
        (" 443 ssl;", " PORT ssl;" if tls else " PORT;"),
        (" :443 ssl crt /etc/haproxy/prices.pem", f" PORT ssl crt {certificate}" if tls else " PORT"),
        (" :443", " PORT"),
    ):
        config = config.replace(documented_text, text)
    return config


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(60):
        async with WSServer(0, host=LOCAL, **options) as server:
            yield server


def connect_from(source: str, port: int) -> RawPeer:
    """Connect from one of this machine's addresses."""
    sock = socket.socket()
    sock.bind((source, 0))
    sock.connect((LOCAL, port))
    return RawPeer(sock, is_client=True)


async def ask(
    port: int,
    path: str = "/",
    headers: Mapping[str, str | None] | None = None,
    *,
    source: str = CLIENT,
    websocket: bool = True,
) -> HttpResponse:
    """Return the answer to a request through a proxy."""
    start, all_headers = f"GET {path} HTTP/1.1", {"Host": HOST, **(headers or {})}
    with trio.fail_after(20), connect_from(source, port) as peer:
        await peer.send(upgrade(all_headers, start=start) if websocket else response(start, all_headers))
        answer = parse_answer(await peer.receive_head())
        body = await peer._take(int(answer.headers.get("content-length", "0")))
        return HttpResponse(answer.status, answer.headers, body.decode())


async def evaluates(connection: RawPeer) -> bool:
    """Greet, and return whether the server greets, too."""
    await connection.send_frame(HELLO)
    return (await connection.receive_frame())[1] == HELLO_REPLY


def recording(seen: list[str]) -> Callable[[Request], str]:
    def authenticate(request: Request) -> str:
        seen.append(request.peer)
        return "ann"

    return authenticate


# As documented


@pytest.mark.trio
@pytest.mark.parametrize(("run", "config", "header"), HTTP)
async def test_clients_are_served_and_known_by_their_addresses_and_spoof_nothing(
    run: Running, config: str, header: str, tmp_path: Path
) -> None:
    seen: list[str] = []
    options = {"trusted_proxies": [LOCAL], "proxy_header": header, "allowed_hosts": [HOST]}
    async with served(authenticate=recording(seen), **options) as server:
        with run(configured(config, server), tmp_path) as port:
            for source in CLIENT, OTHER_CLIENT:
                with connect_from(source, port) as peer:
                    await peer.send(upgrade({"Host": HOST, "Sec-WebSocket-Protocol": "rayforce.v1"}))
                    assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
                    assert await evaluates(peer)
            for claim in ("127.0.0.1", "192.0.2.7", "for=127.0.0.1", 'for="', "nonsense", "192.0.2.7, 127.0.0.1"):
                for name in "X-Forwarded-For", "Forwarded":
                    assert (await ask(port, headers={name: claim})).status == 101
            health = await ask(port, "/healthz", websocket=False)
            assert (health.status, health.body) == (200, "ok\n")
    assert seen[:2] == [CLIENT, OTHER_CLIENT]
    assert set(seen[2:]) == {CLIENT}


@pytest.mark.trio
@pytest.mark.parametrize(("run", "config", "header"), HTTP)
async def test_the_client_of_the_package_queries_through_tls_of_the_proxy(
    run: Running, config: str, header: str, tmp_path: Path
) -> None:
    options = {"trusted_proxies": [LOCAL], "proxy_header": header, "allowed_hosts": [HOST, "localhost"]}
    async with served(allow_unauthenticated=True, **options) as server:
        with run(configured(config, server, tls=True), tmp_path) as port:
            async with WSClient("localhost", port, ssl=client_context(local_certificates())).connect() as connection:
                assert await connection.execute("(+ 1 2)") == 3
                assert len(await connection.execute("(til 3000000)")) == 3_000_000


@pytest.mark.trio
@pytest.mark.parametrize(("run", "config", "header"), HTTP)
async def test_no_client_of_a_proxy_is_on_this_machine(run: Running, config: str, header: str, tmp_path: Path) -> None:
    for options in ({"trusted_proxies": [LOCAL]}, {"trusted_proxies": [LOCAL], "proxy_header": header}):
        async with served(metrics=True, **options) as server:
            with run(configured(config, server), tmp_path) as port:
                for source in CLIENT, LOCAL:
                    for claim in {}, {header: "127.0.0.1" if header != "Forwarded" else "for=127.0.0.1"}:
                        answer = await ask(port, headers={"Host": "localhost", **claim}, source=source)
                        assert (answer.status, "protected mode" in answer.body) == (403, True)
                        for path, status in (("/metrics", 403), ("/healthz?deep", 403), ("/healthz", 200)):
                            assert (await ask(port, path, claim, source=source, websocket=False)).status == status


@pytest.mark.trio
@pytest.mark.parametrize(("run", "config", "header"), HTTP)
async def test_limits_and_failures_count_for_the_client(run: Running, config: str, header: str, tmp_path: Path) -> None:
    options = {"trusted_proxies": [LOCAL], "proxy_header": header, "allowed_hosts": [HOST]}
    wrong = {"Authorization": "Basic Ondyb25n"}
    async with served(authenticate=auth.password("s3cret"), **options) as server:
        with run(configured(config, server), tmp_path) as port:
            statuses = []
            while 429 not in statuses:
                statuses.append((await ask(port, headers=wrong)).status)
            assert (await ask(port, headers=wrong, source=OTHER_CLIENT)).status == 401


@pytest.mark.trio
@pytest.mark.parametrize("tls", [False, True])
async def test_haproxy_passes_on_connections_with_the_proxy_protocol(tls: bool, tmp_path: Path) -> None:
    seen: list[str] = []
    options: dict[str, Any] = {"trusted_proxies": [LOCAL], "proxy_protocol": True, "allowed_hosts": [HOST, "localhost"]}
    config = HAPROXY_TCP
    if tls:
        options["ssl_context"] = server_context(local_certificates())
        config = config.replace(" check ", " check check-ssl verify none ")
    async with served(authenticate=recording(seen), **options) as server:
        with haproxy(configured(config, server), tmp_path) as port:
            context = client_context(local_certificates()) if tls else False
            async with WSClient("localhost", port, ssl=context).connect() as connection:
                assert await connection.execute("(+ 1 2)") == 3
            if not tls:
                assert (await ask(port)).status == 101
            while not server.statistics().connections.probes:
                await trio.lowlevel.checkpoint()
    assert seen == ([LOCAL] if tls else [LOCAL, CLIENT])


@pytest.mark.trio
async def test_version_1_of_the_proxy_protocol_is_refused_and_the_log_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    options = {"trusted_proxies": [LOCAL], "proxy_protocol": True}
    async with served(allow_unauthenticated=True, **options) as server:
        config = configured(HAPROXY_TCP, server).replace("send-proxy-v2", "send-proxy").replace("check", "no-check")
        with haproxy(config, tmp_path) as port:
            answer = await ask(port)
            assert (answer.status, "send-proxy-v2" in answer.body) == (400, True)
    assert "The proxy uses version 1 of the PROXY protocol. Configure version 2" in caplog.text


@pytest.mark.trio
async def test_a_server_that_drains_gets_no_more_clients(tmp_path: Path) -> None:
    seen: list[str] = []

    def server(name: str) -> WSServer:
        def authenticate(_: Request) -> str:
            seen.append(name)
            return "ann"

        return WSServer(0, host=LOCAL, authenticate=authenticate, drain_delay=1000)

    async def ask_once(port: int) -> str:
        assert (await ask(port, headers={"Host": LOCAL})).status == 101
        return seen[-1]

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(server("first").serve)
            second = await nursery.start(server("second").serve)
            config = configured(HAPROXY, first).replace("inter 1s fall 2", "inter 200 fall 1")
            config = config.replace("timeout server 30s", "timeout server 30s\n    timeout check 10s")
            config += re.sub(r"one 127.0.0.1:\d+", f"two 127.0.0.1:{second.port}", config.splitlines()[-1]) + "\n"
            with haproxy(config, tmp_path) as port:
                assert {await ask_once(port), await ask_once(port)} == {"first", "second"}
                nursery.start_soon(first.stop)
                while "first" in [await ask_once(port) for _ in range(10)]:
                    pass  # HAProxy has not noticed yet
            nursery.cancel_scope.cancel()


# As installed


@pytest.mark.trio
async def test_nginx_as_installed_makes_no_websockets_and_the_answer_says_what_to_do(tmp_path: Path) -> None:
    async with served() as server:
        config = f"server {{ listen PORT; location / {{ proxy_pass http://127.0.0.1:{server.port}; }} }}"
        with nginx(config, tmp_path) as port:
            answer = await ask(port)
            assert (answer.status, "pass on the headers Upgrade and Connection" in answer.body) == (426, True)
            health = await ask(port, "/healthz", websocket=False)
            assert (health.status, health.body) == (200, "ok\n")


@pytest.mark.trio
@pytest.mark.parametrize("host", ["localhost", HOST])
async def test_clients_of_haproxy_as_installed_are_not_on_this_machine_once_it_is_trusted(
    host: str, tmp_path: Path
) -> None:
    async with served(trusted_proxies=[LOCAL], metrics=True) as server:
        config = f"{installed_defaults()}\nlisten rayforce\n    bind PORT\n    server one 127.0.0.1:{server.port}\n"
        with haproxy(config, tmp_path) as port:
            answer = await ask(port, headers={"Host": host})
            assert (answer.status, "trusted_proxies" in answer.body) == (403, True)
            assert (await ask(port, "/metrics", {"Host": host}, websocket=False)).status == 403
            assert (await ask(port, "/healthz", {"Host": host}, websocket=False)).status == 200


@pytest.mark.trio
@pytest.mark.parametrize(("run", "config", "header"), HTTP)
async def test_a_proxy_that_tells_its_clients_is_recognized_even_if_nobody_has_named_it(
    run: Running, config: str, header: str, tmp_path: Path
) -> None:
    async with served(metrics=True) as server:
        with run(configured(config, server), tmp_path) as port:
            answer = await ask(port, headers={"Host": "localhost"})
            assert (answer.status, "name the proxy in trusted_proxies" in answer.body) == (403, True)
            assert (await ask(port, "/metrics", {"Host": "localhost"}, websocket=False)).status == 403
