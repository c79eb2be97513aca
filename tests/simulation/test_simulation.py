"""A thousand studies in a world in which everything breaks; and the faults that such a thousand must find."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import find_failures, first_failure, simulate
from tests.simulation.mutants import MUTANTS
from tests.simulation.universe import Universe

pytestmark = pytest.mark.timeout(900)

SEEDS = 1000
# A fault that shows late, at 395: where to begin to look for it.
RARE = {"an_attempt_may_start_in_a_job_that_has_just_ended": 390}


def test_a_thousand_studies_end_as_they_must():
    failures = find_failures(range(SEEDS))

    assert not failures, "\n".join(
        [f"seed {failure.seed}: {failure.reason}" for failure in failures]
        + ["", "python -m tests.simulation --seeds N replays one.", *failures[0].trace[-40:]]
    )


def test_a_seed_gives_the_same_run_every_time():
    traces = []
    for _ in range(2):
        universe = Universe(7)
        universe.run()
        traces.append(universe.world.trace)

    assert traces[0] == traces[1]
    assert len(traces[0]) > 50


def test_what_can_happen_does_happen():
    said = "\n".join(line for seed in range(60) for line in _trace(seed))

    for event in (
        "is killed",
        "is stopped for",
        "gets a signal",
        "is cut off",
        "has a runner that hangs",
        "the disk is full",
        "does not answer until",
        "is away until",
        "is lost, and the study begun anew",
        "is damaged",
        "moves the folder away",
        "gives --adopt",
        "is being run by",
        "cancelled what was left in the queue",
        "out of memory",
        "trial 0 waits: paused",
        "has not confirmed its end",
        "is not whole",
        "is held: rung 0",
        "is promoted: rung 0",
        "waits: held at its rung",
        "pruned rung 1",
        "pruned never promoted",
    ):
        assert event in said, f"never: {event}"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_thousand_studies_find(name):
    start = RARE.get(name, 0)
    with MUTANTS[name]():
        failure = first_failure([*range(start, start + SEEDS), *range(start)])

    assert failure is not None
    assert failure.trace


def _trace(seed: int) -> list[str]:
    universe = Universe(seed)
    universe.run()
    return universe.world.trace


def test_a_replayed_seed_ends_as_it_did_among_others():
    assert simulate(3) is None
