"""Tests of the code around the suite, without the suite."""

import json
from pathlib import Path

import pytest
import trio
from support import raw

from autobahn.echo import echo, open_client, serve
from autobahn.relay import relay
from autobahn.report import Outcome, Report, remarkable, table
from autobahn.suite import Suite, SuiteError


@pytest.mark.trio
async def test_the_server_echoes_text_and_bytes_of_any_size() -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve)
        with trio.fail_after(30):
            transport = await open_client(port)
            for message in ("", "x" * 100_000, b"", bytes(200_000)):
                await transport.send(message)
                assert await transport.receive() == message
            await transport.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_ping_within_a_message_is_answered_before_the_message_is() -> None:
    messages = b"".join(
        raw.frame(b"to", raw.TEXT, fin=False)
        + raw.frame(b"%d" % number, raw.PING)
        + raw.frame(b"gether", raw.CONTINUATION)
        for number in range(50)
    )
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve)
        with trio.fail_after(30), raw.connect_raw(port) as peer:
            await peer.send(raw.upgrade())
            await peer.receive_head()
            await peer.send(messages)
            for number in range(50):
                assert await peer.receive_frame() == (raw.PONG, b"%d" % number)
                assert await peer.receive_frame() == (raw.TEXT, b"together")
            await peer.send_close(1000)
            assert await peer.receive_close() == 1000
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_relay_asks_for_its_path_and_the_client_echoes() -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve)
        async with relay(port) as suite:
            suite.path = "/runCase?case=1"
            with trio.fail_after(30):
                transport = await open_client(suite.port)
                await transport.send(b"through")
                assert await transport.receive() == b"through"
                await transport.aclose(1001)
                await echo(transport)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("behavior", "closing", "passed"),
    [
        ("OK", "OK", True),
        ("NON-STRICT", "OK", True),
        ("INFORMATIONAL", "INFORMATIONAL", True),
        ("UNIMPLEMENTED", "OK", True),
        ("FAILED", "OK", False),
        ("OK", "FAILED", False),
        ("OK", "WRONG CODE", False),
        ("OK", "UNCLEAN", False),
        ("OK", "FAILED BY CLIENT", False),
        ("INFORMATIONAL", "UNCLEAN", False),
    ],
)
def test_a_case_passes_by_its_behavior_and_its_closing(behavior: str, closing: str, passed: bool) -> None:
    assert Outcome("1.1.1", behavior, closing).passed is passed


def test_a_report_is_read_in_order_and_tells_what_was_not_run(tmp_path: Path) -> None:
    ok = {"behavior": "OK", "behaviorClose": "OK"}
    cases = {"10.1.1": ok, "2.10": ok, "2.9": {**ok, "behaviorClose": "UNCLEAN"}}
    (tmp_path / "index.json").write_text(json.dumps({"agent": cases}), encoding="utf-8")
    report = Report.read(tmp_path, 4)
    assert [outcome.case for outcome in report.outcomes] == ["2.9", "2.10", "10.1.1"]
    assert list(table({"server": report})) == [
        "| section | topic | server |",
        "| --- | --- | --- |",
        "| 2 | pings and pongs | 1 OK, 1 UNCLEAN |",
        "| 10 | fragments of our choice | 1 OK |",
        "| all | all topics | 2 OK, 1 UNCLEAN, 1 NOT RUN |",
    ]
    assert list(remarkable({"server": report}))[2:] == ["| 2.9 | server | OK | UNCLEAN |"]


def test_a_report_of_cases_that_are_all_ok_has_no_remarks() -> None:
    assert list(remarkable({"server": Report((Outcome("1.1.1", "OK", "OK"),))})) == []


@pytest.mark.parametrize("missing", [0, 1])
def test_a_report_passes_if_no_case_is_missing(missing: int) -> None:
    assert Report((Outcome("1.1.1", "OK", "OK"),), missing).passed is (missing == 0)


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_it_says_that_python_2_7_is_needed(python: str, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"a Python 2\.7 with pip is needed; name its command with --python"):
        Suite(python, tmp_path, ["*"], [])
