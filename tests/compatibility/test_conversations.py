"""This version understands released versions: recorded clients talk to our server, and recorded servers to our client.

Keep the recordings of released versions as they are. If this version is right to send something else, change the rules
in `comparing.py`, or leave the file out of `CLIENTS_AND_LOOPS` and say why.
"""

from functools import cache
from pathlib import Path

import anyio
import pytest

from compatibility.comparing import check_outcomes, check_sent, error_messages, sent_by
from compatibility.hosts import running_host
from compatibility.recording import DIRECTORY, Recording
from compatibility.replay import replay_client, replay_server
from compatibility.scenarios import SCENARIOS

pytestmark = pytest.mark.anyio

_TIME_LIMIT = 20.0  # seconds

FILES = sorted(path.relative_to(DIRECTORY).as_posix() for path in DIRECTORY.rglob("*.json"))

_OUR_CLIENTS = ("trio", "asyncio")

_CHANGED = {
    # `connect` no longer waits for the answer: the first request, or the end of the connection, reports a wrong one.
    "wrong_answer_to_the_greeting",
}

CLIENTS_AND_LOOPS = [
    (file, loop)
    for file in FILES
    for loop in _OUR_CLIENTS
    if file.endswith(f".{loop}.json") and file.rpartition("/")[2].partition(".")[0] not in _CHANGED
]
"""The conversations in which this package's client took part, with the event loop that it ran on."""


@cache
def recording_of(file: str) -> Recording:
    return Recording.load(DIRECTORY / file)


def is_baseline(recording: Recording) -> bool:
    heads = (event.raw.lower() for event in recording.events if event.side == "server" and event.kind == "head")
    return not any(b"sec-websocket-protocol" in head for head in heads)


SERVED_BY_US = [
    file
    for file in FILES
    if recording_of(file).server == "rayforce_trio" and SCENARIOS[recording_of(file).scenario].replay_to_server
]
"""The conversations in which this package's server took part, and can be made to do the same again."""


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("file", SERVED_BY_US)
async def test_our_server_answers_a_recorded_client_as_before(file: str, tmp_path: Path) -> None:
    recording = recording_of(file)
    with anyio.fail_after(_TIME_LIMIT):
        async with running_host(SCENARIOS[recording.scenario], tmp_path) as host:
            events = await replay_client(recording, host)
    baseline = is_baseline(recording)
    check_sent(sent_by(recording.events, "server", baseline=baseline), sent_by(events, "server", baseline=baseline))


@pytest.mark.parametrize(("file", "anyio_backend"), CLIENTS_AND_LOOPS)
async def test_our_client_does_the_same_with_a_recorded_server_as_before(file: str) -> None:
    recording = recording_of(file)
    with anyio.fail_after(_TIME_LIMIT):
        events, outcomes = await replay_server(recording, SCENARIOS[recording.scenario])
    baseline = is_baseline(recording)
    check_sent(sent_by(recording.events, "client", baseline=baseline), sent_by(events, "client", baseline=baseline))
    check_outcomes(recording.outcomes, outcomes, error_messages(recording.events))


def test_there_are_recordings_of_every_scenario() -> None:
    assert {recording_of(file).scenario for file in FILES} == set(SCENARIOS)
