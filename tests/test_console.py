"""The console, without a browser: who receives the page, and what its headers allow. tests/interop/foreign uses it."""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest
from support.opening import HttpResponse
from test_http import BEARER, TOKEN, ask, plain, served

from rayforce_trio import auth

pytestmark = pytest.mark.trio

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BASIC = {"Authorization": f"Basic {b64encode(b'ann:pw').decode()}"}
NAMES = auth.users({"ann": auth.hash_password("pw")})


async def get(
    port: int, headers: Mapping[str, str] | None = None, path: str = "/console", **options: Any
) -> HttpResponse:
    return await ask(port, plain(path, {**BROWSER, **(headers or {})}, **options))


def policy_of(answer: HttpResponse) -> dict[str, str]:
    directives = answer.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (directive.partition(" ") for directive in directives)}


def hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


class Parts(HTMLParser):
    """The scripts and styles of a page, and its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - its name there
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in self.texts:
            self.texts[self._within].append(data)


async def test_a_server_has_no_console_unless_that_is_asked_for() -> None:
    async with served() as server:
        answer = await get(server.port)
        assert (answer.status, "start the server with console" in answer.body) == (404, True)
        assert (await get(server.port, path="/")).status == 426


async def test_the_page_is_complete_and_its_policy_allows_only_what_is_in_it() -> None:
    async with served(console=True) as server:
        answer = await get(server.port)
        assert answer.status == 200
        parts = Parts(answer.body)
        (script,), (style,) = parts.texts["script"], parts.texts["style"]
        assert policy_of(answer) == {
            "default-src": "'none'",
            "script-src": hash_of(script),
            "style-src": hash_of(style),
            "connect-src": "'self'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        del answer.headers["content-security-policy"]
        assert answer.headers == {
            "content-type": "text/html; charset=utf-8",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "cache-control": "no-store",
            "connection": "close",
            "content-length": str(len(answer.body.encode())),
        }
        assert not {name for name in parts.attributes if name.startswith("on") or name in ("style", "src", "srcset")}
        assert not parts.tags & {"iframe", "object", "embed", "base", "img", "video", "audio"}
        assert not re.search(r"https?:(?!\")|//cdn|url\(|@import|\bimport\(|\beval\(|innerHTML|outerHTML", answer.body)


async def test_head_and_query_and_redirection() -> None:
    async with served(console=True) as server:
        page, head = await get(server.port), await get(server.port, method="HEAD")
        assert (head.status, head.headers, head.body) == (200, page.headers, "")
        assert (await get(server.port, path="/console?later=1")).body == page.body
        assert (await get(server.port, path="/console/")).status == 426
        root = await get(server.port, path="/")
        assert (root.status, root.headers["location"], root.body) == (302, "console", "")
        assert (await get(server.port, {"Accept": "*/*"}, path="/")).status == 426
        assert (await get(server.port, {"Host": "foreign.example"}, path="/")).status == 421


@pytest.mark.parametrize("options", [{}, {"authenticate": auth.token(TOKEN)}])
async def test_foreign_hosts_and_origins_are_refused(options: dict[str, Any]) -> None:
    async with served(console=True, **options) as server:
        assert (await get(server.port, {**BEARER, "Host": "foreign.example"})).status == 421
        assert (await get(server.port, {**BEARER, "Origin": "http://foreign.example"})).status == 403
        assert (await get(server.port, {**BEARER, "Origin": f"http://127.0.0.1:{server.port}"})).status == 200


async def test_without_authentication_it_is_for_this_machine() -> None:
    async with served(console=True, allow_unauthenticated=True, trusted_proxies=["127.0.0.1"]) as server:
        answer = await get(server.port)
        assert answer.status == 403
        assert "does not authenticate clients" in answer.body
    async with served(console=True) as server:
        assert (await get(server.port, {"X-Forwarded-For": "192.0.2.1"})).status == 403


@pytest.mark.parametrize(
    ("authenticate", "valid", "challenge"),
    [
        (auth.token(TOKEN), BEARER, "Bearer"),
        (NAMES, BASIC, "Basic"),
        (auth.password("pw"), BASIC, "Basic"),
        (auth.any_of(auth.token(TOKEN), NAMES), BEARER, "Basic"),
        (auth.any_of(auth.token(TOKEN)), BEARER, "Bearer"),
        (lambda request: request.username == "ann", BASIC, "Basic"),
    ],
    ids=["token", "users", "password", "any of both", "any token", "function"],
)
async def test_it_is_behind_the_authentication(authenticate: Any, valid: dict[str, str], challenge: str) -> None:
    async with served(console=True, authenticate=authenticate) as server:
        console = await get(server.port, valid)
        assert (console.status, Parts(console.body).tags >= {"textarea", "canvas"}) == (200, True)
        for headers in {}, {"Authorization": "Bearer guess"}:
            answer = await get(server.port, headers)
            assert (answer.status, answer.headers["www-authenticate"].split()[0]) == (401, challenge)
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            parts = Parts(answer.body)
            assert parts.tags.isdisjoint({"textarea", "canvas"})
            # The console takes the place of this page, so its policy allows both.
            scripts, styles = parts.texts["script"], parts.texts["style"]
            allowed = [*scripts, *Parts(console.body).texts["script"]]
            assert policy_of(answer)["script-src"].split() == [hash_of(text) for text in allowed]
            assert hash_of(styles[0]) in policy_of(answer)["style-src"]
        assert server.statistics().connections.refused == {401: 2}
        program = await ask(server.port, plain("/console"))
        assert (program.status, program.headers["content-type"]) == (401, "text/plain; charset=utf-8")
        assert program.headers["www-authenticate"].startswith("Basic ")


async def test_too_many_guesses_are_refused_with_a_sentence() -> None:
    async with served(console=True, authenticate=auth.password("pw")) as server:
        statuses = []
        while 429 not in statuses:
            answer = await get(server.port, {"Authorization": f"Basic {b64encode(b'ann:guess').decode()}"})
            statuses.append(answer.status)
        assert set(statuses) == {401, 429}
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
