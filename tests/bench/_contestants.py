"""The pairs of server and client that the benchmark compares."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """A server and a client.

    Attributes:
        name: the name in tables.
        short: the name in the head of a narrow table.
        server: the kind of server: an engine of `support.serve`, a kind of `bench._publishing`, or `"native"` for a
            native server.
        client: the kind of client, as for `bench._client`. For `BROADCAST`, there is none.
    """

    name: str
    short: str
    server: str
    client: str


OURS = Contestant("ours, trio", "trio", "in-process", "trio")
ASYNCIO = Contestant("ours, asyncio", "asyncio", "in-process", "asyncio")
UVLOOP = Contestant("ours, uvloop", "uvloop", "in-process", "uvloop")
ENGINE = Contestant("ours, native engine", "engine", "child", "trio")
READ_ONLY = Contestant("ours, read-only engine", "read-only", "read-only", "trio")
PEER = Contestant("peer", "peer", "theirs", "peer")
NATIVE = Contestant("native", "native", "native", "native")
RAW = Contestant("raw", "raw", "native", "raw")
BROADCAST = Contestant("broadcast of websockets", "broadcast", "broadcast", "")

QUERIED = (OURS, ASYNCIO, UVLOOP, ENGINE, READ_ONLY, PEER, NATIVE, RAW)
"""Those that evaluate queries."""

CONTESTANTS = (*QUERIED, BROADCAST)
