"""nginx in front of a server on a Unix socket, configured as the page about sockets says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.foreign.with_proxies import ROOT, nginx
from support.short_paths import short_directory

from rayforce_trio import WSClient, WSServer, errors
from rayforce_trio.auth import Request, UnixPeer

PAGE = ROOT / "docs" / "how-to" / "sockets.md"
LOCAL = "127.0.0.1"


def documented(path: Path) -> str:
    """Return the configuration on the page for a server at a path, without TLS."""
    [config] = re.findall(r"^```nginx\n(map .*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    config = re.sub(r" *ssl_certificate.*\n", "", str(config))
    return config.replace(" 443 ssl;", " PORT;").replace("/run/prices/prices.sock", str(path))


@pytest.fixture
def path() -> Iterator[Path]:
    """A path for a socket that the workers of nginx can reach if they run as another user."""
    with short_directory() as directory:
        directory.chmod(0o755)
        yield directory / "s"


@pytest.mark.trio
async def test_clients_are_known_by_their_addresses_and_not_by_the_process_of_nginx(path: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, UnixPeer | None]] = []

    def authenticate(request: Request) -> str:
        seen.append((request.peer, request.unix_peer))
        return "somebody"

    server = WSServer(
        host=f"unix:{path}",
        unix_mode=0o666,
        authenticate=authenticate,
        trusted_proxies=["unix:"],
        proxy_header="X-Forwarded-For",
    )
    with trio.fail_after(60):
        async with server:
            with nginx(documented(path), tmp_path) as port:
                async with WSClient(LOCAL, port).connect() as connection:
                    assert await connection.execute("(+ 1 2)") == 3
    assert seen == [(LOCAL, None)]


@pytest.mark.trio
async def test_without_authentication_its_clients_are_refused(path: Path, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with WSServer(host=f"unix:{path}", unix_mode=0o666):
            with (
                nginx(documented(path), tmp_path) as port,
                pytest.raises(errors.ConnectionRejected, match="came through a proxy"),
            ):
                await WSClient(LOCAL, port).connect()
