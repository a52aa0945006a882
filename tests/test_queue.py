"""The bounded queue between the tasks of a connection."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rayforce_trio._server._queue import BoundedQueue

pytestmark = pytest.mark.trio


async def test_items_come_out_in_the_order_they_went_in() -> None:
    queue = BoundedQueue[int](10, 10)
    for number in range(5):
        await queue.put(number, 1)
    assert [queue.get_nowait() for _ in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("max_items", "max_bytes"), [(2, 100), (100, 2)], ids=["items", "bytes"])
async def test_a_full_queue_makes_every_putter_wait_and_lets_every_one_go_on(max_items: int, max_bytes: int) -> None:
    queue = BoundedQueue[int](max_items, max_bytes)
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(queue.put, number, 1)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 4
        with trio.fail_after(5):
            taken = set[int]()
            while len(taken) < 6:
                taken.add(queue.get_nowait())
                await wait_all_tasks_blocked()
        assert taken == set(range(6))


async def test_an_item_larger_than_the_queue_passes_alone() -> None:
    queue = BoundedQueue[str](10, 100)
    await queue.put("large", 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.put, "small", 1)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        assert queue.get_nowait() == "large"
    assert queue.get_nowait() == "small"


async def test_a_cancelled_put_leaves_nothing() -> None:
    queue = BoundedQueue[int](1, 100)
    await queue.put(1, 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await queue.put(2, 1)
    assert scope.cancelled_caught
    assert queue.first == 1
    assert queue.get_nowait() == 1
    assert len(queue) == 0


async def test_a_closed_queue_gives_what_it_has_and_takes_nothing_more() -> None:
    queue = BoundedQueue[int](1, 100)
    assert not queue.closed
    async with trio.open_nursery() as nursery:
        await queue.put(1, 1)
        nursery.start_soon(queue.put, 2, 1)
        await wait_all_tasks_blocked()
        queue.close()
    await queue.put(3, 1)
    assert queue.closed
    assert [queue.get_nowait() for _ in range(len(queue))] == [1]
