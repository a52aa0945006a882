"""Helpers of the tests of query objects."""

from typing import Any

from rayforce import Column

from rayforce_trio._codec import decode
from rayforce_trio._protocol import HEADER_SIZE, Reply, Result
from support.frames import whole_frame


def column(text: str) -> Any:
    """Return a column as `Any`, because rayforce-py does not declare its operators."""
    return Column(text)


def payload_of(reply: Reply) -> bytes:
    """Return the payload of a reply. Raises the error of a reply that is an error or damaged."""
    decode(reply)
    assert isinstance(reply, Result)
    return whole_frame(reply.frame)[HEADER_SIZE:]
