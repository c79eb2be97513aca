"""What a study's rows hold, written and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from storage.database import schema
from storage.database.schema import AttemptRow, SpentRow, TrialRecord, VerdictRow, trial_record
from storage.protocol.attempts import AttemptEnd, Failure
from storage.protocol.codec import to_plain
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from tests.storage.protocol.example_records import METRICS, REPORT

EPOCH = replace(METRICS, epoch=0, train_loss=0.7, val_loss=0.8, global_batch_size=16, samples_per_s=100.0, wall_s=1.0)
COMMUNICATOR = replace(REPORT, world_size=3, hosts=["node2", "node1", "node2"], gpus=["", "", ""])


def ended(*epochs: EpochMetrics, wall_s: float = 10.0) -> AttemptEnd:
    return AttemptEnd(
        TrialResult(Outcome.COMPLETED, len(epochs)), wall_s=wall_s, epochs=epochs, communicator=COMMUNICATOR
    )


def measured(metrics: EpochMetrics, **joules: float) -> EpochMetrics:
    return replace(metrics, energy_by_counter_j=joules)


def test_a_record_covers_all_attempts_of_a_trial_lost_ones_included():
    first = AttemptEnd(
        None, Failure.CRASHED, "Segmentation fault", 139, 7.0, (EPOCH,), COMMUNICATOR, "the end of its log", nodes=2
    )
    epochs = [replace(EPOCH, epoch=n, global_batch_size=32, samples_per_s=300.0 + 200 * n, wall_s=0.5) for n in (1, 2)]
    second = replace(ended(*epochs, wall_s=10.0), nodes=4)

    record = trial_record("completed", "", [first, second])

    assert (record.outcome, record.attempt_count, record.wall_s) == ("completed", 2, 17.0)
    assert record.node_hours == round((7.0 * 2 + 10.0 * 4) / 3600, 6)
    assert record.images_per_s_by_batch_size == {"16": 100.0, "32": 600.0}
    assert record.epoch_s_by_batch_size == {"16": 1.0, "32": 0.5}
    assert record.curves["global_batch_size"] == [16, 32, 32]
    assert record.hosts == ["node1", "node2"]
    assert (record.data_plane, record.communicator["mpi_enabled"]) == ("mpi", True)
    assert record.log_tail == "the end of its log"


def test_a_record_comes_back_out_of_a_trials_attributes():
    record = trial_record("completed", "", [ended(EPOCH, replace(EPOCH, epoch=1))])

    assert TrialRecord.read(json.loads(json.dumps(record.attributes()))) == record


def test_every_curve_has_an_attribute_of_its_own_which_the_dashboard_can_show():
    attributes = trial_record("completed", "", [ended(measured(EPOCH, rapl=2.0))]).attributes()

    assert {f"epochs:{name}" for name in schema.CURVES} <= attributes.keys()


def test_a_trial_that_never_trained_has_a_record_all_the_same():
    crashed = AttemptEnd(None, Failure.CRASHED, "ValueError: x", 1, 2.0, log_tail="Traceback")

    attributes = trial_record("crashed", "ValueError: x", [crashed]).attributes()

    assert attributes == {
        "outcome": "crashed",
        "reason": "ValueError: x",
        "wall_s": 2.0,
        "node_hours": round(2.0 / 3600, 6),
        "attempt_count": 1,
        "log_tail": "Traceback",
    }


def test_a_loss_that_is_not_finite_is_stored_as_what_json_knows():
    record = trial_record("diverged", "", [ended(replace(EPOCH, train_loss=math.nan, val_loss=math.inf))])

    assert (record.curves["train_loss"], record.curves["val_loss"]) == ([None], [None])


def test_a_trial_that_is_not_over_has_no_record():
    assert TrialRecord.read({}) is None
    assert TrialRecord.read({schema.SPEC_SHA256: "a"}) is None


def test_rows_of_an_older_version_are_read():
    record = TrialRecord.read({"outcome": "completed", "wall_s": 3.5, "f1_micro": 0.5, "colour": "blue"})

    assert (record.wall_s, record.f1_micro, record.node_hours) == (3.5, 0.5, 0.0)


def test_attempts_come_back_as_they_were():
    rows = [AttemptRow.of(ended(EPOCH)), AttemptRow("crashed", 139, 7.0, "Segmentation fault")]

    assert schema.read_attempts({schema.ATTEMPTS: to_plain(rows)}) == rows
    assert schema.read_attempts({}) == []


def test_verdicts_and_what_is_spent_are_read_as_they_were_written_and_are_nothing_in_older_studies():
    verdict = VerdictRow(2, 0.5, "hold", 1, 0, 7, promoted=9)
    spent = SpentRow(60.0, {"17": 3600.0})

    assert schema.read_verdicts({schema.VERDICTS: json.loads(json.dumps([to_plain(verdict)]))}) == [verdict]
    assert schema.read_spent({schema.SPENT: json.loads(json.dumps(to_plain(spent)))}) == spent
    assert (schema.read_verdicts({}), schema.read_spent({})) == ([], SpentRow())


def test_a_trial_has_the_joules_of_its_phases_and_of_epochs_that_were_trained_again():
    def epoch(number: int, **joules: float) -> EpochMetrics:
        return measured(replace(EPOCH, epoch=number, global_batch_size=16 if number < 2 else 32), **joules)

    lost = AttemptEnd(
        None,
        Failure.INTERRUPTED,
        "the node went away",
        137,
        epochs=tuple(epoch(n, rapl=1.0, nvml=10.0) for n in (0, 1, 2)),
    )
    # From the checkpoint after epoch 0.
    last = [epoch(n, rapl=2.0, nvml=20.0) for n in (1, 2, 3)]
    result = TrialResult(Outcome.COMPLETED, 4, epochs=(epoch(0, rapl=1.0, nvml=10.0), *last))

    record = trial_record("completed", "", [lost, AttemptEnd(result, epochs=tuple(last))], kg_co2e_per_kwh=0.36)

    assert (record.energy_j, record.energy_source) == (3 * 11.0 + 3 * 22.0, "nvml+rapl")
    assert record.energy_j_by_counter == {"nvml": 90.0, "rapl": 9.0}
    assert record.energy_j_by_batch_size == {"16": 11.0 + 22.0, "32": 2 * 22.0}
    assert record.energy_repeated_j == 2 * 11.0
    assert record.kg_co2e == 99.0 / 3.6e6 * 0.36
    assert record.curves["energy_j"] == [11.0, 22.0, 22.0, 22.0]
    assert TrialRecord.read(json.loads(json.dumps(record.attributes()))) == record


def test_a_counter_that_one_epoch_lacks_is_not_in_the_trials_joules():
    first, second = measured(EPOCH, rapl=1.0, nvml=10.0), measured(replace(EPOCH, epoch=1), nvml=20.0)

    record = trial_record("completed", "", [ended(first, second)])

    assert (record.energy_j, record.energy_source, record.energy_j_by_batch_size) == (30.0, "nvml", {"16": 30.0})
    assert record.kg_co2e is None


def test_a_trial_one_of_whose_epochs_was_not_measured_has_no_joules_and_says_none():
    record = trial_record(
        "completed", "", [ended(measured(EPOCH, rapl=1.0), replace(EPOCH, epoch=1))], kg_co2e_per_kwh=0.4
    )

    assert (record.energy_j, record.energy_repeated_j, record.kg_co2e) == (None, None, None)
    assert not [name for name in trial_record("completed", "", [ended(EPOCH)]).attributes() if "energy_j" in name]
