"""The server as an application of an ASGI server."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

from .._tasks import enable_ki_protection, in_trio
from .._transports import (
    AsgiRequest,
    HttpResponse,
    Receive,
    Refusal,
    Scope,
    Send,
    answer_http,
    opening_request,
)
from ..errors import HandshakeError, RayforceError, RayforceWSError
from ._handler import ConnectionHandler
from ._log import logger

_NOT_TRIO = (
    "WSServer needs trio, but this ASGI server runs the application on asyncio. Use Hypercorn's trio worker: "
    "hypercorn --worker-class trio module:app. With other ASGI servers, run WSServer in a process of its own, and "
    "query it with WSClient, which also runs on asyncio"
)


class AsgiApplication:
    """The application: it accepts ASGI 3, with the scopes `websocket`, `http` and `lifespan`.

    Args:
        server: starts and stops the server.
        handler: handles its connections.
        check_running: raises `RayforceWSError` unless the server runs here.
    """

    def __init__(
        self,
        server: AbstractAsyncContextManager[object],
        handler: ConnectionHandler,
        check_running: Callable[[], None],
    ) -> None:
        self._server = server
        self._handler = handler
        self._check_running = check_running

    @enable_ki_protection
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection or a request to its end, or run the server for a lifespan. ASGI servers call this.

        A checkpoint. If cancelled, a connection is closed as by `WSServer.handle`, and a lifespan has ended.

        Raises:
            RayforceWSError: the ASGI server does not run on trio, or the scope is of another kind.
        """
        kind = scope["type"]
        if kind == "lifespan":
            await (self._live(receive, send) if in_trio() else _fail(receive, send, _NOT_TRIO))
        elif not in_trio():
            raise RayforceWSError(_NOT_TRIO)
        elif kind == "websocket":
            await self._serve(AsgiRequest(scope, receive, send))
        elif kind == "http":
            await self._answer(scope, send)
        else:
            raise RayforceWSError(
                f"the server does not serve the ASGI scope {kind!r}, only websocket, http and lifespan"
            )

    async def _live(self, receive: Receive, send: Send) -> None:
        """Run the server until the host shuts down. A checkpoint; if cancelled, the server has ended.

        A server that the program has started is left alone.
        """
        async with AsyncExitStack() as running:
            if self._problem() is not None:
                try:
                    await running.enter_async_context(self._server)
                except RayforceError as error:
                    await _fail(receive, send, str(error))
                    return
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, request: AsgiRequest) -> None:
        """Serve a WebSocket connection. A checkpoint; if cancelled, as `ConnectionHandler.handle_hosted`."""
        problem = self._problem()
        if problem is None:
            await self._handler.handle_hosted(request)
            return
        with suppress(HandshakeError):  # the client is gone
            await request.refuse(problem)

    async def _answer(self, scope: Scope, send: Send) -> None:
        """Answer a plain HTTP request. A checkpoint if the endpoint or the host is one. If cancelled, it may be cut."""
        method = scope["method"]
        request, problem = opening_request(scope)
        answer: HttpResponse | Refusal | None = self._problem()
        if answer is None and method not in ("GET", "HEAD"):
            answer = Refusal(405, "The method must be GET or HEAD.", (("Allow", "GET, HEAD"),))
        if answer is None and problem is not None:
            answer = Refusal(400, f"The request is not valid: {problem}.")
        if answer is None:
            answer = await self._handler.answer(request)
        await answer_http(send, answer, with_body=method != "HEAD")

    def _problem(self) -> Refusal | None:
        """Return the refusal of all requests if the server does not run here."""
        try:
            self._check_running()
        except RayforceWSError as error:
            return Refusal(503, f"The database is not available: {error}.", (("Retry-After", "5"),))
        return None


async def _fail(receive: Receive, send: Send, reason: str) -> None:
    """Report that the server cannot start. A checkpoint; if cancelled, the host does not learn it."""
    logger.error("cannot start: %s", reason)
    await receive()
    await send({"type": "lifespan.startup.failed", "message": reason})
