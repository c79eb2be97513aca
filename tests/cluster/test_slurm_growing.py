"""A study whose survivors grow from one node to four on a real Slurm, through a killed driver and a lost node."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from cluster.sandbox import Sandbox, SandboxShape
from storage.database import schema
from tests.cluster.installed_slurm import needs_slurm
from tests.cluster.slurm_study import START_S, RecordedJob, SlurmStudy
from tests.waiting import wait_until

pytestmark = [needs_slurm, pytest.mark.timeout(3000)]

NODES = 4
EPOCHS = 6
BATCH_SIZE = 8
SEARCH = (
    f"--set=batch_policy.global_batch_size={BATCH_SIZE}",
    "--set=pruner.name=asha",
    "--set=pruner.rungs=[1, 3]",
    "--set=pruner.factor=2",
    "--set=pruner.promotes=true",
    "--set=resources.nodes_per_rung=[1, 2, 4]",
    "--set=budget.node_hours=10",
)


@pytest.fixture(scope="module")
def study() -> Iterator[SlurmStudy]:
    shape = SandboxShape(nodes=NODES, gpus_per_node=1, slurmd_timeout_s=5)
    with tempfile.TemporaryDirectory() as folder, Sandbox.start(shape) as sandbox:
        study = SlurmStudy(sandbox, Path(folder), name="growing", trials=4, epochs=EPOCHS, nodes=NODES)
        try:
            study.start(*SEARCH)
            wait_until(lambda: _runs_on(study, 2), 8 * START_S)
            os.killpg(study.driver.pid, signal.SIGKILL)
            study.driver.wait()
            study.start(*SEARCH)
            [job] = wait_until(lambda: _runs_on(study, 4), 8 * START_S)
            lost = study.nodes_of(job)[-1]
            sandbox.kill_node(lost)
            sandbox.wait_for_state(lost, "down", "down*", within_s=60)
            sandbox.start_node(lost)
            assert study.wait_for_end(within_s=12 * START_S) == 0, study.output
            study.require_nothing_left()
            yield study
        finally:
            study.stop()


def _runs_on(study: SlurmStudy, nodes: int) -> list[str]:
    """Jobs of so many nodes in which ranks train."""
    assert study.driver.poll() is None, study.output
    steps = study.sandbox.run("squeue", "--steps", "--noheader", "--format=%i").split()
    jobs = {step.partition(".")[0] for step in steps if not step.endswith(".batch")}
    return [job for job in jobs if len(study.nodes_of(job)) == nodes]


@pytest.fixture(scope="module")
def jobs(study: SlurmStudy) -> list[RecordedJob]:
    return study.recorded_jobs()


@pytest.fixture(scope="module")
def best(study: SlurmStudy) -> FrozenTrial:
    return study.load().best_trial


def test_every_trial_ends_and_few_to_the_last_epoch(study: SlurmStudy) -> None:
    states = [trial.state for trial in study.load().trials]

    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}, study.output
    assert len(states) == study.trials


def test_the_best_was_trained_on_one_node_then_on_two_then_on_four(best: FrozenTrial) -> None:
    nodes = [row.nodes for row in schema.read_attempts(best.user_attrs)]

    assert nodes == sorted(nodes)
    assert set(nodes) == {1, 2, 4}
    assert best.user_attrs["communicator"]["world_size"] == NODES
    assert len(set(best.user_attrs["hosts"])) == NODES
    assert best.user_attrs["epochs:global_batch_size"] == [BATCH_SIZE, *[2 * BATCH_SIZE] * 2, *[4 * BATCH_SIZE] * 3]


def test_slurm_gave_jobs_of_each_shape_and_they_are_what_is_charged(study: SlurmStudy, jobs: list[RecordedJob]) -> None:
    charged_s = sum(schema.read_spent(study.load().user_attrs).allocations.values())
    recorded_s = sum(job.nodes * job.lasted_s for job in jobs)

    assert {job.nodes for job in jobs} == {1, 2, 4}
    # Slurm records whole seconds and the driver looks once a second.
    assert abs(charged_s - recorded_s) <= max(0.01 * recorded_s, 2 * sum(job.nodes for job in jobs))
