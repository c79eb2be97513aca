"""Ranks that live on, without runner and supervisor, while the next attempt of their trial trains."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from storage.protocol.attempts import AttemptEnd
from storage.protocol.exit_codes import ExitCode
from storage.protocol.records import Outcome
from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    READS_PER_EPOCH,
    Run,
    attempt_of,
    held_ranks,
    open_attempt,
    release_ranks,
    start_ranks,
    tiny_spec,
)

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

SPEC = tiny_spec()


class Overtaken(NamedTuple):
    older: AttemptDir
    exit_code: int
    errors: str
    newer: AttemptEnd
    checkpoints_before: dict[Path, bytes]
    """When the newer attempt had ended, and before the older one's ranks went on."""


@pytest.fixture(scope="module")
def overtaken(tmp_path_factory) -> Overtaken:
    """Held in epoch 1 until a newer attempt had trained to the end."""
    request = open_attempt(tmp_path_factory.mktemp("trial"), SPEC, hold_at_read=READS_PER_EPOCH + 4)
    ranks = start_ranks(request)
    try:
        held_ranks(request)
        newer = Run(open_attempt(request.trial_dir, SPEC)).end()
        before = checkpoints_of(TrialDir(request.trial_dir))
        release_ranks(request)
        _, errors = ranks.communicate(timeout=DEADLINE_S)
    finally:
        ranks.kill()
    return Overtaken(attempt_of(request), ranks.returncode, errors, newer, before)


def checkpoints_of(trial: TrialDir) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in trial.checkpoints()}


def test_a_newer_attempt_goes_on_though_the_older_ones_ranks_live(overtaken):
    assert overtaken.newer.result.outcome is Outcome.COMPLETED
    assert [metrics.epoch for metrics in overtaken.newer.epochs] == [1, 2, 3]


def test_ranks_of_an_older_attempt_end_within_the_epoch_in_which_they_find_a_newer_one(overtaken):
    assert overtaken.exit_code == ExitCode.SUPERSEDED
    lines = [line for line in overtaken.errors.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {overtaken.older.path} is superseded by a newer attempt; its ranks end here."]
    assert [metrics.epoch for metrics in overtaken.older.read_metrics()] == [0]
    assert overtaken.older.read_result() is None


def test_ranks_of_an_older_attempt_replace_no_checkpoint(overtaken):
    after = checkpoints_of(overtaken.older.trial)

    assert [path.parent.name for path in after] == ["attempt-02", "attempt-01"]
    assert after == overtaken.checkpoints_before
