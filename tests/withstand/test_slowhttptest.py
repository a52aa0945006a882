"""slowhttptest against the server alone and behind nginx, while honest clients measure.

Needs the programs `slowhttptest` and `nginx`. The attackers have the same address as the honest clients.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from support.foreign.with_proxies import documented, nginx

from . import _servers
from .harness import ServerProcess, assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

_CONNECTIONS = 200
_SECONDS = "60"  # longer than a measurement: the attack ends with its process

ATTACKS = {
    "slow headers": ("-H", "-i", "1", "-x", "24"),
    "slow body": ("-B", "-i", "1", "-s", "8192", "-x", "24"),
    "slow read": ("-X", "-w", "1", "-y", "64", "-n", "1", "-z", "8", "-k", "3"),
    "ranges": ("-R", "-a", "1", "-b", "3000"),
}


async def run_slowhttptest(port: int, options: list[str], *, task_status: trio.TaskStatus[None]) -> None:
    """Attack with slowhttptest until cancelled."""
    url = f"http://127.0.0.1:{port}/healthz"
    rate = str(_CONNECTIONS)  # all connections at once
    command = ["slowhttptest", "-c", rate, "-r", rate, "-l", _SECONDS, "-u", url, "-v", "0", *options]
    task_status.started()
    while True:  # the server ends some of the attacks early
        await trio.run_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        await trio.sleep(1)


@contextmanager
def behind_nginx(server: ServerProcess, directory: Path) -> Iterator[int]:
    """Run nginx, configured as the page about proxies says but without TLS; yields its port."""
    lines = documented("proxy_pass").replace("127.0.0.1:8765", f"127.0.0.1:{server.port}").splitlines()
    config = "\n".join(line for line in lines if "ssl_" not in line).replace(" 443 ssl;", " PORT;")
    with nginx(config, directory) as port:
        yield port


@pytest.mark.parametrize("attack", ATTACKS)
def test_slowhttptest_against_the_server(attack: str) -> None:
    with served(_servers.in_process) as server:
        kinds = ("requests", "pings", "connects")
        undisturbed = server.measure(*kinds)
        with attacked(run_slowhttptest, server, options=ATTACKS[attack]):
            disturbed = server.measure(*kinds)
    connects = {"connects": disturbed.pop("connects")}
    assert_added_delay(undisturbed, disturbed, 0.010)
    assert_added_delay(undisturbed, connects, 1.5)  # slow openings are evicted after half a second, some at a time


@pytest.mark.parametrize("attack", ATTACKS)
def test_slowhttptest_against_a_server_behind_nginx(attack: str, tmp_path: Path) -> None:
    with (
        served(
            _servers.in_process,
            trusted_proxies=["127.0.0.1"],
            proxy_header="X-Forwarded-For",
            allow_unauthenticated=True,  # clients behind a proxy never count as this machine
        ) as server,
        behind_nginx(server, tmp_path) as port,
    ):
        undisturbed = server.measure(port=port)
        with attacked(run_slowhttptest, server, port=port, options=ATTACKS[attack]):
            disturbed = server.measure(port=port)
    assert_added_delay(undisturbed, disturbed, 0.010)
