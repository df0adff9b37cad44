import asyncio
import threading
import time

import pytest

from serving.refusal import Refusal
from serving.threads import Threads, over


def test_cancelled_work_keeps_its_thread_until_it_is_done():
    go, doing, most, lock = threading.Event(), 0, 0, threading.Lock()

    def work():
        nonlocal doing, most
        with lock:
            doing, most = doing + 1, max(most, doing + 1)
        go.wait(10)
        with lock:
            doing -= 1

    async def scene():
        threads = Threads(2, most=64)
        for _ in range(40):
            task = asyncio.ensure_future(threads.run(work))
            await asyncio.sleep(0.005)
            task.cancel()
            task.cancel()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.sleep(0.05)
        assert (doing, threads._pieces, threads._units) == (2, 2, 2)
        late = asyncio.ensure_future(threads.run(lambda: "late"))
        await asyncio.sleep(0.05)
        assert not late.done()
        go.set()
        assert await late == "late"
        await over(*left)
        assert all(task.cancelled() for task in left)
        assert (threads._pieces, threads._units) == (0, 0)

    asyncio.run(scene())
    assert most == 2


def test_what_waits_is_bounded_told_and_given_up_at_once():
    go, done = threading.Event(), []

    async def scene():
        threads = Threads(1, most=3)
        await threads.run(lambda: time.sleep(0.1), units=10)
        tasks = [asyncio.ensure_future(threads.run(lambda n=n: go.wait(10) and done.append(n), 20)) for n in range(3)]
        await asyncio.sleep(0.05)
        assert 0.3 < threads.seconds_waiting < 1.5
        with pytest.raises(Refusal) as refusal:
            await threads.run(lambda: None)
        assert refusal.value.kind == "overloaded"
        tasks[1].cancel()
        await asyncio.wait(tasks[1:2], timeout=1)
        assert tasks[1].cancelled() and threads._pieces == 2
        go.set()
        await asyncio.gather(tasks[0], tasks[2])

    asyncio.run(scene())
    assert done == [0, 2]


def test_what_work_raises_is_raised():
    def work():
        raise KeyError("x")

    async def scene():
        threads = Threads(1, most=1)
        with pytest.raises(KeyError):
            await threads.run(work)
        assert await threads.run(lambda: 3) == 3

    asyncio.run(scene())
