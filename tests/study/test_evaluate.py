"""The best configurations of a real study are trained again, by the one command that a person types."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from storage.database import schema
from storage.protocol.codec import from_json
from storage.protocol.records import TrialSpec
from study.evaluation import scores_of
from study.export_request import make_request
from study.finished_trials import best_trial
from tests.architecture.sources import REPOSITORY
from tests.study.driver import WITHIN_S, Finished, Workplace, clean_environment, new_workplace

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(1800)

TRIALS, TOP, SEEDS = 3, 2, 2


@dataclass(frozen=True)
class Evaluated:
    """A search of three trials, and the evaluation of its best two."""

    search: Workplace
    evaluation: Workplace
    """Its driver was killed in the first training, and started again by the same command."""
    finished: Finished
    searched_before: list[FrozenTrial]

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.evaluation.trials()


def evaluating(search: Workplace, *options: str) -> Workplace:
    return replace(
        search,
        program=REPOSITORY / "study" / "evaluate.py",
        what=("small",),
        study_name="small-evaluation",
        options=options,
    )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Evaluated:
    search = new_workplace(tmp_path_factory.mktemp("evaluated"), "--set", "dataset.test=16")
    searched = search.run()
    assert searched.exit_code == 0, searched.output
    before = search.trials()
    evaluation = evaluating(search, "--top", str(TOP), "--seeds", str(SEEDS))
    with evaluation.start() as driver:
        driver.wait_for_attempt(trial=0, attempt=1)
        driver.kill()
    return Evaluated(search, evaluation, evaluation.run(), before)


@pytest.fixture
def copy(evaluated: Evaluated, tmp_path) -> Workplace:
    """Search and evaluation, to do something to."""
    shutil.copytree(evaluated.search.folder, tmp_path, dirs_exist_ok=True)
    return replace(evaluated.evaluation, folder=tmp_path, options=())


def spec_of(workplace: Workplace, number: int) -> TrialSpec:
    return from_json(TrialSpec, (workplace.trial_dir(number).path / "spec.json").read_text())


def test_an_evaluation_that_was_killed_goes_on_and_ends_with_each_configuration_and_seed(evaluated):
    assert evaluated.finished.exit_code == 0, evaluated.finished.output
    assert "trial 0 started (attempt 2)" in evaluated.finished.output
    assert [trial.state for trial in evaluated.trials] == [TrialState.COMPLETE] * TOP * SEEDS
    best = sorted(evaluated.searched_before, key=lambda trial: -trial.value)[:TOP]
    assert [trial.params for trial in evaluated.trials] == [trial.params for trial in best] * SEEDS


def test_it_trains_what_the_search_trained_with_seeds_that_the_search_had_not(evaluated):
    searched = [spec_of(evaluated.search, number) for number in range(TRIALS)]
    again = [spec_of(evaluated.evaluation, number) for number in range(TOP * SEEDS)]

    assert len({spec.seed for spec in again}) == TOP * SEEDS
    assert {spec.seed for spec in again}.isdisjoint(spec.seed for spec in searched)
    first, best = again[0], best_trial(evaluated.searched_before)
    as_searched = replace(searched[best.number], seed=first.seed, test_split=True)
    assert (
        replace(first, study_name="small", study_uuid=as_searched.study_uuid, trial_number=best.number) == as_searched
    )


def test_the_test_split_is_scored_once_by_each_training_and_was_not_by_the_search(evaluated):
    assert [trial.user_attrs["test"]["samples"] for trial in evaluated.trials] == [16] * TOP * SEEDS
    assert not any("test" in trial.user_attrs for trial in evaluated.search.trials())


def test_the_search_is_left_as_it_was(evaluated):
    assert evaluated.search.trials() == evaluated.searched_before


def test_the_tables_show_the_scores_over_the_seeds(evaluated):
    study = optuna.load_study(storage=evaluated.evaluation.database_url, study_name="small-evaluation")
    first, second = scores_of(study)

    _, validation, test = re.split(r"(?:validation|test) split, last epoch", evaluated.finished.output)
    for table, intervals in ((validation, (first.validation, second.validation)), (test, (first.test, second.test))):
        for of_scores in intervals:
            assert f"{of_scores['f1_micro'].mean:.4f} ± {of_scores['f1_micro'].deviation:.4f}" in table
            assert f"{of_scores['average_precision_macro'].mean:.4f}" in table


def test_the_same_command_again_trains_nothing_and_shows_the_tables_again(copy, evaluated):
    again = copy.run()

    assert again.exit_code == 0, again.output
    assert "started" not in again.output
    assert "test split, last epoch" in again.output
    assert len(copy.trials()) == TOP * SEEDS


def test_more_seeds_add_the_difference(copy):
    more = copy.run("--seeds", str(SEEDS + 1))

    assert more.exit_code == 0, more.output
    assert len(copy.trials()) == TOP * (SEEDS + 1)
    study = optuna.load_study(storage=copy.database_url, study_name="small-evaluation")
    assert [each.count for each in scores_of(study)] == [SEEDS + 1] * TOP


def test_the_model_card_of_the_best_trial_gives_the_interval(evaluated, tmp_path):
    done = subprocess.run(
        (sys.executable, REPOSITORY / "study/export.py", "small", "--out", tmp_path / "model"),
        cwd=evaluated.search.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )

    assert done.returncode == 0, done.stderr
    first, _ = scores_of(optuna.load_study(storage=evaluated.evaluation.database_url, study_name="small-evaluation"))
    card = (tmp_path / "model" / "model_card.md").read_text()
    assert "Study `small-evaluation` has trained this configuration with\n2 seeds" in card
    assert "test split (16 samples)" in card
    for interval in (first.validation["f1_micro"], first.test["f1_micro"]):
        assert f"{interval.mean:.4f} ± {interval.deviation:.4f} [{interval.low:.4f}, {interval.high:.4f}]" in card


def test_an_exported_training_of_an_evaluation_has_the_scores_of_its_own_seeds(evaluated, tmp_path):
    runs_dir = evaluated.search.folder / "runs"

    request = make_request("small-evaluation", None, runs_dir, 3, 1, tmp_path / "model")
    ensemble = make_request("small-evaluation", None, runs_dir, None, 2, tmp_path / "model")

    [_, second] = scores_of(optuna.load_study(storage=evaluated.evaluation.database_url, study_name="small-evaluation"))
    assert (request.evaluation.study_name, request.evaluation.seeds) == ("small-evaluation", SEEDS)
    assert request.evaluation.test == second.test
    assert ensemble.evaluation is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--seeds", "0"], "--seeds 0: give a number from 1", id="no seeds"),
        pytest.param(["--top", "9", "--name", "other"], "--top 9: study 'small' has 3 configuration", id="top"),
        pytest.param(["--top", "1"], "evaluates the best 2; --top 1 is another evaluation", id="another top"),
        pytest.param(["--runs-dir", "elsewhere"], "there is no database", id="no study"),
        pytest.param(["--site-set", "ranks_per_node=2"], "trained on 1 ranks, and site 'here' gives 2", id="ranks"),
        pytest.param(["--name", "small"], "a study 'small' that is no evaluation", id="a search's name"),
    ],
)
def test_bad_input_is_one_error_and_changes_nothing(evaluated, arguments, words):
    before = evaluated.search.files()

    refused = replace(evaluated.evaluation, options=()).run(*arguments)

    assert words in refused.error
    assert evaluated.search.files() == before


def test_a_data_set_without_a_test_split_is_refused_unless_it_is_not_to_be_scored(evaluated, tmp_path):
    copy = replace(evaluated.search.copy_to(tmp_path), options=())
    study = optuna.load_study(storage=copy.database_url, study_name="small")
    full = study.user_attrs[schema.FULL_CONFIG]
    study.set_user_attr(schema.FULL_CONFIG, full | {"dataset": full["dataset"] | {"test": 0}})

    refused = evaluating(copy, "--name", "other", "--dry-run").run()
    allowed = evaluating(copy, "--name", "other", "--dry-run", "--split", "val").run()

    assert refused.exit_code == 2
    [error] = [line for line in refused.output.splitlines() if line.startswith("error: ")]
    assert "the test split of synthetic_bigearthnet holds 0 samples" in error
    assert "--split val" in error
    assert allowed.exit_code == 0, allowed.output
    assert not (tmp_path / "runs/other").exists()


def test_a_dry_run_says_what_would_be_trained_and_leaves_no_trace(evaluated):
    before = evaluated.search.files()

    dry = replace(evaluated.evaluation, options=()).run("--name", "other", "--dry-run")

    assert dry.exit_code == 0, dry.output
    assert "evaluation other: the best 3 of study small, 5 fresh seeds each" in dry.output
    assert "15 in all" in dry.output
    assert evaluated.search.files() == before
