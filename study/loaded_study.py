"""A study for Python programs and notebooks: run it, resume it, ask it, export it; all as the commands do."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from sqlalchemy import URL

from storage.database import schema
from storage.database.endpoint import open_existing_study
from study.config import StudyConfig
from study.driver import drive, make_plan
from study.evaluation import scores_of
from study.export_request import code_folders, request_for
from study.finding import url_of_study
from study.finished_trials import best_trial, record_of
from study.model_process import require_trainers_program
from study.reporting.curves import score_per_epoch
from study.reporting.load import ReportError, read_arm
from study.reporting.wording import label
from study.seeds import derive_seed
from study.stop_request import handlers_are_put_back

if TYPE_CHECKING:
    import altair
    import pandas


def run_study(
    config: StudyConfig,
    *,
    site: str = "local",
    site_overrides: Sequence[str] = (),
    jobs: int | None = None,
    storage: str | None = None,
    adopt: bool = False,
    retry_failed: bool = False,
    show_progress: bool = True,
) -> LoadedStudy:
    """Run a study to its end, or go on with it: study/run.py for Python.

    Ctrl-C, or a notebook's button that interrupts, pauses the trials under way before it raises KeyboardInterrupt; the
    same call then goes on. That takes the main thread.

    Args:
        site: A file of cluster/sites, or a path; `site_overrides` are KEY=VALUE.
        jobs: Trials at once; None: the site's.
        storage: Database URL, without password; None: as for study/run.py.
        adopt: Take over a folder of trials that another database knew.
        retry_failed: Run failed trials again.

    Raises:
        ValueError, OSError, RuntimeError: One of the project's own errors: ConfigError, SiteError, StorageError,
            LeaseError, StudyMismatchError, StudyHaltedError, DatabaseLostError, ...
        KeyboardInterrupt: The study was interrupted, and is paused.
    """
    plan = make_plan(config, site, site_overrides, jobs, storage)
    with handlers_are_put_back():
        end = drive(plan, Console(quiet=not show_progress), adopt=adopt, retry_failed_trials=retry_failed)
    if end.stopped_by is not None:
        # What the signal would have done, had there been no trial to pause.
        signal.raise_signal(end.stopped_by)
    return LoadedStudy(open_existing_study(plan.database, plan.name), plan.database, plan.folder.parent)


def load_study(name: str, *, runs_dir: Path | str = "runs", storage: str | None = None) -> LoadedStudy:
    """A study to look at, while it runs or afterwards.

    Args:
        runs_dir: Where its folder is.
        storage: Its database's URL, without password; None: that of SWITCHYARD_STORAGE, or its own SQLite file.

    Raises:
        StorageError: There is no such database or study.
    """
    url = url_of_study(name, storage, Path(runs_dir))
    return LoadedStudy(open_existing_study(url, name), url, Path(runs_dir))


@dataclass(frozen=True)
class LoadedStudy:
    """What a study has found out so far. Each question is answered by what the database holds now."""

    study: optuna.Study
    """Optuna's own."""
    database: URL
    runs_dir: Path

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def best_trial(self) -> FrozenTrial | None:
        """The completed trial of the highest value; None if there is none yet."""
        return best_trial(self.trials)

    def trials_dataframe(self) -> pandas.DataFrame:
        """A row per trial, by its number: state, value, parameters, scores, times and costs.

        Columns: state (Optuna's) and outcome; value (the objective); params_NAME; by the names of SCORES the validation
        scores in the epoch that counts (counted_epoch, from 0), and as test_NAME those of the test split where it was
        scored; seed; epochs, attempts, wall_s and node_hours. What a trial has not, or not yet, is missing.
        """
        import pandas

        rows = [self._row(trial) for trial in self.trials]
        # By their first appearance: trials that are not over have fewer.
        columns = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
        return pandas.DataFrame(rows, columns=columns or ["number"]).set_index("number")

    def evaluation_dataframe(self) -> pandas.DataFrame:
        """Of an evaluation (study/evaluate.py): a row per configuration, split and score, over its seeds.

        Columns: configuration (from 1), split, score, seeds, mean, deviation, low and high of the 95 % interval, and
        params_NAME.

        Raises:
            EvaluationError: The study is a search.
        """
        import pandas

        return pandas.DataFrame(
            [
                {"configuration": place, "split": split, "score": score, **vars(interval), **_prefixed(each.parameters)}
                for place, each in enumerate(scores_of(self.study), start=1)
                for split, intervals in (("validation", each.validation), ("test", each.test))
                for score, interval in intervals.items()
            ]
        )

    def export(self, out: Path | str, *, trial: int | None = None, ensemble: int = 1) -> Path:
        """Write a trained trial as a model to use: study/export.py for Python. Gives the folder.

        Args:
            out: Folder to write; must not exist.
            trial: Its number; None: the best one.
            ensemble: So many of the best, whose probabilities are averaged.

        Raises:
            ExportRequestError: There is no such trial, or its files are lost.
            TrainersProgramError: The trial cannot be restored or saved.
        """
        request = request_for(self.study, self.database, self.runs_dir, trial, ensemble, Path(out))
        require_trainers_program("trainers.export", request, code_folders(request))
        return Path(out)

    def plot(self) -> altair.LayerChart:
        """The objective over the epochs, as the report has it: the best configuration, and the spread of all trials.

        Raises:
            ReportError: No trial has finished an epoch yet.
        """
        import altair

        arm = read_arm(self.study, self.database)
        figure = score_per_epoch([arm], arm.objective, label(arm.objective))
        if figure is None:
            raise ReportError(f"no trial of study {self.name!r} has finished an epoch yet; plot it when one has.")
        return altair.LayerChart.from_dict({**figure.for_file(), "title": self.name})

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        record = record_of(trial)
        row = {"number": trial.number, "state": trial.state.name, "outcome": record.outcome if record else None}
        row |= {"value": trial.values[0] if trial.values else None, **_prefixed(trial.params)}
        if record is not None:
            row |= {"f1_micro": record.f1_micro, "f1_macro": record.f1_macro, **record.scores}
            row |= {f"test_{name}": value for name, value in record.test.get("scores", {}).items()}
            row |= {"counted_epoch": record.counted_epoch, "attempts": record.attempt_count}
            row |= {"wall_s": record.wall_s, "node_hours": record.node_hours}
        seed = self.study.user_attrs.get(schema.STUDY_CONFIG, {}).get("study", {}).get("seed")
        return row | {
            "epochs": len(trial.intermediate_values),
            "seed": None if seed is None else derive_seed(seed, trial.number),
        }


def _prefixed(parameters: dict[str, Any]) -> dict[str, Any]:
    return {f"params_{name}": value for name, value in parameters.items()}
