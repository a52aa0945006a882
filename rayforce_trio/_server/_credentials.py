"""The credentials in an opening request."""

import base64
import re

from .._credentials import is_sendable, is_token
from .._transports import OpeningRequest
from ..auth import Request

TOKEN_PREFIX = "rayforce.token."
"""The prefix of a subprotocol that carries a token, for browsers: the rest is the token in unpadded base64url."""


def read_request(opening: OpeningRequest) -> Request:
    """Return the argument of `authenticate` for an opening request.

    Malformed credentials count as no credentials. An Authorization header takes precedence over a subprotocol.
    """
    username = password = token = None
    authorization = opening.headers.get("authorization")
    if authorization is None:
        token = _token_in_subprotocols(opening.subprotocols)
    else:
        scheme, _, credentials = authorization.partition(" ")
        credentials = credentials.strip(" ")
        if scheme.lower() == "basic":
            username, password = _parse_basic(credentials)
        elif scheme.lower() == "bearer" and is_token(credentials):
            token = credentials
    return Request(
        opening.path,
        opening.headers,
        opening.peer.address,
        username,
        password,
        token,
        opening.certificate,
        opening.peer.unix_peer,
    )


def _parse_basic(credentials: str) -> tuple[str, str] | tuple[None, None]:
    try:
        text = base64.b64decode(credentials, validate=True).decode()
    except ValueError:
        return None, None
    username, colon, password = text.partition(":")
    return (username, password) if colon and is_sendable(text) else (None, None)


def _token_in_subprotocols(proposed: tuple[str, ...]) -> str | None:
    encoded = [name.removeprefix(TOKEN_PREFIX) for name in proposed if name.startswith(TOKEN_PREFIX)]
    if len(encoded) != 1 or not re.fullmatch("[A-Za-z0-9_-]+", encoded[0]):
        return None
    try:
        token = base64.urlsafe_b64decode(encoded[0] + "=" * (-len(encoded[0]) % 4)).decode()
    except ValueError:
        return None
    return token if is_token(token) else None
