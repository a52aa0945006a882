"""User names, passwords and tokens: what is one. No error here shows a secret."""

import re

from .errors import RayforceValueError


def check_password(secret: object) -> str:
    """Return it. Raises `RayforceValueError` if it is no password that can be sent."""
    if not isinstance(secret, str) or not secret or not is_sendable(secret):
        raise RayforceValueError("Invalid password. Must be a str that is not empty and has no control characters")
    return secret


def check_token(secret: object) -> str:
    """Return it. Raises `RayforceValueError` if it is no token that can be sent."""
    if not isinstance(secret, str) or not is_token(secret):
        raise RayforceValueError("Invalid token. Must be a str of visible ASCII characters, and not empty")
    return secret


def is_token(text: str) -> bool:
    """Whether a text is of visible ASCII characters, and not empty."""
    return re.fullmatch(r"[!-~]+", text) is not None


def check_user(name: object) -> str:
    """Return it. Raises `RayforceValueError` if it is no user name that can be sent; `""` is one."""
    if not isinstance(name, str) or ":" in name or not is_sendable(name):
        raise RayforceValueError("Invalid user name. Must be a str without colons and control characters")
    return name


def is_sendable(text: str) -> bool:
    """Whether a text has nothing that neither user names nor passwords can have (RFC 7617)."""
    return re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text) is None
