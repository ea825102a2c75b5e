"""Many pieces on a few threads."""

from __future__ import annotations

import threading
import time

import pytest

from adaptool.jobs import default_workers, run

WORKERS = pytest.mark.parametrize("workers", [1, 2, 5])


@WORKERS
def test_everything_is_done_once(workers):
    assert sorted(run(lambda n: n * n, range(100), workers)) == [n * n for n in range(100)]


@WORKERS
def test_nothing_to_do(workers):
    assert list(run(lambda n: n, [], workers)) == []


@WORKERS
def test_the_first_error_stops_the_rest(workers):
    done = []

    def work(number: int) -> int:
        if number == 7:
            raise KeyError("seven")
        done.append(number)
        return number

    with pytest.raises(KeyError, match="seven"):
        list(run(work, range(10_000), workers))
    assert len(done) < 7 + 4 * workers


@WORKERS
def test_items_are_taken_as_they_are_needed(workers):
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    steps = run(lambda n: n, items(), workers)
    next(steps)
    assert len(taken) <= 2 * workers + 1
    steps.close()


@WORKERS
def test_leaving_early_waits_for_what_runs(workers):
    running, lock = [], threading.Lock()

    def work(number: int) -> int:
        with lock:
            running.append(number)
        time.sleep(0.01)
        with lock:
            running.remove(number)
        return number

    for _ in run(work, range(1000), workers):
        break
    assert running == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("adaptool")]


@pytest.mark.parametrize("workers", [2, 5])
def test_no_more_threads_than_asked(workers):
    seen = set()

    def work(number: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.001)
        return number

    assert len(list(run(work, range(200), workers))) == 200
    assert len(seen) <= workers
    assert threading.get_ident() not in seen


def test_one_worker_is_the_caller():
    assert set(run(lambda _: threading.get_ident(), range(3), 1)) == {threading.get_ident()}


def test_an_error_among_the_items_is_raised():
    def items():
        yield 1
        raise OSError("the list ended badly")

    with pytest.raises(OSError, match="ended badly"):
        list(run(lambda n: n, items(), 3))


def test_there_is_a_default():
    assert default_workers() >= 1
