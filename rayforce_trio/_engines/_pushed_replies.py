"""Posts that have a native server push their values, for requests that its journal must not record.

The journal records each request before it runs, but no posts. A post can have the server push a value to the connection
from which it came: a list of a token, which is a String, and the value. A second post pushes the token alone. If that
one arrives first, the first post has failed; the server does not tell why. Measured on rayforce-py 2.4.0 (core 3.0.1).
"""

from itertools import count
from secrets import token_hex

from .._protocol import HEADER_SIZE, SIZED, Frame, Header, MessageType, string_in
from .._values._payloads import Buffer, call, i64, list_of, string, symbol

_FAILED_TWICE = 2
"""The number of times that the token alone is pushed. A stop that arrives late can hit one of these posts."""


class PushedReply:
    """The pushes that answer one request.

    Args:
        verbose: whether the value is the reply to a verbose request. It then has no printed text, because the server
            prints that itself.

    Attributes:
        behind: the posts that follow the first one.
    """

    _numbers = count(1)
    _secret = token_hex(4)  # so that nothing else that is pushed to the connection looks like a reply

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        token = string(f"{self._secret}{next(self._numbers):08x}")
        self._token = token
        self._value = _list_start(2) + token
        self._failure = _list_start(1) + token
        self.behind = _post(call("list", token)) * _FAILED_TWICE

    def post(self, frame: Frame) -> bytes:
        """Return the post that evaluates a frame and has its value pushed. A text is parsed first."""
        query = frame[HEADER_SIZE:]
        value: Buffer = query if string_in(query) is None else call("eval", call("parse", query))
        if self._verbose:
            value = call("list", string(""), value)
        return _post(call("list", self._token, value))

    def is_failure(self, beginning: Buffer) -> bool:
        """Return whether the payload of a push, of which this is the beginning, says that the first post failed."""
        return bytes(beginning[: len(self._failure)]) == self._failure

    def value_start(self, beginning: Buffer) -> int:
        """Return where the value begins in the payload of a push; 0 if it is not the reply."""
        size = len(self._value)
        return size if bytes(beginning[:size]) == self._value else 0


JOURNAL = call("count", call("at", call(".sys.args"), symbol("log")))
"""The length of the name of the server's journal; 0 without one."""

NO_JOURNAL = i64(0)
"""The value of `JOURNAL` without a journal."""


def request_frame(payload: Buffer) -> bytes:
    """Return the request with this payload."""
    return Header(0, MessageType.SYNC, len(payload)).pack() + bytes(payload)


def _post(value: Buffer) -> bytes:
    payload = call(".ipc.post", call(".ipc.handle"), value)
    return Header(0, MessageType.ASYNC, len(payload)).pack() + payload


def _list_start(items: int) -> bytes:
    return list_of([])[: -SIZED.size] + SIZED.pack(0, 0, items)
