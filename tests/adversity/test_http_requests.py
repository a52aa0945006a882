"""Clients that send a broken HTTP request, a part of one, or nothing: each ends at most its own connection."""

import pytest
import trio
from support.probed_server import SHORT, probed_server
from support.raw import response, upgrade


def long_head(length: int) -> bytes:
    head = upgrade({"X-Long": ""})
    return upgrade({"X-Long": "x" * (length - len(head))})


REFUSED_REQUESTS = {
    "header byte over 0x7f in Host": (upgrade({"Host": "caf\xe9"}), {400}),
    "header byte over 0x7f in Connection": (upgrade({"Connection": "Upgr\xe4de"}), {400}),
    "header byte over 0x7f in Sec-WebSocket-Protocol": (upgrade({"Sec-WebSocket-Protocol": "\xff"}), {400}),
    "header byte over 0x7f in Sec-WebSocket-Extensions": (upgrade({"Sec-WebSocket-Extensions": "\xff"}), {400}),
    "Host that is no IDNA": (upgrade({"Host": "xn--a"}), {400}),
    "no Host": (upgrade({"Host": None}), {400}),
    "plain GET": (response("GET / HTTP/1.1", {"Host": "127.0.0.1"}), {400, 426}),
    "garbage line": (b"\x01garbage\r\n\r\n", {400}),
    "pipelined garbage": (b"garbage\r\n\r\n" * 10_000, {400}),
    "HTTP/1.0": (upgrade(start="GET / HTTP/1.0"), {400, 426, 505}),
    "POST": (upgrade(start="POST / HTTP/1.1"), {400, 405}),
    "wrong Sec-WebSocket-Version": (upgrade({"Sec-WebSocket-Version": "12"}), {400, 426}),
    "no Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": None}), {400}),
    "short Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": "c2hvcnQ="}), {400}),
    "head over 16 KiB": (long_head(16 * 1024 + 1), {431}),
    "head that does not end": (b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 100_000, {431}),
    "foreign Origin": (upgrade({"Origin": "https://example.org"}), {403}),
}

refused_requests = pytest.mark.parametrize(
    ("request_", "statuses"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys()
)


@pytest.mark.trio
@refused_requests
@pytest.mark.usefixtures("short_linger")
async def test_a_request_that_makes_no_sense_is_answered_and_then_closed(request_: bytes, statuses: set[int]) -> None:
    """Even if the peer keeps its socket."""
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(request_)
        head = await peer.receive_head()
        assert head.startswith(b"HTTP/1.1 ")
        assert int(head.split()[1]) in statuses
        await server.serves_others()
        await server.closes_every_peer()


@pytest.mark.trio
@refused_requests
async def test_a_request_that_makes_no_sense_and_then_a_reset(request_: bytes, statuses: set[int]) -> None:
    async with probed_server() as server:
        for _ in range(10):
            peer = server.connect()
            await peer.send(request_)
            peer.reset()


@pytest.mark.trio
async def test_a_head_of_just_16_kib_is_accepted() -> None:
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(long_head(16 * 1024))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.trio
async def test_two_headers_origin_are_refused() -> None:
    """Which of them counts would be a matter of taste."""
    async with probed_server() as server:
        peer = server.connect()
        own = f"Origin: http://127.0.0.1:{server.port}"
        head = upgrade({"Origin": "http://evil.example"})
        await peer.send(head.replace(b"\r\n\r\n", f"\r\n{own}\r\n\r\n".encode()))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.trio
async def test_resets_right_after_connecting() -> None:
    async with probed_server() as server:
        for _ in range(50):
            server.connect().reset()


@pytest.mark.trio
async def test_resets_right_after_the_request() -> None:
    async with probed_server() as server:
        for _ in range(50):
            peer = server.connect()
            await peer.send(upgrade())
            peer.reset()


@pytest.mark.trio
async def test_300_peers_that_connect_and_leave_without_a_byte() -> None:
    async with probed_server() as server:
        for _ in range(300):
            server.connect().close()
        await server.closes_every_peer()


NEVER_A_REQUEST = {
    "nothing": b"",
    "half a head": upgrade()[:-2],
    "a TLS ClientHello": bytes.fromhex("16030100c8010000c40303") + bytes(194),
    "a line without an end": b"\xffgarbage\n",
}


@pytest.mark.trio
@pytest.mark.parametrize("data", NEVER_A_REQUEST.values(), ids=NEVER_A_REQUEST.keys())
async def test_a_peer_that_never_asks_is_cut(data: bytes) -> None:
    async with probed_server(open_timeout=SHORT) as server:
        peer = server.connect()
        await peer.send(data)
        await server.serves_others()
        await peer.receive_rest()
        await server.closes_every_peer()


@pytest.mark.trio
async def test_a_request_sent_byte_by_byte_is_cut_all_the_same() -> None:
    async with probed_server(open_timeout=SHORT) as server:
        peer = server.connect()

        async def drip() -> None:
            while await peer.send(b"x"):  # noqa: ASYNC110 - the test sends at this pace on purpose
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            await server.serves_others()
            await server.closes_every_peer()
