"""The closing table: what a person reads when the study is over."""

from __future__ import annotations

import io

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from study.closing_table import closing_table
from study.finished_trials import best_trial

URL = "sqlite:///runs/s/study.db"


def trial(value: float | None, state: TrialState = TrialState.COMPLETE, **attributes) -> FrozenTrial:
    scores = {} if value is None else {"f1_micro": value, "f1_macro": value / 2}
    return create_trial(
        state=state,
        value=value,
        params={"learning_rate": 0.25},
        distributions={"learning_rate": FloatDistribution(0, 1)},
        user_attrs={
            "outcome": "completed",
            "wall_s": 10.0,
            "images_per_s_by_batch_size": {"16": 100.4, "32": 400.0},
            "epoch_s_by_batch_size": {"16": 2.0, "32": 0.5},
            "data_plane": "mpi",
            "communicator": {"world_size": 2},
            "hosts": ["node1", "node2"],
            **scores,
            **attributes,
        },
    )


def failed(outcome: str, reason: str) -> FrozenTrial:
    return create_trial(state=TrialState.FAIL, user_attrs={"outcome": outcome, "reason": reason, "wall_s": 1.0})


def render(*trials: FrozenTrial, url: str = URL, spent: str = "") -> str:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    console = Console(file=io.StringIO(), width=160)
    console.print(closing_table("s", study.trials, url, spent))
    return console.file.getvalue()


def test_it_shows_the_best_trial_with_its_scores_times_and_throughput_by_batch_size():
    table = render(trial(0.5), trial(0.75), trial(0.25))

    assert "1: learning_rate=0.25" in table
    assert "0.7500 / 0.3750" in table
    assert "10.0 s for the best trial, 10.0 s on average" in table
    assert "100 at batch 16, 400 at batch 32" in table
    assert "2.00 at batch 16, 0.50 at batch 32" in table
    assert "mpi, 2 ranks on node1, node2" in table


def test_it_says_which_split_epoch_and_seeds_the_scores_are_of():
    curves = {"epochs:f1_micro": [0.6, 0.75, 0.7]}

    assert "validation split, epoch 2 of 3, one seed" in render(trial(0.75, counted_epoch=1, **curves))
    assert "validation split, epoch 3 of 3, one seed" in render(trial(0.75, **curves))
    assert "validation split, last epoch, one seed" in render(trial(0.75))


def test_it_says_where_the_database_is_and_how_to_look_at_it():
    table = render(trial(0.5))

    assert URL in table
    assert f"python study/dashboard.py --storage {URL}" in table


def test_it_counts_the_outcomes():
    table = render(trial(0.5), trial(0.0, outcome="diverged"), failed("crashed", "x"), trial(0.4))

    assert "2 completed, 1 diverged, 1 crashed" in table


def test_it_says_why_a_trial_failed():
    assert "crashed: ValueError: width=0" in render(failed("crashed", "ValueError: width=0"))


@pytest.mark.parametrize("reason", ["allocator mklcpu [Op:Add]", "no such group [/train]", "shape[3,3]", "[bold"])
def test_it_shows_a_reason_as_it_is_brackets_and_all(reason):
    assert f"crashed: {reason}" in render(failed("crashed", reason))


def test_it_shows_a_url_as_it_is():
    assert "[::1]/studies" in render(trial(0.5), url="postgresql+psycopg://ada@[::1]/studies")


def test_without_a_finished_trial_it_is_short_and_does_not_fail():
    running = create_trial(state=TrialState.RUNNING)

    assert "1 unfinished" in render(running)
    assert "best trial" not in render(running)
    assert "best trial" not in render()


def test_a_trial_that_diverged_is_never_the_best():
    diverged = trial(0.0, outcome="diverged")

    assert best_trial([diverged]) is None
    assert best_trial([diverged, trial(0.0)]).user_attrs["outcome"] == "completed"


def judged(state: TrialState, *verdicts: dict) -> FrozenTrial:
    over = {} if state is TrialState.RUNNING else {"outcome": "pruned", "reason": "", "wall_s": 1.0}
    rows = [{"value": 0.1, **verdict} for verdict in verdicts]
    return create_trial(state=state, user_attrs={**over, "verdicts": rows})


def test_the_table_says_what_was_pruned_held_and_promoted_and_what_it_cost():
    held = {"epoch": 0, "verdict": "hold", "rung": 0}
    trials = [
        judged(TrialState.PRUNED, {"epoch": 0, "verdict": "stop", "rung": 0}),
        judged(TrialState.PRUNED, {**held, "promoted": 4}, {"epoch": 2, "verdict": "hold", "rung": 1}),
        judged(TrialState.RUNNING, held),
        judged(TrialState.RUNNING, {**held, "promoted": 5}),
    ]

    table = render(*trials, spent="1.5 of 2 node-hours, 3.0 h")

    assert "2 pruned, 1 held, 1 unfinished" in table
    assert "2 of 4 pruned: 1 after epoch 1, 1 after epoch 3; 2 held and promoted: 2 after epoch 1; 1 held" in table
    assert "1.5 of 2 node-hours, 3.0 h" in table


def test_without_a_pruner_the_table_says_nothing_of_one():
    assert "pruner" not in render(trial(0.5))


MEASURED = {
    "energy_j": 1.8e6,
    "energy_source": "nvml+rapl",
    "energy_repeated_j": 0.0,
    "energy_j_by_batch_size": {"16": 1.2e6, "32": 0.6e6},
    "epochs:f1_micro": [0.5],
}


def test_it_says_what_the_trials_consumed_and_by_which_counters():
    table = render(trial(0.5, **MEASURED), trial(0.75, **{**MEASURED, "energy_repeated_j": 0.9e6}))

    assert "1 kWh by nvml+rapl (rapl: of whole nodes), 0.25 kWh of it for epochs that were trained again" in table
    assert "1200 at batch 16, 600 at batch 32" in table
    assert "CO2e" not in table


def test_co2e_is_that_of_all_measured_trials_or_is_not_said():
    measured = trial(0.5, kg_co2e=0.25, **MEASURED)

    assert ", 0.5 kg CO2e" in render(measured, measured)
    assert "CO2e" not in render(measured, trial(0.5, **MEASURED))


def test_trials_that_others_counters_measured_are_told_apart_from_those_that_none_did():
    why = {"communicator": {"world_size": 2, "energy_missing": "rapl: it is root's"}}
    only_gpus = {**MEASURED, "energy_source": "nvml", **why}
    unmeasured = trial(0.5, **{"epochs:f1_micro": [0.5]}, **why)

    table = render(trial(0.5, **MEASURED), trial(0.6, **only_gpus), unmeasured)

    assert "1 kWh in 2 of 3 trials, by nvml+rapl in 1, nvml in 1 (rapl: of whole nodes)" in table
    assert "not measured: rapl: it is root's" in table


def test_where_nothing_was_measured_it_says_why_and_nothing_of_an_older_study():
    why = {"communicator": {"world_size": 2, "energy_missing": "rapl: perun is not installed"}}

    lost = {"communicator": {"world_size": 2, "energy_sources": ["rapl"]}}

    assert "not measured: rapl: perun is not installed" in render(trial(0.5, **why))
    assert "not measured: some epochs of a trial; its log says why" in render(trial(0.5, **lost))
    assert "energy" not in render(trial(0.5))
