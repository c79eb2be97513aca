"""Ranks that stay: several trials, one launch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import psutil
import pytest

from cluster.attempt import Runner, StopSignal
from cluster.launchers import LAUNCHERS, Mpirun
from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure
from storage.protocol.records import ComponentSpec, Outcome, Precision, TrialSpec
from storage.protocol.trial_dir import TrialDir
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    attempt_of,
    open_attempt,
    processes_of,
    switch_at,
    tiny_spec,
    without_times,
)

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)


def with_dropout(rate: float) -> ComponentSpec:
    return ComponentSpec("small_resnet", {"width": 4, "blocks": [1], "dropout_rate": rate})


FIRST = tiny_spec(epochs=2, model=with_dropout(0.5))
LONG = tiny_spec(epochs=10_000)
OTHER_VALUES = tiny_spec(
    seed=2,
    model=with_dropout(0.1),
    optimizer=ComponentSpec("sgd", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    batch_policy=switch_at(1, 4, 8),
)
DIVERGES = tiny_spec(
    model=with_dropout(0.9),
    optimizer=ComponentSpec("sgd", {"learning_rate": 1e30, "momentum": 0.5, "weight_decay": 0.01}),
)
OTHER_MODEL = tiny_spec(
    seed=3,
    epochs=2,
    accumulation_steps=2,
    precision=Precision.BFLOAT16,
    jit=True,
    model=ComponentSpec("small_resnet", {"width": 8, "blocks": [1, 1], "normalisation": "none"}),
    optimizer=ComponentSpec("sgd", {"learning_rate": 0.01}),
    dataset=ComponentSpec("synthetic_bigearthnet", {"train": 64, "val": 20, "size": 8}),
)
NO_SUCH_OPTION = tiny_spec(model=ComponentSpec("small_resnet", {"depth": 3}))


class Ran(NamedTuple):
    request: AttemptRequest
    end: AttemptEnd

    @property
    def went_on(self) -> bool:
        """Whether its ranks were sent to another attempt."""
        return attempt_of(self.request).read_next() is not None

    def trained(self) -> tuple[list[dict], dict[str, np.ndarray]]:
        """All that a repetition must give again, bit by bit."""
        [path, *_] = TrialDir(self.request.trial_dir).checkpoints()
        with np.load(path) as arrays:
            names = [name for name in arrays.files if name.startswith(("shared/", "per_rank/"))]
            # The first of per_rank is a sum of losses.
            return without_times(self.end.epochs), {name: arrays[name] for name in names}


class Prepared(Mpirun):
    """Notes for which attempts the ranks of the ones before were waited for, until they were gone."""

    names: ClassVar[list[str]] = []
    current = ""

    def begin(self, name: str) -> None:
        Prepared.current = name

    def prepare(self) -> None:
        self.names.append(self.current)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAUNCHERS, "mpirun", prepared := Prepared())
        yield prepared


@pytest.fixture(scope="module")
def ran(tmp_path_factory, prepared) -> Iterator[dict[str, Ran]]:
    """One runner's attempts, in this order."""
    folder, runner, ran = tmp_path_factory.mktemp("trials"), Runner(), {}

    def run(name: str, spec: TrialSpec, stop: Outcome | None = None) -> None:
        prepared.begin(name)
        spec = dataclasses.replace(spec, cache_dir=str(folder / "cache"))
        request = open_attempt(folder / name, spec, ranks_stay=True)
        if stop is not None:
            attempt_of(request).request_stop(stop)
        ran[name] = Ran(request, runner.run(request, lambda metrics: None, StopSignal()))

    run("first", FIRST)
    run("other values", OTHER_VALUES)
    run("pruned", OTHER_VALUES, stop=Outcome.PRUNED)
    run("held", OTHER_VALUES, stop=Outcome.HELD)
    run("diverged", DIVERGES)
    run("after all that", OTHER_VALUES)
    run("other model", OTHER_MODEL)
    run("and back", OTHER_VALUES)
    run("refused", NO_SUCH_OPTION)
    run("on fresh ranks", OTHER_VALUES)
    runner.close()
    run("other model, on fresh ranks", OTHER_MODEL)
    runner.close()
    yield ran
    assert not [process for request, _ in ran.values() for process in processes_of(request.trial_dir)]


def test_ranks_stay_after_results_and_go_after_a_failure(ran):
    went_on = {name: each.went_on for name, each in ran.items()}

    assert [name for name in went_on if not went_on[name]] == [
        "refused",
        "on fresh ranks",
        "other model, on fresh ranks",
    ], {name: each.end for name, each in ran.items()}


def test_nobody_waits_for_ranks_that_stay_to_be_gone(ran, prepared):
    """On Slurm, each trial but the first began half a minute late."""
    assert prepared.names == ["first", "on fresh ranks", "other model, on fresh ranks"]


def test_every_trial_ends_as_it_would_alone(ran):
    outcomes = {name: each.end.result.outcome for name, each in ran.items() if each.end.result is not None}

    assert {name for name, outcome in outcomes.items() if outcome is not Outcome.COMPLETED} == {
        "pruned",
        "held",
        "diverged",
    }
    assert [outcomes[name] for name in ("pruned", "held", "diverged")] == [
        Outcome.PRUNED,
        Outcome.HELD,
        Outcome.DIVERGED,
    ]
    assert ran["refused"].end.failure is Failure.BAD_SPEC
    assert "depth" in ran["refused"].end.reason


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("other values", "on fresh ranks"),
        ("after all that", "on fresh ranks"),
        ("and back", "on fresh ranks"),
        ("other model", "other model, on fresh ranks"),
    ],
)
def test_a_trial_on_ranks_that_stayed_is_bit_for_bit_that_on_fresh_ones(ran, name, alone):
    epochs, arrays = ran[name].trained()
    epochs_alone, arrays_alone = ran[alone].trained()

    assert epochs == epochs_alone
    assert arrays.keys() == arrays_alone.keys()
    assert all(np.array_equal(arrays[name], arrays_alone[name]) for name in arrays)


def test_what_xla_has_compiled_is_kept_for_other_ranks_and_trials(ran):
    folder = Path(ran["other model"].request.trial_dir).parent / "cache" / "xla"

    assert [path.suffix for path in folder.iterdir()][:1] == [".pb"]


def test_each_attempt_has_its_own_files(ran):
    for name, each in ran.items():
        attempt = attempt_of(each.request)
        log = attempt.log_path.read_text()
        if each.end.result is not None:
            assert log.count(" after ") == 1, (name, log)
            assert sum(line.startswith("epoch ") for line in log.splitlines()) == each.end.result.epochs_done, (
                name,
                log,
            )
        assert attempt.read_end_record().failure is each.end.failure


def test_whatever_becomes_of_ranks_that_stayed_the_next_trial_has_ranks(tmp_path: Path):
    runner, stop, numbers = Runner(), StopSignal(), count()

    def run(spec: TrialSpec, relay: Callable[[AttemptRequest], None] = lambda request: None) -> Ran:
        request = open_attempt(tmp_path / f"{next(numbers):04d}", spec, ranks_stay=True, grace_s=2.0)
        return Ran(request, runner.run(request, lambda metrics: relay(request), stop))

    ran = run(FIRST)
    for process in ranks_of(ran.request):
        process.kill()
    ran = run(FIRST)
    assert ran.end.name == Outcome.COMPLETED
    for process in ranks_of(ran.request):
        process.suspend()
    ran = run(FIRST)
    assert ran.end.name == Outcome.COMPLETED

    # Those of a later trial give way to a newer attempt of it, and pause, as those of a first one do.
    superseded = run(LONG, lambda request: TrialDir(request.trial_dir).new_attempt())
    assert superseded.end.name == Failure.SUPERSEDED
    assert not processes_of(ran.request.trial_dir)
    ran = run(FIRST)
    paused = run(LONG, lambda request: stop.request(Outcome.PAUSED))
    assert paused.end.name == Outcome.PAUSED
    assert attempt_of(paused.request).checkpoint_path.exists()
    assert not processes_of(ran.request.trial_dir)


def ranks_of(request: AttemptRequest) -> list[psutil.Process]:
    found = [p for p in processes_of(request.trial_dir) if p.cmdline()[1:3] == ["-m", "trainers"]]
    assert len(found) == FIRST.world_size
    return found
