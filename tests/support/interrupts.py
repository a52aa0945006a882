"""Press Ctrl-C at chosen points of a program, in a process of its own: `python -m support.interrupts PROGRAM PORT WHAT`

PROGRAM is one of `SCENARIOS`. PORT is that of a server, for the scenarios that are clients. WHAT is one of these:

- `unprotected`: print a JSON list of the functions in which trio raises KeyboardInterrupt at any instruction. Functions
  that the program itself calls without our package are left out.
- `sweep STRIDE`: send SIGINT at every STRIDE-th point at which Python can run a signal handler, each in a run of its
  own, and print as JSON the number of points, and what was wrong after a run.
"""

import asyncio
import dis
import faulthandler
import gc
import json
import logging
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import anyio
import trio

import rayforce_trio
from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSClientConnection, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType, dump_cancel
from rayforce_trio.auth import Request
from support.leaks import descriptors
from support.raw import HELLO, PING, TEXT, close_frame, frame, upgrade

_PACKAGE = str(Path(rayforce_trio.__file__).parent)
_TRIO = str(Path(trio.__file__).parent)
_NOT_EXAMINED = ("_core/_ki.py", "_core/_wakeup_socketpair.py")
"""Modules of trio that handle signals. Its wakeup socket cannot be written to while trio closes it."""

_HANGS_AFTER = 30.0  # seconds
_READ_TIMEOUT = 10.0  # seconds
_TOKEN = {"Authorization": "Bearer secret", "Sec-WebSocket-Protocol": "rayforce.v1"}
_QUERIES = [frame(encode(text, MessageType.SYNC)) for text in ("(+ 1 2)", "(til 100000)", "(sum (til 100000))")]
_POST = frame(encode("1", MessageType.ASYNC))


# Peers: blocking sockets in a thread, which neither trio nor a signal interrupts


def _ask(peer: socket.socket) -> None:
    _open(peer)
    for query in _QUERIES:
        peer.sendall(query * 3)
        peer.recv(65536)
    peer.sendall(frame(b"", PING) + _POST + frame(dump_cancel(1).encode(), TEXT))
    peer.sendall(close_frame(1000))
    while peer.recv(65536):
        pass


def _ask_in_part(peer: socket.socket) -> None:
    _open(peer)
    peer.sendall(_QUERIES[1] * 3 + frame(b"part", size=1_000_000))
    peer.recv(10)


def _ask_plainly(peer: socket.socket) -> None:
    peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    while peer.recv(65536):
        pass


def _send_nonsense(peer: socket.socket) -> None:
    peer.sendall(b"nonsense\r\n\r\n")
    while peer.recv(65536):
        pass


def _be_refused(peer: socket.socket) -> None:
    peer.sendall(upgrade())
    while peer.recv(65536):
        pass


def _open(peer: socket.socket) -> None:
    peer.sendall(upgrade(_TOKEN) + frame(HELLO))
    peer.recv(4096)


class _Peers:
    """A thread that plays one peer after the other. They hang up when the block ends, so the server need not wait."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._done = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._socket: socket.socket | None = None
        self._hung_up = False
        self.thread = threading.Thread(target=self._run)

    async def visit(self) -> None:
        """Run the thread to its end. If cancelled or interrupted, the peers hang up."""
        self.thread.start()
        try:
            await self._done.wait()
        finally:
            self._hung_up = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        for script in (_ask, _ask_in_part, _ask_plainly, _send_nonsense, _be_refused):
            if not self._hung_up:
                with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), _READ_TIMEOUT) as peer:
                    self._socket = peer
                    script(peer)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._done.set)


_threads: list[threading.Thread] = []


async def _be_visited(port: int) -> None:
    peers = _Peers(port)
    _threads.append(peers.thread)
    await peers.visit()


# Scenarios: programs of an operator, without `WSServer.run`


def authenticate(request: Request) -> str | None:
    return "someone" if request.token == "secret" else None


def _server(engine: InProcessEngine | NativeProcess) -> WSServer:
    return WSServer(port=0, host="127.0.0.1", engine=engine, authenticate=authenticate)


async def block(_: int) -> None:
    async with _server(InProcessEngine()) as server:
        await _be_visited(server.port)


async def nursery(_: int) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_server(InProcessEngine()).serve)
        await _be_visited(server.port)
        await server.stop()


async def child(_: int) -> None:
    async with _server(NativeProcess(read_only=True)) as server:
        await _be_visited(server.port)


async def client(port: int) -> None:
    async with WSClient("127.0.0.1", port).connect() as connection:
        await _use(connection)


async def client_in_nursery(port: int) -> None:
    async with trio.open_nursery() as nursery:
        connection = await WSClient("127.0.0.1", port).connect(nursery)
        await _use(connection)
        await connection.close()


async def client_on_asyncio(port: int) -> None:
    await client(port)


async def _use(connection: WSClientConnection) -> None:
    with anyio.move_on_after(0):
        await connection.execute("(+ 1 2)")
    await connection.execute("(+ 1 2)")
    await connection.create_table("interrupted", {"n": [1, 2, 3]}, replace=True)
    await connection.insert("interrupted", {"n": [4]})
    await connection.fetch("interrupted")
    await connection.post("1")


SCENARIOS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
    one.__name__: one for one in (block, nursery, child, client, client_in_nursery, client_on_asyncio)
}
ON_ASYNCIO = {"client_on_asyncio"}


def _run(scenario: str, port: int) -> None:
    if scenario in ON_ASYNCIO:
        asyncio.run(SCENARIOS[scenario](port))
    else:
        trio.run(SCENARIOS[scenario], port)


# Tracing

_CALLS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW"}


class Unprotected:
    """Collects the names of functions in which trio raises KeyboardInterrupt at any instruction.

    Where functions call each other, only the outermost one is collected that belongs to the package, or else the
    function that the task begins with.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()

    def trace(self, frame: FrameType, _event: str, _arg: object) -> None:
        if trio.lowlevel.currently_ki_protected():
            return
        frames = list(_frames_of_task(frame))
        ours = [one for one in frames if one.startswith(_PACKAGE)]
        if ours or not any(one.startswith(__file__) for one in frames):
            self.found.add((ours or frames)[-1].rpartition(":")[2])


def _frames_of_task(frame: FrameType | None) -> Iterator[str]:
    """Return the file and the name of each function that the current task is in, the innermost first.

    Ends at a function without protection that calls one of the application.
    """
    while frame is not None and frame.f_code.co_name != "unrolled_run":
        yield f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"
        if frame.f_code.co_name in ("call_unprotected", "call_async_unprotected"):
            break
        frame = frame.f_back


class Interrupter:
    """Sends SIGINT at the n-th point of a run at which Python can run a signal handler, in the package or in trio.

    These points are the beginning of a function, a jump backward, and the instruction after a call. Each place in the
    code counts once.

    Args:
        at: n.

    Attributes:
        place: where the signal was sent; `None` if the run ended before.
    """

    def __init__(self, at: int) -> None:
        self.place: str | None = None
        self._at = at
        self._seen: set[tuple[CodeType, int]] = set()

    def trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if self.place is not None or not _is_examined(frame.f_code):
            return None
        if event == "call":
            self._count(frame)
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode" and frame.f_lasti in _points(frame.f_code):
            self._count(frame)
        return self.trace

    def _count(self, frame: FrameType) -> None:
        place = (frame.f_code, frame.f_lasti)
        if place not in self._seen and (trio.lowlevel.currently_ki_protected() or _is_ours(frame)):
            self._seen.add(place)
            if len(self._seen) == self._at:
                self.place = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)


def _is_ours(frame: FrameType) -> bool:
    """Return whether a function of the package runs, rather than one of trio that the program itself has called."""
    return any(one.startswith(_PACKAGE) for one in _frames_of_task(frame))


@cache
def _is_examined(code: CodeType) -> bool:
    return code.co_filename.startswith((_PACKAGE, _TRIO)) and not code.co_filename.endswith(_NOT_EXAMINED)


@cache
def _points(code: CodeType) -> set[int]:
    """Return the offsets of instructions that follow a call or are a jump backward."""
    found, after_call = set(), False
    for instruction in dis.get_instructions(code):
        if after_call or instruction.opname.startswith("JUMP_BACKWARD"):
            found.add(instruction.offset)
        after_call = instruction.opname in _CALLS
    return found


# Runs


class Watch:
    """Collects warnings, exceptions that Python cannot raise, errors of the log, and descriptors that a run leaves."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def __enter__(self) -> "Watch":
        self._before = descriptors()
        self._warned = warnings.catch_warnings(record=True)
        self._warnings = self._warned.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.collect()
        self._warned.__exit__(exc_type, exc, traceback)
        assert self._warnings is not None
        self.complaints += [str(warning.message) for warning in self._warnings]
        self.complaints += [f"left behind: {left}" for left in sorted(descriptors() - self._before)]


def interrupted_run(scenario: str, port: int, at: int) -> tuple[str | None, list[str]]:
    """Run a scenario that is interrupted at the n-th point; returns where, and what was wrong."""
    interrupter = Interrupter(at)
    faulthandler.dump_traceback_later(_HANGS_AFTER, exit=True)
    with Watch() as watch:
        sys.unraisablehook = lambda error: watch.complaints.append(f"{error.err_msg}: {error.exc_value!r}")
        outcome: BaseException | None = None
        sys.settrace(interrupter.trace)
        try:
            _run(scenario, port)
        except BaseException as error:  # noqa: BLE001 - examined below
            outcome = error
        finally:
            sys.settrace(None)
        while _threads:
            if (thread := _threads.pop()).ident is not None:
                thread.join()
        while isinstance(outcome, BaseExceptionGroup) and len(outcome.exceptions) == 1:
            outcome = outcome.exceptions[0]  # of the scenario's own nursery
        if interrupter.place is not None and not isinstance(outcome, KeyboardInterrupt):
            watch.complaints.append(f"raised {outcome!r}")
        del outcome
    faulthandler.cancel_dump_traceback_later()
    return interrupter.place, watch.complaints


def main() -> None:
    scenario, port, command, *options = sys.argv[1:]
    logging.disable()
    if command == "unprotected":
        unprotected = Unprotected()
        sys.settrace(unprotected.trace)
        _run(scenario, int(port))
        sys.settrace(None)
        print(json.dumps(sorted(unprotected.found)))
        return
    (stride,) = map(int, options)
    at = 1
    complaints: list[str] = []
    _run(scenario, int(port))  # imports what is imported late, and opens what stays open
    while True:
        place, found = interrupted_run(scenario, int(port), at)
        complaints += [f"point {at}, {place}: {complaint}" for complaint in found]
        if place is None:
            break
        at += stride
    print(json.dumps({"points": at, "complaints": complaints}))


if __name__ == "__main__":
    main()
