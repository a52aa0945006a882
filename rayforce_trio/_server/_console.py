"""The pages of the console: one for queries, and one to sign in with a token.

Each page is a single file that loads nothing. Its Content-Security-Policy allows exactly the scripts and styles in it,
and connections to this server.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from .._transports import HttpResponse, OpeningRequest, Refusal

_PARTS = {
    "script-src": re.compile(rb'<script type="module">(.*?)</script>', re.DOTALL),
    "style-src": re.compile(rb"<style>(.*?)</style>", re.DOTALL),
}

_HTML = "text/html; charset=utf-8"
_UNAUTHORIZED = 401
_TOKENS_ONLY = ("WWW-Authenticate", 'Bearer realm="rayforce"')
"""Browsers show the page of such an answer. They ask for a user name and a password if the header offers `Basic`."""


@dataclass(frozen=True, slots=True)
class ConsolePages:
    """The pages of the console.

    Attributes:
        console: the answer to a client that may use the console.
        sign_in: the page for browsers that send no valid credentials.
        sign_in_headers: the headers of that page.
    """

    console: HttpResponse
    sign_in: bytes
    sign_in_headers: tuple[tuple[str, str], ...]

    def refusal(self, refusal: Refusal, request: OpeningRequest, *, accepts_passwords: bool) -> Refusal:
        """Return the refusal of a request. A browser without credentials is shown the page to sign in.

        Args:
            refusal: the refusal by authorization.
            request: the request for the console.
            accepts_passwords: whether the browser should first ask for a user name and a password.
        """
        if refusal.status != _UNAUTHORIZED or not is_from_browser(request):
            return refusal
        challenge = refusal.headers if accepts_passwords else (_TOKENS_ONLY,)
        return replace(refusal, headers=(*challenge, *self.sign_in_headers), page=self.sign_in)


def load_console() -> ConsolePages:
    """Read the pages, which are part of the package."""
    console, sign_in = (Path(__file__).with_name(name).read_bytes() for name in ("console.html", "sign_in.html"))
    # When the token is accepted, the console takes the place of the page to sign in, under that page's policy.
    headers = _headers([console], {"require-trusted-types-for": "'script'", "trusted-types": "'none'"})
    return ConsolePages(HttpResponse(200, console, _HTML, headers), sign_in, _headers([sign_in, console]))


def is_from_browser(request: OpeningRequest) -> bool:
    """Return whether a client asks for a page to show."""
    return "text/html" in request.headers.get("accept", "")


def _headers(pages: list[bytes], further: Mapping[str, str] = MappingProxyType({})) -> tuple[tuple[str, str], ...]:
    """Return the headers of a page: its policy allows the scripts and styles of these pages.

    Args:
        pages: the pages.
        further: directives that forbid more.
    """
    sources = {
        name: _hashes([part for page in pages for part in found.findall(page)]) for name, found in _PARTS.items()
    }
    policy = {
        "default-src": "'none'",
        **sources,
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        **further,
    }
    return (
        ("Content-Security-Policy", "; ".join(f"{name} {value}" for name, value in policy.items())),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )


def _hashes(parts: list[bytes]) -> str:
    return " ".join(f"'sha256-{b64encode(sha256(part).digest()).decode()}'" for part in dict.fromkeys(parts))
