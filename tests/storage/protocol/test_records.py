from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure, RankLayout
from storage.protocol.codec import RecordError, from_json, to_json
from storage.protocol.records import EpochMetrics, TrialResult, TrialSpec
from tests.storage.protocol.example_records import END, METRICS, REPORT, REQUEST, RESULT, SPEC

every_record = pytest.mark.parametrize(
    "record", [SPEC, METRICS, REPORT, RESULT, REQUEST, END], ids=lambda record: type(record).__name__
)


@every_record
def test_a_record_comes_back_as_it_was_written(record):
    read = from_json(type(record), to_json(record))

    # By repr, because NaN is not equal to itself.
    assert repr(read) == repr(record)


@every_record
def test_a_record_is_one_line(record):
    assert "\n" not in to_json(record)


@given(st.floats(), st.floats())
def test_scores_keep_every_bit(train_loss, f1_macro):
    metrics = dataclasses.replace(METRICS, train_loss=train_loss, f1_macro=f1_macro)

    read = from_json(EpochMetrics, to_json(metrics))

    assert (repr(read.train_loss), repr(read.f1_macro)) == (repr(train_loss), repr(f1_macro))


def test_what_a_spec_leaves_out_has_its_default():
    text = without(SPEC, "checkpoint_every_epochs", "deterministic")

    spec = from_json(TrialSpec, text)

    assert (spec.checkpoint_every_epochs, spec.deterministic) == (1, False)


def test_a_missing_field_is_named():
    with pytest.raises(RecordError, match=r"TrialSpec lacks seed, cache_dir\."):
        from_json(TrialSpec, without(SPEC, "seed", "cache_dir"))


def test_a_missing_field_of_a_component_is_named_with_its_place():
    with pytest.raises(RecordError, match=r"TrialSpec\.model lacks name"):
        from_json(TrialSpec, with_fields(SPEC, model={"options": {}}))


def test_an_unknown_field_is_named_with_the_valid_ones():
    with pytest.raises(RecordError, match=r"unknown fields epoch; valid are .*epochs"):
        from_json(TrialSpec, with_fields(SPEC, epoch=3))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("epochs", "100", "int"),
        ("epochs", 1.5, "int"),
        ("epochs", True, "int"),
        ("deterministic", 1, "bool"),
        ("study_name", None, "str"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown(field, value, wanted):
    with pytest.raises(RecordError, match=rf"TrialSpec\.{field} is {value!r}; it must be of type {wanted}"):
        from_json(TrialSpec, with_fields(SPEC, **{field: value}))


def test_a_whole_number_will_do_for_a_float():
    metrics = from_json(EpochMetrics, with_fields(METRICS, wall_s=60))

    assert isinstance(metrics.wall_s, float)


def test_an_unknown_outcome_is_answered_with_the_known_ones():
    with pytest.raises(RecordError, match="'finished'; it must be one of completed, pruned, paused, held, diverged"):
        from_json(TrialResult, with_fields(RESULT, outcome="finished"))


@pytest.mark.parametrize("text", ["", '{"outcome": "paused", "epochs_do', "[]", "null", '"paused"'])
def test_what_is_not_an_object_is_refused(text):
    with pytest.raises(RecordError, match="TrialResult"):
        from_json(TrialResult, text)


def with_fields(record, **fields) -> str:
    return json.dumps(json.loads(to_json(record)) | fields)


def without(record, *names: str) -> str:
    return json.dumps({name: value for name, value in json.loads(to_json(record)).items() if name not in names})


def test_what_a_later_version_has_added_may_be_passed_over():
    assert from_json(TrialResult, with_fields(RESULT, colour="blue"), ignore_unknown=True) == RESULT


def test_values_inside_lists_are_checked_and_named_by_their_place():
    with pytest.raises(RecordError, match=r"TrialResult\.epochs\[1\] lacks epoch"):
        from_json(TrialResult, with_fields(RESULT, epochs=[json.loads(to_json(METRICS)), {}]))


def test_a_deeply_nested_text_is_refused_like_any_other():
    with pytest.raises(RecordError, match="TrialResult"):
        from_json(TrialResult, "[" * 100_000)


def test_an_attempt_ends_by_a_result_or_by_a_failure_that_says_why():
    with pytest.raises(ValueError, match="by a result or by a failure"):
        AttemptEnd()
    with pytest.raises(ValueError, match="by a result or by a failure"):
        AttemptEnd(RESULT, Failure.CRASHED, "x")
    with pytest.raises(ValueError, match="without a reason"):
        AttemptEnd(failure=Failure.CRASHED)


def test_a_request_is_the_same_for_driver_and_runner():
    request = AttemptRequest(Path("/runs/ä/0007"), 7, 2, RankLayout(4, 4, 16, 4), "srun", ("--mpi=pmix",), {"A": "b"})

    assert from_json(AttemptRequest, to_json(request)) == request
