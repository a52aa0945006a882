"""A client as it is often written: send, then receive. It is here to fail the cancellation sweep."""

from typing import Any

from rayforce_trio._addresses import Endpoint
from rayforce_trio._codec import decode, encode
from rayforce_trio._protocol import HELLO, MessageType, Result
from rayforce_trio._transports import KeepAlive, Transport, connect


class NaiveConnection:
    """A connection whose `execute` takes the next reply, even if it belongs to another call."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def execute(self, query: Any) -> Any:
        await self._transport.send(encode(query, MessageType.SYNC))
        reply = await self._transport.receive()
        assert isinstance(reply, bytes)
        return decode(Result(reply))

    async def close(self) -> None:
        await self._transport.aclose()


async def connect_naively(port: int) -> NaiveConnection:
    """Open a connection to a server on this machine."""
    transport = await connect(
        Endpoint("127.0.0.1", port), subprotocols=[], max_message_size=2**30, keepalive=KeepAlive(None, None)
    )
    await transport.send(HELLO)
    await transport.receive()
    return NaiveConnection(transport)
