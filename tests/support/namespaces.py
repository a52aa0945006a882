"""Two hosts on one: network namespaces joined by a pair of virtual interfaces. Linux, and root, only."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_numbers = itertools.count()
_LIMIT = 30  # seconds for each command; they take milliseconds


@dataclass(frozen=True)
class Host:
    """Attributes: `address`, where the other one reaches it, and the `namespace` it is."""

    address: str
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs a program there."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host] | None]:
    """Make two hosts, and remove them in the end; `None` where that is not possible."""
    number = next(_numbers)
    hosts = [Host(f"198.18.0.{i}", f"rayforce-{os.getpid()}-{number}-{i}") for i in (1, 2)]
    with ExitStack() as stack:
        yield (hosts[0], hosts[1]) if _join(hosts, stack) else None


def _join(hosts: list[Host], stack: ExitStack) -> bool:
    if shutil.which("ip") is None:
        return False
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
            stack.callback(_ip, "netns", "del", host.namespace)
        one, other = (host.namespace for host in hosts)
        _ip("link", "add", "veth0", "netns", one, "type", "veth", "peer", "name", "veth0", "netns", other)
        for host in hosts:
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/30", "dev", "veth0")
            for interface in ("lo", "veth0"):
                _ip("-n", host.namespace, "link", "set", interface, "up")
    except subprocess.CalledProcessError:  # no right to, or no such kind of interface
        return False
    return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=_LIMIT)
