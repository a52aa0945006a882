"""A server that is killed or stopped and started again, at the same port."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio.to_thread

from support.processes import ServerProcess


class Restarted:
    """A server in a process of its own that keeps its port when it is restarted. For its arguments, see
    `support.serve`.

    Attributes:
        port: its port.
    """

    def __init__(self, *whose: str) -> None:
        self._whose = whose
        self._server = ServerProcess(*whose)
        self.port = self._server.port

    async def kill(self) -> None:
        """End the process at once, and wait for that. A checkpoint; cancelling it changes nothing."""
        await anyio.to_thread.run_sync(self._server.kill)

    async def stop(self) -> None:
        """Have the server stop in good order, and wait for that. A checkpoint; cancelling it changes nothing."""
        await anyio.to_thread.run_sync(self._server.stop)

    async def start(self) -> None:
        """Start it at the same port, and wait until it listens. A checkpoint; cancelling it changes nothing."""
        self._server = await anyio.to_thread.run_sync(lambda: ServerProcess(*self._whose, str(self.port)))

    def end(self) -> None:
        self._server.kill()


@contextmanager
def restarted(*whose: str) -> Iterator[Restarted]:
    """Run a server as `Restarted`; it is killed in the end."""
    server = Restarted(*whose)
    try:
        yield server
    finally:
        server.end()
