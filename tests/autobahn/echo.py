"""The tested programs: a server and a client that send every message back, over nothing but the transport."""

from functools import partial

import trio

from rayforce_trio._addresses import Endpoint
from rayforce_trio._tasks import race
from rayforce_trio._transports import AcceptOptions, KeepAlive, OpeningRequest, Transport, accept, connect, end
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio.errors import HandshakeError, RayforceWSError

_LIMIT = 64 * 1024 * 1024  # bytes; the longest message of the suite has 16 MiB
_OPEN_TIMEOUT = 10.0
_QUIET = KeepAlive(interval=None)  # a ping that the suite does not expect fails a case
_OPTIONS = AcceptOptions(subprotocols=[], max_message_size=_LIMIT, keepalive=_QUIET)


async def echo(transport: Transport) -> None:
    """Send every message back until the connection ends, and end it as the package does. A checkpoint."""
    try:
        await race(partial(_send_back, transport), transport.run)
    except RayforceWSError as error:
        await end(transport, error)
    finally:
        transport.abort()


async def serve(*, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Echo to every client until cancelled; starts with the port. Raises every error but a failed handshake."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(_handle, [listener])


async def open_client(port: int) -> Transport:
    """Connect to this machine. A checkpoint.

    Raises:
        ConnectError: as for `connect`.
    """
    return _for_echo(
        await connect(Endpoint("127.0.0.1", port), subprotocols=[], max_message_size=_LIMIT, keepalive=_QUIET),
    )


async def _handle(stream: trio.SocketStream) -> None:
    try:
        with trio.fail_after(_OPEN_TIMEOUT):
            transport = await accept(stream, _OPTIONS, decide=_welcome)
        await echo(_for_echo(transport))
    except HandshakeError:
        pass  # the peer's fault; the server continues
    finally:
        stream.socket.close()


async def _welcome(request: OpeningRequest) -> None:
    assert request.peer.is_local


def _for_echo(transport: Transport) -> Transport:
    assert isinstance(transport, WebSocketTransport)
    transport._connection.reader.max_text_size = _LIMIT
    return transport


async def _send_back(transport: Transport) -> None:
    while True:
        await transport.send(await transport.receive())
