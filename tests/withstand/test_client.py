"""The client with many calls at once."""

import time

import pytest

from rayforce_trio._codec import encode
from rayforce_trio._protocol import ClientProtocol, MessageType, string_frame

pytestmark = pytest.mark.withstand


def time_for_each(calls: int, *, posts: bool) -> float:
    """Return how long the protocol takes for each of so many calls that wait at the same time, in seconds."""
    client = ClientProtocol(extended=True)
    frame = encode("1", MessageType.ASYNC if posts else MessageType.SYNC)
    for _ in range(calls):
        if posts:
            client.post(frame)
        else:
            client.submit(frame)
    reply = string_frame("")
    started = time.process_time()
    while client.pending:
        unanswered = 0
        while (outgoing := client.next_outgoing()) is not None:
            unanswered += outgoing.request is not None and outgoing.request.number is not None
        for _ in range(unanswered):
            client.receive(reply)
    return (time.process_time() - started) / calls


@pytest.mark.parametrize("posts", [False, True])
def test_a_call_takes_no_longer_if_many_others_wait(posts: bool) -> None:
    few, many = time_for_each(2_000, posts=posts), time_for_each(50_000, posts=posts)
    print(f"{few * 1e6:.1f} us with few, {many * 1e6:.1f} us with many")
    assert many < 4 * few
