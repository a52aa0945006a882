"""Clients that send an invalid HTTP request, a part of one, or nothing. Each ends at most its own connection."""

import re

import pytest
import trio
from support.probed_server import QUERY, SHORT, probed_server
from support.raw import BINARY, HELLO, HELLO_REPLY, KEY, frame, response, upgrade

from rayforce_trio._codec import decode
from rayforce_trio._protocol import Result


def long_head(length: int) -> bytes:
    head = upgrade({"X-Long": ""})
    return upgrade({"X-Long": "x" * (length - len(head))})


def twice(name: str, value: str, other: str | None = None) -> bytes:
    """Return an opening request that has a header twice, with the same value or another one."""
    return upgrade({name: f"{value}\r\n{name}: {value if other is None else other}"})


REFUSED_REQUESTS = {
    "header byte over 0x7f in Host": (upgrade({"Host": "caf\xe9"}), {400}),
    "header byte over 0x7f in Connection": (upgrade({"Connection": "Upgr\xe4de"}), {400}),
    "header byte over 0x7f in Sec-WebSocket-Protocol": (upgrade({"Sec-WebSocket-Protocol": "\xff"}), {400}),
    "header byte over 0x7f in Sec-WebSocket-Extensions": (upgrade({"Sec-WebSocket-Extensions": "\xff"}), {400}),
    "a foreign Host that is not IDNA": (upgrade({"Host": "xn--a"}), {421}),
    "no Host": (upgrade({"Host": None}), {400}),
    "two Host": (twice("Host", "127.0.0.1"), {400}),
    "two Origin": (twice("Origin", "http://evil.example", "http://127.0.0.1"), {400}),
    "two Authorization": (twice("Authorization", "Basic eDp5"), {400}),
    "two Sec-WebSocket-Key": (twice("Sec-WebSocket-Key", KEY), {400}),
    "two Sec-WebSocket-Version": (twice("Sec-WebSocket-Version", "13", "8"), {400}),
    "plain GET": (response("GET / HTTP/1.1", {"Host": "127.0.0.1"}), {426}),
    "garbage line": (b"\x01garbage\r\n\r\n", {400}),
    "garbage without an end": (b"\xffgarbage\n", {400}),
    "pipelined garbage": (b"garbage\r\n\r\n" * 10_000, {400}),
    "HTTP/1.0": (upgrade(start="GET / HTTP/1.0"), {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {505}),
    "POST": (upgrade(start="POST / HTTP/1.1"), {400}),
    "invalid method": (upgrade(start="G(T / HTTP/1.1"), {400}),
    "target that is not a path": (upgrade(start="GET * HTTP/1.1"), {400}),
    "target that names another server": (upgrade(start="GET http://evil.example/ HTTP/1.1"), {400}),
    "Content-Length": (upgrade({"Content-Length": "5"}) + b"hello", {400}),
    "Transfer-Encoding": (upgrade({"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n", {400}),
    "folded header": (upgrade({"X-Folded": "a\r\n b"}), {400}),
    "space before a colon": (upgrade({"Origin ": "http://evil.example"}), {400}),
    "NUL in a value": (upgrade({"X-Nul": "a\0b"}), {400}),
    "escape sequence in a value": (upgrade({"X-Esc": "\x1b[2J"}), {400}),
    "bare CR in a value": (upgrade({"X-Cr": "a\rb"}), {400}),
    "bare LF": (upgrade().replace(b"\r\n", b"\n"), {400}),
    "wrong Sec-WebSocket-Version": (upgrade({"Sec-WebSocket-Version": "12"}), {426}),
    "another Upgrade": (upgrade({"Upgrade": "h2c"}), {426}),
    "no Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": None}), {400}),
    "short Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": "c2hvcnQ="}), {400}),
    "head over 16 KiB": (long_head(16 * 1024 + 1), {431}),
    "head that does not end": (b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 100_000, {431}),
    "a TLS ClientHello": (bytes.fromhex("16030100c8010000c40303") + bytes(194), {400}),
    "foreign Origin": (upgrade({"Origin": "https://example.org"}), {403}),
}

refused_requests = pytest.mark.parametrize(
    ("request_", "statuses"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys()
)


@pytest.mark.trio
@refused_requests
@pytest.mark.usefixtures("short_linger")
async def test_an_invalid_request_is_answered_and_its_connection_closed(request_: bytes, statuses: set[int]) -> None:
    """The server closes even if the peer keeps its socket."""
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(request_)
        head, body = await peer.receive_head(), await peer.receive_rest()
        assert head.startswith(b"HTTP/1.1 ")
        assert int(head.split()[1]) in statuses
        assert re.fullmatch(rb"[A-Z][^\n]+\.\n", body), "the answer must be a sentence"
        await server.serves_others()
        await server.closes_every_peer()


@pytest.mark.trio
@refused_requests
async def test_a_reset_after_an_invalid_request(request_: bytes, statuses: set[int]) -> None:
    async with probed_server() as server:
        for _ in range(10):
            peer = server.connect()
            await peer.send(request_)
            peer.reset()


@pytest.mark.trio
async def test_a_request_that_ends_in_its_head_is_answered() -> None:
    """A peer that closed only its own side can still read."""
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(upgrade()[:-2])
        peer.half_close()
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 400 ")
        assert (
            await peer.receive_rest()
            == b"The request is not valid: the connection ended before the end of the headers.\n"
        )


@pytest.mark.trio
async def test_the_answer_to_another_version_says_which_one_is_spoken() -> None:
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(upgrade({"Sec-WebSocket-Version": "8"}))
        head = await peer.receive_head()
        assert head.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in head


ACCEPTED_REQUESTS = {
    "UTF-8 in a cookie": upgrade({"Cookie": "name=čeština".encode().decode("latin-1")}),
    "Latin-1 in a header": upgrade({"X-Name": "caf\xe9"}),
    "a second Connection line": upgrade({"Connection": "Upgrade\r\nConnection: keep-alive"}),
    "keep-alive before Upgrade": upgrade({"Connection": "keep-alive, Upgrade"}),
    "h2c before websocket": upgrade({"Upgrade": "h2c, websocket"}),
    "Content-Length: 0": upgrade({"Content-Length": "0"}),
    "the whole URL as the target": upgrade(start="GET ws://127.0.0.1/ HTTP/1.1"),
    "a line of 12 KB": upgrade({"X-Long": "x" * 12_000}),
    "200 headers": upgrade({f"X-{number}": "x" for number in range(200)}),
    "a head of just 16 KiB": long_head(16 * 1024),
}


@pytest.mark.trio
@pytest.mark.parametrize("request_", ACCEPTED_REQUESTS.values(), ids=ACCEPTED_REQUESTS.keys())
async def test_an_unusual_request_is_accepted(request_: bytes) -> None:
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(request_ + frame(HELLO) + frame(QUERY))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
        assert decode(Result((await peer.receive_frame())[1])) == 3


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


INCOMPLETE_REQUESTS = {
    "nothing": b"",
    "a head without its end": upgrade()[:-2],
    "a line without an end": b"GET / HTTP/1.1",
}


@pytest.mark.trio
@pytest.mark.parametrize("data", INCOMPLETE_REQUESTS.values(), ids=INCOMPLETE_REQUESTS.keys())
async def test_a_peer_that_sends_no_complete_request_is_disconnected(data: bytes) -> None:
    async with probed_server(open_timeout=SHORT) as server:
        peer = server.connect()
        await peer.send(data)
        await server.serves_others()
        await peer.receive_rest()
        await server.closes_every_peer()


@pytest.mark.trio
async def test_a_request_sent_byte_by_byte_is_disconnected_in_the_same_time() -> None:
    async with probed_server(open_timeout=SHORT) as server:
        peer = server.connect()
        with trio.fail_after(10):
            while await peer.send(b"x"):
                await server.serves_others()
        await server.closes_every_peer()
