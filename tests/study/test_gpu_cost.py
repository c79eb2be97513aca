"""What a study costs by updates that were timed: those of ranks whose costs are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.protocol.gpu_check import (
    CheckFacts,
    CheckRequest,
    InputFacts,
    LauncherFacts,
    PhaseFacts,
    ProgramFacts,
    StepProgram,
)
from storage.protocol.records import Precision
from study.forecast.measurements import Conditions
from study.forecast.performance_model import Placement, update_s
from study.gpu_cost import cost_of
from study.gpu_findings import Cost
from tests.study.forecast.measured_trials import COSTS, LARGE, REST_S, SMALL, START_S, SWITCHED, epoch_s, paper_plan

OWN = StepProgram(Precision.FLOAT32, jit=False, fused=True)
COMPILED = StepProgram(Precision.BFLOAT16, jit=True, fused=True)
REQUEST = CheckRequest((OWN, COMPILED), (32, 1024), reads_input=True, limit_s=600.0, measurement_limit_s=300.0)
# Four nodes a trial.
NODE_HOURS = 24 * 4 * (20 * epoch_s(SMALL) + 80 * epoch_s(LARGE) + START_S) / 3600
CONSTANT_NODE_HOURS = 24 * 4 * (100 * epoch_s(SMALL) + START_S) / 3600


def program(speed: float) -> ProgramFacts:
    seconds = {size: update_s(COSTS, Placement(16, 4), size) / speed for size in (32, 1024)}
    phases = tuple(PhaseFacts(size, (each,) * 3, each, None) for size, each in seconds.items())
    return ProgramFacts(build_s=START_S / 4, warm_up_s=START_S / 4, phases=phases, evaluation_s=REST_S)


FACTS = CheckFacts(
    ranks=None,
    allreduce=None,
    programs={OWN.name: program(1.0), COMPILED.name: program(2.0)},
    input=None,
    failures={},
    launcher=LauncherFacts(rendezvous_s=START_S / 2, words=""),
)


def cost(folder, facts: CheckFacts, *overrides: str) -> Cost | None:
    plan = paper_plan(folder, *overrides)
    return cost_of(plan, Conditions.of(plan, cores=2), (SWITCHED,), REQUEST, facts)


def test_the_cost_is_that_of_trials_with_such_updates_and_names_the_quickest_form(tmp_path):
    found = cost(tmp_path, FACTS)

    assert found is not None
    assert found.node_hours.expected == pytest.approx(NODE_HOURS, rel=0.01)
    assert found.constant_node_hours is not None
    assert found.constant_node_hours.expected == pytest.approx(CONSTANT_NODE_HOURS, rel=0.01)
    assert found.quickest == COMPILED.name
    assert found.quickest_node_hours.expected < 0.7 * NODE_HOURS


def test_an_input_slower_than_the_step_is_what_counts_unless_the_nodes_keep_the_data(tmp_path):
    slow = replace(FACTS, input=InputFacts(samples=10_000, samples_per_s=1_000.0))

    limited, kept = (cost(tmp_path, slow, f"dataset.node_cache='{cache}'") for cache in ("", "/dev/shm/cache"))

    assert limited is not None
    assert kept is not None
    assert limited.node_hours.expected > 2 * NODE_HOURS
    assert kept.node_hours.expected == pytest.approx(NODE_HOURS, rel=0.01)


def test_without_the_studys_own_step_there_is_no_cost(tmp_path):
    assert cost(tmp_path, replace(FACTS, programs={COMPILED.name: program(2.0)})) is None
