"""npm's `ws`: its client on our server, its server under our client."""

import pytest
from support.foreign import clients, servers
from support.foreign.with_node import dial_ws, listen_ws


@pytest.mark.trio
@pytest.mark.parametrize("check", clients.EACH_ENGINE, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("each_engine")
async def test_its_client_is_served_by_every_engine(check: clients.Check) -> None:
    await check(dial_ws)


@pytest.mark.trio
@pytest.mark.parametrize("check", clients.OTHERS, ids=lambda check: check.__name__)
async def test_its_client_is_served(check: clients.Check) -> None:
    await check(dial_ws)


@pytest.mark.trio
@pytest.mark.parametrize("check", clients.FRAME_CHECKS, ids=lambda check: check.__name__)
async def test_the_frames_of_its_client_are_understood(check: clients.FrameCheck) -> None:
    await check(dial_ws)


@pytest.mark.anyio
@pytest.mark.parametrize("check", servers.CHECKS, ids=lambda check: check.__name__)
async def test_its_server_serves_our_client(check: servers.Check) -> None:
    await check(listen_ws)
