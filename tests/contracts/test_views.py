"""What every view of a running study shows: on a terminal, in a log, and to the simulation."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from optuna.trial import TrialState
from rich.console import Console

from storage.protocol.records import EpochMetrics
from study.display import LiveDisplay, PlainDisplay
from study.loop import View
from study.transitions import Tell

EPOCH = EpochMetrics(
    epoch=1,
    train_loss=0.7071,
    val_loss=0.8,
    f1_micro=0.5432,
    f1_macro=0.4321,
    global_batch_size=16,
    learning_rate=0.1,
    updates=4,
    samples=64,
    samples_per_s=1234.0,
    first_batch_s=0.1,
    wall_s=1.0,
)


@pytest.fixture(params=["terminal", "log"])
def show(request) -> Callable[[Callable[[View], None]], str]:
    """From what happens in a study to what is seen of it."""

    def render(happen: Callable[[View], None]) -> str:
        is_terminal = request.param == "terminal"
        console = Console(file=io.StringIO(), width=160, force_terminal=is_terminal, color_system=None)
        with LiveDisplay(console, "s", epochs=6) if is_terminal else PlainDisplay(console, epochs=6) as view:
            happen(view)
        return console.file.getvalue()

    return render


def test_a_training_trial_is_shown_with_its_configuration_and_its_last_epoch(show):
    def happen(view: View) -> None:
        view.progressed(finished=2, total=8)
        view.trial_started(7, 1, {"learning_rate": 0.12345678, "nesterov": True})
        view.epoch_finished(7, EPOCH)

    seen = show(happen)

    for words in ("learning_rate=0.1235 nesterov=True", "2/6", "16", "0.707", "0.543", "0.432", "1234"):
        assert words in seen


def test_a_completed_trial_is_shown(show):
    def happen(view: View) -> None:
        view.trial_started(7, 1, {})
        view.epoch_finished(7, EPOCH)
        view.trial_finished(7, Tell(TrialState.COMPLETE, 0.5432, "completed"))

    seen = show(happen)

    assert "completed" in seen
    assert "0.5432" in seen


def test_a_trial_that_goes_on_later_says_why(show):
    def happen(view: View) -> None:
        view.trial_started(7, 1, {})
        view.trial_waits(7, "interrupted (exit code 137)", has_checkpoint=True)
        view.trial_waits(8, "interrupted (exit code 9)", has_checkpoint=False)

    seen = show(happen)

    assert "interrupted (exit code 137): goes on from its checkpoint" in seen
    assert "interrupted (exit code 9): starts again, it had no checkpoint" in seen


@pytest.mark.parametrize("reason", ["by allocator mklcpu [Op:Add]", "no such group [/train]", "[red]"])
def test_what_others_say_is_shown_as_it_is_brackets_and_all(show, reason):
    def happen(view: View) -> None:
        view.trial_started(7, 1, {"choice": "[/a]"})
        view.notice(reason)
        view.trial_waits(7, reason, has_checkpoint=True)
        view.trial_started(7, 2, {"choice": "[/a]"})
        view.trial_finished(7, Tell(TrialState.FAIL, None, "crashed", reason))

    seen = show(happen)

    assert f"note: {reason}" in seen
    assert f"{reason}: goes on from its checkpoint" in seen
    assert f"crashed {reason}" in seen
    assert "choice=[/a]" in seen


def test_an_end_that_was_found_on_disk_is_shown_without_a_beginning(show):
    seen = show(lambda view: view.trial_finished(7, Tell(TrialState.COMPLETE, 0.5, "completed")))

    assert "completed" in seen


def test_a_trial_that_is_held_and_promoted_says_where(show):
    def happen(view: View) -> None:
        view.trial_started(7, 1, {})
        view.trial_held(7, "rung 0, f1_micro 0.2722 after epoch 2")
        view.trial_promoted(7, "rung 0, f1_micro 0.2722 after epoch 2")
        view.trial_finished(7, Tell(TrialState.PRUNED, None, "pruned", "never promoted: rung 1"))
        view.spent("1.5 of 2 node-hours")

    seen = show(happen)

    assert "held with its checkpoint: rung 0, f1_micro 0.2722 after epoch 2" in seen
    assert "promoted from rung 0, f1_micro 0.2722 after epoch 2" in seen
    assert "pruned never promoted: rung 1" in seen
