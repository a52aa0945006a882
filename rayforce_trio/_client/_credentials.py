"""The headers of the opening request that the caller chooses. The errors never show a secret."""

import base64
import re
from collections.abc import Mapping

from .._credentials import check_password, check_token, check_user
from ..errors import RayforceValueError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?")

# Headers that the client sets itself, for HTTP and for the opening handshake.
_OWN = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})
_OWN_PREFIX = "sec-websocket-"


def request_headers(
    user: str | None, password: str | None, token: str | None, headers: Mapping[str, str] | None
) -> list[tuple[str, str]]:
    """Return the headers to add to the opening request.

    Raises:
        RayforceValueError: an argument cannot be sent, or contradicts another.
    """
    if headers is not None and not isinstance(headers, Mapping):
        raise RayforceValueError("Invalid headers. Must be a dict of header names and values")
    found = [_checked(name, value) for name, value in (headers or {}).items()]
    authorization = _authorization(user, password, token)
    if authorization is not None:
        if any(name.lower() == "authorization" for name, _ in found):
            raise RayforceValueError("give only one of these: token; user and password; an Authorization header")
        found.append(("Authorization", authorization))
    return found


def _authorization(user: str | None, password: str | None, token: str | None) -> str | None:
    if token is not None:
        if user is not None or password is not None:
            raise RayforceValueError("give either token, or user and password, not both")
        return f"Bearer {check_token(token)}"
    if password is not None:
        credentials = f"{check_user('' if user is None else user)}:{check_password(password)}"
        return f"Basic {base64.b64encode(credentials.encode()).decode()}"
    if user is not None:
        raise RayforceValueError("user needs password; give both or neither")
    return None


def _checked(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RayforceValueError(f"Invalid header name: {name!r}. Must consist of ASCII letters, digits and hyphens")
    if name.lower() in _OWN or name.lower().startswith(_OWN_PREFIX):
        raise RayforceValueError(f"Invalid headers. The client sets {name} itself; leave it out")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise RayforceValueError(
            f"Invalid value of the header {name}. Must be a non-empty str of ASCII characters, not starting or "
            "ending with a space"
        )
    return name, value
