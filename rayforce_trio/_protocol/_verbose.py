"""The response to a verbose request: a list of the output, which is a String, and the value or error.

This is the form that the native server uses. Ours adds the message of an error as a third item, because an error on the
wire has no message.
"""

import struct

from ._frames import (
    ERROR,
    ERROR_SIZE,
    HEADER_SIZE,
    SIZED,
    STRING_ATOM,
    Frame,
    FrameError,
    error_code,
    pack_string,
    response_frame,
)
from ._replies import Failure, Reply, Result

_LIST = 0x00


def join_verbose(output: bytes, reply: Reply) -> Result:
    """Return the response to a request that printed `output` and has the reply `reply`."""
    items = [pack_string(output)]
    if isinstance(reply, Failure):
        items.append(struct.pack("<B8s", ERROR, reply.code.encode("ascii", "replace")[:7]))
        items.append(pack_string(reply.message.encode("utf-8", "replace")))
    else:
        items.append(bytes(reply.frame[HEADER_SIZE:]))
    return Result(response_frame(SIZED.pack(_LIST, 0, len(items)) + b"".join(items)))


def split_verbose(frame: Frame) -> tuple[str, Reply]:
    """Return the output and the reply in the response to a verbose request.

    Raises:
        FrameError: the frame is not the response to a verbose request.
    """
    try:
        kind, _, count = SIZED.unpack_from(frame, HEADER_SIZE)
        if kind != _LIST or count not in (2, 3):
            raise FrameError("the reply to a verbose request is not a list of the output and the value")
        output, start = _read_string(frame, HEADER_SIZE + SIZED.size)
        code = error_code(frame, start)
        if code is not None:
            return output, Failure(code, _read_string(frame, start + ERROR_SIZE)[0] if count == 3 else "")
        if count == 3 or start == len(frame):
            raise FrameError("the reply to a verbose request contains no value")
        return output, Result(response_frame(bytes(frame[start:])))
    except struct.error:
        raise FrameError("the reply to a verbose request is truncated") from None


def split_payload(payload: Frame) -> tuple[Frame, Frame] | Failure:
    """Return the payloads of the output, a String, and of the value in the response to a verbose request, uncopied.

    If the evaluation failed, or this is no such response, return the error.
    """
    try:
        kind, _, count = SIZED.unpack_from(payload)
        string, _, size = SIZED.unpack_from(payload, SIZED.size)
    except struct.error:
        kind, count, string, size = _LIST, 0, STRING_ATOM, 0
    start = 2 * SIZED.size + size
    if kind != _LIST or count not in (2, 3) or string != STRING_ATOM or not 0 <= size < len(payload) - 2 * SIZED.size:
        return Failure("io", "the engine sent a damaged reply to a verbose request")
    code = error_code(payload, start)
    return (payload[SIZED.size : start], payload[start:]) if code is None else Failure(code, "")


def verbose_error_code(frame: Frame) -> str | None:
    """Return the code of the error in the response to a verbose request, or `None` if it contains no error."""
    try:
        kind, _, size = SIZED.unpack_from(frame, HEADER_SIZE + SIZED.size)
    except struct.error:
        return None
    if frame[HEADER_SIZE] != _LIST or kind != STRING_ATOM or size < 0:
        return None
    return error_code(frame, HEADER_SIZE + 2 * SIZED.size + size)


def _read_string(frame: Frame, start: int) -> tuple[str, int]:
    """Return the text of the String at `start`, and the offset of its end."""
    kind, _, size = SIZED.unpack_from(frame, start)
    begin = start + SIZED.size
    if kind != STRING_ATOM or not 0 <= size <= len(frame) - begin:
        raise FrameError("the reply to a verbose request contains no String where one is expected")
    return bytes(frame[begin : begin + size]).decode("utf-8", "replace"), begin + size
