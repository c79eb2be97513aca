"""A study from its beginning to its end, by the one command that a person types."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from cluster.profile import available_cores
from storage.database.lease import DatabaseLeaseStore, LeaseRow
from storage.protocol.codec import from_json
from storage.protocol.records import TrialSpec
from study.seeds import derive_seed
from tests.study.driver import WITHIN_S, Finished, Workplace, clean_environment, new_workplace
from tests.study.listening import listen_on_loopback, listening_sockets
from tests.waiting import wait_until

# Whole studies: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

TRIALS, EPOCHS, RANKS = 3, 2, 2


@dataclass(frozen=True)
class CompleteStudy:
    """Three trials of two ranks each, and what was seen while they trained."""

    workplace: Workplace
    finished: Finished
    second_driver: Finished
    """Of the same study, started meanwhile."""
    first_driver_pid: int
    listening: set[str]
    """TCP sockets of the driver and all its descendants, at any time of its life."""

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.workplace.trials()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> CompleteStudy:
    workplace = new_workplace(tmp_path_factory.mktemp("complete"), ranks=RANKS)
    seen: set[str] = set()

    def look_for_listening_sockets() -> bool:
        seen.update(listening_sockets(driver.process))
        return not driver.is_running()

    with workplace.start() as driver:
        driver.wait_for_attempt(trial=0, attempt=1)
        # On a busy machine, the study would be over before the second driver has been imported.
        ranks = [process for process in workplace.rank_processes() if "trainers" in process.cmdline()]
        for rank in ranks:
            rank.suspend()
        second = workplace.run()
        for rank in ranks:
            rank.resume()
        wait_until(look_for_listening_sockets, WITHIN_S, pause_s=0.1)
        return CompleteStudy(workplace, driver.finish(), second, driver.process.pid, seen)


@pytest.fixture
def copy(study: CompleteStudy, tmp_path: Path) -> Workplace:
    """The complete study, to do something to."""
    return study.workplace.copy_to(tmp_path)


def test_a_study_ends_with_all_of_its_trials_and_exit_code_0(study):
    assert study.finished.exit_code == 0, study.finished.output
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TRIALS


def test_the_closing_table_shows_the_best_trial_and_where_it_all_is(study):
    table = study.finished.output.partition("study small")[2]

    best = max(study.trials, key=lambda trial: trial.value)
    assert f"{TRIALS} completed" in table
    assert f"{best.number}: learning_rate={best.params['learning_rate']:.4g}" in table
    assert f"{best.user_attrs['f1_micro']:.4f} / {best.user_attrs['f1_macro']:.4f}" in table
    assert "at batch 16" in table
    assert "at batch 32" in table
    assert "runs/small/study.db" in table
    assert "dashboard" in table


def test_progress_is_printed_epoch_by_epoch(study):
    for number in range(TRIALS):
        for epoch in range(1, EPOCHS + 1):
            assert f"trial {number} epoch {epoch}/{EPOCHS}: batch" in study.finished.output


def test_each_epoch_is_an_intermediate_value_of_its_trial(study):
    for trial in study.trials:
        stored = study.workplace.trial_dir(trial.number).attempt(1).read_metrics()
        assert trial.intermediate_values == {metrics.epoch: metrics.f1_micro for metrics in stored}
        assert len(stored) == EPOCHS


def test_the_value_of_a_trial_is_the_objective_of_its_last_epoch(study):
    for trial in study.trials:
        assert trial.value == trial.intermediate_values[EPOCHS - 1] == trial.user_attrs["f1_micro"]


def test_the_attributes_of_a_trial_say_how_it_trained(study):
    for trial in study.trials:
        attributes = trial.user_attrs
        assert attributes["outcome"] == "completed"
        assert attributes["attempt_count"] == 1
        assert 0 < attributes["f1_macro"] <= 1
        assert attributes["wall_s"] > 0
        assert attributes["epochs:global_batch_size"] == [16, 32]
        assert set(attributes["images_per_s_by_batch_size"]) == {"16", "32"}
        assert all(rate > 0 for rate in attributes["images_per_s_by_batch_size"].values())
        assert len(attributes["hosts"]) == 1


def test_the_attributes_of_a_trial_say_what_moved_its_gradients(study):
    for trial in study.trials:
        assert trial.user_attrs["data_plane"] == "mpi"
        communicator = trial.user_attrs["communicator"]
        assert communicator["world_size"] == RANKS
        assert {name: communicator[name] for name in ("nccl_built", "mpi_built", "mpi_enabled", "gloo_enabled")} == {
            "nccl_built": False,
            "mpi_built": True,
            "mpi_enabled": True,
            "gloo_enabled": False,
        }


def test_each_trial_trains_what_was_sampled_for_it_with_a_seed_of_its_own(study):
    specs = [
        from_json(TrialSpec, (study.workplace.trial_dir(trial.number).path / "spec.json").read_text())
        for trial in study.trials
    ]

    assert [spec.optimizer.options for spec in specs] == [trial.params for trial in study.trials]
    assert [spec.seed for spec in specs] == [derive_seed(7, number) for number in range(TRIALS)]


def test_stock_optuna_reads_the_database_with_nothing_of_ours_on_its_path(study, tmp_path):
    program = (
        "import json, optuna, sys\n"
        "study = optuna.load_study(storage=sys.argv[1], study_name='small')\n"
        "assert not any(name.split('.')[0] in {'study', 'storage', 'cluster', 'trainers'} for name in sys.modules)\n"
        "print(json.dumps([study.direction.name, study.best_value, study.best_trial.number,\n"
        "                  len(study.trials), study.trials[0].user_attrs['outcome']]))"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", program, study.workplace.database_url],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    best = max(study.trials, key=lambda trial: trial.value)
    assert json.loads(done.stdout) == ["MAXIMIZE", best.value, best.number, TRIALS, "completed"]


def test_while_a_study_runs_nothing_of_it_listens_on_a_port(study):
    assert study.listening == set()


def test_a_listening_port_would_have_been_seen():
    with listen_on_loopback():
        assert listening_sockets(psutil.Process())


def test_a_second_driver_of_a_running_study_is_refused_and_told_who_the_first_one_is(study):
    assert study.second_driver.error.startswith(
        f"error: this study is being run by process {study.first_driver_pid} on "
    )


def test_of_two_drivers_that_begin_a_study_at_the_same_moment_one_works_and_the_other_says_why_not(copy):
    # Both make database, tables and study; the preflight is not made again.
    shutil.rmtree(copy.study_dir)

    with ThreadPoolExecutor() as at_once:
        one, other = at_once.map(copy.run, ["--trials=1"] * 2)

    worked, refused = sorted((one, other), key=lambda finished: finished.exit_code)
    assert worked.exit_code == 0, worked.output
    assert "this study is being run by process" in refused.error
    assert [trial.state for trial in copy.trials()] == [TrialState.COMPLETE]


def test_ctrl_c_ends_the_wait_for_a_silent_driver_of_another_machine(copy):
    elsewhere = LeaseRow("a", 1, "another machine", process=7, process_started="", host="login2")
    assert DatabaseLeaseStore(sqlalchemy.create_engine(copy.database_url), "small").swap(None, elsewhere)

    with copy.start() as driver:
        wait_until(lambda: "process 7 on login2 drove this study" in driver.output, WITHIN_S)
        driver.press_ctrl_c()
        # Far less than the minute that a lease lasts.
        finished = driver.finish(within_s=30)

    assert finished.exit_code == 128 + signal.SIGINT
    assert "Traceback" not in finished.output


def test_the_same_command_again_adds_nothing_and_shows_the_table_again(copy, study):
    before = copy.trials()

    again = copy.run()

    assert again.exit_code == 0, again.output
    assert copy.trials() == before
    assert "started" not in again.output
    assert f"{TRIALS} completed" in again.output


def test_a_larger_number_of_trials_adds_the_difference_which_a_terminal_shows_live(copy):
    before = copy.trials()

    more = copy.run_on_terminal("--trials", str(TRIALS + 1))

    assert more.exit_code == 0, more.output
    after = copy.trials()
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * (TRIALS + 1)
    assert after[:TRIALS] == before
    assert after[TRIALS].params not in [trial.params for trial in before]
    # A bar over the trials, the row of the one that trains, and the line that it leaves.
    assert f"{TRIALS}/{TRIALS + 1} trials" in more.output
    assert "starting" in more.output
    assert re.search(rf"trial +{TRIALS} .*completed", more.output)
    assert f"{TRIALS + 1} completed" in more.output


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--set", "search_space.optimizer.learning_rate.high=0.5"], "search_space.optimizer.learning_rate.high"),
        (["--set", "study.objective=f1_macro"], "study.objective"),
    ],
)
def test_a_study_whose_stored_search_differs_is_refused_and_left_as_it_is(copy, changes, named):
    before = copy.trials()

    refused = copy.run(*changes, "--trials", "9")

    assert refused.exit_code == 2
    assert named in refused.output
    assert "in the database" in refused.output
    assert copy.trials() == before


def test_a_study_is_not_gone_on_with_from_another_folder(study, copy):
    refused = copy.run("--storage", study.workplace.database_url, "--trials", "9")

    assert refused.exit_code == 2
    assert f"are in {study.workplace.study_dir}, not in {copy.study_dir}" in refused.output
    assert len(study.workplace.trials()) == TRIALS


@pytest.mark.skipif(available_cores() < 2, reason="two trials at once take two cores")
def test_as_many_trials_train_at_once_as_are_asked_for_and_the_cores_allow(tmp_path):
    workplace = new_workplace(tmp_path)

    finished = workplace.run("--trials", "2", "--jobs", "2")

    assert finished.exit_code == 0, finished.output
    said = finished.output
    assert max(said.index(f"trial {n} started") for n in (0, 1)) < min(said.index(f"trial {n} epoch") for n in (0, 1))
    assert "2 completed" in said


def test_a_dry_run_says_what_would_be_done_and_leaves_no_trace(tmp_path):
    workplace = new_workplace(tmp_path, ranks=RANKS)
    before = workplace.files()

    dry = workplace.run("--dry-run")

    assert dry.exit_code == 0, dry.output
    assert workplace.files() == before
    for word in ("small_resnet", "synthetic_bigearthnet", "learning_rate", "mpirun -np 2", "runs/small/study.db"):
        assert word in dry.output


def test_a_dry_run_prints_the_very_request_that_the_run_sends(study):
    # Narrower than any path.
    dry = study.workplace.run("--dry-run", COLUMNS="40")

    printed, _ = json.JSONDecoder().raw_decode(dry.output.partition("first request:\n")[2])
    sent = json.loads((study.workplace.trial_dir(0).attempt(1).path / "request.json").read_text())
    # On one machine nothing differs. A job's request says how much of its walltime is left when it is sent.
    assert printed == sent


def test_a_dry_run_of_a_replay_asks_the_sampler_again(study):
    dry = study.workplace.run("--dry-run", "--name", "again", "--replay", "small", COLUMNS="160")

    assert "3 configurations of small; asked again, the sampler gives the same" in dry.output


def test_a_dry_run_forecasts_a_study_from_its_own_trials_and_from_earlier_ones(study):
    more = study.workplace.run("--dry-run", "--trials", "8", COLUMNS="200")
    new = study.workplace.run("--dry-run", "--name", "new", "--forecast-from", "small", COLUMNS="200")

    assert re.search(r"5 trials left, 2 ranks at once: [\d.]+ to [\d.]+ node-hours", more.output), more.output
    assert re.search(r"3 trials, 2 ranks at once: [\d.]+ to [\d.]+ node-hours", new.output), new.output
    assert "with the smallest batch to the end: " in new.output
    assert f"from {TRIALS * EPOCHS} epochs of {TRIALS} trials at batch 16, 32 on 2 ranks" in new.output


def test_a_dry_run_of_what_was_never_measured_forecasts_nothing_and_says_what_to_run(tmp_path):
    dry = new_workplace(tmp_path).run("--dry-run", COLUMNS="300")

    assert "none: no epoch of such trials of 1 ranks at site 'here'. Train one trial there:" in dry.output
    assert "node-hours" not in dry.output


def test_a_forecast_from_a_study_of_something_else_is_refused(study):
    other = study.workplace.run("--dry-run", "--name", "new", "--forecast-from", "small", "--set", "model.width=8")

    assert "--forecast-from small: it was trained with another model; name another study" in other.error


def test_a_dry_run_shows_another_site_s_job_and_what_it_has_still_to_be_told(tmp_path):
    dry = new_workplace(tmp_path).run("--dry-run", "--site", "jureca-dc")

    assert dry.exit_code == 0, dry.output
    assert "#SBATCH --nodes=4" in dry.output
    # The site takes six, the study has three trials.
    assert "3 at once, 4 nodes each: 12 nodes" in dry.output
    assert "note: site 'jureca-dc' does not know your slurm.account" in dry.output


def test_a_study_may_be_called_a_number(tmp_path):
    workplace = new_workplace(tmp_path)

    dry = workplace.run("--dry-run", "--name", "2024")

    assert dry.exit_code == 0, dry.output
    assert "runs/2024/study.db" in dry.output
