"""Law: whoever does the tasks and however long each takes, results come in order, and only some are under way."""

import threading
import time

import numpy as np
import pytest
import torch

from cryorbit import threads


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(count):
    rng = np.random.default_rng(3)
    waits = rng.uniform(0, 0.004, 60)

    def work(k):
        time.sleep(waits[k])
        return k

    assert list(threads.mapped(work, range(60), count)) == list(range(60))


def test_only_some_tasks_are_under_way():
    asked, returned, lead = 0, 0, []

    def tasks():
        nonlocal asked
        for k in range(200):
            asked += 1
            lead.append(asked - returned)
            yield k

    for _ in threads.mapped(lambda k: k, tasks(), 3):
        returned += 1
    assert asked == 200
    assert max(lead) <= 3 * (1 + threads.AHEAD) + 2


def test_one_waits_while_another_works():
    """Two tasks that wait for each other end only if both are under way at once."""
    meeting = threading.Barrier(2, timeout=20)
    assert len(list(threads.mapped(lambda _: meeting.wait(), range(2), 2))) == 2


def test_an_error_comes_when_its_turn_comes_and_ends_the_work():
    begun = []

    def work(k):
        begun.append(k)
        if k == 5:
            raise ValueError("task 5")
        return k

    results = threads.mapped(work, range(1000), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="task 5"):
        next(results)
    assert len(begun) < 20


def test_threads_share_the_cores_and_give_them_back(monkeypatch):
    monkeypatch.setenv("CRYORBIT_THREADS", "6")
    before = torch.get_num_threads()
    used = list(threads.mapped(lambda _: torch.get_num_threads(), range(8), 2))
    assert set(used) == {3}
    assert torch.get_num_threads() == before


def test_nothing_is_left_running_when_the_rest_is_not_wanted():
    before = threading.active_count()
    results = threads.mapped(lambda k: k, range(1000), 4)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before


def test_one_reads_ahead_of_who_takes():
    """The second task is done while the first result is still in use, and torch's own threads stay as they are."""
    before, second = torch.get_num_threads(), threading.Event()

    def work(k):
        if k == 1:
            second.set()
        return k, torch.get_num_threads()

    results = threads.ahead(work, range(20))
    assert next(results)[0] == 0
    assert second.wait(20)
    assert [k for k, _ in results] == list(range(1, 20))
    assert torch.get_num_threads() == before
