"""A study whose trials' energy is measured, and one that asks for it where nobody measures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from optuna.trial import FrozenTrial

from storage.protocol.energy import JOULES_PER_KWH
from storage.protocol.variables import POWERCAP_DIR
from tests.powercap import WATTS, counting_powercap
from tests.study.driver import Finished, Workplace, new_workplace

pytestmark = pytest.mark.timeout(600)

BY_ENERGY = ("--set", 'study.objectives=["f1_micro", "-energy_kwh"]')


@dataclass(frozen=True)
class MeasuredStudy:
    workplace: Workplace
    finished: Finished

    @property
    def trial(self) -> FrozenTrial:
        [trial] = self.workplace.trials()
        return trial


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Iterator[MeasuredStudy]:
    """One trial of two ranks on a machine with one processor that counts."""
    workplace = new_workplace(tmp_path_factory.mktemp("measured"), ranks=2)
    site = ("--site-set", "kg_co2e_per_kwh=0.4")
    with counting_powercap(tmp_path_factory.mktemp("powercap")) as powercap:
        finished = workplace.run("--trials", "1", *BY_ENERGY, *site, **{POWERCAP_DIR: str(powercap)})
    return MeasuredStudy(workplace, finished)


def test_every_epoch_has_joules(study):
    assert study.finished.exit_code == 0, study.finished.output
    epochs = study.workplace.trial_dir(0).attempt(1).read_metrics()

    assert [metrics.energy_by_counter_j.keys() for metrics in epochs] == [{"rapl"}, {"rapl"}]
    assert all(metrics.energy_j > 0 for metrics in epochs)
    # Not by epoch: on a busy machine, the process that counts may come late, and catch up.
    assert sum(metrics.energy_j for metrics in epochs) <= WATTS * study.trial.user_attrs["wall_s"]


def test_the_database_has_the_joules_of_trial_epochs_and_phases_and_their_source(study):
    attributes = study.trial.user_attrs
    epochs = study.workplace.trial_dir(0).attempt(1).read_metrics()

    assert attributes["energy_j"] == pytest.approx(sum(metrics.energy_j for metrics in epochs), abs=1e-3)
    assert attributes["energy_j_by_batch_size"] == {
        str(metrics.global_batch_size): pytest.approx(metrics.energy_j, abs=1e-3) for metrics in epochs
    }
    assert attributes["epochs:energy_j"] == [metrics.energy_j for metrics in epochs]
    assert (attributes["energy_source"], attributes["energy_repeated_j"]) == ("rapl", 0.0)
    assert attributes["kg_co2e"] == pytest.approx(0.4 * attributes["energy_j"] / JOULES_PER_KWH, rel=1e-3)
    assert attributes["communicator"]["energy_sources"] == ["rapl"]


def test_the_trial_is_told_with_its_kilowatt_hours(study):
    score, energy_kwh = study.trial.values

    assert score == study.trial.user_attrs["f1_micro"]
    assert energy_kwh == pytest.approx(study.trial.user_attrs["energy_j"] / JOULES_PER_KWH)


def test_the_closing_table_says_joules_source_and_co2e(study):
    lines = re.sub(r" +", " ", study.finished.output)

    assert re.search(r"energy │ [\d.]+ kJ by rapl \(rapl: of whole nodes\), \S+ kg CO2e", lines)
    assert re.search(r"kJ of the best trial │ [\d.]+ at batch 16, [\d.]+ at batch 32", lines)


def test_the_sampler_ends_with_its_ranks(study):
    log = study.workplace.trial_dir(0).attempt(1).log_path.read_text()

    assert "energy: rapl\n" in log
    assert "perun" not in log
    assert not [p for p in study.workplace.rank_processes() if "trainers.energy" in p.cmdline()]


def test_a_study_that_goes_by_energy_is_refused_where_nothing_measures_it(tmp_path):
    workplace = new_workplace(tmp_path)

    refused = workplace.run("--dry-run", *BY_ENERGY, **{POWERCAP_DIR: str(tmp_path)})

    assert "the study goes by energy_kwh, which cannot be measured here: " in refused.error
    assert "docs/energy.md" in refused.error
    assert not workplace.study_dir.exists()
