"""One end of a WebSocket connection in the hands of another implementation, and how tests get one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from support.raw import SUBPROTOCOL


class Refused(Exception):
    """The connection was not opened.

    Attributes:
        status: the HTTP status that the implementation tells of; `None`: it tells of none.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class Closed(Exception):
    """The connection is closed; `code` and `reason` are those that the implementation saw the peer send."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class ForeignConnection(ABC):
    """What every implementation can do, browsers among them.

    Attributes:
        subprotocol: the one agreed on, or `None`.
        extensions: those agreed on, as they stand in the header; `""`: none.
    """

    subprotocol: str | None
    extensions: str

    @abstractmethod
    async def send(self, message: bytes | str) -> None:
        """Send a message, in one frame."""

    @abstractmethod
    async def receive(self) -> bytes | str:
        """Return the next message. Raises `Closed`."""

    @abstractmethod
    async def close(self, code: int, reason: str = "") -> None:
        """Begin to close, or close."""

    async def receive_close(self) -> tuple[int, str]:
        """Return code and reason that the peer closed with, whatever messages come before."""
        while True:
            try:
                await self.receive()
            except Closed as closed:
                return closed.code, closed.reason

    async def receive_bytes(self) -> bytes:
        message = await self.receive()
        assert isinstance(message, bytes)
        return message

    async def receive_text(self) -> str:
        message = await self.receive()
        assert isinstance(message, str)
        return message


class FrameConnection(ForeignConnection):
    """What implementations can do that are no browsers."""

    @abstractmethod
    async def send_part(self, part: bytes, *, last: bool) -> None:
        """Send a binary message fragment by fragment. The implementation may end it with an empty one of its own."""

    @abstractmethod
    async def ping(self, payload: bytes) -> None:
        """Send a ping; returns when its pong has come."""

    @abstractmethod
    async def send_raw(self, data: bytes) -> None:
        """Send bytes beside the implementation, which knows nothing of them."""

    async def send_parts(self, parts: Sequence[bytes]) -> None:
        for part in parts[:-1]:
            await self.send_part(part, last=False)
        await self.send_part(parts[-1], last=True)


class Dial(Protocol):
    """Connect to a port of this machine. Raises `Refused`."""

    def __call__(
        self, port: int, *, subprotocol: str | None = SUBPROTOCOL
    ) -> AbstractAsyncContextManager[ForeignConnection]: ...


class FrameDial(Protocol):
    """Connect to a port of this machine, offering compression. Raises `Refused`.

    Args:
        origin: the header of that name; `None`: none.
        max_size: the longest message accepted, in bytes; `None`: any.
    """

    def __call__(
        self,
        port: int,
        *,
        subprotocol: str | None = SUBPROTOCOL,
        origin: str | None = None,
        max_size: int | None = None,
    ) -> AbstractAsyncContextManager[FrameConnection]: ...


class ForeignServer(ABC):
    """Attributes: `port`, a port of this machine."""

    port: int

    @abstractmethod
    async def accept(self) -> FrameConnection:
        """Return the connection of a client that has come, or comes."""


class Listen(Protocol):
    """Listen on a port of this machine, agreeing to compression and to a subprotocol, if one is given.

    Args:
        max_size: the longest message accepted, in bytes; `None`: any.
    """

    def __call__(
        self, *, subprotocol: str | None = SUBPROTOCOL, max_size: int | None = None
    ) -> AbstractAsyncContextManager[ForeignServer]: ...
