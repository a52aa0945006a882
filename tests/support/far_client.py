"""Query a native server, directly and through our server: `python -m support.far_client HOST PORT QUERY...`

Prints a line of JSON for each query: see `Answers`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import trio
from trio_websocket import open_websocket

from rayforce_trio import NativeEngine, WSClient, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import HEADER_SIZE, MessageType, parse_header
from support.raw import HELLO, HELLO_REPLY
from support.recorded import payload_of

_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answers:
    """The answers to a query.

    Attributes:
        compressed: whether the native server's reply was.
        size: how many bytes it had.
        baseline: the digest of the frame that a baseline client got.
        extended: the digest of the payload that the value makes which a client of ours got.
    """

    compressed: bool
    size: int
    baseline: str
    extended: str


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def ask_from(prefix: Sequence[str], host: str, port: int, queries: Sequence[str]) -> list[Answers]:
    """Run this module as a process, with `prefix` before its command; returns what it prints."""
    finished = await trio.run_process(
        [*prefix, sys.executable, "-m", "support.far_client", host, str(port), *queries],
        capture_stdout=True,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
    )
    return [Answers(**json.loads(line)) for line in finished.stdout.splitlines()]


async def ask_everyone(host: str, port: int, queries: Sequence[str]) -> None:
    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeEngine(host, port)) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        for query in queries:
            reply = await _ask_natively(host, port, query)
            frame = await ask_as_baseline(server.port, encode(query, MessageType.SYNC))
            value = await connection.execute(query)
            answers = Answers(parse_header(reply).compressed, len(reply), digest(frame), digest(payload_of(value)))
            print(json.dumps(asdict(answers)), flush=True)


async def _ask_natively(host: str, port: int, query: str) -> bytes:
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(b"\x03\x00")
        received = bytearray()

        async def until(size: int) -> None:
            while len(received) < size:
                received.extend(await stream.receive_some())

        await until(2)
        del received[:2]
        await stream.send_all(encode(query, MessageType.SYNC))
        await until(HEADER_SIZE)
        await until(HEADER_SIZE + parse_header(received).size)
        return bytes(received)


async def ask_as_baseline(port: int, request: bytes) -> bytes:
    """Return the frame that a client without the extended protocol gets."""
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False, max_message_size=2**30) as connection:
        await connection.send_message(HELLO)
        assert await connection.get_message() == HELLO_REPLY
        await connection.send_message(request)
        frame = await connection.get_message()
        assert isinstance(frame, bytes)
        return frame


if __name__ == "__main__":
    trio.run(ask_everyone, sys.argv[1], int(sys.argv[2]), sys.argv[3:])
