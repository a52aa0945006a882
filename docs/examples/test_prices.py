"""Tests of prices.rfl, the script that an engine process runs: `python -m pytest docs/examples`."""

from pathlib import Path

import pytest

from rayforce_trio import NativeProcess, WSClientConnection, errors


@pytest.fixture
def rayforce_engine() -> NativeProcess:
    return NativeProcess(Path(__file__).with_name("prices.rfl"), read_only=True)


@pytest.mark.trio
async def test_a_client_finds_a_price(rayforce_connection: WSClientConnection) -> None:
    query = "(select {from: prices where: (== symbol ticker)})"
    found = await rayforce_connection.fetch(query, {"ticker": "IBM"})
    assert found.to_dict() == {"symbol": ["IBM"], "price": [125.55]}


@pytest.mark.trio
async def test_a_client_cannot_change_a_price(rayforce_connection: WSClientConnection) -> None:
    with pytest.raises(errors.RayforceError, match="access"):
        await rayforce_connection.execute("(set prices 0)")
