"""A relay between our client, which always requests `/`, and the suite, which chooses the case by the path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream
from support.proxy import Lane, between


class Relay:
    """Passes on every byte, except for the path and the port in the header Host.

    Attributes:
        port: the port to connect to.
        path: the path that is requested in place of `/`.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.path = "/"

    async def handle(self, client: SocketStream, target: int) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", target) as server:
            head = await client.receive()
            assert head.startswith(b"GET / ")
            head = head.replace(b"/", self.path.encode(), 1).replace(_authority(self.port), _authority(target), 1)
            await server.send(head)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Lane().pump, client, server)
                tasks.start_soon(Lane().pump, server, client)


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """Run a relay to a port of this machine."""
    async with between(Relay, target) as made:
        yield made


def _authority(port: int) -> bytes:
    return b"127.0.0.1:%d" % port
