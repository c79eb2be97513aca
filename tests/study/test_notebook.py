"""The notebook of docs, executed as it stands."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient
from optuna.trial import TrialState

from study import load_study
from tests.architecture.sources import REPOSITORY
from tests.study.driver import WITHIN_S

NOTEBOOK = REPOSITORY / "docs" / "notebook.ipynb"

# A whole study and an export: on a machine that is busy with other things, it takes minutes.
pytestmark = pytest.mark.timeout(1800)


def test_it_lies_in_the_repository_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells

    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_it_runs_a_study_shows_it_and_exports_its_best_trial(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    NotebookClient(notebook, timeout=2 * WITHIN_S, resources={"metadata": {"path": str(tmp_path)}}).execute()

    study = load_study("notebook", runs_dir=tmp_path / "runs")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(output.get("text") or output["data"].get("text/plain", "") for output in shown)
    assert f"({study.best_trial.number}, {study.best_trial.value!r})" in text
    assert "params_learning_rate" in text
    assert any("image/svg+xml" in output.get("data", {}) for output in shown)
    assert f"notebook: trial {study.best_trial.number}" in text
    assert (tmp_path / "notebook-model" / "model.keras").is_file()
