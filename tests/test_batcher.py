import asyncio
import gc
import threading
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from serving.batcher import MOST_ADMITTED, Batcher, BatchMeters
from serving.pace import Pace
from serving.refusal import Refusal


class Passes:
    """A `run` that remembers its passes; each waits until it is let go, or takes time by its tokens."""

    def __init__(self, speed=None):
        self.seen, self.go, self.speed, self.begun = [], threading.Event(), speed, threading.Event()

    def __call__(self, works):
        self.seen.append(list(works))
        self.begun.set()
        if self.speed:
            time.sleep(sum(works) / self.speed)
        else:
            assert self.go.wait(10)
        return [("done", work) for work in works]


def batching(passes, budget=10, wait=2.0, **keywords):
    return Batcher(passes, lambda work: work, budget, wait, **keywords)


def play(passes, scene, **keywords):
    """Run a scene with a batcher, which is closed at the end."""
    batcher = batching(passes, **keywords)

    async def run():
        try:
            return await asyncio.wait_for(scene(batcher), 20)
        finally:
            passes.go.set()
            await asyncio.to_thread(batcher.close)

    return asyncio.run(run())


async def begun(passes):
    while not passes.begun.is_set():
        await asyncio.sleep(0.001)


@given(st.lists(st.integers(1, 15), min_size=1, max_size=30))
def test_requests_are_taken_in_order_as_many_as_fit_and_all_are_answered(sizes):
    passes = Passes()

    async def scene(batcher):
        batcher._pace.learn(10, 1e-9)
        tasks = [asyncio.ensure_future(batcher.submit(size)) for size in sizes]
        await begun(passes)
        passes.go.set()
        return await asyncio.gather(*tasks)

    assert play(passes, scene) == [("done", size) for size in sizes]
    assert [size for batch in passes.seen for size in batch] == sizes
    for batch, after in zip(passes.seen, passes.seen[1:], strict=False):
        assert len(batch) == 1 or sum(batch) <= 10
        assert batch is passes.seen[0] or sum(batch) + after[0] > 10  # the next one would not have fitted


def test_nothing_waits_while_the_thread_is_idle():
    async def scene(batcher):
        began = time.monotonic()
        await batcher.submit(1)
        return time.monotonic() - began

    assert play(Passes(speed=1e9), scene) < 0.2


def test_a_failed_pass_fails_each_of_its_requests_and_no_other():
    def run(works):
        if 7 in works:
            raise Refusal("store_unavailable", "away", status=503)
        return works

    async def scene(batcher):
        return await asyncio.gather(*(batcher.submit(size) for size in (7, 3, 9)), return_exceptions=True)

    batcher = Batcher(run, lambda work: work, 10, 2.0)
    first, second, third = asyncio.run(scene(batcher))
    assert isinstance(first, Refusal) and third == 9
    assert second == 3 or isinstance(second, Refusal)  # it may have been in the same pass
    batcher.close()


def test_one_request_at_fault_fails_no_other_of_its_pass():
    go, runs = threading.Event(), []

    def run(works):
        go.wait(10)
        runs.append(list(works))
        if 3 in works:
            raise RuntimeError("three")
        return works

    async def scene():
        tasks = [asyncio.ensure_future(batcher.submit(size)) for size in (10, 1, 2, 3, 4)]
        await asyncio.sleep(0.1)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    batcher = Batcher(run, lambda work: work, 10, 2.0)
    batcher._pace.learn(10, 1e-9)
    *found, last = asyncio.run(scene())
    assert isinstance(found.pop(3), RuntimeError) and [*found, last] == [10, 1, 2, 4]
    assert runs[0] == [10] and [1, 2, 3, 4] in runs
    batcher.close()


def test_what_cannot_be_kept_is_not_tried_again():
    go, runs = threading.Event(), []

    def run(works):
        go.wait(10)
        runs.append(list(works))
        raise Refusal("journal_full", "full", status=503)

    async def scene():
        tasks = [asyncio.ensure_future(batcher.submit(size)) for size in (10, 1, 2)]
        await asyncio.sleep(0.1)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    batcher = Batcher(run, lambda work: work, 10, 2.0)
    batcher._pace.learn(10, 1e-9)
    assert all(isinstance(each, Refusal) for each in asyncio.run(scene())) and runs == [[10], [1, 2]]
    batcher.close()


def test_a_pass_that_gives_too_few_results_is_an_error_of_each():
    batcher = Batcher(lambda works: [], lambda work: 1, 10, 2.0)
    with pytest.raises(RuntimeError, match="as many results"):
        asyncio.run(batcher.submit(1))
    batcher.close()


def test_a_request_that_is_given_up_is_in_no_pass_and_takes_no_room():
    passes = Passes()

    async def scene(batcher):
        first = asyncio.ensure_future(batcher.submit(5))
        await begun(passes)
        given_up, last = asyncio.ensure_future(batcher.submit(6)), asyncio.ensure_future(batcher.submit(7))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert batcher._tokens == 7
        passes.go.set()
        await asyncio.gather(first, last)
        assert batcher._tokens == batcher._count == 0

    play(passes, scene)
    assert passes.seen == [[5], [7]]


def test_more_work_than_may_wait_is_refused_with_the_time_to_come_again():
    registry = CollectorRegistry()
    passes = Passes(speed=100)  # tokens a second: 100 tokens are a second of work

    async def scene(batcher):
        await batcher.submit(10)  # the pace is known from here on
        batcher.admit()
        tasks = [asyncio.ensure_future(batcher.submit(10)) for _ in range(3)]
        await asyncio.sleep(0.005)
        assert 0.25 < batcher.seconds_waiting < 0.4
        for refused in (batcher.admit, lambda: asyncio.ensure_future(batcher.submit(10))):
            with pytest.raises(Refusal) as refusal:
                await asyncio.ensure_future(refused()) if refused is not batcher.admit else refused()
            assert (refusal.value.kind, refusal.value.status) == ("overloaded", 503)
            assert refusal.value.headers == {"Retry-After": "1"}
        batcher.admit(patient=True)
        await asyncio.gather(*tasks)
        batcher.admit()
        with pytest.raises(Refusal, match="seconds of work"):
            batcher.admit(before=0.4)

    play(passes, scene, wait=0.25, meters=BatchMeters(registry))
    assert registry.get_sample_value("polarscore_refused_requests_total") == 3
    assert registry.get_sample_value("polarscore_batch_tokens_sum") == 40
    assert registry.get_sample_value("polarscore_queue_seconds_count") == 4


def test_the_patient_wait_for_room_and_are_served_in_turn():
    async def scene(batcher):
        await batcher.submit(10)
        tasks = [asyncio.ensure_future(batcher.submit(10, patient=True)) for _ in range(30)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, batcher._tokens)
            await asyncio.sleep(0.001)
        assert most <= 60
        return await asyncio.gather(*tasks)

    assert len(play(Passes(speed=1000), scene, wait=0.03)) == 30


def test_one_pass_may_always_wait_however_slow_it_is():
    passes = Passes(speed=50)

    async def scene(batcher):
        await batcher.submit(10)
        running = asyncio.ensure_future(batcher.submit(10))
        await asyncio.sleep(0.01)
        batcher.admit()
        waiting = asyncio.ensure_future(batcher.submit(10))
        await asyncio.sleep(0.01)
        batcher.admit()  # though more than `wait` seconds wait
        return await asyncio.gather(running, waiting)

    assert play(passes, scene, wait=0.01) == [("done", 10), ("done", 10)]


def test_little_waits_while_no_pace_is_known():
    passes = Passes()

    async def scene(batcher):
        tasks = [asyncio.ensure_future(batcher.submit(5)) for _ in range(50)]
        await begun(passes)
        await asyncio.sleep(0.05)
        assert batcher._tokens <= 20
        passes.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    play(passes, scene)


def test_the_queue_is_bounded_however_quick_the_pace():
    passes = Passes()

    async def scene(batcher):
        batcher._pace.learn(10, 1e-6)
        tasks = [asyncio.ensure_future(batcher.submit(10)) for _ in range(500)]
        await begun(passes)
        await asyncio.sleep(0.05)
        assert batcher._tokens <= 128 * 10
        passes.go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, Refusal) for each in done) in range(365, 373)

    play(passes, scene)


def test_what_is_under_way_is_counted_and_bounded():
    batcher = batching(Passes())
    entered = [batcher.admit() for _ in range(MOST_ADMITTED)]
    for each in entered:
        each.__enter__()
    with pytest.raises(Refusal, match="under way"):
        batcher.admit()
    for each in entered:
        each.__exit__(None, None, None)
    with batcher.admit():
        pass
    batcher.close()


def test_closing_finishes_what_was_let_in_and_refuses_the_rest():
    passes = Passes()

    async def scene(batcher):
        with batcher.admit():
            first = asyncio.ensure_future(batcher.submit(5))
            await begun(passes)
            second = asyncio.ensure_future(batcher.submit(6))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
            while not batcher._closed:
                await asyncio.sleep(0.001)
            with pytest.raises(Refusal, match="stopping"):
                batcher.admit()
            passes.go.set()
            assert await first and await second
            assert await batcher.submit(7)  # let in before
        await closing
        with pytest.raises(Refusal, match="stopping"):
            await batcher.submit(1)

    play(passes, scene)


def test_closing_ends_in_time_whatever_is_left():
    passes = Passes()

    async def scene(batcher):
        tasks = [asyncio.ensure_future(batcher.submit(6)) for _ in range(3)]
        await begun(passes)
        began = time.monotonic()
        await asyncio.to_thread(batcher.close, 0.1)
        assert time.monotonic() - began < 1
        passes.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *rest = play(passes, scene)
    assert first == ("done", 6) and all(isinstance(each, Refusal) for each in rest)


def test_nothing_of_a_request_is_kept_after_its_answer():
    class Work:
        pass

    async def scene(batcher):
        work = Work()
        kept = weakref.ref(work)
        await batcher.submit(work)
        del work
        await asyncio.sleep(0.05)
        gc.collect()
        return kept()

    batcher = Batcher(lambda works: [1] * len(works), lambda work: 1, 10, 2.0)
    assert asyncio.run(scene(batcher)) is None
    batcher.close()


def test_goodput_stays_at_twice_the_capacity():
    passes = Passes(speed=20_000)  # of 10 tokens: 2,000 requests a second
    done, refused = [], []

    async def one(batcher):
        try:
            with batcher.admit():
                await asyncio.sleep(0)
                done.append(await batcher.submit(10))
        except Refusal:
            refused.append(1)

    async def scene(batcher):
        await batcher.submit(10)
        began, tasks = time.monotonic(), []
        while time.monotonic() - began < 1.5:
            while len(tasks) < 4_000 * (time.monotonic() - began):
                tasks.append(asyncio.ensure_future(one(batcher)))
            await asyncio.sleep(0.002)
        goodput = len(done) / (time.monotonic() - began)
        await asyncio.gather(*tasks)
        return goodput

    assert play(passes, scene, budget=500, wait=0.2) > 0.8 * 2_000  # on a machine with other work
    assert len(refused) > 1_000


# The pace


@given(st.floats(0, 1), st.floats(1e-6, 1e-3), st.lists(st.integers(1, 10_000), min_size=2, max_size=50))
def test_the_pace_finds_the_line(each_pass, each_unit, sizes):
    pace = Pace()
    for size in sizes:
        pace.learn(size, each_pass + each_unit * size)
    # the passes of late are told rightly on average, whatever the line
    assert pace.seconds(pace._units, 1) == pytest.approx(pace._seconds)
    assert pace.seconds(10_000, 1) >= 0
    if pace._squares - pace._units**2 > (0.2 * pace._units) ** 2:
        assert pace.seconds(5_000, 2) == pytest.approx(2 * each_pass + 5_000 * each_unit, rel=1e-3, abs=1e-6)


@given(st.floats(0, 1), st.floats(1e-6, 1e-3), st.lists(st.integers(1, 10_000), min_size=1, max_size=50))
def test_units_and_seconds_are_inverse(each_pass, each_unit, sizes):
    pace = Pace()
    for size in sizes:
        pace.learn(size, each_pass + each_unit * size)
    least = pace.seconds(0, 1)
    assert pace.seconds(pace.units(least + 3), 1) == pytest.approx(least + 3) or pace._each == 0
    assert pace.units(least / 2) == 0 or least <= 0 or pace._each == 0


def test_a_pass_takes_no_longer_than_a_part_of_what_may_wait():
    passes = Passes(speed=1000)

    async def scene(batcher):
        await batcher.submit(10)
        assert batcher.pass_tokens in range(60, 101)
        await asyncio.gather(*(batcher.submit(10) for _ in range(60)))

    play(passes, scene, budget=500, wait=0.8)
    assert max(map(sum, passes.seen)) <= 120


def test_the_pace_of_nothing_is_nothing():
    assert Pace().seconds(1_000, 1) == 0 and Pace().units(1) == float("inf")
