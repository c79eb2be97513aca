"""The dispatcher with a real Dask cluster inside this process."""

from __future__ import annotations

from cluster.dispatch import AttemptFinished, Dispatcher

from cluster.attempt import EndKind
from cluster.pool import LocalPool
from tests.trainers.tiny_trial import open_attempt, tiny_spec
from tests.waiting import wait_until


def test_an_attempt_for_a_worker_that_has_just_gone_ends_as_interrupted(tmp_path):
    request = open_attempt(tmp_path / "trial", tiny_spec())
    with LocalPool(1) as pool:
        dispatcher = Dispatcher(pool.client)
        (worker,) = pool.workers()
        pool.client.retire_workers([worker])
        wait_until(lambda: worker not in pool.workers(), 30)

        dispatcher.submit(request, worker)
        assert dispatcher.next_news(1.0) is None
        dispatcher.give_up_on_lost_workers()
        news = dispatcher.next_news(30.0)

    assert isinstance(news, AttemptFinished)
    assert (news.end.kind, news.worker) == (EndKind.INTERRUPTED, worker)
    assert f"worker {worker} is gone" in news.end.log_tail
    assert dispatcher.busy_workers() == set()
