"""The ways to find out who is asking that the package has: what they let in, and what they keep to themselves."""

import hashlib
import pickle
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.polling import until

from rayforce_trio import auth
from rayforce_trio.auth import (
    MIN_STRONG_TOKEN_SIZE,
    Principal,
    Request,
    any_of,
    authenticator_of,
    hash_password,
    password,
    token,
    users,
)
from rayforce_trio.errors import RayforceValueError

SECRET = "s3cret-Öf-ann"
TOKEN = "t0ken-of-ann"
CHEAP = "$scrypt$ln=1,r=1,p=1${salt}${digest}"


Users = Callable[[Request], Awaitable[Principal | None]]


def cheap_hash(secret: str) -> str:
    """Return what `hash_password` would with parameters that cost nothing."""
    digest = hashlib.scrypt(secret.encode(), salt=b"salt", n=2, r=1, p=1, dklen=32)
    return CHEAP.format(salt=auth._encoded(b"salt"), digest=auth._encoded(digest))


def asking(
    username: str | None = None, password: str | None = None, token: str | None = None, *, peer: str = "192.0.2.7"
) -> Request:
    return Request("/", {}, peer, username, password, token)


# A password, a token


def test_whoever_knows_the_password_is_let_in_under_any_user_name() -> None:
    authenticate = password(SECRET)
    assert authenticate(asking("ann", SECRET)) == authenticate(asking("", SECRET)) == Principal("password")


@pytest.mark.parametrize("given", [None, "", "s3cret", SECRET + "x", SECRET.upper(), SECRET + "\0"])
def test_another_password_lets_nobody_in(given: str | None) -> None:
    assert password(SECRET)(asking("ann", given, SECRET)) is None


def test_whoever_has_one_of_the_tokens_is_let_in() -> None:
    authenticate = token(TOKEN, "another")
    assert authenticate(asking(token=TOKEN)) == authenticate(asking(token="another")) == Principal("token")


@pytest.mark.parametrize("given", [None, "", "t0ken", TOKEN + "x", TOKEN.upper()])
def test_another_token_lets_nobody_in(given: str | None) -> None:
    assert token(TOKEN)(asking("ann", TOKEN, given)) is None


def test_who_they_count_as_can_be_said() -> None:
    reader = Principal("reader", engine="read-only")
    assert password(SECRET, principal=reader)(asking("ann", SECRET)) is reader
    assert token(TOKEN, principal=reader)(asking(token=TOKEN)) is reader


@given(st.text(), st.text())
def test_only_the_same_text_is_the_same_secret(one: str, other: str) -> None:
    try:
        authenticate = password(one)
    except RayforceValueError:
        return
    assert bool(authenticate(asking("", other))) == (one == other)


@pytest.mark.parametrize(("compare", "count"), [(password(SECRET), 1), (token(TOKEN, "another"), 2)])
@pytest.mark.parametrize("given", [None, "", TOKEN, SECRET, "x" * 10_000])
def test_secrets_are_compared_in_constant_time_and_all_of_them(
    compare: Callable[[Request], Any], count: int, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        sizes.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare_digest)
    compare(asking("ann", given, given))
    assert sizes == [(32, 32)] * count


# Users


@pytest.mark.trio
async def test_users_are_let_in_by_their_passwords() -> None:
    reader = Principal("bob", engine="read-only")
    authenticate = users({"ann": hash_password(SECRET), "bob": (hash_password("bobs"), reader)})
    assert await authenticate(asking("ann", SECRET)) == Principal("ann")
    assert await authenticate(asking("bob", "bobs")) is reader


@pytest.mark.trio
@pytest.mark.parametrize(
    "request_",
    [
        asking("ann", "bobs"),
        asking("bob", SECRET),
        asking("eve", SECRET),
        asking("", SECRET),
        asking("ann", ""),
        asking(),
    ],
)
async def test_nobody_else_is(request_: Request) -> None:
    authenticate = users({"ann": cheap_hash(SECRET), "bob": cheap_hash("bobs")})
    assert await authenticate(request_) is None


@pytest.mark.trio
async def test_a_user_that_is_unknown_costs_what_a_wrong_password_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticate = users({"ann": cheap_hash(SECRET)})
    calls = []

    def scrypt(password: bytes, **parameters: Any) -> bytes:
        calls.append((password, parameters))
        return bytes(parameters["dklen"])

    monkeypatch.setattr("hashlib.scrypt", scrypt)
    assert await authenticate(asking("ann", "wrong")) is None
    assert await authenticate(asking("eve", "wrong")) is None
    assert len(calls) == 2
    assert calls[0] == calls[1]


@pytest.mark.trio
async def test_an_unknown_user_is_nobody_even_if_the_hash_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticate = users({"ann": cheap_hash(SECRET)})
    monkeypatch.setattr(auth._Hash, "fits", lambda *_: True)
    assert await authenticate(asking("eve", "wrong")) is None


@pytest.mark.trio
async def test_passwords_are_checked_in_few_threads_while_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    under_way: list[int] = []

    def fits(self: object, password: str) -> bool:
        under_way.append(threading.active_count())
        return goes_on.wait(10)

    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(auth._Hash, "fits", fits)
    authenticate = users({"ann": cheap_hash(SECRET)})
    found: list[Principal | None] = []

    async def ask() -> None:
        found.append(await authenticate(asking("ann", SECRET)))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
            await until(lambda: len(under_way) == 2)
            await trio.testing.wait_all_tasks_blocked()
            assert len(under_way) == 2
            goes_on.set()
    assert found == [Principal("ann")] * 5


@pytest.mark.trio
async def test_who_guesses_does_not_keep_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    checked: list[str] = []

    def fits(self: object, password: str) -> bool:
        checked.append(password)
        return goes_on.wait(10)

    monkeypatch.setattr("os.cpu_count", lambda: 2)  # one thread
    monkeypatch.setattr(auth._Hash, "fits", fits)
    authenticate = users({"ann": cheap_hash(SECRET)})
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(authenticate, asking("ann", f"guess {number}"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(authenticate, asking("ann", SECRET, peer="192.0.2.8"))
            await trio.testing.wait_all_tasks_blocked()
            goes_on.set()
    assert len(checked) == 6
    assert checked[1] == SECRET


def test_a_hash_says_how_it_was_made_and_is_never_the_same() -> None:
    one, other = hash_password(SECRET), hash_password(SECRET)
    assert one != other
    assert one.startswith("$scrypt$ln=14,r=8,p=5$")
    assert SECRET not in one


@given(st.binary(min_size=1), st.binary(min_size=16, max_size=64))
def test_a_hash_is_read_as_it_was_written(salt: bytes, digest: bytes) -> None:
    made = auth._Hash(10, 8, 1, salt, digest)
    assert auth._Hash.parse(str(made), "ann") == made


GOOD = cheap_hash(SECRET)


@pytest.mark.parametrize(
    "entry",
    [
        SECRET,
        "",
        "$2b$12$abcdefghijklmnopqrstuv",
        GOOD + "\n",
        GOOD + "=",
        GOOD.replace("ln=1,", "ln=0,"),
        GOOD.replace("ln=1,", "ln=99,"),
        GOOD.replace("ln=1,", "ln=22,"),
        GOOD.replace("ln=1,", "ln=16,"),
        GOOD.replace("r=1,", "r=0,"),
        GOOD.replace("p=1", "p=0"),
        GOOD.replace("p=1", "p=99"),
        GOOD.rpartition("$")[0] + "$AA",
        GOOD.rpartition("$")[0] + "$A",
    ],
)
def test_what_is_no_hash_is_an_error_at_once_that_does_not_show_it(entry: str) -> None:
    with pytest.raises(RayforceValueError) as caught:
        users({"ann": entry})
    assert "user 'ann'. Must be a hash from hash_password" in str(caught.value)
    assert not entry or entry not in str(caught.value)


@pytest.mark.parametrize("table", [{}, None, "ann", ["ann"], {"ann": None}, {"ann": (SECRET,)}, {"ann": (GOOD, "ann")}])
def test_what_is_no_table_of_users_is_an_error(table: Any) -> None:
    with pytest.raises(RayforceValueError) as caught:
        users(table)
    assert SECRET not in str(caught.value)
    assert GOOD not in str(caught.value)


@pytest.mark.parametrize("name", ["a:b", "a\nb", "\udc80", 7])
def test_a_user_name_that_nobody_can_send_is_an_error(name: Any) -> None:
    with pytest.raises(RayforceValueError, match="Invalid user name"):
        users({name: GOOD})


# What cannot be a secret


@pytest.mark.parametrize("secret", ["", "a\nb", "a\0", "\x7f", "\x85", "\udc80", None, b"bytes", 7])
@pytest.mark.parametrize("make", [password, hash_password])
def test_a_password_that_nobody_can_send_is_an_error_that_does_not_show_it(
    make: Callable[[Any], object], secret: Any
) -> None:
    with pytest.raises(RayforceValueError, match=r"^Invalid password. Must be a non-empty str without"):
        make(secret)


@pytest.mark.parametrize("secret", ["", "two words", "a\nb", "tökén", "\udc80", None, b"bytes"])
def test_a_token_that_nobody_can_send_is_an_error_that_does_not_show_it(secret: Any) -> None:
    for secrets in ([secret], ["good", secret]):
        with pytest.raises(
            RayforceValueError, match=r"^Invalid token. Must be a non-empty str of visible ASCII characters"
        ):
            token(*secrets)


@pytest.mark.parametrize(
    "arguments",
    [
        ("",),
        (None,),
        (7,),
        ("ann", 7),
        ("ann", b"x"),
        ("ann", None, "t"),
        ("ann", None, 5),
        ("ann", None, [""]),
        ("ann", None, [5]),
    ],
)
def test_a_principal_that_is_none_is_an_error(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(RayforceValueError, match="of a Principal"):
        Principal(*arguments)


# What a server may ask of them


KEY = "a-token-that-nobody-can-guess"
CERTIFICATE = {"subject": ()}


def from_(headers: dict[str, str] | None = None, *, path: str = "/", **credentials: Any) -> Request:
    return Request(path, headers or {}, "192.0.2.7", **credentials)


@pytest.mark.parametrize(
    ("request_", "password_", "token_", "users_", "function"),
    [
        (from_(), False, False, False, False),
        (from_({"host": "a", "user-agent": "b", "x-forwarded-for": "192.0.2.1"}), False, False, False, False),
        (from_(username="ann", password="x"), True, False, True, True),
        (from_(token="x"), False, True, False, True),
        (from_(certificate=CERTIFICATE), False, False, False, True),
        (from_({"authorization": "Digest x"}), False, False, False, True),
        (from_({"cookie": "x"}), False, False, False, True),
        (from_({"x-api-key": "x"}), False, False, False, True),
        (from_({"x-forwarded-user": "ann"}), False, False, False, True),
        (from_(path="/db?key=x"), False, False, False, True),
    ],
)
def test_only_a_request_with_credentials_is_an_attempt(
    request_: Request, password_: bool, token_: bool, users_: bool, function: bool
) -> None:
    kinds: list[tuple[Callable[[Request], Any], bool]] = [
        (password(SECRET), password_),
        (token(TOKEN), token_),
        (users({"ann": cheap_hash(SECRET)}), users_),
        (lambda _: None, function),
        (any_of(token(TOKEN), password(SECRET)), password_ or token_),
    ]
    for kind, expected in kinds:
        assert authenticator_of(kind).has_credentials(request_) is expected


@pytest.mark.parametrize("kind", [password(KEY), users({"ann": cheap_hash(KEY)}), lambda _: True])
def test_only_long_tokens_are_checked_without_a_limit(kind: Callable[[Request], Any]) -> None:
    request = from_(username="ann", password=KEY, token=KEY)
    assert authenticator_of(kind).check_strong_token(request) is None
    assert authenticator_of(any_of(kind)).check_strong_token(request) is None
    assert authenticator_of(any_of(kind, token(KEY))).check_strong_token(request) == Principal("token")
    at_the_limit = "k" * MIN_STRONG_TOKEN_SIZE
    one = authenticator_of(token(KEY, at_the_limit, at_the_limit[1:]))
    tokens = (KEY, at_the_limit, at_the_limit[1:], "x", "")
    found = [one.check_strong_token(from_(token=given)) is not None for given in tokens]
    assert found == [True, True, False, False, False]
    assert one.check(from_(token=at_the_limit[1:])) == Principal("token")


@pytest.mark.trio
async def test_any_of_asks_in_order_until_one_accepts() -> None:
    asked = []

    def first(request: Request) -> str | None:
        asked.append("first")
        return request.token

    async def second(request: Request) -> str | None:
        asked.append("second")
        return request.password

    either = any_of(first, second)
    assert await either(from_(token="x", username="", password="y")) == "x"
    assert await either(from_(username="", password="y")) == "y"
    assert await either(from_()) is None
    assert asked == ["first", "first", "second", "first", "second"]


@pytest.mark.parametrize("functions", [(), ("secret",), (None,), (lambda _: None, 7)])
def test_any_of_takes_functions(functions: Any) -> None:
    with pytest.raises(RayforceValueError, match=r"^Invalid functions. Must be one or more functions"):
        any_of(*functions)


# What is shown


def test_a_request_shows_where_it_comes_from_and_no_secret() -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "cookie": TOKEN}
    request = Request(f"/db?token={TOKEN}", headers, "192.0.2.7", SECRET, SECRET, TOKEN, {"key": SECRET})
    assert repr(request) == str(request) == "Request(path='/db', peer='192.0.2.7')"


@pytest.mark.parametrize("kind", ["password", "token", "users"])
def test_what_finds_out_who_is_asking_shows_no_secret(kind: str) -> None:
    made: dict[str, Any] = {
        "password": password(SECRET),
        "token": token(TOKEN),
        "users": users({"ann": cheap_hash(SECRET)}),
    }
    kept = vars(made[kind])
    parts = [vars(one) for one in kept.values() if hasattr(one, "__dict__")]
    shown = repr(made[kind]) + repr(kept) + repr(parts)
    for secret in (SECRET, TOKEN, cheap_hash(SECRET).rpartition("$")[2]):
        assert secret not in shown


def test_principals_can_be_compared_and_kept() -> None:
    one = Principal("ann", engine="read-only", topics=["prices.*"])
    assert one.topics == ("prices.*",)
    assert one == Principal("ann", engine="read-only", topics=("prices.*",))
    assert pickle.loads(pickle.dumps(one)) == one
    one = Principal("ann", engine="read-only")
    assert pickle.loads(pickle.dumps(one)) == one
    assert len({one, Principal("ann", engine="read-only"), Principal("ann")}) == 2
