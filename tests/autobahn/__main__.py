"""Run the Autobahn test suite against our server and our client: `python -m autobahn --help`."""

import argparse
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import trio

import rayforce_trio
from autobahn.echo import echo, open_client, serve
from autobahn.relay import Relay, relay
from autobahn.report import Report, remarkable, table
from autobahn.suite import AGENT, VERSION, Suite, SuiteError

_CASE_TIMEOUT = 60.0
_SUITE_TIMEOUT = 1800.0


async def run(suite: Suite) -> dict[str, Report]:
    """Test both sides; return the reports, by side."""
    async with suite.test_clients() as port, relay(port) as there:
        print("the suite is the server, ours the client", flush=True)
        count = await _be_tested(there)
    print("the suite is the client, ours the server", flush=True)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve)
        with trio.fail_after(_SUITE_TIMEOUT):
            await suite.test_server(port)
        await _check_that_it_echoes(port)
        nursery.cancel_scope.cancel()
    return {side: Report.read(suite.reports(side), count) for side in ("server", "client")}


async def _be_tested(suite: Relay) -> int:
    """Have our client echo in all cases of the suite; return their number."""
    suite.path = "/getCaseCount"
    with trio.fail_after(_CASE_TIMEOUT):
        transport = await open_client(suite.port)
        count = int(await transport.receive())
        await echo(transport)
    for case in range(1, count + 1):
        await _ask(suite, f"/runCase?case={case}&agent={AGENT}")
        if case % 25 == 0 or case == count:
            print(f"  {case} of {count} cases", flush=True)
    await _ask(suite, f"/updateReports?agent={AGENT}")
    return count


async def _ask(suite: Relay, path: str) -> None:
    suite.path = path
    with trio.move_on_after(_CASE_TIMEOUT) as patience:
        await echo(await open_client(suite.port))
    if patience.cancelled_caught:
        print(f"  {path} did not come to an end in {_CASE_TIMEOUT:g} seconds")


async def _check_that_it_echoes(port: int) -> None:
    """Check that the server still serves after the suite's attacks."""
    with trio.fail_after(_CASE_TIMEOUT):
        transport = await open_client(port)
        for message in ("text", b"bytes"):
            await transport.send(message)
            assert await transport.receive() == message
        await transport.aclose()


def page(reports: dict[str, Report]) -> str:
    """Return the page of the documentation."""
    lines = [
        "# The Autobahn test suite",
        "",
        "Does the WebSocket implementation follow RFC 6455, also with peers that do not? The [Autobahn test",
        "suite](https://github.com/crossbario/autobahn-testsuite) plays a peer that does correct and incorrect",
        "things, and judges the reactions.",
        "",
        f"This is a run of version {VERSION} of the suite with the WebSocket implementation of rayforce-trio",
        f"{rayforce_trio.__version__} on trio, on {datetime.now(UTC):%Y-%m-%d}, with Python",
        f"{platform.python_version()} and trio {trio.__version__}. In the column `server`, our server was tested;",
        "in the column `client`, our client.",
        "",
        *table(reports),
        "",
        "In a case that is `INFORMATIONAL`, the suite expects nothing and reports its observation. Sections 12",
        "and 13 are about compression, which our side never accepts, so they are left out.",
    ]
    if remarks := list(remarkable(reports)):
        lines += ["", "These outcomes are not simply `OK`:", "", *remarks]
    lines += ["", "To run the suite, use `nox -s autobahn`. The suite needs a Python 2.7 with pip."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m autobahn", description=__doc__)
    parser.add_argument("--python", default="python2.7", help="the command of a Python 2.7 with pip")
    parser.add_argument("--directory", type=Path, default=Path(".autobahn"), help="for the suite and its reports")
    parser.add_argument("--cases", nargs="+", default=["*"], metavar="PATTERN", help="those to run: '6.*' 7.1.1")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="PATTERN", help="those to leave out: '9.*'")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of the documentation")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    try:
        suite = Suite(options.python, options.directory, options.cases, options.exclude)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return 2
    reports = trio.run(run, suite)
    text = page(reports)
    print(f"\n{text}\nIn detail: {suite.reports('server').parent}")
    if options.write is not None:
        options.write.write_text(text, encoding="utf-8")
    return 0 if all(report.passed for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
