"""Trials that fail in one way each, and the study that goes on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.study.driver import Finished, Workplace, new_workplace

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

# With this seed: no memory for the weights, no weights at all, a loss that is not finite, and a good one.
OUT_OF_MEMORY, BAD_OPTION, DIVERGING, GOOD = range(4)
SEARCH = (
    "--set",
    "study.seed=5",
    "--set",
    'model={name="small_resnet", blocks=[1]}',
    "--set",
    'search_space.model.width={type="categorical", choices=[4, 300000, 0]}',
    "--set",
    'search_space.optimizer.learning_rate={type="categorical", choices=[0.1, 1e30]}',
)
# 3 TB for one layer of the first trial: refused whatever the machine has, and however it overcommits.
MEMORY_LIMIT = ("prlimit", f"--as={2**38}")


@dataclass(frozen=True)
class FaultyStudy:
    workplace: Workplace
    finished: Finished
    trials: list[FrozenTrial]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> FaultyStudy:
    place = new_workplace(tmp_path_factory.mktemp("faulty"), *SEARCH, "--trials", "4")
    workplace = Workplace(place.folder, place.options, enter=MEMORY_LIMIT)
    finished = workplace.run()
    return FaultyStudy(workplace, finished, workplace.trials())


def test_the_study_goes_on_after_trials_that_fail(study):
    assert study.finished.exit_code == 0, study.finished.output
    assert [trial.state for trial in study.trials] == [
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]


def test_a_trial_that_runs_out_of_memory_is_tried_again_and_then_recorded_with_its_logs_tail(study):
    attributes = study.trials[OUT_OF_MEMORY].user_attrs

    assert attributes["outcome"] == "out of memory"
    assert attributes["attempt_count"] == 2
    assert "ResourceExhaustedError" in attributes["reason"]
    assert "OOM when allocating tensor with shape[3,3,300000,300000]" in attributes["reason"]
    assert attributes["log_tail"].endswith(
        study.workplace.trial_dir(OUT_OF_MEMORY).attempt(2).log_path.read_text().strip()[-500:]
    )


def test_a_bad_option_is_recorded_in_one_line_and_not_tried_again(study):
    attributes = study.trials[BAD_OPTION].user_attrs

    assert attributes["outcome"] == "bad spec"
    assert attributes["attempt_count"] == 1
    assert attributes["reason"].startswith("small_resnet: width=0; it must be")


def test_a_trial_that_diverges_is_a_result_with_the_score_of_a_useless_network(study):
    trial = study.trials[DIVERGING]

    assert trial.value == 0.0
    assert trial.user_attrs["outcome"] == "diverged"
    assert "not finite" in trial.user_attrs["reason"]
    assert trial.user_attrs["attempt_count"] == 1
    assert trial.user_attrs["epochs:train_loss"] == [None]
    assert "log_tail" not in trial.user_attrs


def test_a_good_trial_after_them_trains_to_its_end(study):
    trial = study.trials[GOOD]

    assert trial.user_attrs["outcome"] == "completed"
    assert sorted(trial.intermediate_values) == [0, 1]


def test_the_closing_table_counts_the_outcomes_and_says_why_trials_failed(study):
    table = study.finished.output.partition("study small")[2]

    assert "1 out of memory, 1 bad spec, 1 diverged, 1 completed" in table
    assert f"{GOOD}: width=4 learning_rate=0.1" in table
    assert "bad spec: small_resnet: width=0" in table


def test_a_study_in_which_no_trial_completes_says_so_by_its_exit_code(tmp_path):
    # The first configuration of this seed has no weights.
    workplace = new_workplace(
        tmp_path,
        *SEARCH,
        "--set",
        "study.seed=3",
        "--set",
        'search_space.model.width={type="categorical", choices=[4, 0]}',
        "--trials",
        "1",
    )

    finished = workplace.run()

    assert finished.exit_code == 1, finished.output
    assert "1 bad spec" in finished.output
