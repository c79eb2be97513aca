"""Which checkpoint a training goes on from, and what becomes of the others. Resumed trials are in test_trial.py."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.trainers.one_rank import OneRank
from trainers import checkpoint
from trainers.checkpoint import CheckpointOwner, Progress, TrainingState
from trainers.faults import CheckpointError

OWNER = CheckpointOwner("11111111-study", "a" * 64)


@pytest.fixture
def trial(tmp_path: Path) -> TrialDir:
    return TrialDir(tmp_path / "trial")


@pytest.fixture(scope="module")
def state() -> TrainingState:
    """Of a model that has weights, moving statistics and an optimizer's velocities."""
    images = keras.Input((3,))
    model = keras.Model(images, layers.Dense(2)(layers.BatchNormalization()(images)))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    return TrainingState(model, optimizer)


def save(attempt: AttemptDir, state: TrainingState, updates: int, owner: CheckpointOwner = OWNER) -> None:
    """With a state that tells the number of updates."""
    fill(state, updates)
    checkpoint.save(attempt, owner, state, Progress(updates=updates, loss_sum=0.5 * updates), OneRank())


def load(attempt: AttemptDir, state: TrainingState, owner: CheckpointOwner = OWNER) -> Progress | None:
    fill(state, -1)
    loaded = checkpoint.load(attempt, owner, state, OneRank())
    return None if loaded is None else loaded[0]


def fill(state: TrainingState, value: int) -> None:
    state.assign([np.full(variable.shape, value, variable.dtype) for variable in [*state.shared(), *state.per_rank()]])


def updates_in(state: TrainingState) -> int:
    (value,) = {float(value) for array in state.copy() for value in np.ravel(array)}
    return int(value)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_trial_without_a_checkpoint_starts_from_the_beginning(trial, state):
    assert load(trial.new_attempt(), state) is None
    assert updates_in(state) == -1


def test_the_next_attempt_goes_on_from_the_newest_checkpoint(trial, state):
    save(trial.new_attempt(), state, updates=10)
    save(trial.new_attempt(), state, updates=20)

    progress = load(trial.new_attempt(), state)

    assert progress == Progress(updates=20, loss_sum=10.0)
    assert updates_in(state) == 20


def test_an_attempt_replaces_its_own_checkpoint(trial, state):
    attempt = trial.new_attempt()
    save(attempt, state, updates=10)

    save(attempt, state, updates=20)

    assert trial.checkpoints() == [attempt.checkpoint_path]
    assert load(trial.new_attempt(), state).updates == 20


def test_an_older_attempt_that_lives_on_does_not_replace_a_newer_ones_checkpoint(trial, state):
    older, newer = trial.new_attempt(), trial.new_attempt()
    save(newer, state, updates=20)
    content = newer.checkpoint_path.read_bytes()

    save(older, state, updates=10)

    assert newer.checkpoint_path.read_bytes() == content
    assert load(trial.new_attempt(), state).updates == 20


def test_of_older_checkpoints_one_is_kept_to_fall_back_on(trial, state):
    attempts = [trial.new_attempt() for _ in range(4)]
    for number, attempt in enumerate(attempts):
        save(attempt, state, updates=number)

    assert trial.checkpoints() == [attempts[3].checkpoint_path, attempts[2].checkpoint_path]


def test_a_checkpoint_that_lies_some_attempts_back_is_kept_until_there_are_two_newer_ones(trial, state):
    oldest = trial.new_attempt()
    save(oldest, state, updates=10)
    trial.new_attempt()
    newest = trial.new_attempt()

    save(newest, state, updates=20)

    assert trial.checkpoints() == [newest.checkpoint_path, oldest.checkpoint_path]


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_is_taken(trial, state, capsys):
    first, second = trial.new_attempt(), trial.new_attempt()
    save(first, state, updates=10)
    save(second, state, updates=20)
    damage(second.checkpoint_path)

    progress = load(trial.new_attempt(), state)

    assert progress is not None
    assert (progress.updates, updates_in(state)) == (10, 10)
    assert f"{second.checkpoint_path} is damaged" in capsys.readouterr().err


def test_a_trial_whose_checkpoints_are_all_damaged_starts_over(trial, state, capsys):
    attempts = [trial.new_attempt(), trial.new_attempt()]
    for attempt in attempts:
        save(attempt, state, updates=10)
        damage(attempt.checkpoint_path)

    assert load(trial.new_attempt(), state) is None
    assert updates_in(state) == -1
    errors = capsys.readouterr().err
    assert all(f"{attempt.checkpoint_path} is damaged" in errors for attempt in attempts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_a_checkpoint_of_which_some_bits_have_turned_is_never_taken_for_something_else(trial, state, data):
    first, second = trial.attempt(1), trial.attempt(2)
    if trial.newest_attempt() is None:
        assert [trial.new_attempt(), trial.new_attempt()] == [first, second]
        save(first, state, updates=10)
    save(second, state, updates=20)
    content = bytearray(second.checkpoint_path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4)):
        content[place // 8] ^= 1 << place % 8
    second.checkpoint_path.write_bytes(content)

    try:
        progress = load(second, state)
    except CheckpointError:
        # Of the archive's own table no checksum is kept: a turned name there is one that is not known.
        return
    assert progress is not None
    assert progress.updates == updates_in(state)
    assert progress.updates in (10, 20)


@pytest.mark.parametrize(
    "other", [CheckpointOwner(OWNER.study_uuid, "b" * 64), CheckpointOwner("22222222-study", OWNER.spec_sha256)]
)
def test_a_checkpoint_of_another_specification_or_study_is_refused_with_both_named(trial, state, other):
    foreign = trial.new_attempt()
    save(foreign, state, updates=10, owner=other)

    with pytest.raises(CheckpointError) as refused:
        load(trial.new_attempt(), state)

    assert str(refused.value) == (
        f"{foreign.checkpoint_path} is of study {other.study_uuid}, specification {other.spec_sha256[:12]}, and this "
        f"trial is of study {OWNER.study_uuid}, specification {OWNER.spec_sha256[:12]}; move it away to start over."
    )
    assert updates_in(state) == -1


def test_a_foreign_newest_checkpoint_is_not_passed_over_for_an_own_one(trial, state):
    save(trial.new_attempt(), state, updates=10)
    save(trial.new_attempt(), state, updates=20, owner=CheckpointOwner("", "b" * 64))

    # Somebody put it there; to train on as if nothing had happened would hide that.
    with pytest.raises(CheckpointError, match=r"attempt-02/checkpoint\.npz is of study \(none\), specification bbbb"):
        load(trial.new_attempt(), state)


def test_a_file_that_is_whole_but_not_a_checkpoint_is_refused_by_its_name(trial, state):
    attempt = trial.new_attempt()
    np.savez(attempt.checkpoint_path, weights=np.zeros(3))

    with pytest.raises(CheckpointError, match=r"attempt-01/checkpoint\.npz is not a checkpoint of this trial"):
        load(trial.new_attempt(), state)


def test_a_checkpoint_of_a_model_of_another_shape_is_refused_with_the_variable(trial, state):
    images = keras.Input((4,))
    model = keras.Model(images, layers.Dense(2)(layers.BatchNormalization()(images)))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    # Of the same specification: a version of the model's file before this one wrote it.
    save(trial.new_attempt(), TrainingState(model, optimizer), updates=10)

    with pytest.raises(
        CheckpointError, match=r"is not a checkpoint of this trial \(.* has the shape \(3,\), not \(4,\)"
    ):
        load(trial.new_attempt(), state)
