"""When ranks that measure are ended, by the clocks alone."""

from __future__ import annotations

import pytest

from cluster.gpu_check.__main__ import RanksWatch
from storage.protocol.gpu_check import CheckRequest, StepProgram
from storage.protocol.records import Precision

REQUEST = CheckRequest((StepProgram(Precision.FLOAT32, jit=False, fused=True),), (4, 8), True, 600.0, 240.0)


@pytest.fixture
def watch() -> RanksWatch:
    return RanksWatch(REQUEST, rendezvous_timeout_s=100.0, started_s=0.0, until_s=600.0)


def test_ranks_that_never_meet_are_given_up(watch):
    assert watch.verdict(99.0, None, have_met=False) == ""
    assert watch.verdict(100.0, None, have_met=False) == "the ranks have not found one another within 100 s"


def test_each_measurement_has_the_same_time_and_the_next_one_starts_anew(watch):
    assert watch.verdict(10.0, "allreduce", have_met=True) == ""
    assert watch.verdict(249.0, "float32", have_met=True) == ""
    assert watch.verdict(488.0, "float32", have_met=True) == ""
    assert watch.verdict(489.0, "float32", have_met=True) == "no result within 240 s"


def test_at_the_end_of_all_time_whatever_runs_is_ended(watch):
    assert watch.verdict(599.0, "float32", have_met=True) == ""
    assert watch.verdict(600.0, "float32", have_met=True) == "the time for all measurements was over"
