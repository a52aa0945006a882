"""A server that wants to know who is asking, and what clients send to tell it."""

import asyncio
import base64
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from rayforce.errors import RayforceWSError as TheirError
from rayforce.network.websocket import WSClient as TheirClient
from support.engines import GateEngine
from support.opening import LOCAL, answer_to, try_to_connect

from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSServer, auth
from rayforce_trio._addresses import ClientAddress
from rayforce_trio._client._credentials import request_headers
from rayforce_trio._server._authorizer import REFUSAL_TIMEOUT
from rayforce_trio._server._credentials import TOKEN_PREFIX, read_request
from rayforce_trio._transports import OpeningRequest
from rayforce_trio.auth import Principal, Request
from rayforce_trio.errors import RayforceTypeError, RayforceUserError, RayforceValueError

PASSWORD = "s3cret of änn"
TOKEN = "t0ken-of-bob"
UNKNOWN = "This server requires authentication. Send a valid user name and password, or a valid token.\n"


both_loops = pytest.mark.parametrize("loop", ["trio", "asyncio"])


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def token_item(token: str) -> str:
    return TOKEN_PREFIX + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def basic(username: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {encoded(f'{username}:{password}')}"}


def by_either(request: Request) -> str | None:
    """Let in ann by her password, bob by his token."""
    if (request.username, request.password) == ("ann", PASSWORD):
        return "ann"
    return "bob" if request.token == TOKEN else None


def guarded(authenticate: Callable[[Request], object] = by_either, **options: Any) -> WSServer:
    return WSServer(0, host=LOCAL, authenticate=authenticate, **options)


# What is read from a request


def read(authorization: str | None, subprotocols: Sequence[str] = ()) -> tuple[str | None, str | None, str | None]:
    headers = {} if authorization is None else {"authorization": authorization}
    request = read_request(
        OpeningRequest("/", headers, ClientAddress("192.0.2.7"), ("127.0.0.1", 1), tuple(subprotocols))
    )
    return request.username, request.password, request.token


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (f"Basic {encoded('ann:s3cret')}", ("ann", "s3cret", None)),
        (f"bAsIc   {encoded('ann:s3cret')} ", ("ann", "s3cret", None)),
        (f"Basic {encoded('ann:with:colons')}", ("ann", "with:colons", None)),
        (f"Basic {encoded('änn:pässwörd €')}", ("änn", "pässwörd €", None)),
        (f"Basic {encoded(':')}", ("", "", None)),
        (f"Bearer {TOKEN}", (None, None, TOKEN)),
        (f"bearer  {TOKEN}", (None, None, TOKEN)),
        ("", (None, None, None)),
        ("Basic", (None, None, None)),
        ("Basic ", (None, None, None)),
        (f"Basic {encoded('no colon')}", (None, None, None)),
        (f"Basic {encoded('ann:s3cret').rstrip('=')}", (None, None, None)),
        (f"Basic {encoded('ann:s3cret')}!", (None, None, None)),
        (f"Basic {encoded('a:b')[:-1]}\u00e9", (None, None, None)),
        (f"Basic {base64.b64encode(b'ann:caf' + bytes([0xE9])).decode()}", (None, None, None)),
        (f"Basic {encoded('ann' + chr(10) + ':s3cret')}", (None, None, None)),
        (f"Basic {encoded('ann:s3' + chr(0) + 'cret')}", (None, None, None)),
        ("Bearer", (None, None, None)),
        ("Bearer two words", (None, None, None)),
        (f"Digest {TOKEN}", (None, None, None)),
        (TOKEN, (None, None, None)),
    ],
)
def test_credentials_in_the_header(authorization: str, expected: tuple[str | None, ...]) -> None:
    assert read(authorization) == expected


@pytest.mark.parametrize(
    ("subprotocols", "token"),
    [
        (["rayforce.v1", token_item(TOKEN)], TOKEN),
        ([token_item(TOKEN), "rayforce.v1"], TOKEN),
        ([token_item("~?~?>>")], "~?~?>>"),  # of - and _ in base64url
        ([], None),
        (["rayforce.v1"], None),
        (["rayforce.token."], None),
        (["rayforce.token.!"], None),
        (["rayforce.token.A"], None),
        (["rayforce.token." + encoded("~?~?>>")], None),
        ([token_item(TOKEN) + "="], None),
        ([token_item("two words")], None),
        ([token_item("tökén")], None),
        (["rayforce.token._w"], None),
        ([token_item(TOKEN), token_item(TOKEN)], None),
        (["x" + token_item(TOKEN)], None),
    ],
)
def test_a_token_in_the_subprotocols(subprotocols: list[str], token: str | None) -> None:
    assert read(None, subprotocols) == (None, None, token)


def test_the_header_goes_before_the_subprotocols() -> None:
    assert read("Bearer first", [token_item("second")]) == (None, None, "first")
    assert read("nonsense", [token_item("second")]) == (None, None, None)


@given(st.text(st.characters(codec="ascii")), st.lists(st.text(st.characters(codec="ascii")).map(TOKEN_PREFIX.__add__)))
def test_whatever_comes_is_read_as_something_or_nothing(authorization: str, subprotocols: list[str]) -> None:
    for scheme in ("", "Basic ", "Bearer "):
        username, password, token = read(scheme + authorization)
        assert (username is None) == (password is None)
        assert username is None or token is None
    read(None, subprotocols)


@given(st.text(), st.text(min_size=1))
def test_what_a_client_sends_is_what_the_server_reads(user: str, password: str) -> None:
    try:
        [(name, value)] = request_headers(user, password, None, None)
    except RayforceValueError:
        return
    assert name == "Authorization"
    assert read(value) == (user, password, None)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_tokens_arrive_either_way(token: str) -> None:
    [(_, value)] = request_headers(None, None, token, None)
    assert read(value) == read(None, ["rayforce.v1", token_item(token)]) == (None, None, token)


# What a client can be told to send


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user": "ann"}, "user needs password"),
        ({"user": "ann", "password": PASSWORD, "token": TOKEN}, "give either token, or user and password"),
        ({"password": PASSWORD, "token": TOKEN}, "give either token, or user and password"),
        ({"token": TOKEN, "headers": {"authorization": "Bearer x"}}, "give only one of these: "),
        ({"user": "a:b", "password": PASSWORD}, "Invalid user name"),
        ({"user": "a\r\nb", "password": PASSWORD}, "Invalid user name"),
        ({"user": 7, "password": PASSWORD}, "Invalid user name"),
        ({"user": "ann", "password": PASSWORD + "\r\nX: y"}, "Invalid password"),
        ({"password": ""}, "Invalid password"),
        ({"password": b"bytes"}, "Invalid password"),
        ({"password": "\udc80"}, "Invalid password"),
        ({"token": ""}, "Invalid token"),
        ({"token": TOKEN + "\r\nX: y"}, "Invalid token"),
        ({"token": TOKEN + " "}, "Invalid token"),
        ({"headers": {"X-Name": PASSWORD + "\r\nX: y"}}, "Invalid value of the header X-Name"),
        ({"headers": {"X-Name": "s3cret\n"}}, "Invalid value of the header X-Name"),
        ({"headers": {"X-Name": "s3cr\u00e9t"}}, "Invalid value of the header X-Name"),
        ({"headers": {"X-Name": " s3cret"}}, "Invalid value of the header X-Name"),
        ({"headers": {"X-Name": ""}}, "Invalid value of the header X-Name"),
        ({"headers": {"X-Name": 7}}, "Invalid value of the header X-Name"),
        ({"headers": {"X Name": "a"}}, "Invalid header name"),
        ({"headers": {"X-Name\r\n": "a"}}, "Invalid header name"),
        ({"headers": {"X-Name:": "a"}}, "Invalid header name"),
        ({"headers": {"": "a"}}, "Invalid header name"),
        ({"headers": {7: "a"}}, "Invalid header name"),
        ({"headers": {"hOST": "a"}}, "Invalid headers. The client sets hOST itself"),
        (
            {"headers": {"Sec-WebSocket-Protocol": "a"}},
            "Invalid headers. The client sets Sec-WebSocket-Protocol itself",
        ),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "Invalid headers. The client sets Transfer-Encoding itself"),
        ({"headers": [("X-Name", "a")]}, "Invalid headers"),
    ],
)
def test_what_cannot_be_sent_is_an_error_at_once_that_shows_no_secret(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RayforceValueError) as caught:
        WSClient(LOCAL, 8765, **options)
    assert str(caught.value).startswith(says)
    assert caught.value.__context__ is None
    for secret in (PASSWORD, TOKEN, "s3cr"):
        assert secret not in str(caught.value)


def test_a_client_shows_no_secret() -> None:
    for options in ({"user": "ann", "password": PASSWORD}, {"token": TOKEN}, {"headers": {"Cookie": TOKEN}}):
        client = WSClient(LOCAL, 8765, **options)
        assert repr(client) == "WSClient(ws://127.0.0.1:8765)"
        assert client.uri == "ws://127.0.0.1:8765"


@pytest.mark.trio
@both_loops
async def test_the_server_sees_what_the_client_was_told_to_send(loop: str) -> None:
    seen: list[Request] = []

    def authenticate(request: Request) -> bool:
        seen.append(request)
        return True

    async with guarded(authenticate) as server:
        host = f"127.0.0.1:{server.port}"
        await try_to_connect(loop, server.port, user="änn", password=PASSWORD, headers={"X-Reason": "to see", "x": "1"})
        await try_to_connect(loop, server.port, token=TOKEN)
        await try_to_connect(loop, server.port, headers={"Authorization": "Custom a=b"})
    [by_password, by_token, by_header] = seen
    assert (by_password.username, by_password.password, by_password.token) == ("änn", PASSWORD, None)
    assert (by_password.headers["x-reason"], by_password.headers["x"]) == ("to see", "1")
    assert by_password.headers["host"] == host
    assert (by_password.path, by_password.peer, by_password.certificate) == ("/", LOCAL, None)
    assert (by_token.username, by_token.password, by_token.token) == (None, None, TOKEN)
    assert by_header.headers["authorization"] == "Custom a=b"
    assert (by_header.username, by_header.password, by_header.token) == (None, None, None)


# Who is let in


@pytest.mark.trio
async def test_whom_the_server_knows_is_served() -> None:
    async with guarded() as server:
        for options in ({"user": "ann", "password": PASSWORD}, {"token": TOKEN}):
            async with WSClient(LOCAL, server.port, **options).connect() as connection:  # type: ignore[arg-type]
                assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
@both_loops
async def test_nobody_else_is(loop: str) -> None:
    async with guarded() as server:
        for options in ({}, {"user": "ann", "password": "wrong"}, {"token": "wrong"}, {"password": PASSWORD}):
            rejected = await try_to_connect(loop, server.port, **options)
            assert rejected is not None
            assert (rejected.status, rejected.body) == (401, UNKNOWN)
        assert await try_to_connect(loop, server.port, token=TOKEN) is None


@pytest.mark.trio
async def test_who_is_refused_is_told_how_to_ask_and_nothing_was_evaluated() -> None:
    engine = GateEngine()
    async with guarded(engine=engine) as server:
        answer = await answer_to(server.port)
        assert (answer.status, answer.body) == (401, UNKNOWN)
        assert answer.headers["www-authenticate"] == 'Basic realm="rayforce", charset="UTF-8"'
        assert answer.headers["connection"] == "close"
        assert answer == await answer_to(server.port, basic("ann", "wrong"))
        assert answer == await answer_to(server.port, basic("eve", PASSWORD))
        assert engine.sessions == 0


@pytest.mark.trio
async def test_a_browsers_token_comes_beside_the_subprotocol_and_is_not_repeated() -> None:
    async with guarded() as server:
        for offered in (f"rayforce.v1, {token_item(TOKEN)}", f"{token_item(TOKEN)},rayforce.v1"):
            answer = await answer_to(server.port, {"Sec-WebSocket-Protocol": offered})
            assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "rayforce.v1")
        answer = await answer_to(server.port, {"Sec-WebSocket-Protocol": token_item(TOKEN)})
        assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, None)
        assert (await answer_to(server.port, {"Sec-WebSocket-Protocol": token_item("wrong")})).status == 401


@pytest.mark.trio
async def test_a_token_in_the_url_is_none() -> None:
    async with guarded() as server:
        assert (await answer_to(server.port, path=f"/?token={TOKEN}")).status == 401


@pytest.mark.trio
async def test_two_authorizations_are_none() -> None:
    async with guarded() as server:
        two = basic("ann", PASSWORD)["Authorization"] + f"\r\nAuthorization: Bearer {TOKEN}"
        assert (await answer_to(server.port, {"Authorization": two})).status == 400


@pytest.mark.trio
async def test_a_header_that_came_twice_does_not_pass_for_either() -> None:
    seen: list[Request] = []
    async with guarded(seen.append) as server:
        await answer_to(server.port, {"X-Forwarded-User": "admin\r\nx-forwarded-user: bob"})
    assert seen[0].headers["x-forwarded-user"] == "admin, bob"


@pytest.mark.trio
async def test_an_authenticator_may_be_async() -> None:
    async def authenticate(request: Request) -> str | None:
        await trio.lowlevel.checkpoint()
        return by_either(request)

    async with guarded(authenticate) as server:
        assert await try_to_connect("trio", server.port, token=TOKEN) is None
        rejected = await try_to_connect("trio", server.port, token="wrong")
        assert rejected is not None
        assert rejected.status == 401


@pytest.mark.trio
async def test_users_with_hashed_passwords_are_served() -> None:
    async with guarded(auth.users({"ann": auth.hash_password(PASSWORD)})) as server:
        async with WSClient(LOCAL, server.port, user="ann", password=PASSWORD).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
        rejected = await try_to_connect("trio", server.port, user="ann", password="wrong")
        assert rejected is not None
        assert rejected.status == 401


@pytest.mark.trio
async def test_rayforces_own_client_cannot_say_who_it_is_and_is_refused() -> None:
    async with guarded() as server:

        def connect() -> None:
            asyncio.run(TheirClient(LOCAL, server.port).connect())

        with trio.fail_after(30), pytest.raises(TheirError, match="HTTP 401"):
            await trio.to_thread.run_sync(connect)


@pytest.mark.trio
async def test_an_authenticator_sees_header_values_in_latin_1() -> None:
    """Cookies of all the ports of localhost are sent to each of them, and some are in UTF-8."""
    seen = []

    def authenticate(request: Request) -> str:
        seen.append(request.headers["cookie"])
        return "ann"

    async with guarded(authenticate) as server:
        cookie = "name=čeština €"
        assert (await answer_to(server.port, {"Cookie": cookie.encode().decode("latin-1")})).status == 101
    [value] = seen
    assert value.encode("latin-1").decode() == cookie


# An authenticator that fails


@pytest.mark.trio
@both_loops
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_authenticator_that_raises_costs_the_peer_its_connection_and_nobody_else(
    loop: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def authenticate(request: Request) -> str:
        return {TOKEN: "bob"}[request.token or ""]

    async def authenticate_later(request: Request) -> str:
        return authenticate(request)

    async with guarded(authenticate_later if is_async else authenticate) as server:
        rejected = await try_to_connect(loop, server.port)
        assert rejected is not None
        assert rejected.status == 500
        assert rejected.body == "Authentication failed because of an error in the server. See the server's log.\n"
        assert await try_to_connect(loop, server.port, token=TOKEN) is None
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "rayforce_trio.server"
    assert record.getMessage().startswith("connection 1 (127.0.0.1:")
    assert record.getMessage().endswith("): authenticate raised an exception")
    assert "KeyError: ''" in (record.exc_text or "")


@pytest.mark.trio
async def test_what_has_no_truth_counts_as_a_failure_of_the_authenticator(caplog: pytest.LogCaptureFixture) -> None:
    class Unclear:
        def __bool__(self) -> bool:
            raise ValueError("neither true nor false")

    async with guarded(lambda _: Unclear()) as server:
        assert (await answer_to(server.port)).status == 500
    assert "neither true nor false" in caplog.text


@pytest.mark.trio
@both_loops
async def test_an_authenticator_that_takes_too_long_is_given_up_and_the_peer_is_told(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = 0

    async def authenticate(request: Request) -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    async with guarded(authenticate, open_timeout=1.0) as server:
        rejected = await try_to_connect(loop, server.port)
        assert rejected is not None
        assert rejected.status == 503
        assert rejected.body == "Authentication took too long. Try again later.\n"
        assert (await answer_to(server.port)).headers["retry-after"] == "1"
    assert cancelled == 2
    assert caplog.text.count("): authenticate took too long (open_timeout)") == 2


@pytest.mark.trio
@pytest.mark.parametrize("error", [ValueError("no such row"), KeyError("row"), OSError("the database is gone")])
async def test_one_that_fails_as_it_is_given_up_has_failed(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fail_in_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def authenticate(request: Request) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_in_the_end)
            nursery.start_soon(trio.sleep_forever)

    async with guarded(authenticate, open_timeout=1.0) as server:
        assert (await answer_to(server.port)).status == 500
    assert caplog.text.count("): authenticate raised an exception") == 1


@pytest.mark.trio
@pytest.mark.parametrize("right", [False, True])
async def test_so_is_one_that_does_not_heed_that(right: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def authenticate(request: Request) -> bool:
        deadline = trio.current_effective_deadline()
        with trio.CancelScope(shield=True):
            await trio.sleep_until(deadline + REFUSAL_TIMEOUT + 0.1)
        return right

    async with guarded(authenticate, open_timeout=1.0) as server:
        assert (await answer_to(server.port)).status == 503
    assert caplog.text.count("): authenticate took too long (open_timeout)") == 1


@pytest.mark.trio
async def test_a_server_that_stops_does_not_wait_for_an_authenticator() -> None:
    asked = trio.Event()

    async def authenticate(request: Request) -> None:
        asked.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with trio.fail_after(4):  # less than an opening may take
            async with guarded(authenticate) as server:
                nursery.start_soon(answer_to_whoever_hangs_up, server.port)
                await asked.wait()


async def answer_to_whoever_hangs_up(port: int) -> None:
    with pytest.raises(IndexError):  # there is no answer to read
        await answer_to(port)


# Guessing


@pytest.mark.trio
@both_loops
async def test_who_fails_too_often_is_slowed_down_and_not_even_asked(loop: str) -> None:
    asked = 0

    def authenticate(request: Request) -> str | None:
        nonlocal asked
        asked += 1
        return by_either(request)

    async with guarded(authenticate) as server:
        statuses = []
        while 429 not in statuses:
            rejected = await try_to_connect(loop, server.port, token="wrong")
            assert rejected is not None
            statuses.append(rejected.status)
        assert len(statuses) > 5
        assert asked == len(statuses) - 1
        assert rejected is not None
        assert rejected.body == "Authentication has failed too often from your network. Try again later.\n"
        while await try_to_connect(loop, server.port, token=TOKEN) is not None:
            pass  # it is let in again before long


@pytest.mark.trio
async def test_who_is_slowed_down_is_told_for_how_long() -> None:
    async with guarded() as server:
        answer = await answer_to(server.port, basic("ann", "wrong"))
        while answer.status == 401:
            answer = await answer_to(server.port, basic("ann", "wrong"))
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")


KEY = "a-token-that-nobody-can-guess"
HASHED = auth.hash_password(PASSWORD)


BEARER = {"Authorization": f"Bearer {KEY}"}


async def first_token_then_password(request: Request) -> object:
    return auth.token(KEY)(request) or await auth.users({"ann": HASHED})(request)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("authenticate", "valid"),
    [
        (auth.token(KEY), BEARER),
        (auth.token("short"), {"Authorization": "Bearer short"}),
        (auth.password(KEY), basic("", KEY)),
        (auth.any_of(auth.token(KEY), auth.users({"ann": HASHED})), BEARER),
        (first_token_then_password, BEARER),
        (first_token_then_password, basic("ann", PASSWORD)),
    ],
)
async def test_requests_without_credentials_keep_nobody_out(
    authenticate: Callable[[Request], object], valid: dict[str, str], mock_clock: trio.testing.MockClock
) -> None:
    async with guarded(authenticate) as server:
        for _ in range(3):
            for _ in range(6):
                assert (await answer_to(server.port)).status == 401
            assert (await answer_to(server.port, valid)).status == 101
        assert len(server._authorizer._failures) == 0


@pytest.mark.trio
async def test_a_long_token_is_accepted_however_often_its_address_has_failed(
    mock_clock: trio.testing.MockClock,
) -> None:
    users = auth.users({"ann": HASHED})
    async with guarded(auth.any_of(auth.token("short", KEY), users)) as server:
        statuses = [(await answer_to(server.port, basic("ann", "wrong"))).status for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        for credentials, status in (
            ({"Authorization": f"Bearer {KEY}"}, 101),
            ({"Authorization": f"Bearer {KEY}x"}, 429),
            ({"Authorization": "Bearer short"}, 429),
            (basic("ann", PASSWORD), 429),
            ({"Sec-WebSocket-Protocol": f"rayforce.v1, {token_item(KEY)}"}, 101),
            (None, 401),
        ):
            assert (await answer_to(server.port, credentials)).status == status


@pytest.mark.trio
async def test_any_number_may_come_at_once_and_be_let_in() -> None:
    let_in: list[object] = []

    async def slow_but_right(request: Request) -> object:
        await trio.testing.wait_all_tasks_blocked()
        let_in.append(by_either(request))
        return let_in[-1]

    async with guarded(slow_but_right) as server, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(connect_as_bob, server.port)
    assert let_in == ["bob"] * 20


async def connect_as_bob(port: int) -> None:
    assert await try_to_connect("trio", port, token=TOKEN) is None


# Engines for some


@pytest.mark.trio
async def test_a_principal_has_the_engine_it_names_and_others_the_default_one() -> None:
    full, limited = GateEngine(), GateEngine()
    bound = {"limited": Principal("ann", engine="limited"), "full": Principal("bob"), "any": "eve"}
    full.release()
    limited.release()
    async with guarded(lambda request: bound[request.token or ""], engine=full, engines={"limited": limited}) as server:
        for token, engine, others in (("limited", limited, full), ("full", full, limited), ("any", full, limited)):
            async with WSClient(LOCAL, server.port, token=token).connect() as connection:
                assert (engine.sessions, others.sessions) == (1, 0)
                assert str(await connection.execute("(+ 1 2)")) == "released"
            await engine.until(sessions=0)


@pytest.mark.trio
async def test_readers_cannot_write_and_writers_can() -> None:
    who = {"reader": Principal("ann", engine="read-only"), "writer": Principal("bob")}
    server = guarded(
        lambda request: who.get(request.token or ""),
        engine=InProcessEngine(),
        engines={"read-only": NativeProcess(read_only=True)},
    )
    async with server:
        async with WSClient(LOCAL, server.port, token="reader").connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
            with pytest.raises(RayforceUserError, match="access"):
                await connection.execute("(set written 1)")
        async with WSClient(LOCAL, server.port, token="writer").connect() as connection:
            await connection.execute("(set written 1)")
            with pytest.raises(RayforceTypeError):
                await connection.execute('(+ 1 "a")')


@pytest.mark.trio
async def test_every_engine_is_run_once() -> None:
    class Counting(GateEngine):
        runs = 0

        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            self.runs += 1
            await super().run(task_status=task_status)

    one, other = Counting(), Counting()
    async with guarded(engine=one, engines={"same": one, "other": other, "again": other}):
        assert (one.runs, other.runs) == (1, 1)


@pytest.mark.trio
@both_loops
async def test_an_engine_that_is_not_there_is_the_servers_fault_and_its_log_says_so(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded(lambda _: Principal("ann", engine="missing"), engines={"there": GateEngine()}) as server:
        rejected = await try_to_connect(loop, server.port)
        assert rejected is not None
        assert (rejected.status, rejected.body) == (
            503,
            "This server has no engine for this user. See the server's log.\n",
        )
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "a Principal with the engine 'missing', which WSServer does not have; it has: 'there'" in (
        record.getMessage()
    )


# Options


def test_protected_mode_is_off_once_clients_are_authenticated() -> None:
    assert not guarded()._authorizer._policy.protected
    assert WSServer(0)._authorizer._policy.protected
    assert not WSServer(0, allow_unauthenticated=True)._authorizer._policy.protected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"authenticate": "s3cret"}, "Invalid authenticate. Must be a function"),
        ({"authenticate": by_either, "allow_unauthenticated": True}, "contradict each other"),
        ({"engines": {"other": InProcessEngine()}}, "engines needs authenticate"),
        ({"authenticate": by_either, "engines": {"other": "engine"}}, "Invalid engines"),
        ({"authenticate": by_either, "engines": {"": InProcessEngine()}}, "Invalid engines"),
        ({"authenticate": by_either, "engines": {7: InProcessEngine()}}, "Invalid engines"),
        ({"authenticate": by_either, "engines": InProcessEngine()}, "Invalid engines"),
        ({"authenticate": by_either, "engines": [InProcessEngine()]}, "Invalid engines"),
    ],
)
def test_options_that_make_no_sense_are_errors_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RayforceValueError, match=says) as caught:
        WSServer(0, **options)
    assert "s3cret" not in str(caught.value)


# Logs


@pytest.mark.trio
async def test_the_log_names_who_is_meant_and_nothing_that_is_secret(caplog: pytest.LogCaptureFixture) -> None:
    class Somebody:
        def __repr__(self) -> str:
            return PASSWORD

    async def who(request: Request) -> object:
        known = {"principal": Principal("ann\nconnection 9 (root)"), "text": "bob", "object": Somebody(), "true": True}
        return known.get(request.token or "") or request.token  # the token itself, which is not to be logged

    with caplog.at_level(logging.INFO, "rayforce_trio.server"):
        async with guarded(who) as server:
            for token in ("principal", "text", "object", "true", TOKEN):
                assert await try_to_connect("trio", server.port, token=token) is None
    opened = [message for message in caplog.messages if message.endswith("): open")]
    named = [message.partition("(")[2].partition(" at 127.0.0.1:")[0] for message in opened]
    assert named == [r"ann\nconnection 9 (root)", "bob", "a Somebody", "a bool", "a str"]


@pytest.mark.trio
@both_loops
async def test_no_secret_is_logged_by_anybody_at_any_level(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    def authenticate(request: Request) -> str | None:
        if request.username == "eve":
            raise RuntimeError(f"cannot decide about {request}")
        return by_either(request)

    caplog.set_level(logging.DEBUG)
    async with guarded(authenticate) as server:
        assert await try_to_connect(loop, server.port, user="ann", password=PASSWORD) is None
        assert await try_to_connect(loop, server.port, token=TOKEN) is None
        assert await try_to_connect(loop, server.port, token=TOKEN + "x") is not None
        rejected = await try_to_connect(loop, server.port, user="eve", password=PASSWORD)
        assert rejected is not None
        assert rejected.status == 500
        await answer_to(server.port, {"Sec-WebSocket-Protocol": f"rayforce.v1, {token_item(TOKEN)}"})
    assert "cannot decide about Request(path='/', peer='127.0.0.1')" in caplog.text
    for secret in (PASSWORD, TOKEN, encoded(f"ann:{PASSWORD}"), encoded(f"eve:{PASSWORD}"), token_item(TOKEN)):
        assert secret not in caplog.text
