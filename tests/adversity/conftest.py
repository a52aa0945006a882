"""Fixtures of the tests of peers that misbehave."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_internal_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that no peer makes this package log an internal error."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
def short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait 0.1 seconds, not 10, for a peer that does not answer a close."""
    monkeypatch.setattr("rayforce_trio._transports._websocket.CLOSE_TIMEOUT", 0.1)


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a refused peer 0.1 seconds, not 1, to read why and to close."""
    monkeypatch.setattr("rayforce_trio._transports._accepting._LINGER_TIMEOUT", 0.1)
