"""Check user names, passwords and tokens. The errors never show a secret."""

import re

from .errors import RayforceValueError


def check_password(secret: object) -> str:
    """Return a password. Raise `RayforceValueError` if it cannot be sent."""
    if not isinstance(secret, str) or not secret or not is_sendable(secret):
        raise RayforceValueError("Invalid password. Must be a non-empty str without control characters")
    return secret


def check_token(secret: object) -> str:
    """Return a token. Raise `RayforceValueError` if it cannot be sent."""
    if not isinstance(secret, str) or not is_token(secret):
        raise RayforceValueError("Invalid token. Must be a non-empty str of visible ASCII characters")
    return secret


def is_token(text: str) -> bool:
    """Return whether a text consists of visible ASCII characters, and is not empty."""
    return re.fullmatch(r"[!-~]+", text) is not None


def check_user(name: object) -> str:
    """Return a user name, which may be empty. Raise `RayforceValueError` if it cannot be sent."""
    if not isinstance(name, str) or ":" in name or not is_sendable(name):
        raise RayforceValueError("Invalid user name. Must be a str without colons or control characters")
    return name


def is_sendable(text: str) -> bool:
    """Return whether a text has only characters that user names and passwords may contain (RFC 7617)."""
    return re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text) is None
