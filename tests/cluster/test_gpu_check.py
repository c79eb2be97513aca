"""When ranks that measure are ended, by the clocks alone; and one start of them for each precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.doctor.facts import ProbeRequest
from cluster.doctor.job_folder import JobFolder
from cluster.gpu_check.__main__ import RanksWatch, measure
from storage.protocol.gpu_check import CheckFolder, CheckRequest, StepProgram
from storage.protocol.records import Precision
from tests.trainers.tiny_trial import open_attempt, tiny_spec

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
    assert watch.verdict(600.0, "float32", have_met=True) == "the time limit was reached"


@pytest.mark.timeout(300)
def test_each_precision_has_ranks_of_its_own(tmp_path: Path) -> None:
    """What TensorFlow has tuned for one would be used for the next."""
    programs = tuple(
        StepProgram(precision, jit=False, fused=fused)
        for fused, precision in ((True, Precision.FLOAT32), (True, Precision.TF32), (False, Precision.TF32))
    )
    request = CheckRequest(programs, (4, 8), reads_input=False, limit_s=200.0, measurement_limit_s=100.0)
    attempt = open_attempt(tmp_path / "elsewhere", spec := tiny_spec(cache_dir=str(tmp_path / "cache")))
    folder, check = JobFolder(tmp_path), CheckFolder(tmp_path)
    check.trial.create(spec)
    check.write_request(request)
    folder.write_request(ProbeRequest(replace(attempt, trial_dir=tmp_path)))

    launcher = measure(folder)

    assert launcher.words == ""
    assert check.left(request) == ()
    assert set(check.collect(request).programs) == {"float32", "tf32", "tf32-keras"}
    assert check.trial.newest_attempt().number == 2
