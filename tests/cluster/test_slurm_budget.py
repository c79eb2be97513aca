"""A pruned study on a real Slurm: what it says that it has cost is what Slurm has recorded."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
from optuna.trial import TrialState

from cluster.sandbox import Sandbox, SandboxShape
from storage.database import schema
from tests.cluster.installed_slurm import needs_slurm
from tests.cluster.slurm_study import START_S, SlurmStudy

pytestmark = [needs_slurm, pytest.mark.timeout(2400)]

NODES = 2
SEARCH = (
    "--set=pruner.name=asha",
    "--set=pruner.rungs=[1]",
    "--set=pruner.factor=2",
    "--set=pruner.promotes=true",
    "--set=budget.node_hours=10",
)


def test_node_hours_are_those_that_slurm_has_recorded_a_killed_drivers_included(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox.start(SandboxShape(nodes=NODES, gpus_per_node=1, slurmd_timeout_s=5)) as sandbox,
    ):
        study = SlurmStudy(sandbox, Path(folder), trials=3, epochs=12, nodes=NODES)
        try:
            study.start(*SEARCH)
            study.wait_for_output("trial 0 held with its checkpoint", within_s=4 * START_S)
            os.killpg(study.driver.pid, signal.SIGKILL)
            study.driver.wait()
            study.start(*SEARCH)
            assert study.wait_for_end(within_s=12 * START_S) == 0, study.output
            study.require_nothing_left()
        finally:
            study.stop()
        loaded, output, jobs = study.load(), study.output, study.recorded_jobs()
        charged_s = sum(schema.read_spent(loaded.user_attrs).allocations.values())
        recorded_s = sum(job.nodes * job.lasted_s for job in jobs)

    # Of jobs that are over within a minute, 1 % is less than can be told: Slurm records whole seconds, and the driver
    # looks once a second.
    indistinct_s = 2 * NODES * len(jobs)

    assert len(study.drivers) == 2
    assert abs(charged_s - recorded_s) <= max(0.01 * recorded_s, indistinct_s), (charged_s, recorded_s, indistinct_s)
    states = [trial.state for trial in loaded.trials]
    assert TrialState.COMPLETE in states
    assert TrialState.PRUNED in states
    told = re.findall(r"([\d.]+) of 10 node-hours", output)
    assert told, output
    assert abs(float(told[-1]) - charged_s / 3600) <= 0.01 * charged_s / 3600, (told, charged_s)
