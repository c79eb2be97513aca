"""A study from Python: interrupted, gone on with on another thread, and asked what it found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from storage.database.endpoint import StorageError
from study import LoadedStudy, StudyConfig, load_study, run_study
from study.config import ConfigError
from study.evaluation import EvaluationError
from study.export_request import ExportRequestError
from tests.architecture.sources import REPOSITORY
from tests.study.driver import WITHIN_S, clean_environment
from tests.study.small_study import write_config, write_site
from tests.waiting import wait_until

# A whole study: on a machine that is busy with other things, it takes minutes.
pytestmark = pytest.mark.timeout(1200)

EPOCHS = 30
PROGRAM = f"""
import logging, signal, sys, threading
from study import StudyConfig, run_study

logging.basicConfig(level=logging.WARNING)
before = logging.getLogger().handlers[:], logging.getLogger().level
changes = {{"study.trials": 1, "dataset.train": 1024, "training.epochs": {EPOCHS}}}
config = StudyConfig.from_file("small.toml", changes)
try:
    run_study(config, site="here.toml")
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert (logging.getLogger().handlers[:], logging.getLogger().level) == before

def go_on():
    study = run_study(config, site="here.toml", show_progress=False)
    print("best", study.best_trial.number, flush=True)

thread = threading.Thread(target=go_on)
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Path, str]:
    """A study of one trial that was interrupted, and then gone on with; and all that was said."""
    folder = tmp_path_factory.mktemp("python")
    write_config(folder)
    write_site(folder)
    output = folder / "output.txt"
    with output.open("w") as file:
        process = psutil.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env=clean_environment(PYTHONPATH=str(REPOSITORY)),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "trial 0 epoch 2" in output.read_text() or process.poll() is not None, WITHIN_S)
        process.send_signal(2)
        process.wait(timeout=2 * WITHIN_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return folder, output.read_text()


@pytest.fixture(scope="module")
def study(place) -> LoadedStudy:
    return load_study("small", runs_dir=place[0] / "runs")


def test_ctrl_c_pauses_the_study_before_it_is_a_keyboard_interrupt(place):
    _, said = place

    assert "trial 0 paused: goes on from its checkpoint" in said
    assert "\ninterrupted\n" in said
    assert "Traceback" not in said


def test_the_same_call_goes_on_also_where_there_are_no_signals(place, study):
    _, said = place

    assert said.endswith("best 0\n")
    [trial] = study.trials
    assert trial.state is TrialState.COMPLETE
    assert [attempt["end"] for attempt in trial.user_attrs["attempts"]] == ["paused", "completed"]


def test_the_table_of_trials_has_what_is_stored_of_each(study):
    [row] = study.trials_dataframe().to_dict("records")

    trial = study.best_trial
    assert (row["state"], row["outcome"], row["value"]) == ("COMPLETE", "completed", trial.value)
    assert row["params_learning_rate"] == trial.params["learning_rate"]
    assert row["f1_micro"] == row["value"]
    assert (row["counted_epoch"], row["epochs"], row["attempts"]) == (EPOCHS - 1, EPOCHS, 2)
    assert row["node_hours"] > 0


def test_the_curve_holds_every_epoch(study):
    curve = study.plot().to_dict()["layer"][0]["data"]["values"]

    assert [point["epoch"] for point in curve] == list(range(1, EPOCHS + 1))
    assert curve[-1]["line"] == study.best_trial.value


def test_what_cannot_be_done_is_an_exception_of_the_projects_own(study, place, tmp_path):
    with pytest.raises(ExportRequestError, match="--trial 7: study 'small' has no such trial"):
        study.export(tmp_path / "model", trial=7)
    with pytest.raises(EvaluationError, match="is a search"):
        study.evaluation_dataframe()
    with pytest.raises(StorageError, match="there is no study 'other'"):
        load_study("other", storage=study.database.render_as_string())
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        StudyConfig.from_file(place[0] / "small.toml", {"training.epochs": 0})


def test_a_config_of_tables_is_checked_as_its_file_would_be(tmp_path):
    config = StudyConfig.from_file(write_config(tmp_path))
    tables = config.model_dump()

    assert StudyConfig.from_tables(tables) == config
    with pytest.raises(ConfigError, match="the config: model 'small_resnet' takes no option depth"):
        StudyConfig.from_tables(tables | {"model": {"name": "small_resnet", "depth": 3}})


def test_a_study_that_is_halted_before_it_begins_raises_what_the_command_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = StudyConfig.from_file(write_config(tmp_path), {"dataset.val": 0})

    with pytest.raises(ConfigError, match="val"):
        run_study(config, site=str(write_site(tmp_path)), show_progress=False)

    assert not (tmp_path / "runs" / "small").exists()
